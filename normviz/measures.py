"""Measures: what a claim measures, composed of few parts instead of written anew for every claim.

A measure maps a log and knobs to one number for each seed of the run. The parts:

- :func:`scalar` and :func:`array`: a quantity of one arm, reduced over a window of the run;
- :func:`constant`: what was measured once, before or apart from training;
- :func:`steps_to`: when an arm first has what another one ends with;
- arithmetic between measures over shared seeds (``-``, ``+``, ``*``, ``/``), :func:`absolute`, :func:`log10`,
  :func:`largest`, :func:`smallest`, :func:`derived` for the rest.

Two rules hold everywhere. A seed that has no number is NaN, never left out: a claim sees that it is missing. An arm
that diverged has the worst number there is (``bad``), so that divergence counts against the arm that failed; when both
sides of a difference diverged the seed is NaN.

Windows are of the run's steps, not of the rows that happen to be there: the last ``window`` moments at which any arm
has this quantity, or all from the share ``since`` of the run on. An arm that lacks one of these moments has no number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from normviz.frame import Log

__all__ = [
    "ArmName",
    "Measure",
    "Reduce",
    "absolute",
    "array",
    "constant",
    "derived",
    "largest",
    "log10",
    "scalar",
    "smallest",
    "speed_up",
    "steps_to",
]

ArmName = str | Callable[[Any], str]
"""An arm's name, or a function that makes it from the knobs."""

Reduce = Literal["mean", "median", "max", "min", "mean_absolute"]
"""Of the values in the window; ``"mean_absolute"`` is the mean of their absolute values."""

Compute = Callable[[Log, Any], Mapping[int, float]]

_REDUCE: dict[str, Callable[[npt.NDArray[np.float64]], float]] = {
    "mean": lambda v: float(np.mean(v)),
    "median": lambda v: float(np.median(v)),
    "max": lambda v: float(np.max(v)),
    "min": lambda v: float(np.min(v)),
    "mean_absolute": lambda v: float(np.mean(np.abs(v))),
}


class Measure:
    """One number for each seed of a run; combines with other measures and numbers by arithmetic.

    Args:
        compute: maps a log and knobs to numbers by seed; seeds that it leaves out are NaN.
        arms: the arms it needs, as names or functions of the knobs.
    """

    def __init__(self, compute: Compute, arms: Iterable[ArmName] = ()) -> None:
        self._compute = compute
        self.arms: tuple[ArmName, ...] = tuple(dict.fromkeys(arms))

    def __call__(self, log: Log, knobs: Any) -> dict[int, float]:
        """The number of every seed of the run; NaN where there is none."""
        found = self._compute(log, knobs)
        return {seed: float(found.get(seed, math.nan)) for seed in _seeds(log, knobs)}

    def arm_names(self, knobs: Any) -> tuple[str, ...]:
        """The names of the arms it needs in this setting."""
        return tuple(dict.fromkeys(_name(arm, knobs) for arm in self.arms))

    def _with(self, other: Measure | float, combine: Callable[[float, float], float]) -> Measure:
        if not isinstance(other, Measure):
            number = float(other)
            return _each(self, lambda value: combine(value, number))

        def compute(log: Log, knobs: Any) -> dict[int, float]:
            ours, theirs = self(log, knobs), other(log, knobs)
            return {seed: combine(value, theirs[seed]) for seed, value in ours.items()}

        return Measure(compute, (*self.arms, *other.arms))

    def __sub__(self, other: Measure | float) -> Measure:
        return self._with(other, lambda a, b: a - b)

    def __add__(self, other: Measure | float) -> Measure:
        return self._with(other, lambda a, b: a + b)

    def __mul__(self, other: Measure | float) -> Measure:
        return self._with(other, lambda a, b: a * b)

    def __truediv__(self, other: Measure | float) -> Measure:
        return self._with(other, _ratio)


def _seeds(log: Log, knobs: Any) -> list[int]:
    """The seeds that the run should have; those of the log where the knobs do not say."""
    wanted = getattr(knobs, "seed_range", None)
    return list(wanted()) if wanted is not None else log.seeds


