"""What it costs to record gradient norms and to refine a schedule, beside the training step they belong to.

    python -m benchmarks.schedules

A step (forward, backward, optimizer) of an MLP with two hidden layers on batches of 128 takes turns with the same step
that also records the norm of the gradient. Both count the thread's own CPU time: a busy machine disturbs little.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam

from benchmarks.report import paired_ratio, report
from normviz.models import MLP
from normviz.schedules import GradientNormRecorder, refine_from_norms

REPEATS, STEPS, BATCH = 11, 10, 128
WIDTHS = (256, 1024)
LENGTH = 10_000
"""Norms of the schedule that is refined: what the paper's plots have."""


def step_seconds(name: str, width: int, record: bool) -> Callable[[], float]:
    """CPU seconds of a training step over a slice of steps, with or without recording."""
    torch.manual_seed(0)
    model = MLP(64, (width, width), 10)
    make = {"SGD, l2": SGD, "Adam, l1": Adam}[name]
    optimizer = make(model.parameters(), lr=1e-3)
    recorder = GradientNormRecorder(model.parameters(), name[-2:])
    x, y = torch.randn(BATCH, 64), torch.randint(10, (BATCH,))

    def measure() -> float:
        start = time.thread_time()
        for _ in range(STEPS):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            if record:
                recorder.record()
            optimizer.step()
        return (time.thread_time() - start) / STEPS

    return measure


def refine_seconds() -> float:
    """CPU seconds of refining a schedule once."""
    norms = (1 + torch.rand(LENGTH, generator=torch.Generator().manual_seed(0))).tolist()
    start = time.thread_time()
    refine_from_norms(norms, "l2")
    return time.thread_time() - start


def main() -> None:
    """Compare and report."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[tuple[object, ...]] = []
    for width in WIDTHS:
        for name in ("SGD, l2", "Adam, l1"):
            plain = step_seconds(name, width, record=False)
            recording = step_seconds(name, width, record=True)
            ratio, low, high = paired_ratio(recording, plain, REPEATS)
            what = f"{name}, width {width}"
            rows.append((what, f"{1e3 * plain():.3g} ms", ratio, f"{low:.3g} to {high:.3g}"))
    refine_seconds()
    rows.append((f"refine {LENGTH:,} norms once", f"{1e3 * refine_seconds():.3g} ms", "", ""))
    torch.set_num_threads(threads)
    report(
        "schedules",
        "Recording gradient norms",
        ("what", "plain step, or all", "time ÷ plain step", "range"),
        rows,
        f"MLP with two hidden layers, batches of {BATCH}; CPU time of one thread, {REPEATS} pairs of {STEPS} steps. "
        "The wanted overhead is at most 3 %.",
    )


if __name__ == "__main__":
    main()
