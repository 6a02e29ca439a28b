"""What a growing batch costs: AdaGrad-Norm against torch's Adagrad, samples' gradients and a test against a plain step.

    python -m benchmarks.batch_growth

Pairs take turns, and what is reported is the median of their ratios; the clock is the processor time of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adagrad, Optimizer

from benchmarks.report import paired_ratio, report
from normviz.adaptive import BatchTestResult, norm_test, per_sample_gradients, variance_from_microbatches
from normviz.models import MLP
from normviz.optim import AdaGradNorm

REPEATS, STEPS = 9, 5
WIDTHS = (64, 256)
BATCHES = (8, 64, 512)
MICRO = 4
"""Micro-batches of the form of the norm test that needs no samples' gradients."""


def seconds(call: Callable[[], object]) -> Callable[[], float]:
    """Processor time of a call, mean over some."""

    def measure() -> float:
        start = time.thread_time()
        for _ in range(STEPS):
            call()
        return (time.thread_time() - start) / STEPS

    return measure


def optimizer_seconds(make: Callable[..., Optimizer], width: int, **options: object) -> Callable[[], float]:
    """Time of a step of the optimizer alone, on an MLP with two hidden layers."""
    torch.manual_seed(0)
    parameters = list(MLP(64, (width, width), 10).parameters())
    for p in parameters:
        p.grad = torch.randn_like(p)
    return seconds(make(parameters, lr=1e-3, **options).step)


def optimizers() -> list[list[object]]:
    """AdaGrad-Norm in both scopes over Adagrad."""
    rows: list[list[object]] = []
    for width in WIDTHS:
        for scope in ("global", "row"):
            ours = optimizer_seconds(AdaGradNorm, width, scope=scope)
            theirs = optimizer_seconds(Adagrad, width)
            ratio, low, high = paired_ratio(ours, theirs, REPEATS)
            rows.append([f"scope={scope}, width {width}", 1e3 * theirs(), ratio, f"{low:.3g} to {high:.3g}"])
    return rows


def steps() -> list[list[object]]:
    """A gradient with the norm test, by samples' gradients and by micro-batches, over a plain one."""
    rows: list[list[object]] = []
    for size in BATCHES:
        torch.manual_seed(0)
        model = MLP(64, (64,), 10, activation="tanh")
        x, y = torch.randn(size, 64), torch.randint(10, (size,))
        plain = seconds(partial(_gradients, model, x, y))
        ways = {
            "samples' gradients": _by_samples,
            "samples' gradients and the norm test": _test_by_samples,
            f"{MICRO} micro-batches and the norm test": _test_by_micro_batches,
        }
        for name, way in ways.items():
            ratio, low, high = paired_ratio(seconds(partial(way, model, x, y)), plain, REPEATS)
            rows.append([f"{name}, b = {size}", 1e3 * plain(), ratio, f"{low:.3g} to {high:.3g}"])
    return rows


def _by_samples(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    return per_sample_gradients(model, cross_entropy, x, y)


def _test_by_samples(model: nn.Module, x: Tensor, y: Tensor) -> BatchTestResult:
    return norm_test(_by_samples(model, x, y), eta=0.5)


def _test_by_micro_batches(model: nn.Module, x: Tensor, y: Tensor) -> BatchTestResult:
    parts = [_gradients(model, *part) for part in zip(x.chunk(MICRO), y.chunk(MICRO), strict=True)]
    means = [torch.stack(g) for g in zip(*parts, strict=True)]
    return norm_test(variance_from_microbatches(means, len(x) // MICRO), eta=0.5)


def _gradients(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters())))


def main() -> None:
    """Compare and report."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    report(
        "batch_growth_optimizers",
        "AdaGrad-Norm over torch.optim.Adagrad, the step alone",
        ("AdaGradNorm", "Adagrad (ms)", "time ÷ Adagrad", "range"),
        optimizers(),
        f"MLP with two hidden layers; processor time of one thread, {REPEATS} pairs of {STEPS} steps.",
    )
    report(
        "batch_growth",
        "What a test of the batch costs",
        ("what", "plain gradient (ms)", "time ÷ plain", "range"),
        steps(),
        f"MLP 64-64-10; processor time of one thread, {REPEATS} pairs of {STEPS}. Plain: one forward, one backward.",
    )
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
