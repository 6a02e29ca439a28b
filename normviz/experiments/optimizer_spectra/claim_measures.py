"""What claims of the page *Optimizer spectra* measure, at each optimizer's best learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normviz.claims import Bound, Claim, Effect, Rule
from normviz.experiments.optimizer_spectra.best import TAIL, at_best, criterion
from normviz.experiments.optimizer_spectra.knobs import NAMES, SPIKE_AT, Knobs
from normviz.frame import Log
from normviz.measures import Measure, constant, derived, log10, scalar, speed_up

__all__ = [
    "NATS",
    "ORDERS",
    "claim",
    "condition",
    "count",
    "final",
    "jitter",
    "late",
    "loss_claim",
    "median",
    "retrained_claim",
    "rise",
    "speed_claim",
    "steps_saved",
]

NATS = 0.02
"""Least difference of a loss that counts, in nats: 2 % of perplexity."""

ORDERS = 0.1
"""Least difference of a condition number that counts, in orders of magnitude: a quarter."""

# Everything below sees the log with one arm for each optimizer, see :func:`.best.at_best`.


def _by_task(make: Callable[[str], Measure]) -> Measure:
    """A measure of the task's criterion."""
    made = {name: make(name) for name in ("loss", "validation_loss")}
    return Measure(lambda log, knobs: made[criterion(knobs)](log, knobs), made["loss"].arms)


def final(optimizer: str) -> Measure:
    """Mean of the last three values of the criterion."""
    return _by_task(lambda name: scalar(name, NAMES[optimizer], window=TAIL))


def steps_saved(optimizer: str, baseline: str) -> Measure:
    """The baseline's steps over those in which an optimizer reaches its final criterion."""
    return _by_task(lambda name: speed_up(NAMES[optimizer], NAMES[baseline], name, window=TAIL))


def late(name: str, optimizer: str) -> Measure:
    """Median over the second half of the run."""
    return scalar(name, NAMES[optimizer], reduce="median", since=0.5)


def median(name: str, optimizer: str) -> Measure:
    """Median over the whole run."""
    return scalar(name, NAMES[optimizer], reduce="median", since=0.0)


def count(name: str, optimizer: str) -> Measure:
    """A number that is the same at every step."""
    return constant(name, NAMES[optimizer])


def condition(optimizer: str, baseline: str) -> Measure:
    """log10 of the update's condition number, an optimizer's less the baseline's, second half of the run."""
    return log10(late("condition", optimizer) / late("condition", baseline))


def _losses(log: Log, arm: str, low: float, high: float) -> dict[int, NDArray[np.float64]]:
    """Training losses of an arm after the step ``low``, up to ``high``, by seed in order of the steps."""
    table = log.scalars("loss")
    table = table[(table["arm"] == arm) & (table["step"] > low) & (table["step"] <= high)]
    seeds, values = table["seed"].to_numpy(), table["value"].to_numpy(dtype=float)
    return {int(seed): values[seeds == seed] for seed in np.unique(seeds)}


def rise(optimizer: str) -> Measure:
    """Highest training loss after the bad batch less the mean of the five before it; infinite where it diverges."""
    arm = NAMES[optimizer]

    def compute(log: Log, knobs: Knobs) -> dict[int, float]:
        at = int(SPIKE_AT * knobs.steps)
        before, after = _losses(log, arm, at - 5, at), _losses(log, arm, at, knobs.steps)
        found = {s: float(after[s].max() - before[s].mean()) for s in before.keys() & after.keys()}
        return {**found, **{seed: math.inf for name, seed in log.diverged if name == arm}}

    return derived(compute, arms=(arm,))


def jitter(optimizer: str) -> Measure:
    """Standard deviation of the change of the logarithm of the training loss from step to step, second half."""
    arm = NAMES[optimizer]

    def compute(log: Log, knobs: Knobs) -> dict[int, float]:
        losses = _losses(log, arm, knobs.steps / 2, knobs.steps)
        found = {s: float(np.diff(np.log(v)).std(ddof=1)) for s, v in losses.items() if len(v) > 2}
        return {**found, **{seed: math.inf for name, seed in log.diverged if name == arm}}

    return derived(compute, arms=(arm,))


