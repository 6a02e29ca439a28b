from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normviz.claims import Claim, Verdict, by_seed, confidence_interval, paired_difference
from normviz.frame import Frame, FrameLog

T_975 = {1: 12.706204736, 2: 4.302652730, 3: 3.182446305, 4: 2.776445105}
"""97.5 % quantiles of Student's t by degrees of freedom, from a table."""


def judge(values: Mapping[int, float], **options: Any) -> Verdict:
    claim = Claim("c", "layer-norm", "S.", "F.", "a number", lambda log, knobs: values, **options)
    return claim.verdict(FrameLog(), None)


def outcome(values: Mapping[int, float], **options: Any) -> str:
    return judge(values, **options).outcome


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
    assert confidence_interval([math.inf, math.inf]) == (math.inf, math.inf)
    assert confidence_interval([-math.inf, -math.inf]) == (-math.inf, -math.inf)
    assert confidence_interval([math.inf, 1.0]) == (-math.inf, math.inf)
    assert confidence_interval([math.inf, -math.inf]) == (-math.inf, math.inf)


def test_interval_needs_two_values() -> None:
    with pytest.raises(ValueError, match="at least two numbers, got 1"):
        confidence_interval([1.0])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6), st.floats(-1e6, 1e6))
def test_interval_contains_the_mean_and_moves_with_it(values: list[float], shift: float) -> None:
    low, high = confidence_interval(values)
    assert low <= float(np.mean(values)) <= high
    moved = confidence_interval([v + shift for v in values])
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-6, rel=1e-6)


def test_outcomes() -> None:
    assert outcome({0: -1.0, 1: -1.1}) == "reproduced"
    assert outcome({0: 1.0, 1: 1.1}) == "not reproduced"
    assert outcome({0: -1.0, 1: -0.01}) == "undecided"
    assert outcome({0: 1.0, 1: 1.1}, side="above") == "reproduced"
    assert outcome({0: 1.0, 1: 1.1}, side="above", threshold=9.0) == "not reproduced"
    assert outcome({0: 0.0, 1: 0.0}) == "undecided", "on the threshold is on neither side"
    assert outcome({0: math.inf, 1: math.inf}) == "not reproduced"
    assert outcome({0: math.inf, 1: -5.0}) == "undecided"


def test_one_seed_has_no_interval() -> None:
    verdict = judge({3: -4.0})
    assert (verdict.outcome, verdict.estimate, verdict.low, verdict.high) == (
        "undecided",
        -4.0,
        -math.inf,
        math.inf,
    )
    assert "run at least two" in verdict.reason


def test_exact_claims_need_no_second_seed_but_hold_for_all() -> None:
    assert outcome({0: -1.0}, exact=True) == "reproduced"
    assert outcome({0: -1.0, 1: -0.5}, exact=True) == "reproduced"
    assert outcome({0: -1.0, 1: 0.5}, exact=True) == "undecided"
    assert outcome({0: 1.0}, exact=True) == "not reproduced"


def test_what_is_not_measured() -> None:
    for values in ({}, {0: math.nan}):
        verdict = judge(values, needs="the vision task")
        assert verdict.outcome == "undecided"
        assert math.isnan(verdict.estimate)
        assert verdict.per_seed == {}
        assert verdict.reason == "Not measured: needs the vision task."
    assert judge({0: math.nan, 1: -1.0, 2: -1.1}).per_seed == {1: -1.0, 2: -1.1}


def test_measure_gets_log_and_knobs() -> None:
    log = FrameLog([Frame(0, "a", s, {"loss": float(s)}) for s in range(3)])
    claim = Claim(
        "c", "p", "S.", "F.", "m", lambda log, knobs: dict.fromkeys(log.seeds, knobs["by"]), exact=True
    )
    assert claim.verdict(log, {"by": -2.0}).per_seed == {0: -2.0, 1: -2.0, 2: -2.0}


def test_rule_in_words() -> None:
    claim = Claim("c", "p", "S.", "F.", "m", lambda log, knobs: {}, threshold=0.5, side="above", unit="nats")
    assert claim.rule == "Reproduced if the whole 95 % interval over seeds lies above 0.5 nats."
    exact = Claim("c", "p", "S.", "F.", "m", lambda log, knobs: {}, exact=True)
    assert exact.rule == "Reproduced if the number lies below 0."


def test_by_seed() -> None:
    log = FrameLog(Frame(step, "a", seed, {"x": 10.0 * seed + step}) for step in range(3) for seed in (4, 2))
    assert by_seed(log.scalars("x")) == {2: 21.0, 4: 41.0}
    assert by_seed(log.scalars("absent")) == {}


def test_paired_difference_takes_seeds_that_have_both() -> None:
    log = FrameLog(
        [
            *(
                Frame(step, "new", seed, {"loss": 1.0 + seed + step})
                for step in range(3)
                for seed in range(3)
            ),
            *(Frame(step, "old", seed, {"loss": 5.0 * step}) for step in range(3) for seed in (0, 2)),
        ]
    )
    assert paired_difference(log, "loss", "new", "old") == {0: 3.0 - 10.0, 2: 5.0 - 10.0}
    assert paired_difference(log, "loss", "new", "old", window=2) == {0: 2.5 - 7.5, 2: 4.5 - 7.5}
    assert paired_difference(log, "loss", "new", "absent") == {}
    assert paired_difference(FrameLog(), "loss", "new", "old") == {}
