"""Claims: one statement of a paper, measured here, with a verdict that follows from a rule stated beforehand.

A claim measures one number for each seed (:class:`Claim.measure`), puts a 95 % confidence interval around the mean
(Student's t over seeds), and compares the interval with a threshold: entirely on the claimed side *reproduced*,
entirely on the other side *not reproduced*, otherwise *undecided*. A claim that is exact (an identity, a count of
bytes) declares ``exact=True`` and needs no second seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from normviz.frame import Log

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Claim", "Measure", "Verdict", "by_seed", "confidence_interval", "paired_difference"]

Outcome = Literal["reproduced", "not reproduced", "undecided"]
Measure = Callable[[Log, Any], Mapping[int, float]]


@dataclass(frozen=True)
class Verdict:
    """What a claim came to in one run.

    Attributes:
        outcome: ``"reproduced"``, ``"not reproduced"`` or ``"undecided"``.
        estimate: mean over seeds (NaN if nothing was measured).
        low, high: 95 % confidence interval of the mean (equal to the estimate for exact claims).
        per_seed: the measured number for each seed.
        reason: one sentence: how the outcome follows from the numbers, or what is missing.
    """

    outcome: Outcome
    estimate: float
    low: float
    high: float
    per_seed: Mapping[int, float]
    reason: str


@dataclass(frozen=True)
class Claim:
    """A statement of a paper and the rule that decides whether it holds in a run.

    Args:
        id: short name, unique within its experiment.
        paper: the paper's slug in :mod:`normviz.catalog`.
        statement: what the paper says, in one sentence.
        paper_figure: the paper's own number or figure, with its setting.
        measured: what the measured number is, in words.
        measure: maps the log and the knobs to one number for each seed; ``{}`` when an arm is missing.
        threshold: the number the interval is compared with.
        side: on which side of the threshold the claim lies.
        unit: unit of the measured number.
        exact: the number does not vary by chance: no interval is needed.
        caveat: a known reason why the small scale may not show the claim.
        needs: what the run must contain, said when ``measure`` returns nothing.
    """

    id: str
    paper: str
    statement: str
    paper_figure: str
    measured: str
    measure: Measure
    threshold: float = 0.0
    side: Literal["above", "below"] = "below"
    unit: str = ""
    exact: bool = False
    caveat: str = ""
    needs: str = "the arms that the claim compares"

    @property
    def rule(self) -> str:
        """The rule in words."""
        what = "the number" if self.exact else "the whole 95 % interval over seeds"
        return f"Reproduced if {what} lies {self.side} {self.threshold:.3g}{' ' + self.unit if self.unit else ''}."

    def measured_text(self, verdict: Verdict) -> str:
        """The measured number with its unit, interval and number of seeds, in words."""
        if not verdict.per_seed:
            return "not measured"
        seeds = f"{len(verdict.per_seed)} seed{'s' if len(verdict.per_seed) > 1 else ''}"
        if self.exact:
            detail = f"exact, {seeds}"
        elif math.isinf(verdict.low) and math.isinf(verdict.high):
            detail = seeds
        else:
            detail = f"95 % interval {verdict.low:.3g} to {verdict.high:.3g}, {seeds}"
        return f"{verdict.estimate:.3g}{' ' + self.unit if self.unit else ''} ({detail})"

    def verdict(self, log: Log, knobs: Any) -> Verdict:
        """Measure and judge; never raises for a run that is too short, says what is missing instead."""
        per_seed = {s: v for s, v in self.measure(log, knobs).items() if not math.isnan(v)}
        if not per_seed:
            return Verdict(
                "undecided", math.nan, math.nan, math.nan, {}, f"Not measured: needs {self.needs}."
            )
        values = list(per_seed.values())
        estimate = float(np.mean(values))
        if self.exact:
            low, high = min(values), max(values)
        elif len(values) < 2:
            reason = "One seed gives no interval: run at least two."
            return Verdict("undecided", estimate, -math.inf, math.inf, per_seed, reason)
        else:
            low, high = confidence_interval(values)
        above = low > self.threshold
        below = high < self.threshold
        if above or below:
            holds = above if self.side == "above" else below
            where = "above" if above else "below"
            outcome: Outcome = "reproduced" if holds else "not reproduced"
            reason = f"{'The number' if self.exact else 'The interval'} lies {where} {self.threshold:.3g}."
        else:
            outcome, reason = (
                "undecided",
                f"The interval contains {self.threshold:.3g}: more seeds or steps may decide.",
            )
        return Verdict(outcome, estimate, low, high, per_seed, reason)


def confidence_interval(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """Student-t confidence interval of the mean.

    Args:
        values: at least two numbers. Infinite ones (a diverged arm) give the whole line, unless all are the same
            infinity.
        level: coverage.

    Raises:
        ValueError: fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"values must hold at least two numbers, got {len(values)}.")
    if not np.isfinite(values).all():
        same = values[0] if len(set(values)) == 1 else None
        return (same, same) if same is not None else (-math.inf, math.inf)
    from scipy.special import stdtrit

    n = len(values)
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    mean = float(np.mean(values))
    return mean - half, mean + half


def by_seed(table: pd.DataFrame) -> dict[int, float]:
    """Mean of the column ``value`` for each seed of a tidy table."""
    means = table.groupby("seed")["value"].mean()
    return dict(
        zip(means.index.to_numpy(dtype=int).tolist(), means.to_numpy(dtype=float).tolist(), strict=True)
    )


def paired_difference(log: Log, name: str, arm: str, baseline: str, *, window: int = 1) -> dict[int, float]:
    """``arm`` minus ``baseline`` of the last ``window`` values of a scalar, for each seed that has both.

    Both arms of a seed see the same batches from the same initialisation, so the difference is paired.
    """
    table = log.final(name, window=window)
    values = {(a, int(s)): float(v) for a, s, v in table.itertuples(index=False)}
    return {
        s: values[arm, s] - values[baseline, s] for a, s in values if a == arm and (baseline, s) in values
    }
