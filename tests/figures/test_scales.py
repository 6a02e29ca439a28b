"""Spans: they hold what they are computed from, are round, stay where they are, and are positive on a log axis."""

from __future__ import annotations

import math

import numpy as np
import pytest

from normviz.figures.scales import Span


@pytest.mark.parametrize(
    ("values", "zero", "ends"),
    [
        ([0.013, 2.3], False, (0.0, 2.5)),
        ([2.31], False, (2.0, 2.6)),
        ([30.2, 90.1], False, (30.0, 100.0)),
        ([-3.0, 4.0], False, (-4.0, 4.0)),
        ([0.5, 2.0], False, (0.0, 2.0)),
        ([-9.0, -1.0], False, (-10.0, 0.0)),
        ([5.0, 8.0], True, (0.0, 8.0)),
        ([-5.0, -8.0], True, (-8.0, 0.0)),
        ([0.0, 0.0], False, (-1.0, 1.0)),
        ([math.nan, 1.0, math.inf, 2.0], False, (1.0, 2.0)),
        ([], False, (0.0, 1.0)),
        ([math.nan], True, (0.0, 1.0)),
    ],
)
def test_ends_of_a_linear_axis(values: list[float], zero: bool, ends: tuple[float, float]) -> None:
    span = Span.of(values, zero=zero)
    assert (span.low, span.high) == pytest.approx(ends, abs=1e-12)
    assert span.ticks() is None


@pytest.mark.parametrize(
    ("values", "ends", "ticks"),
    [
        ([0.2, 0.7], (0.2, 1.0), [0.2, 0.5, 1.0]),
        ([3e-3, 70.0], (1e-3, 100.0), [1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0]),
        ([3e-3, 0.3], (2e-3, 0.5), [3e-3, 0.01, 0.03, 0.1, 0.3]),
        ([3e-9, 40.0], (1e-9, 100.0), [1e-9, 1e-7, 1e-5, 1e-3, 0.1, 10.0]),
        ([1.12, 1.38], (1.1, 1.4), [1.1, 1.2, 1.3, 1.4]),
        ([0.0, -1.0, math.nan, 2.0, 50.0], (2.0, 50.0), [2.0, 5.0, 10.0, 20.0, 50.0]),
        ([], (0.1, 10.0), [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]),
        ([-1.0, 0.0], (0.1, 10.0), [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]),
    ],
)
def test_ends_and_ticks_of_a_log_axis(
    values: list[float], ends: tuple[float, float], ticks: list[float]
) -> None:
    span = Span.of(values, log=True)
    assert (span.low, span.high) == pytest.approx(ends)
    assert span.ticks() == pytest.approx(ticks)


@pytest.mark.parametrize("log", [False, True])
def test_any_values_lie_between_the_ends_and_fill_the_axis(log: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = 10.0 ** rng.uniform(-30, 30)
        values = size * 10.0 ** rng.uniform(0, rng.choice([1e-4, 0.3, 3, 12]), 5)
        span = Span.of(values, log=log)
        assert span.low <= values.min() * (1 + 1e-6)
        assert values.max() <= span.high * (1 + 1e-6)
        scale = np.log if log else np.asarray
        filled = np.ptp(scale(values)) / np.ptp(scale([span.low, span.high]))
        assert filled > 0.45 or np.ptp(values) < 3 * values.min()
        marks = span.ticks()
        assert marks is None or 2 <= len(marks) <= 9


def test_a_live_chart_changes_its_ends_seldom() -> None:
    rng = np.random.default_rng(1)
    loss = 2.3 * np.exp(-np.arange(400) / 80) + 0.02 * rng.random(400) + 0.05
    linear = {Span.of(loss[:k]) for k in range(1, 401)}
    logarithmic = {Span.of(loss[:k], log=True) for k in range(1, 401)}
    assert len(linear) <= 20
    assert len(logarithmic) <= 24


def test_positions_that_do_not_grow_reach_from_end_to_end() -> None:
    assert Span.exactly([3, 1, 17]) == Span(1, 17)
    assert Span.exactly([0, 512, 2048], log=True) == Span(512, 2048, log=True)
    assert Span.exactly([4.0]) == Span.of([4.0])
    assert Span.exactly([]) == Span(0, 1)


@pytest.mark.parametrize(
    ("low", "high", "log"), [(1, 1, False), (2, 1, False), (0, 1, True), (-1, 1, True), (0, math.inf, False)]
)
def test_refused_ends(low: float, high: float, log: bool) -> None:
    with pytest.raises(ValueError, match="low and high must be"):
        Span(low, high, log)
    with pytest.raises(ValueError, match="low and high must be"):
        Span(math.nan, 1.0)
