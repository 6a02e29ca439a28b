"""Logs made by hand have the frames that they say."""

from __future__ import annotations

import pytest

from normviz.testing import log_of, log_of_rows, log_of_series, merged


def rows(log: object) -> list[tuple[int, str, int, dict[str, float]]]:
    return [(f.step, f.arm, f.seed, dict(f.values)) for f in log.frames]  # type: ignore[attr-defined]


def test_series_may_end_at_different_steps() -> None:
    log = log_of_series("x", {"a": {0: [1.0, 2.0], 3: [5.0]}, "b": {0: [7.0]}}, first=4, every=10)
    assert rows(log) == [
        (4, "a", 0, {"x": 1.0}),
        (14, "a", 0, {"x": 2.0}),
        (4, "a", 3, {"x": 5.0}),
        (4, "b", 0, {"x": 7.0}),
    ]


def test_rows_and_merged_logs_keep_their_order() -> None:
    given = [(2, "b", 1, {"x": 1.0}), (0, "a", 0, {"y": 2.0})]
    assert rows(log_of_rows(given)) == given
    assert rows(merged(log_of_rows(given[1:]), log_of_rows(given[:1]))) == given[::-1]


def test_recipes_of_values() -> None:
    log = log_of(
        {"a": {"x": [1.0, 2.0], "y": lambda step, seed: step + 100.0 * seed}, "b": {"x": {1: 9.0}}},
        steps=[0, 10],
        seeds=2,
        diverged={("b", 0): 5},
    )
    assert rows(log)[:2] == [(0, "a", 0, {"x": 1.0, "y": 0.0}), (0, "a", 1, {"x": 1.0, "y": 100.0})]
    assert ("b", 0) in log.diverged
    with pytest.raises(ValueError, match="one for each step"):
        log_of({"a": {"x": [1.0]}}, steps=[0, 10])
    with pytest.raises(ValueError, match="members of the log"):
        log_of({"a": {"x": 1.0}}, diverged=[("b", 0)])
