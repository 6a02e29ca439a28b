"""Measures against loops over frames: windows, gaps, divergence, arithmetic, steps saved."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normviz.frame import FrameLog
from normviz.measures import (
    Measure,
    absolute,
    array,
    constant,
    derived,
    largest,
    log10,
    scalar,
    smallest,
    speed_up,
    steps_to,
)
from normviz.testing import log_of

INF, NAN = math.inf, math.nan


@dataclass(frozen=True)
class Knobs:
    """What a measure asks of knobs."""

    steps: int = 10
    seeds: int = 2
    batch: int = 4

    def total_steps(self) -> int:
        return self.steps

    def seed_range(self) -> range:
        return range(self.seeds)


def same(found: dict[int, float], expected: dict[int, float]) -> bool:
    return found.keys() == expected.keys() and all(
        (math.isnan(a) and math.isnan(b)) or a == pytest.approx(b, rel=1e-12, abs=1e-12)
        for a, b in ((found[s], expected[s]) for s in found)
    )


def fixed(*values: float) -> Measure:
    """A measure with these numbers for seeds 0, 1, …"""
    return derived(lambda log, knobs: dict(enumerate(values)))


def of(measure: Measure, log: FrameLog | None = None, **knobs: int) -> dict[int, float]:
    return measure(FrameLog() if log is None else log, Knobs(**knobs))


# -- windows ---------------------------------------------------------------------------------------------------------


def values(log: FrameLog, arm: str, seed: int, low: float, high: float) -> list[float]:
    """The values of "x" of a member in a range of steps, by a loop over frames."""
    return [
        float(frame.values["x"])
        for frame in log.frames
        if (frame.arm, frame.seed) == (arm, seed) and low <= frame.step <= high and "x" in frame.values
    ]


RANDOM = np.random.default_rng(0).normal(size=(2, 3, 101)).tolist()


@pytest.fixture(scope="module")
def log() -> FrameLog:
    numbers = [[{s: RANDOM[a][s][i] for s in range(3)} for i in range(51)] for a in range(2)]
    return log_of({"a": {"x": numbers[0]}, "b": {"x": numbers[1]}}, steps=list(range(0, 101, 2)), seeds=3)


@pytest.mark.parametrize("reduce", ["mean", "median", "max", "min", "mean_absolute"])
@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ({}, 100, 100),
        ({"window": 1}, 100, 100),
        ({"window": 4}, 94, 100),
        ({"since": 0.5}, 50, 100),
        ({"since": 0.0}, 0, 100),
        ({"since": 0.25, "until": 0.75}, 25, 75),
        ({"until": 0.5}, 0, 50),
    ],
)
def test_a_window_is_of_the_runs_steps(
    log: FrameLog, reduce: str, options: dict, low: int, high: int
) -> None:
    functions = {"mean": np.mean, "median": np.median, "max": max, "min": min}
    function = functions.get(reduce, lambda v: sum(abs(x) for x in v) / len(v))
    for arm in ("a", "b"):
        expected = {s: float(function(values(log, arm, s, low, high))) for s in range(3)}
        assert same(of(scalar("x", arm, reduce=reduce, **options), log, steps=100, seeds=3), expected)  # type: ignore[arg-type]


def test_window_and_since_are_two_ways_to_say_it() -> None:
    for make in (scalar, lambda n, a, **o: array(n, a, float, **o)):
        with pytest.raises(ValueError, match="give one of them"):
            make("x", "a", window=2, since=0.5)


def test_a_window_is_of_moments_at_which_any_arm_was_measured() -> None:
    log = log_of({"a": {"x": [1.0, 2.0, 3.0]}, "b": {"x": [5.0, None, 9.0]}}, steps=[0, 5, 10])
    assert of(scalar("x", "a", window=2), log) == {0: 2.5, 1: 2.5}
    assert of(scalar("x", "b", window=2), log) == {0: 9.0, 1: 9.0}, "one that is measured less often"
    assert same(of(scalar("x", "a", window=4), log), {0: NAN, 1: NAN}), "there are not so many moments"


def test_an_arm_that_was_not_measured_to_the_end_has_no_number() -> None:
    log = log_of({"a": {"x": [1.0, 2.0, 3.0]}, "b": {"x": [5.0, 9.0, None]}}, steps=[0, 5, 10])
    for options in ({}, {"window": 2}, {"since": 0.5}, {"since": 0.0}):
        assert same(of(scalar("x", "b", **options), log), {0: NAN, 1: NAN}), options  # type: ignore[arg-type]
    assert of(scalar("x", "b", until=0.5), log) == {0: 7.0, 1: 7.0}


@pytest.mark.parametrize("measure", ["scalar", "array", "steps_to"])
def test_a_log_of_step_0_only_is_not_measured(measure: str) -> None:
    log = log_of({"a": {"x": 1.0, "v": np.ones(3)}, "b": {"x": 1.0}}, steps=0)
    made = {
        "scalar": [scalar("x", "a"), scalar("x", "a", since=0.0), scalar("x", "a", until=0.5)],
        "array": [array("v", "a", np.sum), array("v", "a", np.sum, since=0.0)],
        "steps_to": [steps_to("a", "b", "x"), steps_to("a", "a", "x"), speed_up("a", "b", "x")],
    }
    for m in made[measure]:
        assert same(of(m, log), {0: NAN, 1: NAN})


@pytest.mark.parametrize("every", [1, 5, 20])
@pytest.mark.parametrize("reached", [0, 10, 60, 98])
def test_a_run_cut_short_is_not_measured(every: int, reached: int) -> None:
    arms = {"a": {"x": lambda step, seed: step if step % every == 0 else None, "loss": 1.0}, "b": {"x": 1.0}}
    whole = log_of(arms, steps=100)
    short = log_of(arms, steps=reached)
    for m in (scalar("x", "a"), scalar("x", "a", window=2), scalar("x", "a", since=0.5)):
        assert all(math.isfinite(v) for v in of(m, whole, steps=100).values())
        assert same(of(m, short, steps=100), {0: NAN, 1: NAN})
    if reached < 49:
        assert same(of(scalar("x", "a", until=0.5), short, steps=100), {0: NAN, 1: NAN})


def test_losses_are_measured_before_the_step_and_the_run_is_whole() -> None:
    log = log_of({"a": {"x": lambda step, seed: float(step)}}, steps=99)
    assert of(scalar("x", "a"), log, steps=100) == {0: 99.0, 1: 99.0}


def test_a_seed_cut_short_is_named_by_nan() -> None:
    log = log_of({"a": {"x": {0: 1.0, 1: 2.0, 2: [3.0] * 5 + [None] * 6}}}, steps=10, seeds=3)
    for options in ({}, {"window": 3}, {"since": 0.2}):
        assert same(of(scalar("x", "a", **options), log, seeds=3), {0: 1.0, 1: 2.0, 2: NAN})  # type: ignore[arg-type]
    assert same(of(scalar("x", "a"), log, seeds=4), {0: 1.0, 1: 2.0, 2: NAN, 3: NAN}), (
        "a seed that is not there"
    )


def test_missing_member_and_unknown_quantity() -> None:
    log = log_of({"a": {"x": 1.0}, "b": {"x": 2.0}}, steps=10, missing=[("b", 1)])
    assert same(of(scalar("x", "a") - scalar("x", "b"), log), {0: -1.0, 1: NAN})
    assert same(of(scalar("y", "a"), log), {0: NAN, 1: NAN})
    assert same(of(scalar("x", "c"), log), {0: NAN, 1: NAN})
    assert same(of(scalar("x", "a")), {0: NAN, 1: NAN})


def test_nan_among_the_values_is_no_number_and_infinity_is_the_worst() -> None:
    log = log_of({"a": {"x": {0: [1.0, NAN, 1.0], 1: [1.0, INF, 1.0]}}}, steps=[0, 5, 10])
    assert same(of(scalar("x", "a", since=0.0), log), {0: NAN, 1: INF})
    assert same(of(scalar("x", "a", since=0.0, bad=-INF), log), {0: NAN, 1: -INF})
    assert of(scalar("x", "a"), log) == {0: 1.0, 1: 1.0}


# -- divergence --------------------------------------------------------------------------------------------------------


def test_a_diverged_arm_has_the_worst_number() -> None:
    arms = {"a": {"x": 1.0, "v": np.ones(2)}, "b": {"x": 2.0, "v": np.ones(2)}}
    log = log_of(arms, steps=10, diverged={("a", 0): 8})
    assert of(scalar("x", "a"), log) == {0: INF, 1: 1.0}
    assert of(scalar("x", "a", bad=-INF), log) == {0: -INF, 1: 1.0}
    assert of(array("v", "a", np.sum), log) == {0: INF, 1: 2.0}
    assert of(scalar("x", "a") - scalar("x", "b"), log) == {0: INF, 1: -1.0}
    assert of(scalar("x", "b") - scalar("x", "a"), log) == {0: -INF, 1: 1.0}
    assert of(scalar("x", "b") / scalar("x", "a"), log) == {0: 0.0, 1: 2.0}
    both = log_of(arms, steps=10, diverged={("a", 0): 8, ("b", 0): 9})
    assert same(of(scalar("x", "a") - scalar("x", "b"), both), {0: NAN, 1: -1.0})
    assert same(of(scalar("x", "a") / scalar("x", "b"), both), {0: NAN, 1: 0.5})


def test_divergence_counts_however_early_and_even_if_all_diverge() -> None:
    log = log_of({"a": {"x": 1.0}}, steps=10, diverged={("a", 0): 0, ("a", 1): 5})
    assert of(scalar("x", "a"), log) == {0: INF, 1: INF}
    assert of(scalar("x", "a", since=0.0, until=0.1), log) == {0: INF, 1: INF}


# -- arrays, constants -------------------------------------------------------------------------------------------------


def test_array_applies_a_function_and_reduces_over_the_window() -> None:
    log = log_of(
        {"a": {"v": lambda step, seed: np.array([step, -2.0 * step, seed]) if step % 5 == 0 else None}},
        steps=10,
    )
    spread = lambda v: float(v.max() - v.min())  # noqa: E731
    assert of(array("v", "a", spread), log) == {0: 30.0, 1: 30.0}
    assert of(array("v", "a", spread, window=2), log) == {0: 22.5, 1: 22.5}
    assert of(array("v", "a", spread, since=0.0, reduce="min"), log) == {0: 0.0, 1: 1.0}
    assert of(array("v", "a", spread, since=0.0, reduce="median"), log) == {0: 15.0, 1: 15.0}


def test_constant_takes_what_there_is_whenever_it_was_measured() -> None:
    log = log_of({"a": {"k": [{0: 3.0, 1: 4.0}, None]}, "b": {"k": [5.0, 7.0]}}, steps=[0, 1])
    assert of(constant("k", "a"), log) == {0: 3.0, 1: 4.0}
    assert of(constant("k", "b"), log) == {0: 6.0, 1: 6.0}
    assert of(constant("k", reduce="max"), log) == {0: 7.0, 1: 7.0}
    assert constant("k").arms == ()
    assert constant("k", "a").arms == ("a",)


def test_arms_may_be_made_from_the_knobs() -> None:
    log = log_of({"a, batch 4": {"x": 3.0}, "a": {"x": 1.0}}, steps=10)
    m = scalar("x", lambda knobs: f"a, batch {knobs.batch}") - scalar("x", "a")
    assert of(m, log) == {0: 2.0, 1: 2.0}
    assert m.arm_names(Knobs()) == ("a, batch 4", "a")


def test_derived_has_no_number_where_one_of_its_arms_diverged() -> None:
    log = log_of({"a": {"x": 1.0}, "b": {"x": 1.0}}, steps=10, seeds=3, diverged={("b", 1): 5})
    numbers = {0: 1.0, 1: 2.0}
    assert same(
        of(derived(lambda log, knobs: numbers, arms=["a", "b"]), log, seeds=3), {0: 1.0, 1: NAN, 2: NAN}
    )
    assert same(of(derived(lambda log, knobs: numbers, arms=["a"]), log, seeds=3), {0: 1.0, 1: 2.0, 2: NAN})
    assert of(derived(lambda log, knobs: {0: 0.0, 1: INF, 2: 0.0}, arms=["b"]), log, seeds=3)[1] == INF


# -- arithmetic --------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0.0, INF, -INF, NAN]))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(NUMBERS, NUMBERS)
def test_arithmetic_is_that_of_floats(a: float, b: float) -> None:
    with np.errstate(all="ignore"):
        x, y = np.float64(a), np.float64(b)
        quotient = (
            NAN if b == 0 and (a == 0 or math.isnan(a)) else math.copysign(INF, a) if b == 0 else float(x / y)
        )
        expected = {"+": float(x + y), "-": float(x - y), "*": float(x * y), "/": quotient}
    one, other = fixed(a, 1.0), fixed(b, 1.0)
    for sign, result in expected.items():
        found = {"+": one + other, "-": one - other, "*": one * other, "/": one / other}[sign]
        with_number = {"+": one + b, "-": one - b, "*": one * b, "/": one / b}[sign]
        assert same({0: of(found)[0]}, {0: result}), sign
        assert same({0: of(with_number)[0]}, {0: result}), sign


@settings(max_examples=100, deadline=None, derandomize=True)
@given(NUMBERS, NUMBERS, NUMBERS)
def test_functions_of_measures(a: float, b: float, c: float) -> None:
    lost = any(math.isnan(v) for v in (a, b, c))
    together = [fixed(v, 1.0) for v in (a, b, c)]
    assert same({0: of(largest(*together))[0]}, {0: NAN if lost else max(a, b, c)})
    assert same({0: of(smallest(*together))[0]}, {0: NAN if lost else min(a, b, c)})
    assert same({0: of(absolute(together[0]))[0]}, {0: abs(a)})
    expected = -INF if a == 0 else math.log10(a) if a > 0 else NAN
    assert same({0: of(log10(together[0]))[0]}, {0: expected})


def test_a_measure_knows_the_arms_it_needs() -> None:
    m = log10(scalar("x", "a") / scalar("x", "b")) - largest(scalar("y", "a"), scalar("y", "c")) * 2.0
    assert m.arms == ("a", "b", "c")


# -- steps saved -------------------------------------------------------------------------------------------------------


def first_at(curve: list[tuple[int, float]], goal: float) -> float:
    """The first step at which a piecewise linear curve is at the goal or below, by a loop."""
    for i, (step, value) in enumerate(curve):
        if value <= goal:
            if i == 0:
                return float(step)
            before, high = curve[i - 1]
            return before + (high - goal) / (high - value) * (step - before)
    return INF


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(0, 10), min_size=6, max_size=6),
    st.lists(st.floats(0, 10), min_size=6, max_size=6),
    st.integers(1, 3),
)
def test_steps_to_is_where_the_curve_crosses_the_goal(
    ours: list[float], theirs: list[float], window: int
) -> None:
    steps = [0, 2, 4, 6, 8, 10]
    log = log_of({"a": {"loss": ours}, "b": {"loss": theirs}}, steps=steps, seeds=1)
    expected = first_at(list(zip(steps, ours, strict=True)), float(np.mean(theirs[-window:])))
    found = of(steps_to("a", "b", window=window), log, seeds=1)
    assert same(found, {0: expected})
    mirrored = log_of(
        {"a": {"acc": [-v for v in ours]}, "b": {"acc": [-v for v in theirs]}}, steps=steps, seeds=1
    )
    assert same(of(steps_to("a", "b", "acc", window=window, better="higher"), mirrored, seeds=1), found)


def test_steps_to_smooths_both_curves() -> None:
    ours, theirs = [8.0, 4.0, 6.0, 2.0, 2.0, 2.0], [9.0, 9.0, 9.0, 5.0, 5.0, 3.0]
    log = log_of({"a": {"loss": ours}, "b": {"loss": theirs}}, steps=[0, 2, 4, 6, 8, 10], seeds=1)
    smoothed = [np.mean(ours[max(0, i - 1) : i + 1]) for i in range(6)]
    expected = first_at(list(zip([0, 2, 4, 6, 8, 10], smoothed, strict=True)), 4.0)  # (5 + 3) / 2
    assert same(of(steps_to("a", "b", smooth=2), log, seeds=1), {0: float(expected)})


def test_steps_to_with_gaps_and_divergence() -> None:
    curve = [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    steps = [0, 2, 4, 6, 8, 10]
    arms = {"a": {"loss": curve}, "b": {"loss": [5.0, 5.0, 5.0, 5.0, 5.0, 2.5]}}

    def found(**options: object) -> dict[int, float]:
        return of(steps_to("a", "b"), log_of(arms, steps=steps, **options))  # type: ignore[arg-type]

    assert found() == {0: 5.0, 1: 5.0}
    assert found(diverged={("a", 0): 4}) == {0: INF, 1: 5.0}, "an arm that diverged never gets there"
    assert same(found(diverged={("b", 0): 4}), {0: NAN, 1: 5.0}), "a goal that is not there"
    assert same(found(missing=[("b", 1)]), {0: 5.0, 1: NAN})
    assert same(found(missing=[("a", 1)]), {0: 5.0, 1: NAN})
    short = {
        "a": {"loss": curve},
        "b": {"loss": {0: [5.0] * 5 + [2.5], 1: [5.0, 5.0, 4.5, None, None, None]}},
    }
    assert same(of(steps_to("a", "b"), log_of(short, steps=steps)), {0: 5.0, 1: NAN}), (
        "an easier goal is no goal"
    )
    cut = {"a": {"loss": {0: curve, 1: [5.0, 4.0, None, None, None, None]}}, "b": {"loss": 2.5}}
    assert same(of(steps_to("a", "b"), log_of(cut, steps=steps)), {0: 5.0, 1: NAN}), "cut short is not never"
    infinite = {"a": {"loss": curve}, "b": {"loss": [5.0] * 5 + [INF]}}
    assert same(of(steps_to("a", "b"), log_of(infinite, steps=steps)), {0: NAN, 1: NAN})


def test_speed_up_is_measured_both_ways() -> None:
    steps = [0, 2, 4, 6, 8, 10]
    fast, slow = [6.0, 4.0, 2.0, 1.0, 1.0, 1.0], [6.0, 5.0, 4.0, 3.0, 2.5, 2.0]
    log = log_of({"fast": {"loss": fast}, "slow": {"loss": slow}}, steps=steps, diverged=())
    assert of(speed_up("fast", "slow"), log) == {0: 10 / 4, 1: 10 / 4}
    # What slow has at its end (2.0) fast has at step 4: slow is 0.4 of the way.
    assert of(speed_up("slow", "fast"), log) == {0: 0.4, 1: 0.4}
    assert of(speed_up("slow", "slow"), log) == {0: 1.0, 1: 1.0}


def test_speed_up_of_an_arm_that_diverged_is_nothing() -> None:
    arms = {"a": {"loss": [5.0, 1.0]}, "b": {"loss": [5.0, 2.0]}}
    log = log_of(arms, steps=[0, 10], seeds=3, diverged={("a", 0): 5, ("a", 1): 5, ("b", 1): 5})
    assert same(of(speed_up("a", "b"), log, seeds=3), {0: 0.0, 1: NAN, 2: 10 / 7.5}), "both: no number"
    assert same(of(speed_up("b", "a"), log, seeds=3), {0: NAN, 1: NAN, 2: 0.75})