def _name(arm: ArmName, knobs: Any) -> str:
    return arm if isinstance(arm, str) else arm(knobs)


def _ratio(a: float, b: float) -> float:
    """a / b; NaN for 0/0 and inf/inf, an infinity for a/0."""
    if b == 0:
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)
    return a / b


def _each(measure: Measure, change: Callable[[float], float]) -> Measure:
    def compute(log: Log, knobs: Any) -> dict[int, float]:
        return {seed: change(value) for seed, value in measure(log, knobs).items()}

    return Measure(compute, measure.arms)


def absolute(measure: Measure) -> Measure:
    """The absolute value of each seed's number."""
    return _each(measure, abs)


def log10(measure: Measure) -> Measure:
    """The decadic logarithm: orders of magnitude. Zero gives minus infinity, negative numbers NaN."""

    def change(value: float) -> float:
        if value == 0:
            return -math.inf
        return math.log10(value) if value > 0 else math.nan

    return _each(measure, change)


def largest(*measures: Measure) -> Measure:
    """The largest of several measures for each seed; NaN if one of them is."""
    return _among(measures, max)


def smallest(*measures: Measure) -> Measure:
    """The smallest of several measures for each seed; NaN if one of them is."""
    return _among(measures, min)


def _among(measures: tuple[Measure, ...], choose: Callable[[Iterable[float]], float]) -> Measure:
    def compute(log: Log, knobs: Any) -> dict[int, float]:
        columns = [measure(log, knobs) for measure in measures]
        return {
            seed: math.nan if any(math.isnan(c[seed]) for c in columns) else choose(c[seed] for c in columns)
            for seed in columns[0]
        }

    return Measure(compute, (arm for measure in measures for arm in measure.arms))


def derived(compute: Compute, *, arms: Iterable[ArmName] = ()) -> Measure:
    """A measure that no part above makes: a function of log and knobs to numbers by seed.

    Args:
        compute: must leave out (or give NaN for) a seed whose numbers are not all there.
        arms: the arms it needs. A seed in which one of them diverged is NaN unless ``compute`` says otherwise.
    """
    listed = tuple(arms)

    def guarded(log: Log, knobs: Any) -> dict[int, float]:
        found = compute(log, knobs)
        lost = {seed for arm, seed in log.diverged if arm in {_name(a, knobs) for a in listed}}
        return {seed: v for seed, v in found.items() if seed not in lost or math.isinf(v)}

    return Measure(guarded, listed)


def scalar(
    name: str,
    arm: ArmName,
    *,
    reduce: Reduce = "mean",
    window: int | None = None,
    since: float | None = None,
    until: float | None = None,
    bad: float = math.inf,
) -> Measure:
    """A scalar of one arm, reduced over a window of the run.

    Args:
        name: of the scalar in the frames.
        arm: the arm.
        reduce: over the window's moments.
        window: so many last moments of measurement (default 1, if ``since`` is not given).
        since: all moments from this share of the run on, in [0, 1], instead.
        until: … and up to this share.
        bad: what a diverged member has: ``inf`` for what should be small, ``-inf`` for what should be large.

    Raises:
        ValueError: both ``window`` and ``since``.
    """
    if window is not None and (since is not None or until is not None):
        raise ValueError("window and since are two ways to say it: give one of them.")

    def compute(log: Log, knobs: Any) -> dict[int, float]:
        this, table = _name(arm, knobs), log.scalars(name)
        steps = table["step"].to_numpy()
        moments = _moments(steps, knobs, log, window, since, until)
        own = (table["arm"] == this).to_numpy()
        at, seeds, values = steps[own], table["seed"].to_numpy()[own], table["value"].to_numpy()[own]
        return _reduced(log, knobs, this, moments, at, seeds, values, _REDUCE[reduce], bad)

    return Measure(compute, (arm,))


