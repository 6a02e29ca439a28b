"""Forward and backward of every normalization layer and of SELU, beside the layers of torch and timm.

    python -m benchmarks.norm_layers

Each family is compared with the layer that people would otherwise use there: ``nn.BatchNorm2d`` with ReLU for images,
``nn.LayerNorm`` for tokens, ``nn.SELU`` and ``nn.AlphaDropout`` for activations. EvoNorm is also measured as timm has
it, where timm can be imported. A layer and its baseline take turns within every repeat, so that a busy machine slows
both; shown are the median time and the median, lowest and highest ratio. Training mode, one thread, float32, a loss
that is the mean of the output's product with a fixed tensor. Results go to ``benchmarks/results/norm_layers.json``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

from benchmarks.report import against_baseline, report, seconds_per_call
from normviz.norms import (
    SELU,
    AlphaDropout,
    LayerNorm,
    PowerNorm,
    PowerNormV,
    RMSNorm,
    UnifiedNorm1d,
    UnifiedNorm2d,
    make_evonorm,
)

KINDS = ("B0", "B1", "B2", "S0", "S1", "S2")
IMAGES = ((64, 32, 8, 8), (32, 64, 32, 32))
TOKENS = ((16, 64, 64), (16, 128, 512))
ACTIVATIONS = ((64, 64), (512, 2048))
"""Small sizes as on the pages, where calls cost more than numbers, and larger ones, where memory decides."""

SLICE = 0.12
"""Seconds that one side of a pair runs before the other has its turn."""
REPEATS = 7
GROUPS = 8


@dataclass(frozen=True)
class Contender:
    """A layer under test: its name, whose it is, and how it is built for a number of channels."""

    name: str
    owner: str
    build: Callable[[int], nn.Module]


def timm_evonorms() -> Any:
    """timm's module of EvoNorm layers, or None where it cannot be imported."""
    try:
        return import_module("timm.layers.evo_norm")
    except (ImportError, RuntimeError):  # RuntimeError: a torchvision that does not fit torch
        return None


def images() -> tuple[Contender, list[Contender]]:
    """Baseline and contenders on (N, C, H, W)."""
    timm = timm_evonorms()
    contenders = [
        Contender("GroupNorm + ReLU", "torch", lambda c: nn.Sequential(nn.GroupNorm(GROUPS, c), nn.ReLU())),
        Contender(
            "UnifiedNorm + ReLU",
            "ours",
            lambda c: nn.Sequential(UnifiedNorm2d(c, warmup_iters=0), nn.ReLU()),
        ),
    ]
    for kind in KINDS:
        options = {"groups": GROUPS} if kind.startswith("S") else {}
        contenders.append(
            Contender(f"EvoNorm-{kind}", "ours", lambda c, k=kind, o=options: make_evonorm(k, c, **o))
        )
        if timm is not None:
            layer = getattr(timm, f"EvoNorm2d{kind}")
            contenders.append(Contender(f"EvoNorm-{kind}", "timm", lambda c, f=layer, o=options: f(c, **o)))
    return Contender(
        "BatchNorm + ReLU", "torch", lambda c: nn.Sequential(nn.BatchNorm2d(c), nn.ReLU())
    ), contenders


def tokens() -> tuple[Contender, list[Contender]]:
    """Baseline and contenders on (B, T, C)."""
    backends = [
        Contender(f"LayerNorm, {backend}", "ours", lambda c, b=backend: LayerNorm(c, backend=b))
        for backend in ("reference", "manual", "torch")
    ]
    return Contender("LayerNorm", "torch", nn.LayerNorm), [
        *backends,
        Contender("RMSNorm", "torch", nn.RMSNorm),
        Contender("RMSNorm", "ours", RMSNorm),
        Contender("PowerNorm", "ours", lambda c: PowerNorm(c, warmup_iters=0, batch_first=True)),
        Contender("PowerNorm-V", "ours", lambda c: PowerNormV(c, batch_first=True)),
        Contender("UnifiedNorm", "ours", lambda c: UnifiedNorm1d(c, warmup_iters=0)),
    ]


def selu() -> tuple[Contender, list[Contender]]:
    """Baseline and contenders of the activation on (N, C)."""
    return Contender("SELU", "torch", lambda _: nn.SELU()), [
        Contender("SELU", "ours", lambda _: SELU()),
        Contender("ReLU", "torch", lambda _: nn.ReLU()),
    ]


def dropout() -> tuple[Contender, list[Contender]]:
    """Baseline and contenders of dropout on (N, C)."""
    return Contender("AlphaDropout", "torch", lambda _: nn.AlphaDropout(0.1)), [
        Contender("AlphaDropout", "ours", lambda _: AlphaDropout(0.1)),
        Contender("Dropout", "torch", lambda _: nn.Dropout(0.1)),
    ]


FAMILIES = {
    "images": (images, IMAGES),
    "tokens": (tokens, TOKENS),
    "activation": (selu, ACTIVATIONS),
    "dropout": (dropout, ACTIVATIONS),
}


def step(contender: Contender, shape: tuple[int, ...]) -> Callable[[], None]:
    """One forward and backward pass."""
    torch.manual_seed(0)
    channels = shape[1] if len(shape) == 4 else shape[-1]
    layer = contender.build(channels).train()
    x = torch.randn(shape, requires_grad=True)
    weight = torch.randn(shape)

    def both_ways() -> None:
        x.grad = None
        layer.zero_grad(set_to_none=True)
        (layer(x) * weight).mean().backward()

    return both_ways


def compare(
    family: str, shape: tuple[int, ...], *, slice_: float = SLICE, repeats: int = REPEATS
) -> list[list[object]]:
    """One row per layer: layer, owner, shape, milliseconds, times the baseline, lowest and highest of that ratio."""
    baseline, contenders = FAMILIES[family][0]()
    layers = (baseline, *contenders)
    plain, *others = (seconds_per_call(step(layer, shape), slice_) for layer in layers)
    rows = against_baseline(plain, others, repeats)
    text = "x".join(map(str, shape))
    return [[layer.name, layer.owner, text, *row] for layer, row in zip(layers, rows, strict=True)]


def main() -> None:
    """Measure every family at every size, print the table, write the results."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [
            row
            for family, (_, shapes) in FAMILIES.items()
            for shape in shapes
            for row in compare(family, shape)
        ]
    finally:
        torch.set_num_threads(threads)
    note = "Forward and backward, training mode, one thread, float32; ratios to the family's first layer."
    if timm_evonorms() is None:
        note += " timm cannot be imported here: its rows are left out."
    report(
        "norm_layers",
        "Normalization layers and SELU: time of a step",
        ("layer", "from", "shape", "ms", "ratio", "low", "high"),
        rows,
        note,
    )


if __name__ == "__main__":
    main()
