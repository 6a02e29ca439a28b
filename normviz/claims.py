"""Claims: one statement of a paper, measured here, with a verdict that follows from a rule stated beforehand.

A claim has one of three rules:

- :class:`Effect`: something is larger (or smaller) than something else. The rule names the value of no effect, the
  least effect that counts (the floor, in units a reader cares about) and, where the paper gives a figure that a small
  experiment can be held to, the bar for it.
- :class:`Bound`: something stays within a limit (an overhead, a harm, a distance between equals).
- :class:`Identity`: true by construction or exact; no evidence, counted apart.

One number per seed is measured (:mod:`normviz.measures`), and a 95 % confidence interval put around the mean (Student's
t over seeds, paired where two arms are compared). The outcome follows from the interval alone:

============================  ==========================================================================
reproduced                    the whole interval is beyond the bar (or the floor, where there is no bar)
weaker than claimed           the whole interval is on the claimed side of no effect, and below the bar
no effect seen                the whole interval is closer to no effect than the floor
opposite                      the whole interval is on the other side
undecided                     anything else, a seed without a number, or fewer than two seeds
============================  ==========================================================================

A seed in which an arm diverged counts on the bad side for that arm; a seed without a number leaves the claim undecided
and is named. Against several rivals a claim has one interval for each, and all must hold. It is opposite if it is so
against one of them, which chance brings about more often the more rivals there are: then the interval must lie on the
other side at Bonferroni's level for their number too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from normviz.frame import Log
from normviz.knobs import Knobs
from normviz.measures import Measure

__all__ = [
    "LEAST_SEEDS",
    "OUTCOMES",
    "Bound",
    "Claim",
    "Effect",
    "Identity",
    "Interval",
    "Outcome",
    "Verdict",
    "claims_of",
    "confidence_interval",
    "detectable",
    "holm",
]

Outcome = Literal["reproduced", "weaker", "no effect", "opposite", "undecided"]

OUTCOMES: dict[Outcome, str] = {
    "reproduced": "reproduced",
    "weaker": "weaker than claimed",
    "no effect": "no effect seen",
    "opposite": "opposite",
    "undecided": "undecided",
}
"""The outcomes in words, in the order in which they are counted."""

LEAST_SEEDS = 5
"""Fewest seeds of a verdict that counts in the ledger; with fewer it is "so far"."""

LEVEL = 0.95
Side = Literal["above", "below"]


@dataclass(frozen=True)
class Effect:
    """A rule about a difference, a ratio or another size of an effect.

    Args:
        side: on which side of ``null`` the paper says it is.
        floor: least distance from ``null`` that counts as an effect, in the claim's unit; above 0.
        bar: distance from ``null`` that reproduces the paper's figure; None: the floor.
        null: the value of no effect: 0 for a difference, 1 for a ratio.

    Raises:
        ValueError: a floor that is not above 0, or a bar below the floor.
    """

    side: Side
    floor: float
    bar: float | None = None
    null: float = 0.0

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError(f"floor must be > 0, got {self.floor!r}.")
        if self.bar is not None and self.bar < self.floor:
            raise ValueError(f"bar must be >= floor = {self.floor:g}, got {self.bar!r}.")

    @property
    def threshold(self) -> float:
        """The value beyond which the whole interval must lie."""
        size = self.floor if self.bar is None else self.bar
        return self.null + size if self.side == "above" else self.null - size

    def outcome(self, low: float, high: float) -> Outcome:
        """What an interval comes to."""
        sign = 1.0 if self.side == "above" else -1.0
        near, far = sorted((sign * (low - self.null), sign * (high - self.null)))
        bar = self.floor if self.bar is None else self.bar
        if near > bar:
            return "reproduced"
        if -self.floor < near and far < self.floor:
            return "no effect"
        if near > 0 and far < bar:
            return "weaker"
        return "opposite" if far < 0 else "undecided"

    def words(self, unit: str) -> str:
        """The rule in words."""
        size = f"{self.floor:.3g}{unit}"
        text = f"Reproduced if the whole 95 % interval lies {self.side} {self.threshold:.3g}{unit}"
        if self.bar is not None and self.bar > self.floor:
            text += f", weaker if it lies between {self.null:g} and that"
        return f"{text}; no effect if it is within {size} of {self.null:g}."


@dataclass(frozen=True)
class Bound:
    """A rule about a limit that is kept.

    Args:
        side: the number must lie ``"below"`` or ``"above"`` the limit.
        limit: in the claim's unit.
    """

    side: Side
    limit: float

    @property
    def threshold(self) -> float:
        """The limit."""
        return self.limit

    @property
    def null(self) -> float:
        """The limit again: a bound has no other value to compare with."""
        return self.limit

    def outcome(self, low: float, high: float) -> Outcome:
        """What an interval comes to."""
        inside, outside = (high < self.limit, low > self.limit)
        if self.side == "above":
            inside, outside = outside, inside
        return "reproduced" if inside else "opposite" if outside else "undecided"

    def words(self, unit: str) -> str:
        """The rule in words."""
        return (
            f"Reproduced if the whole 95 % interval lies {self.side} {self.limit:.3g}{unit}, "
            "opposite if it lies wholly on the other side."
        )


@dataclass(frozen=True)
class Identity:
    """A rule about something exact or true by construction; it is checked, and never counted as evidence.

    Args:
        side: every seed's number must lie ``"below"`` or ``"above"`` the limit.
        limit: in the claim's unit.
    """

    side: Side
    limit: float

    @property
    def threshold(self) -> float:
        """The limit."""
        return self.limit

    @property
    def null(self) -> float:
        """The limit again."""
        return self.limit

    def outcome(self, low: float, high: float) -> Outcome:
        """What the smallest and the largest number come to: an identity holds for all seeds or does not hold."""
        holds = high < self.limit if self.side == "below" else low > self.limit
        return "reproduced" if holds else "opposite"

    def words(self, unit: str) -> str:
        """The rule in words."""
        return f"Holds if the number of every seed lies {self.side} {self.limit:.3g}{unit}."


Rule = Effect | Bound | Identity


@dataclass(frozen=True)
class Interval:
    """What was measured against one rival.

    Attributes:
        rival: its name ("" where the claim has no rivals).
        estimate: mean over seeds (NaN if nothing was measured).
        low, high: 95 % confidence interval of the mean (for identities the smallest and the largest number).
        per_seed: the number of every seed; NaN where there is none.
        outcome: what the interval comes to.
    """

    rival: str
    estimate: float
    low: float
    high: float
    per_seed: Mapping[int, float]
    outcome: Outcome


@dataclass(frozen=True)
class Verdict:
    """What a claim came to in one run.

    Attributes:
        outcome: see :data:`OUTCOMES`.
        intervals: one for each rival; the first is the one that decided.
        reason: one sentence: how the outcome follows from the numbers, or what is missing.
        measured: whether the setting measures this claim at all.
    """

    outcome: Outcome
    intervals: tuple[Interval, ...]
    reason: str
    measured: bool = True

    @property
    def estimate(self) -> float:
        """Mean over seeds of the interval that decided."""
        return self.intervals[0].estimate if self.intervals else math.nan

    @property
    def low(self) -> float:
        """Lower end of the interval that decided."""
        return self.intervals[0].low if self.intervals else math.nan

    @property
    def high(self) -> float:
        """Upper end of the interval that decided."""
        return self.intervals[0].high if self.intervals else math.nan

    @property
    def per_seed(self) -> Mapping[int, float]:
        """The number of every seed that has one, of the interval that decided."""
        found = self.intervals[0].per_seed if self.intervals else {}
        return {seed: value for seed, value in found.items() if not math.isnan(value)}

    @property
    def seeds(self) -> int:
        """How many seeds have a number."""
        return len(self.per_seed)


@dataclass(frozen=True)
class Claim:
    """A statement of a paper and the rule that decides whether it holds in a run.

    Args:
        id: short name, unique within its experiment.
        paper: the paper's slug in :mod:`normviz.catalog`.
        statement: what the paper says, in one sentence.
        paper_figure: the paper's own number or figure, with its setting.
        measured: what the measured number is, in words.
        measure: one number for each seed; or one measure for each rival, by the rival's name.
        rule: what decides.
        preset: slug of the preset at which the claim is decided.
        given: values that knobs must have for the claim to be measured, by knob: a value, several values, or a
            condition (a function of the value) whose docstring-like name :attr:`given_words` says.
        given_words: the conditions among ``given`` in words.
        unit: of the number.
        resolution: smallest difference that the metric can show (1 over the number of test samples, for an accuracy):
            the interval is never taken to be sharper.
        caveat: what a reader should know about the comparison.

    Raises:
        ValueError: no measure.
    """

    id: str
    paper: str
    statement: str
    paper_figure: str
    measured: str
    measure: Measure | Mapping[str, Measure]
    rule: Rule
    preset: str
    given: Mapping[str, Any] = field(default_factory=dict)
    given_words: str = ""
    unit: str = ""
    resolution: float = 0.0
    caveat: str = ""

    def __post_init__(self) -> None:
        if not self.rivals:
            raise ValueError(f"claim {self.id!r} must have a measure.")

    @property
    def rivals(self) -> Mapping[str, Measure]:
        """The measures by rival; one without a name where there is only one."""
        return {"": self.measure} if isinstance(self.measure, Measure) else self.measure

    @property
    def identity(self) -> bool:
        """Whether it is true by construction."""
        return isinstance(self.rule, Identity)

    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""

    @property
    def rule_text(self) -> str:
        """The rule in words."""
        several = " This must hold against every rival." if len(self.rivals) > 1 else ""
        return self.rule.words(self._unit()) + several

    def needs(self, knobs: Knobs) -> str:
        """What the setting must have for the claim to be measured, in words."""
        arms = dict.fromkeys(arm for m in self.rivals.values() for arm in m.arm_names(knobs))
        parts = [", ".join(arms)] if arms else []
        controls = type(knobs).controls()
        for name, wanted in self.given.items():
            if callable(wanted):
                continue
            values = wanted if isinstance(wanted, (tuple, list, set, frozenset)) else (wanted,)
            shown = " or ".join(controls[name].option_label(str(v)) for v in values)
            parts.append(f"{controls[name].label} = {shown}")
        if self.given_words:
            parts.append(self.given_words)
        return "; ".join(parts) or "a run that has ended"

    def applies(self, knobs: Knobs) -> bool:
        """Whether the setting is one in which the claim can be measured."""
        for name, wanted in self.given.items():
            value = getattr(knobs, name)
            if callable(wanted):
                if not wanted(value):
                    return False
            elif isinstance(wanted, (tuple, list, set, frozenset)):
                if value not in wanted:
                    return False
            elif value != wanted:
                return False
        return True

    def measured_text(self, verdict: Verdict) -> str:
        """The measured number with its unit, interval and number of seeds, in words."""
        if not verdict.seeds:
            return "not measured"
        seeds = f"{verdict.seeds} seed{'s' if verdict.seeds > 1 else ''}"
        if self.identity:
            detail = f"exact, {seeds}"
        elif math.isinf(verdict.low) and math.isinf(verdict.high) and verdict.low != verdict.high:
            detail = seeds
        else:
            detail = f"95 % interval {verdict.low:.3g} to {verdict.high:.3g}, {seeds}"
        against = f" against {verdict.intervals[0].rival}" if verdict.intervals[0].rival else ""
        return f"{verdict.estimate:.3g}{self._unit()}{against} ({detail})"

    def verdict(self, log: Log, knobs: Knobs) -> Verdict:
        """Measure and judge; never raises for a run that is too short, says what is missing instead."""
        if not self.applies(knobs):
            return Verdict("undecided", (), f"Not measured: needs {self.needs(knobs)}.", measured=False)
        present = set(log.arms)
        missing = [a for m in self.rivals.values() for a in m.arm_names(knobs) if a not in present]
        if missing:
            names = ", ".join(dict.fromkeys(missing))
            return Verdict("undecided", (), f"Not measured: this run has no {names}.", measured=False)
        numbers = {rival: measure(log, knobs) for rival, measure in self.rivals.items()}
        verdict = self.judge(numbers)
        needed = {arm for measure in self.rivals.values() for arm in measure.arm_names(knobs)}
        lost = [f"{arm} in seed {seed}" for arm, seed in sorted(log.diverged) if arm in needed]
        if not verdict.measured and lost:
            intervals = tuple(self._interval(rival, per_seed) for rival, per_seed in numbers.items())
            return Verdict("undecided", intervals, f"Undecided: {', '.join(lost)} diverged.")
        return verdict

    def judge(self, numbers: Mapping[str, Mapping[int, float]]) -> Verdict:
        """The verdict that follows from the numbers alone, by rival and seed (NaN: no number)."""
        intervals = [self._interval(rival, per_seed) for rival, per_seed in numbers.items()]
        if all(math.isnan(v) for i in intervals for v in i.per_seed.values()):
            return Verdict("undecided", (), "Not measured: the run has not come to its end.", measured=False)
        order: tuple[Outcome, ...] = ("opposite", "no effect", "undecided", "weaker", "reproduced")
        intervals.sort(key=lambda i: order.index(i.outcome))
        decisive = intervals[0]
        return Verdict(decisive.outcome, tuple(intervals), self._reason(decisive))

    def _interval(self, rival: str, per_seed: Mapping[int, float]) -> Interval:
        values = [v for v in per_seed.values() if not math.isnan(v)]
        if not values:
            return Interval(rival, math.nan, -math.inf, math.inf, per_seed, "undecided")
        estimate = _mean(values)
        complete = len(values) == len(per_seed)
        if self.identity:
            low, high = min(values), max(values)
            outcome: Outcome = self.rule.outcome(low, high) if complete else "undecided"
            return Interval(rival, estimate, low, high, per_seed, outcome)
        if len(values) < 2:
            return Interval(rival, estimate, -math.inf, math.inf, per_seed, "undecided")
        low, high = confidence_interval(values, resolution=self.resolution)
        outcome = self.rule.outcome(low, high) if complete else "undecided"
        if outcome == "opposite" and len(self.rivals) > 1:
            level = 1 - (1 - LEVEL) / len(self.rivals)
            wide = confidence_interval(values, level, resolution=self.resolution)
            outcome = "opposite" if self.rule.outcome(*wide) == "opposite" else "undecided"
        return Interval(rival, estimate, low, high, per_seed, outcome)

    def _reason(self, interval: Interval) -> str:
        where = f" against {interval.rival}" if interval.rival else ""
        lost = [seed for seed, value in interval.per_seed.items() if math.isnan(value)]
        infinite = [seed for seed, value in interval.per_seed.items() if math.isinf(value)]
        if lost:
            word = "seed" if len(lost) == 1 else "seeds"
            return f"Undecided{where}: {word} {', '.join(map(str, lost))} gave no number."
        if len(interval.per_seed) < 2 and not self.identity:
            return "One seed gives no interval: run at least two."
        beside = f" An arm diverged in seed {', '.join(map(str, infinite))}." if infinite else ""
        subject = "every number" if self.identity else "the interval"
        threshold, null = self.rule.threshold, self.rule.null
        unit = self._unit()
        match interval.outcome:
            case "reproduced":
                text = (
                    f"{subject[:1].upper()}{subject[1:]}{where} lies {self.rule.side} {threshold:.3g}{unit}."
                )
            case "weaker":
                text = f"There is an effect{where}, but all of the interval stays short of {threshold:.3g}{unit}."
            case "no effect":
                assert isinstance(self.rule, Effect)
                text = f"The interval{where} is within {self.rule.floor:.3g}{unit} of {null:g}."
            case "opposite":
                text = (
                    f"{subject[:1].upper()}{subject[1:]}{where} lies on the other side of {null:.3g}{unit}."
                )
                if self.identity:
                    text = f"A seed's number{where} is not {self.rule.side} {threshold:.3g}{unit}."
            case _:
                text = f"The interval{where} leaves several outcomes open: more seeds or steps may decide."
        return text + beside

    def p_value(self, verdict: Verdict) -> float:
        """One-sided p-value that the mean is beyond the rule's threshold; the largest over the rivals; NaN for none."""
        if self.identity or not verdict.intervals:
            return math.nan
        worst = 0.0
        for interval in verdict.intervals:
            values = [v for v in interval.per_seed.values() if not math.isnan(v)]
            if len(values) < 2 or len(values) < len(interval.per_seed) or not np.isfinite(values).all():
                return math.nan
            error = _standard_error(values, self.resolution)
            sign = 1.0 if self.rule.side == "above" else -1.0
            distance = sign * (_mean(values) - self.rule.threshold)
            worst = max(worst, _p_above(distance, error, len(values)))
        return worst