def array(
    name: str,
    arm: ArmName,
    of: Callable[[npt.NDArray[np.float64]], float],
    *,
    reduce: Reduce = "mean",
    window: int | None = None,
    since: float | None = None,
    until: float | None = None,
    bad: float = math.inf,
) -> Measure:
    """A number ``of`` an array of one arm, reduced over a window of the run as in :func:`scalar`."""
    if window is not None and (since is not None or until is not None):
        raise ValueError("window and since are two ways to say it: give one of them.")

    def compute(log: Log, knobs: Any) -> dict[int, float]:
        this, entries = _name(arm, knobs), log.array_history(name)
        steps = np.array([entry.step for entry in entries], dtype=np.int64)
        moments = _moments(steps, knobs, log, window, since, until)
        wanted = set(moments)
        own = [entry for entry in entries if entry.arm == this and entry.step in wanted]
        values = np.array([of(entry.value.astype(float)) for entry in own], dtype=float)
        at, seeds = (
            np.array([entry.step for entry in own], dtype=np.int64),
            np.array([entry.seed for entry in own], dtype=np.int64),
        )
        return _reduced(log, knobs, this, moments, at, seeds, values, _REDUCE[reduce], bad)

    return Measure(compute, (arm,))


def constant(name: str, arm: ArmName | None = None, *, reduce: Reduce = "mean") -> Measure:
    """A scalar that is measured once, whenever that is (a theorem on a grid, a count of bytes).

    Args:
        name: of the scalar.
        arm: of this arm; None: of whichever arms have it.
        reduce: over what there is.
    """

    def compute(log: Log, knobs: Any) -> dict[int, float]:
        table = log.scalars(name)
        if arm is not None:
            table = table[table["arm"] == _name(arm, knobs)]
        seeds, values = table["seed"].to_numpy(), table["value"].to_numpy()
        return {int(s): _REDUCE[reduce](values[seeds == s]) for s in np.unique(seeds)}

    return Measure(compute, () if arm is None else (arm,))


def _moments(
    steps: npt.NDArray[np.int64],
    knobs: Any,
    log: Log,
    window: int | None,
    since: float | None,
    until: float | None,
) -> list[int]:
    """The moments of the window; none if the run has not come to the window's end.

    A run that was cut short by less than one gap between two measurements is told from a whole one by its last frame.
    """
    there = sorted(set(steps.tolist()))
    total = knobs.total_steps() or log.last_step
    if not there:
        return []
    gap = there[-1] - there[-2] if len(there) > 1 else 1
    low, high = (since or 0.0) * total, total if until is None else until * total
    if log.last_step < math.floor(high) - 1 or there[-1] + max(gap, 1) < high:
        return []
    if since is None and until is None:
        kept = there[-(window or 1) :]
        return kept if len(kept) == (window or 1) else []
    return [step for step in there if low <= step <= high]


def _reduced(
    log: Log,
    knobs: Any,
    arm: str,
    moments: list[int],
    at: npt.NDArray[np.int64],
    seeds: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    reduce: Callable[[npt.NDArray[np.float64]], float],
    bad: float,
) -> dict[int, float]:
    lost = {seed for name, seed in log.diverged if name == arm}
    inside = np.isin(at, moments)
    found: dict[int, float] = {}
    for seed in _seeds(log, knobs):
        mine = inside & (seeds == seed)
        if seed in lost:
            found[seed] = bad
        elif moments and mine.any() and _covers(at[mine], moments):
            chosen = values[mine]
            found[seed] = reduce(chosen) if np.isfinite(chosen).all() else _not_finite(chosen, bad)
    return found


def _covers(at: npt.NDArray[np.int64], moments: list[int]) -> bool:
    """Whether an arm was measured up to the window's end; one that is measured less often has fewer moments."""
    own = sorted(set(at.tolist()))
    gap = own[-1] - own[-2] if len(own) > 1 else max(moments[-1] - moments[0], 1)
    return bool(own[-1] + gap > moments[-1])


def _not_finite(values: npt.NDArray[np.float64], bad: float) -> float:
    return math.nan if np.isnan(values).any() else bad


