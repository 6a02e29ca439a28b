"""Verdicts as a sceptic would try to fool them: outcomes, intervals, gaps, divergence, rivals, correction, power."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normviz.claims import (
    LEAST_SEEDS,
    OUTCOMES,
    Bound,
    Claim,
    Effect,
    Identity,
    Verdict,
    claims_of,
    confidence_interval,
    detectable,
    holm,
)
from normviz.knobs import Knobs, knob
from normviz.measures import Measure, constant, scalar, steps_to
from normviz.testing import log_of

INF, NAN = math.inf, math.nan
T_975 = {1: 12.706204736, 2: 4.302652730, 3: 3.182446305, 4: 2.776445105}
"""97.5 % quantiles of Student's t by degrees of freedom, from a table."""


class LabKnobs(Knobs):
    steps: int = knob(120, 1, 1000, label="Steps", help="Steps.")
    seeds: int = knob(5, 1, 10, label="Seeds", help="Seeds.")
    task: Literal["text", "image"] = knob("text", label="Task", help="What.", labels={"text": "Text!"})
    depth: int = knob(8, 1, 64, label="Depth", help="Layers.")


RULE = Effect("below", floor=0.1)


def claim(rule: Any = RULE, measure: Any = None, **options: Any) -> Claim:
    made = constant("x") if measure is None else measure
    return Claim("c", "layer-norm", "S.", "F.", "a number", made, rule, "preset", **options)


def judge(values: Mapping[int, float], rule: Any = RULE, **options: Any) -> Verdict:
    return claim(rule, **options).judge({"": values})


def loss(new: str, old: str) -> Measure:
    return scalar("loss", new, window=3) - scalar("loss", old, window=3)


# -- intervals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_interval_is_students(n: int) -> None:
    values = [0.5, -1.0, 2.0, 4.0, 0.25][:n]
    mean = sum(values) / n
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    half = T_975[n - 1] * spread / math.sqrt(n)
    assert confidence_interval(values) == pytest.approx((mean - half, mean + half), rel=1e-8)


def test_interval_at_another_level() -> None:
    low, high = confidence_interval([0.0, 2.0], level=0.5)
    assert (low, high) == pytest.approx((0.0, 2.0)), "t(0.75, 1) = 1, standard error 1"


def test_interval_with_infinities() -> None:
    assert confidence_interval([INF, INF]) == (INF, INF)
    assert confidence_interval([-INF, -INF]) == (-INF, -INF)
    assert confidence_interval([INF, 1.0]) == (-INF, INF)
    assert confidence_interval([INF, -INF]) == (-INF, INF)


def test_interval_needs_two_values() -> None:
    with pytest.raises(ValueError, match="at least two numbers, got 1"):
        confidence_interval([1.0])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6), st.floats(-1e6, 1e6))
def test_interval_contains_the_mean_and_moves_with_it(values: list[float], shift: float) -> None:
    low, high = confidence_interval(values)
    assert low <= float(np.mean(values)) <= high
    moved = confidence_interval([v + shift for v in values])
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-5, rel=1e-5)


def test_two_equal_accuracies_give_no_interval_of_width_zero() -> None:
    """Both classify 3 of 200 test samples more in every seed: the true difference may lie between two samples."""
    step = 100 / 200
    low, high = confidence_interval([1.5] * 5, resolution=step)
    # Each accuracy is uniform within half a sample: the difference has variance 2 step^2 / 12.
    half = T_975[4] * step * math.sqrt(2 / 12) / math.sqrt(5)
    assert (low, high) == pytest.approx((1.5 - half, 1.5 + half), rel=1e-8)
    sharp = Effect("above", floor=1.4)
    assert judge(dict.fromkeys(range(5), 1.5), sharp).outcome == "reproduced"
    assert judge(dict.fromkeys(range(5), 1.5), sharp, resolution=step).outcome == "undecided"
    assert confidence_interval([0.0, 9.0], resolution=step) == confidence_interval([0.0, 9.0]), "a floor only"