def claims_of(paper: str, **shared: Any) -> Callable[..., Claim]:
    """Make the claims of one paper without naming it each time.

    Args:
        paper: key of the paper.
        **shared: further fields that its claims have in common, such as ``unit`` and ``resolution``; a claim's own win.

    Returns:
        A function that takes the other fields of :class:`Claim` in their order (id, statement, paper_figure, measured,
        measure, rule, preset) and the rest by name.
    """

    def claim(
        id: str,
        statement: str,
        paper_figure: str,
        measured: str,
        measure: Measure | Mapping[str, Measure],
        rule: Rule,
        preset: str,
        **more: Any,
    ) -> Claim:
        return Claim(
            id, paper, statement, paper_figure, measured, measure, rule, preset, **{**shared, **more}
        )

    return claim


def _mean(values: Sequence[float]) -> float:
    """The mean; NaN where both infinities occur."""
    if math.inf in values and -math.inf in values:
        return math.nan
    return float(np.mean(values))


def _standard_error(values: Sequence[float], resolution: float) -> float:
    """Standard error of the mean; a difference of two numbers with that resolution is never taken to be sharper."""
    spread = max(float(np.std(values, ddof=1)), resolution / math.sqrt(6), 1e-12 * abs(_mean(values)))
    return spread / math.sqrt(len(values))


