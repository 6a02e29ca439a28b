"""What it costs to weigh samples: a step with dynamic loss-based weights, and a step of STORM, against a plain step.

Dynamic weights (DynamicLossReweighter) need only losses that are there anyway. STORM's paper calls its overhead small,
without a number that we could read. Counting a backward and a forward-mode pass as two forward passes each, a plain
step costs 3 and STORM's 8 + 2 G (features of two batches with G passes, the update, the second batch, the inner
products): the factor (8 + 2 G) / 3 is what is left once the network is so large that nothing else matters.
All pairs alternate in one run, so that a busy machine slows both; shown are median and range of the ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.report import paired_ratio, report
from normviz.models import GPT, MLP
from normviz.weighting import STORM, DynamicLossReweighter, LossRescaler, per_sample_loss

SLICE = 0.25
"""Seconds that one side of a pair runs before the other has its turn."""

GPTS = ((64, 2, 48, 32), (128, 4, 64, 32))
"""(width, blocks, context, batch) of the language models."""

MLPS = ((64, 128), (512, 512), (1024, 2048))
"""(inputs, hidden width) of the classifiers, two hidden layers each."""

PASSES = (1, 4)
BATCH = 128
CLASSES = 10


def seconds_per_call(f: Callable[[], None]) -> Callable[[], float]:
    """A measurement: mean time of a call over one slice."""

    def measure() -> float:
        calls, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < SLICE:
            f()
            calls += 1
        return spent / calls

    return measure


def compare(weighted: Callable[[], None], plain: Callable[[], None]) -> tuple[float, float, str]:
    """Milliseconds of a plain step, the median ratio, and the range of the ratios."""
    measured: list[float] = []

    def plain_seconds() -> float:
        measured.append(seconds_per_call(plain)())
        return measured[-1]

    ratio, low, high = paired_ratio(seconds_per_call(weighted), plain_seconds)
    return 1e3 * sorted(measured)[len(measured) // 2], ratio, f"{low:.3g} to {high:.3g}"


def language_step(width: int, blocks: int, context: int, batch: int, weighted: bool) -> Callable[[], None]:
    """One AdamW step of a small GPT on random tokens, with LinUpper weights or the plain mean."""
    torch.manual_seed(0)
    model = GPT(128, dim=width, num_layers=blocks, num_heads=4, max_length=context)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens, targets = torch.randint(128, (2, batch, context))
    reweight = DynamicLossReweighter("linupper") if weighted else None

    def step() -> None:
        losses, _ = per_sample_loss(model(tokens), targets, shift=False)
        loss = losses.mean() if reweight is None else reweight(losses)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def loss_only(size: int, weighted: bool) -> Callable[[], None]:
    """From the losses of a batch to their (weighted) mean and back."""
    losses = torch.rand(size, requires_grad=True)
    reweight = DynamicLossReweighter("linupper") if weighted else None

    def step() -> None:
        loss = losses.mean() if reweight is None else reweight(losses)
        loss.backward()
        losses.grad = None

    return step


def classifier_step(inputs: int, width: int, passes: int | None) -> Callable[[], None]:
    """One SGD step of an MLP with dropout on random data: plain (``passes`` None) or STORM's."""
    torch.manual_seed(0)
    model = MLP(inputs, [width, width], CLASSES, dropout=0.2).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    pairs = [(torch.randn(BATCH, inputs), torch.randint(CLASSES, (BATCH,))) for _ in range(2)]
    if passes is not None:
        omega: nn.Module = LossRescaler()
        meta = torch.optim.Adam(omega.parameters(), lr=1e-3)
        storm = STORM(model, omega, optimizer, meta, num_passes=passes)

        def storm_step() -> None:
            storm.step(*pairs)

        return storm_step

    def step() -> None:
        x, y = pairs[0]
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def dynamic_rows() -> list[tuple[object, ...]]:
    """Dynamic weights: the loss alone, then whole training steps."""
    rows: list[tuple[object, ...]] = []
    for size in (32, 1024):
        rows.append((f"loss of {size} samples", *compare(loss_only(size, True), loss_only(size, False))))
    for shape in GPTS:
        name = f"step of a GPT {shape[0]} x {shape[1]}"
        rows.append((name, *compare(language_step(*shape, True), language_step(*shape, False))))
    return rows


def storm_rows() -> list[tuple[object, ...]]:
    """STORM: measured factor and the one from counting passes."""
    rows: list[tuple[object, ...]] = []
    for inputs, width in MLPS:
        for passes in PASSES:
            name = f"{inputs}-{width}-{width}, G = {passes}"
            measured = compare(classifier_step(inputs, width, passes), classifier_step(inputs, width, None))
            rows.append((name, *measured, (8 + 2 * passes) / 3))
    return rows


def main() -> None:
    """Measure both and write ``results/reweighting.json`` and ``results/reweighting_storm.json``."""
    torch.set_num_threads(1)
    report(
        "reweighting",
        "Dynamic loss-based weights (LinUpper) against the plain mean",
        ("what", "plain, ms", "weighted ÷ plain", "range"),
        dynamic_rows(),
        "GPT width x blocks, 32 passages per step. The paper: no extra forward pass, nothing stored per sample.",
    )
    report(
        "reweighting_storm",
        "A step of STORM against a plain step",
        ("what", "plain, ms", "STORM ÷ plain", "range", "passes ÷ passes"),
        storm_rows(),
        f"MLPs (inputs-hidden-hidden), batch {BATCH}, SGD. Last column: (8 + 2 G) / 3, from counting passes. "
        "The paper: small overhead, no number.",
    )


if __name__ == "__main__":
    main()