# -- outcomes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("null", [0.0, 1.0])
@pytest.mark.parametrize("side", ["above", "below"])
@pytest.mark.parametrize(
    ("near", "far", "outcome"),
    [
        # The bar is at 2, the floor at 0.5; distances from the null towards the claimed side.
        (2.1, 3.0, "reproduced"),
        (2.0, 3.0, "undecided"),
        (1.0, 1.9, "weaker"),
        (0.1, 1.9, "weaker"),
        (0.1, 2.0, "undecided"),
        (0.1, 2.1, "undecided"),
        (0.1, 0.4, "no effect"),
        (-0.4, 0.4, "no effect"),
        (-0.4, -0.1, "no effect"),
        (-0.5, 0.4, "undecided"),
        (-0.4, 0.6, "undecided"),
        (-0.6, -0.1, "opposite"),
        (-3.0, -2.0, "opposite"),
        (-1.0, 3.0, "undecided"),
        (-INF, INF, "undecided"),
        (INF, INF, "reproduced"),
        (-INF, -INF, "opposite"),
    ],
)
def test_outcome_of_an_effect(null: float, side: str, near: float, far: float, outcome: str) -> None:
    rule = Effect(side, floor=0.5, bar=2.0, null=null)  # type: ignore[arg-type]
    low, high = (null + near, null + far) if side == "above" else (null - far, null - near)
    assert rule.outcome(low, high) == outcome
    assert rule.threshold == (null + 2.0 if side == "above" else null - 2.0)


@pytest.mark.parametrize("side", ["above", "below"])
def test_without_a_bar_the_floor_is_the_bar(side: str) -> None:
    rule = Effect(side, floor=0.5)  # type: ignore[arg-type]
    sign = 1.0 if side == "above" else -1.0

    def outcome(near: float, far: float) -> str:
        return rule.outcome(*sorted((sign * near, sign * far)))

    assert rule.threshold == sign * 0.5
    assert outcome(0.6, 0.7) == "reproduced"
    assert outcome(0.1, 0.4) == "no effect"
    assert outcome(0.4, 0.6) == "undecided"
    assert outcome(-0.7, -0.6) == "opposite"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.floats(-3, 3),
    st.floats(0, 3),
    st.floats(0.01, 2),
    st.floats(0, 2),
    st.sampled_from(["above", "below"]),
)
def test_outcomes_of_an_effect_exclude_each_other(
    low: float, width: float, floor: float, more: float, side: Literal["above", "below"]
) -> None:
    rule = Effect(side, floor=floor, bar=floor + more)
    found = rule.outcome(low, low + width)
    mirrored = Effect("below" if side == "above" else "above", floor=floor, bar=floor + more)
    assert mirrored.outcome(-low - width, -low) == found
    near, far = (low, low + width) if side == "above" else (-low - width, -low)
    if found == "reproduced":
        assert near > floor + more
    if found in ("reproduced", "weaker"):
        assert near > 0
    if found == "opposite":
        assert far < 0
    if found == "no effect":
        assert max(abs(near), abs(far)) < floor
    if near < 0 < far and max(-near, far) >= floor:
        assert found == "undecided", "an interval that holds zero says no side"


def test_bad_rules_are_refused() -> None:
    for floor in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match="floor must be > 0"):
            Effect("below", floor=floor)
    with pytest.raises(ValueError, match=r"bar must be >= floor = 0\.5, got 0\.4"):
        Effect("below", floor=0.5, bar=0.4)
    with pytest.raises(ValueError, match="must have a measure"):
        claim(measure={})


@pytest.mark.parametrize(
    ("low", "high", "below"),
    [(0.0, 0.9, "reproduced"), (1.1, 2.0, "opposite"), (0.9, 1.1, "undecided"), (0.0, 1.0, "undecided")],
)
def test_outcome_of_a_bound(low: float, high: float, below: str) -> None:
    assert Bound("below", 1.0).outcome(low, high) == below
    assert Bound("above", -1.0).outcome(-high, -low) == below