def _p_above(distance: float, error: float, n: int) -> float:
    """Probability of a mean this far above the threshold, or further, if it truly is at the threshold."""
    from scipy.special import stdtr

    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(1.0 - stdtr(n - 1, distance / error))


def confidence_interval(
    values: Sequence[float], level: float = LEVEL, *, resolution: float = 0.0
) -> tuple[float, float]:
    """Student-t confidence interval of the mean.

    Args:
        values: at least two numbers. Infinite ones (a diverged arm) give the whole line, unless all are the same
            infinity.
        level: coverage.
        resolution: smallest difference the metric can show: two equal accuracies do not give an interval of width 0.

    Raises:
        ValueError: fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"values must hold at least two numbers, got {len(values)}.")
    if not np.isfinite(values).all():
        same = values[0] if len(set(values)) == 1 else None
        return (same, same) if same is not None else (-math.inf, math.inf)
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 0.5 + level / 2)) * _standard_error(values, resolution)
    mean = _mean(values)
    return mean - half, mean + half


def detectable(seeds: int, level: float = LEVEL) -> float:
    """How many standard deviations (over seeds) an effect must have for its interval to exclude no effect on average.

    Args:
        seeds: number of seeds, at least 2.
        level: coverage of the interval.

    Raises:
        ValueError: fewer than two seeds.
    """
    if seeds < 2:
        raise ValueError(f"seeds must be >= 2, got {seeds}.")
    from scipy.special import stdtrit

    return float(stdtrit(seeds - 1, 0.5 + level / 2)) / math.sqrt(seeds)


def holm(claims: Iterable[Claim], verdicts: Mapping[str, Verdict]) -> dict[str, Outcome]:
    """Outcomes after Holm's correction for the number of claims that a page judges.

    Of the claims that are reproduced one by one, those stay reproduced whose one-sided p-values pass Holm's step-down
    test at 2.5 % over all claims that were measured; the others become undecided. Identities take no part.

    Returns:
        The corrected outcome of every measured claim by id.
    """
    judged = [c for c in claims if c.id in verdicts and verdicts[c.id].measured and not c.identity]
    outcomes = {claim.id: verdicts[claim.id].outcome for claim in judged}
    tested = {c.id: p for c in judged if not math.isnan(p := c.p_value(verdicts[c.id]))}
    passed = True
    for i, (name, p) in enumerate(sorted(tested.items(), key=lambda item: item[1])):
        passed = passed and p <= (1 - LEVEL) / 2 / (len(tested) - i)
        if not passed and outcomes[name] == "reproduced":
            outcomes[name] = "undecided"
    return outcomes