def steps_to(
    arm: ArmName,
    baseline: ArmName,
    name: str = "loss",
    *,
    window: int = 1,
    smooth: int = 1,
    better: Literal["lower", "higher"] = "lower",
) -> Measure:
    """The step at which an arm first has what the baseline has at its end; infinite if it never has.

    Between two moments of measurement it is interpolated linearly.

    Args:
        arm: the arm whose steps are counted.
        baseline: the arm whose final value is the goal: the mean over its last ``window`` moments. The same name as
            ``arm`` gives the arm's own way to its final value.
        name: of the scalar.
        window: see ``baseline``.
        smooth: both curves are first averaged over so many moments up to each.
        better: whether the goal is reached from above (a loss) or from below (an accuracy).
    """
    sign = 1.0 if better == "lower" else -1.0

    def compute(log: Log, knobs: Any) -> dict[int, float]:
        ours, theirs = _name(arm, knobs), _name(baseline, knobs)
        lost = log.diverged
        table = log.scalars(name)
        steps = table["step"].to_numpy()
        last = _moments(steps, knobs, log, None, None, None)
        found: dict[int, float] = {}
        for seed in _seeds(log, knobs):
            curves = {a: _curve(table, a, seed, sign, smooth) for a in (ours, theirs)}
            (at, values), (goal_at, goal_values) = curves[ours], curves[theirs]
            if (theirs, seed) in lost or not last or len(goal_values) < window or not _covers(goal_at, last):
                continue
            goal = float(np.mean(goal_values[-window:]))
            if (ours, seed) in lost:
                found[seed] = math.inf
            elif len(values) and math.isfinite(goal):
                reached = _reached(at, values, goal)
                if math.isfinite(reached) or _covers(at, last):
                    found[seed] = reached
        return found

    return Measure(compute, (arm, baseline))


def speed_up(
    arm: ArmName,
    baseline: ArmName,
    name: str = "loss",
    *,
    window: int = 1,
    smooth: int = 1,
    better: Literal["lower", "higher"] = "lower",
) -> Measure:
    """How many times fewer steps an arm needs for what the baseline has at its end.

    The run's steps over :func:`steps_to`. Where the arm never gets there it is measured the other way round: the share
    of the run after which the baseline has what the arm has at the end, below 1. A diverged arm has 0.
    """
    there = steps_to(arm, baseline, name, window=window, smooth=smooth, better=better)
    back = steps_to(baseline, arm, name, window=window, smooth=smooth, better=better)

    def compute(log: Log, knobs: Any) -> dict[int, float]:
        total = float(knobs.total_steps() or log.last_step)
        behind = back(log, knobs)
        found: dict[int, float] = {}
        for seed, steps in there(log, knobs).items():
            if math.isfinite(steps):
                found[seed] = total / max(steps, 1.0)
            elif math.isinf(steps) and (_name(arm, knobs), seed) in log.diverged:
                found[seed] = 0.0
            elif math.isinf(steps) and math.isfinite(behind[seed]):
                found[seed] = min(behind[seed], total) / total
        return found

    return Measure(compute, (arm, baseline))


def _curve(
    table: Any, arm: str, seed: int, sign: float, smooth: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    own = ((table["arm"] == arm) & (table["seed"] == seed)).to_numpy()
    at, values = table["step"].to_numpy()[own], sign * table["value"].to_numpy()[own]
    if smooth > 1 and len(values):
        sums = np.cumsum(np.concatenate([[0.0], values]))
        ends = np.arange(1, len(values) + 1)
        begins = np.maximum(ends - smooth, 0)
        values = (sums[ends] - sums[begins]) / (ends - begins)
    return at, values


def _reached(at: npt.NDArray[np.int64], values: npt.NDArray[np.float64], goal: float) -> float:
    below = np.nonzero(values <= goal)[0]
    if not len(below):
        return math.inf
    i = int(below[0])
    if i == 0 or values[i - 1] <= values[i] or not np.isfinite(values[i - 1]):
        return float(at[i])
    share = (values[i - 1] - goal) / (values[i - 1] - values[i])
    return float(at[i - 1] + share * (at[i] - at[i - 1]))