def test_identity_holds_for_all_seeds_or_does_not_hold() -> None:
    exact = Identity("below", 0.0)
    assert judge({0: -1.0}, exact).outcome == "reproduced", "it needs no second seed"
    assert judge({0: -1.0, 1: -0.5}, exact).outcome == "reproduced"
    assert judge({0: -1.0, 1: 0.5}, exact).outcome == "opposite", "one seed is enough against it"
    assert judge({0: -1.0, 1: NAN}, exact).outcome == "undecided"
    assert "not below 0" in judge({0: -1.0, 1: 0.5}, exact).reason
    assert (claim(exact).identity, claim().identity) == (True, False)
    assert "exact, 1 seed" in claim(exact).measured_text(judge({0: -1.0}, exact))


def test_one_seed_has_no_interval() -> None:
    verdict = judge({3: -4.0})
    assert (verdict.outcome, verdict.estimate, verdict.low, verdict.high) == ("undecided", -4.0, -INF, INF)
    assert "run at least two" in verdict.reason


def test_rules_in_words() -> None:
    assert claim(Effect("below", floor=0.5, bar=2.0), unit="nats").rule_text == (
        "Reproduced if the whole 95 % interval lies below -2 nats, weaker if it lies between 0 and that; "
        "no effect if it is within 0.5 nats of 0."
    )
    assert claim(Effect("above", floor=0.1, null=1.0)).rule_text == (
        "Reproduced if the whole 95 % interval lies above 1.1; no effect if it is within 0.1 of 1."
    )
    assert "above 3 ×, opposite" in claim(Bound("above", 3.0), unit="×").rule_text
    assert "number of every seed lies below 1" in claim(Identity("below", 1.0)).rule_text
    several = claim(measure={"a": constant("x"), "b": constant("x")})
    assert several.rule_text.endswith("This must hold against every rival.")


# -- the sceptic's logs ------------------------------------------------------------------------------------------------


def test_an_arm_that_diverges_in_all_seeds_loses() -> None:
    arms = {"new": {"loss": 1.0}, "old": {"loss": 2.0}}
    log = log_of(arms, steps=120, seeds=5, by_seed=0.01, diverged={("new", s): 112 for s in range(5)})
    ours = claim(measure=loss("new", "old")).verdict(log, LabKnobs())
    assert ours.outcome == "opposite"
    assert "diverged in seed 0, 1, 2, 3, 4" in ours.reason
    theirs = claim(measure=loss("old", "new")).verdict(log, LabKnobs())
    assert theirs.outcome == "reproduced", "it counts for the rival"
    ratio = scalar("loss", "new") / scalar("loss", "old")
    assert claim(Effect("below", floor=0.1, null=1.0), ratio).verdict(log, LabKnobs()).outcome == "opposite"
    steps = steps_to("new", "old", window=3)
    assert claim(Bound("below", 100.0), steps).verdict(log, LabKnobs()).outcome == "opposite"
    accuracy = scalar("loss", "new", bad=-INF) - scalar("loss", "old", bad=-INF)
    assert claim(Effect("above", floor=0.1), accuracy).verdict(log, LabKnobs()).outcome == "opposite"


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_an_arm_that_diverges_in_some_seeds_is_never_reproduced(count: int) -> None:
    arms = {"new": {"loss": 1.0}, "old": {"loss": 2.0}}
    log = log_of(arms, steps=120, seeds=5, by_seed=0.01, diverged={("new", s): 112 for s in range(count)})
    verdict = claim(measure=loss("new", "old")).verdict(log, LabKnobs())
    assert verdict.outcome == "undecided"
    assert "diverged in seed 0" in verdict.reason


