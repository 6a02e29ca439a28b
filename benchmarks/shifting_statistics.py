"""Forward and backward of AdaB²N and alpha-BN beside ``nn.BatchNorm2d``.

    python -m benchmarks.shifting_statistics

Training: ``nn.BatchNorm2d`` against AdaB²N without task ids (its first task), with the ids of five tasks, and with the
balance loss added, and against Continual Normalization. Test time: ``nn.BatchNorm2d`` in eval mode against alpha-BN
with constant batch statistics and with gradients through them. A layer and its baseline take turns within every repeat,
so that a busy machine slows both; shown are the median time and the median, lowest and highest ratio. One thread,
float32, a loss that is the mean of the output's product with a fixed tensor. Results go to
``benchmarks/results/shifting_statistics.json``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.report import against_baseline, report, seconds_per_call
from normviz.norms import AdaptiveBalanceBatchNorm2d, AlphaBatchNorm2d, ContinualNorm2d

IMAGES = ((20, 32, 8, 8), (64, 64, 32, 32))
"""A batch as on the page, where calls cost more than numbers, and a larger one, where memory decides."""

TASKS, GROUPS = 5, 8
SLICE = 0.12
"""Seconds that one side of a pair runs before the other has its turn."""
REPEATS = 7

Step = Callable[[nn.Module, Tensor], Tensor]
"""A layer and its input to what is differentiated, an output or an output and a penalty in one."""


@dataclass(frozen=True)
class Contender:
    """A layer under test.

    Args:
        name: in the table.
        build: a layer for a number of channels, in the mode in which it is measured.
        step: from the layer and its input to a 0-dim tensor.
    """

    name: str
    build: Callable[[int], nn.Module]
    step: Step


def product(layer: nn.Module, x: Tensor) -> Tensor:
    """Mean of the output times a fixed tensor."""
    out: Tensor = layer(x)
    return (out * _weights(x)).mean()


def with_ids(layer: nn.Module, x: Tensor) -> Tensor:
    """The same, with samples of all five tasks."""
    out: Tensor = layer(x, torch.arange(len(x), device=x.device) % TASKS)
    return (out * _weights(x)).mean()


def with_penalty(layer: nn.Module, x: Tensor) -> Tensor:
    """The same and the balance loss."""
    loss = with_ids(layer, x)
    penalty = layer.balance_loss
    assert isinstance(penalty, Tensor)
    return loss + 0.1 * penalty


def _weights(x: Tensor) -> Tensor:
    return torch.linspace(-1, 1, x.numel()).view_as(x)


def balanced(channels: int) -> nn.Module:
    """AdaB²N in its last task."""
    layer = AdaptiveBalanceBatchNorm2d(channels, TASKS)
    for _ in range(TASKS - 1):
        layer.end_task()
    return layer.train()


def trained(channels: int) -> nn.BatchNorm2d:
    """A batch norm that has seen a batch, in eval mode."""
    norm = nn.BatchNorm2d(channels)
    norm(torch.randn(8, channels, 4, 4))
    return norm.eval()


FAMILIES: dict[str, tuple[Contender, tuple[Contender, ...]]] = {
    "training": (
        Contender("BatchNorm2d", nn.BatchNorm2d, product),
        (
            Contender("AdaB²N, no ids", lambda c: AdaptiveBalanceBatchNorm2d(c, TASKS), product),
            Contender("AdaB²N, five tasks", balanced, with_ids),
            Contender("AdaB²N and balance loss", balanced, with_penalty),
            Contender("Continual Norm", lambda c: ContinualNorm2d(c, GROUPS), product),
        ),
    ),
    "test time": (
        Contender("BatchNorm2d, eval", trained, product),
        (
            Contender("alpha-BN", lambda c: AlphaBatchNorm2d(trained(c), 0.7), product),
            Contender(
                "alpha-BN, with gradients",
                lambda c: AlphaBatchNorm2d(trained(c), 0.7, detach_stats=False),
                product,
            ),
        ),
    ),
}


def step(contender: Contender, shape: tuple[int, ...]) -> Callable[[], None]:
    """One forward and backward pass."""
    torch.manual_seed(0)
    layer = contender.build(shape[1])
    x = torch.randn(shape, requires_grad=True)

    def both_ways() -> None:
        x.grad = None
        layer.zero_grad(set_to_none=True)
        contender.step(layer, x).backward()

    return both_ways


def compare(
    family: str, shape: tuple[int, ...], *, slice_: float = SLICE, repeats: int = REPEATS
) -> list[list[object]]:
    """One row per layer: when, layer, shape, milliseconds, times the baseline, lowest and highest of that ratio."""
    baseline, contenders = FAMILIES[family]
    layers = (baseline, *contenders)
    plain, *others = (seconds_per_call(step(layer, shape), slice_) for layer in layers)
    rows = against_baseline(plain, others, repeats)
    text = "x".join(map(str, shape))
    return [[layer.name, family, text, *row] for layer, row in zip(layers, rows, strict=True)]


def main() -> None:
    """Measure both families at every size, print the table, write the results."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [row for family in FAMILIES for shape in IMAGES for row in compare(family, shape)]
    finally:
        torch.set_num_threads(threads)
    report(
        "shifting_statistics",
        "AdaB²N and alpha-BN: time of a step",
        ("layer", "when", "shape", "ms", "ratio", "low", "high"),
        rows,
        "Forward and backward, one thread, float32; ratios to the family's first layer.",
    )


if __name__ == "__main__":
    main()