def claim(
    id: str,
    paper: str,
    preset: str,
    measure: Measure | Mapping[str, Measure],
    rule: Rule,
    statement: str,
    paper_figure: str,
    measured: str,
    *,
    given: Mapping[str, Any] | None = None,
    unit: str = "",
    caveat: str = "",
) -> Claim:
    """A claim at best learning rates, measured where all of its optimizers are chosen."""
    rivals = {"": measure} if isinstance(measure, Measure) else measure
    optimizers = {name: key for key, name in NAMES.items()}
    arms = dict.fromkeys(str(arm) for m in rivals.values() for arm in m.arms)
    needed = frozenset(optimizers[arm] for arm in arms)
    *first, last = arms
    best = {rival: at_best(m) for rival, m in rivals.items()}
    return Claim(
        id=id,
        paper=paper,
        statement=statement,
        paper_figure=paper_figure,
        measured=measured,
        measure=best[""] if isinstance(measure, Measure) else best,
        rule=rule,
        preset=preset,
        given={"optimizers": lambda chosen: needed <= set(chosen), "shorter": 1.0, **(given or {})},
        given_words=f"{', '.join(first)} and {last}" if first else last,
        unit=unit,
        caveat=caveat,
    )


def loss_claim(
    id: str,
    paper: str,
    optimizer: str,
    rivals: str | tuple[str, ...],
    statement: str,
    paper_figure: str,
    *,
    preset: str = "text",
    rule: Rule | None = None,
    caveat: str = "",
) -> Claim:
    """A claim about the final loss of an optimizer against one or several others."""
    if isinstance(rivals, str):
        measure: Measure | dict[str, Measure] = final(optimizer) - final(rivals)
        against = f"minus {NAMES[rivals]}'s"
    else:
        measure = {NAMES[rival]: final(optimizer) - final(rival) for rival in rivals}
        against = "minus each rival's"
    return claim(
        id,
        paper,
        preset,
        measure,
        rule or Effect("below", NATS),
        statement,
        paper_figure,
        f"final validation loss of {NAMES[optimizer]} {against}",
        given={"task": ("digits", "language")},
        unit="nats",
        caveat=caveat,
    )


def retrained_claim(id: str, paper: str, optimizer: str, statement: str, paper_figure: str) -> Claim:
    """A claim that an optimizer with a schedule half as long ends level with AdamW."""
    return claim(
        id,
        paper,
        "half-the-steps",
        final(optimizer) - final("adamw"),
        Bound("below", NATS),
        statement,
        paper_figure,
        f"final validation loss of {NAMES[optimizer]} after half of the steps minus AdamW's after all",
        given={"task": "language", "shorter": 0.5},
        unit="nats",
        caveat="Both schedules fall to zero, each at its own end; the rate of each is its best for its own length.",
    )


HALF = "half of the paper's gain, at each optimizer's best learning rate"


def speed_claim(
    id: str,
    paper: str,
    optimizer: str,
    baseline: str,
    statement: str,
    paper_figure: str,
    *,
    bar: float,
    floor: float,
    time: bool = False,
) -> Claim:
    """A claim about how many times fewer steps (or how much less time) an optimizer needs than another."""
    measure = steps_saved(optimizer, baseline)
    if time:
        measure = measure * (median("step_ms", baseline) / median("step_ms", optimizer))
    what = (
        "the same in seconds, with the median time of a step of this run"
        if time
        else (f"{NAMES[baseline]}'s steps over those in which {NAMES[optimizer]} reaches its final loss")
    )
    return claim(
        id,
        paper,
        "text",
        measure,
        Effect("above", floor, bar, null=1.0),
        statement,
        paper_figure,
        f"{what}; {1 + bar:.3g} is {HALF}",
        unit="×",
        caveat="Here the optimizer is a large part of a step."
        if time
        else "The paper trains networks a thousand times larger for a hundred times as many steps. The faster one's "
        "learning rate is still high when it passes the other's final loss: a shorter schedule might gain more.",
    )