def test_both_arms_diverging_is_said_and_undecided() -> None:
    arms = {"new": {"loss": 1.0}, "old": {"loss": 2.0}}
    every = {(arm, s): 60 for arm in arms for s in range(5)}
    verdict = claim(measure=loss("new", "old")).verdict(
        log_of(arms, steps=120, seeds=5, diverged=every), LabKnobs()
    )
    assert (verdict.outcome, verdict.measured) == ("undecided", True)
    assert "new in seed 0" in verdict.reason
    assert "old in seed 4" in verdict.reason


def test_a_seed_that_is_nan_is_not_dropped() -> None:
    arms = {"new": {"loss": {0: 1.0, 1: NAN, 2: 1.0, 3: NAN, 4: NAN}}, "old": {"loss": 2.0}}
    verdict = claim(measure=loss("new", "old")).verdict(log_of(arms, steps=120, seeds=5), LabKnobs())
    assert verdict.outcome == "undecided"
    assert verdict.reason == "Undecided: seeds 1, 3, 4 gave no number."
    assert verdict.per_seed == {0: -1.0, 2: -1.0}
    assert verdict.seeds == 2


def test_a_seed_that_is_missing_is_not_dropped() -> None:
    arms = {"new": {"loss": 1.0}, "old": {"loss": 2.0}}
    log = log_of(arms, steps=120, seeds=5, by_seed=0.01, missing=[("old", 2)])
    verdict = claim(measure=loss("new", "old")).verdict(log, LabKnobs())
    assert (verdict.outcome, verdict.reason) == ("undecided", "Undecided: seed 2 gave no number.")
    three = log_of(arms, steps=120, seeds=3, by_seed=0.01)
    verdict = claim(measure=loss("new", "old")).verdict(three, LabKnobs())
    assert (verdict.outcome, verdict.reason) == ("undecided", "Undecided: seeds 3, 4 gave no number.")


@pytest.mark.parametrize("reached", [0, 30, 110, 118])
def test_a_run_that_has_not_come_to_its_end_is_not_measured(reached: int) -> None:
    arms = {"new": {"loss": 1.0}, "old": {"loss": 2.0}}
    whole = {
        arm: {"loss": lambda step, seed, v=v["loss"]: v if step % 10 == 0 else None}
        for arm, v in arms.items()
    }
    for kind in (arms, whole):
        verdict = claim(measure=loss("new", "old")).verdict(log_of(kind, steps=reached, seeds=5), LabKnobs())
        assert (verdict.outcome, verdict.measured) == ("undecided", False)
        assert verdict.reason == "Not measured: the run has not come to its end."
        assert claim().measured_text(verdict) == "not measured"
    for kind in (arms, whole):
        log = log_of(kind, steps=120, seeds=5, by_seed=0.01)
        assert claim(measure=loss("new", "old")).verdict(log, LabKnobs()).outcome == "reproduced"


def test_rows_beside_the_window_change_nothing() -> None:
    """An arm that is measured more often than its rival gets no other window."""
    often = {"new": {"loss": lambda step, seed: float(step)}, "old": {"loss": lambda step, seed: 119.0}}
    rare = {
        "new": often["new"],
        "old": {"loss": lambda step, seed: 119.0 if step in (0, 118, 119, 120) else None},
    }
    for arms in (often, rare):
        verdict = claim(measure=loss("new", "old")).verdict(
            log_of(arms, steps=120, seeds=2), LabKnobs(seeds=2)
        )
        assert verdict.per_seed == {0: 0.0, 1: 0.0}


# -- settings ----------------------------------------------------------------------------------------------------------


