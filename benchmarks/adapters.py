"""Adapters: the time of CorDA's start beside that of PiSSA's, and of a step with an adapter beside a plain layer's.

    python -m benchmarks.adapters

Where peft is installed, its PiSSA, its CorDA and its LoRA layer are timed on the same weights too. Starts include all
that is done for a layer that is there: collecting the covariance, decomposition, factors. A step is a forward and a
backward pass; a plain ``nn.Linear`` has a gradient for the whole weight, an adapter for its two factors only. Both
sides of a ratio take turns. The clock is the processor time of one thread. Results go to
``benchmarks/results/adapters_start.json`` and ``adapters_step.json``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from benchmarks.report import paired_ratio, report
from normviz.adapters import CovarianceCollector, LoRALinear, apply_corda

WIDTHS = (128, 512)
R = 8
SAMPLES, TOKENS = 32, 64
"""Calibration samples and tokens of each; a step has one sample of ``STEP_TOKENS``."""
STEP_TOKENS = 512
PEFT = find_spec("peft") is not None


def network(width: int) -> nn.Sequential:
    """One linear layer in a container, as peft wants it, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(width, width))


def samples(width: int) -> Tensor:
    """Correlated calibration samples [samples, 1, tokens, width]."""
    draw = torch.Generator().manual_seed(1)
    mix = torch.randn(width, width, generator=draw) / width**0.5
    found: Tensor = torch.randn(SAMPLES, 1, TOKENS, width, generator=draw) @ mix
    return found


def seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def start_corda(width: int) -> Callable[[], object]:
    """Collect the covariance and start the adapter from the smallest components."""
    base, x = network(width), samples(width)

    def call() -> object:
        model = copy.deepcopy(base)
        with torch.no_grad(), CovarianceCollector(model) as collector:
            for sample in x:
                model(sample)
        return apply_corda(model, collector.covariances(), R, "kpm")

    return call


def start_pissa(width: int) -> Callable[[], object]:
    """Start the adapter from the largest components of the weight."""
    layer = network(width)[0]
    assert isinstance(layer, nn.Linear)
    return lambda: LoRALinear(layer, R, init="pissa")


def start_peft(width: int, init: str) -> Callable[[], object]:
    """The same by peft: ``"pissa"`` or ``"corda"``."""
    peft = import_module("peft")
    preprocess_corda = import_module("peft.tuners.lora.corda").preprocess_corda
    base, x = network(width), samples(width)

    def call() -> object:
        model = copy.deepcopy(base)
        options = {"corda_config": peft.tuners.lora.config.CordaConfig(corda_method="kpm")}
        config = peft.LoraConfig(
            init_lora_weights=init,
            target_modules=["0"],
            r=R,
            lora_alpha=R,
            **(options if init == "corda" else {}),
        )
        if init == "corda":
            with torch.no_grad():
                preprocess_corda(model, config, run_model=lambda: [model(sample) for sample in x])
        return peft.get_peft_model(model, config)

    return call


def step_of(layer: nn.Module, width: int) -> Callable[[], float]:
    """Processor time of a forward and a backward pass, also to the input."""
    x = torch.randn(STEP_TOKENS, width, generator=torch.Generator().manual_seed(2), requires_grad=True)
    return lambda: seconds(lambda: layer(x).square().sum().backward())


def peft_layer(width: int) -> nn.Module:
    """A LoRA layer of peft."""
    peft = import_module("peft")
    config = peft.LoraConfig(target_modules=["0"], r=R, lora_alpha=R)
    model: nn.Module = peft.get_peft_model(network(width), config)
    return model


def starts() -> list[list[object]]:
    """CorDA's start over that of PiSSA, and over peft's where it is installed."""
    rows: list[list[object]] = []
    for width in WIDTHS:
        ours = start_corda(width)
        rivals = {"PiSSA": start_pissa(width)}
        if PEFT:
            rivals |= {f"{kind} of peft": start_peft(width, kind.lower()) for kind in ("PiSSA", "CorDA")}
        for name, call in rivals.items():
            took = 1e3 * min(seconds(ours) for _ in range(3))
            ratio = paired_ratio(partial(seconds, ours), partial(seconds, call))
            rows.append([f"{width}: CorDA over {name}", took, *ratio])
    return rows


def steps() -> list[list[object]]:
    """A step with an adapter over that of a plain layer, before and after merging, and over peft's."""
    rows: list[list[object]] = []
    for width in WIDTHS:
        base = network(width)[0]
        assert isinstance(base, nn.Linear)
        adapted = LoRALinear(base, R)
        rivals: dict[str, tuple[nn.Module, nn.Module]] = {
            "adapter over nn.Linear": (adapted, base),
            "merged adapter over nn.Linear": (adapted.merge(), base),
        }
        if PEFT:
            rivals["adapter over peft's"] = (adapted, peft_layer(width))
        for name, (one, other) in rivals.items():
            measure = step_of(one, width)
            took = 1e3 * min(measure() for _ in range(3))
            rows.append([f"{width}: {name}", took, *paired_ratio(measure, step_of(other, width))])
    return rows


def main() -> None:
    """Time starts, then steps."""
    torch.set_num_threads(1)
    columns = ("", "ms", "median ratio", "lowest", "highest")
    beside = "" if PEFT else " peft is not installed: it is left out."
    report(
        "adapters_start",
        "CorDA's start",
        ("width: what", *columns[1:]),
        starts(),
        f"One linear layer, {SAMPLES} samples of {TOKENS} tokens, rank {R}.{beside}",
    )
    report(
        "adapters_step",
        "Forward and backward with an adapter",
        ("width: what", *columns[1:]),
        steps(),
        f"{STEP_TOKENS} tokens, rank {R}.{beside}",
    )


if __name__ == "__main__":
    main()