def test_a_claim_applies_where_it_is_given() -> None:
    deep = claim(
        given={"task": ("image", "text"), "depth": lambda d: d >= 16, "steps": 120},
        given_words="16 layers or more",
    )
    assert deep.applies(LabKnobs(depth=16))
    assert not deep.applies(LabKnobs(depth=15))
    assert not deep.applies(LabKnobs(depth=16, steps=10))
    assert not claim(given={"task": "image"}).applies(LabKnobs())
    verdict = deep.verdict(log_of({"a": {"x": 1.0}}), LabKnobs())
    assert (verdict.outcome, verdict.measured, verdict.intervals) == ("undecided", False, ())
    assert verdict.reason == "Not measured: needs Task = image or Text!; Steps = 120; 16 layers or more."


def test_a_run_without_an_arm_is_not_measured() -> None:
    verdict = claim(measure=loss("new", "old")).verdict(
        log_of({"new": {"loss": 1.0}}, steps=120, seeds=5), LabKnobs()
    )
    assert (verdict.measured, verdict.reason) == (False, "Not measured: this run has no old.")
    assert claim(measure=loss("new", "old")).needs(LabKnobs()) == "new, old"
    assert claim().needs(LabKnobs()) == "a run that has ended"


# -- several rivals ----------------------------------------------------------------------------------------------------

BETTER = {s: -1.0 - 0.01 * s for s in range(5)}
SLIGHTLY = {s: -0.05 - 0.001 * s for s in range(5)}
WORSE = {s: 1.0 + 0.01 * s for s in range(5)}
UNCLEAR = {0: -3.0, 1: 3.0, 2: -2.0, 3: 2.0, 4: 0.5}
LOST = {**BETTER, 3: NAN}


@pytest.mark.parametrize(
    ("numbers", "outcome", "decisive"),
    [
        ({"x": BETTER, "y": BETTER}, "reproduced", "x"),
        ({"x": BETTER, "y": SLIGHTLY}, "no effect", "y"),
        ({"x": WORSE, "y": BETTER}, "opposite", "x"),
        ({"x": BETTER, "y": UNCLEAR}, "undecided", "y"),
        ({"x": BETTER, "y": LOST}, "undecided", "y"),
        ({"x": WORSE, "y": LOST, "z": SLIGHTLY}, "opposite", "x"),
        ({"x": BETTER, "y": dict.fromkeys(range(5), -INF)}, "reproduced", "x"),
        ({"x": BETTER, "y": dict.fromkeys(range(5), INF)}, "opposite", "y"),
    ],
)
def test_all_rivals_must_be_beaten(numbers: dict, outcome: str, decisive: str) -> None:
    made = claim(measure={name: constant(name) for name in numbers})
    verdict = made.judge(numbers)
    assert verdict.outcome == outcome
    assert verdict.intervals[0].rival == decisive
    assert {i.rival for i in verdict.intervals} == set(numbers)
    assert f"against {decisive}" in verdict.reason or outcome == "undecided"
    assert f" against {decisive} (" in made.measured_text(verdict)


def test_against_several_rivals_opposite_needs_bonferronis_level() -> None:
    # Its 95 % interval ends just above 0; at 99 % (one of five) it holds 0.
    values = {0: 0.4, 1: 1.1, 2: 0.1, 3: 0.9, 4: 0.3}
    spread = float(np.std(list(values.values()), ddof=1)) / math.sqrt(5)
    assert 0.56 - 2.776 * spread > 0 > 0.56 - 4.604 * spread, "t at 97.5 % and at 99.5 %, from a table"
    assert judge(values).outcome == "opposite"
    five = claim(measure={str(i): constant("x") for i in range(5)})
    assert five.judge({str(i): values for i in range(5)}).outcome == "undecided"
    assert five.judge({"0": values, **{str(i): WORSE for i in range(1, 5)}}).outcome == "opposite"


# -- all claims of a page, power ---------------------------------------------------------------------------------------


def named(name: str, rule: Any = RULE) -> Claim:
    return Claim(name, "layer-norm", "S.", "F.", "n", constant("x"), rule, "preset")


def at(mean: float, n: int = 5) -> dict[int, float]:
    return {i: mean + d for i, d in enumerate(np.linspace(-0.1, 0.1, n).tolist())}


def test_p_value_is_students() -> None:
    from scipy.stats import ttest_1samp

    values = at(-0.3)
    made = claim()
    expected = ttest_1samp(list(values.values()), -0.1, alternative="less").pvalue
    assert made.p_value(made.judge({"": values})) == pytest.approx(float(expected), rel=1e-9)
    above = claim(Bound("above", -0.5))
    expected = ttest_1samp(list(values.values()), -0.5, alternative="greater").pvalue
    assert above.p_value(above.judge({"": values})) == pytest.approx(float(expected), rel=1e-9)
    several = claim(measure={"a": constant("x"), "b": constant("x")})
    verdict = several.judge({"a": values, "b": at(-0.2)})
    assert several.p_value(verdict) == pytest.approx(made.p_value(made.judge({"": at(-0.2)})))
    assert math.isnan(claim(Identity("below", 0.0)).p_value(judge(values, Identity("below", 0.0))))
    assert math.isnan(made.p_value(made.judge({"": {**values, 2: NAN}})))


def holm_by_hand(p_values: list[float]) -> list[bool]:
    """Which hypotheses Holm's step-down procedure rejects at 2.5 %, by its definition."""
    rejected = [False] * len(p_values)
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] > 0.025 / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(-0.6, 0.2), min_size=1, max_size=12))
def test_corrected_outcomes_are_holms(means: list[float]) -> None:
    claims = [named(str(i)) for i in range(len(means))]
    verdicts = {c.id: c.judge({"": at(m)}) for c, m in zip(claims, means, strict=True)}
    passed = holm_by_hand([c.p_value(verdicts[c.id]) for c in claims])
    corrected = holm(claims, verdicts)
    for c, stays in zip(claims, passed, strict=True):
        before = verdicts[c.id].outcome
        assert corrected[c.id] == ("undecided" if before == "reproduced" and not stays else before)


def test_correction_takes_measured_claims_that_are_no_identities() -> None:
    claims = [named("a"), named("exact", Identity("below", 0.0)), named("absent")]
    verdicts = {
        "a": judge(at(-0.3)),
        "exact": judge(at(-1.0), Identity("below", 0.0)),
        "absent": Verdict("undecided", (), "Not measured.", measured=False),
    }
    assert holm(claims, verdicts) == {"a": "reproduced"}
    assert holm([], {}) == {}
    one = at(-0.22)
    many = {str(i): judge(one) for i in range(40)}
    assert judge(one).outcome == "reproduced"
    assert set(holm([named(str(i)) for i in range(40)], many).values()) == {"undecided"}


def test_power_in_standard_deviations() -> None:
    for n, quantile in ((2, T_975[1]), (3, T_975[2]), (5, T_975[4])):
        assert detectable(n) == pytest.approx(quantile / math.sqrt(n), rel=1e-8)
    assert detectable(2) == pytest.approx(8.98, abs=0.01), (
        "at 2 seeds an effect must be 9 standard deviations"
    )
    assert detectable(LEAST_SEEDS) == pytest.approx(1.24, abs=0.01)
    with pytest.raises(ValueError, match="seeds must be >= 2, got 1"):
        detectable(1)


def test_outcomes_are_named_once() -> None:
    assert list(OUTCOMES) == ["reproduced", "weaker", "no effect", "opposite", "undecided"]
    assert len(set(OUTCOMES.values())) == 5


def test_claims_of_one_paper_share_fields_and_win_over_them() -> None:
    claim = claims_of("selu", unit="points", resolution=0.5)
    given = (
        "first",
        "A statement.",
        "A figure.",
        "a number",
        scalar("loss", "arm"),
        Effect("above", 1.0),
        "plain",
    )
    assert claim(*given) == Claim(*given[:1], "selu", *given[1:], unit="points", resolution=0.5)
    assert claim(*given, unit="nats").unit == "nats"
