"""Strips by layer and step, and reference curves on profiles, from hand-made logs."""

from __future__ import annotations

import numpy as np
import pytest

from normviz.arms import Arms
from normviz.figures import profile_figure, strips_figure
from normviz.figures.strips import ABOVE, MAX_CELLS, OVER
from normviz.frame import Frame, FrameLog

STRIP = {"last": 20, "title": "T", "y": "layer", "value": "variance", "look_for": "L", "limits": (0.1, 10.0)}


def log(steps: int = 3, layers: int = 2) -> FrameLog:
    return FrameLog(
        Frame(10 * s, arm, seed, {"v": np.arange(1.0, layers + 1) * (s + 1) * (2 if arm == "B" else 1)})
        for s in range(steps)
        for arm in ("A", "B")
        for seed in (0, 1)
    )


def test_cells_lie_side_by_side_and_reach_to_the_next_snapshot() -> None:
    data = strips_figure(log(), "v", **STRIP).data
    assert len(data) == 2 * 3 * 2  # arms x snapshots x layers, one seed
    first = data[(data["arm"] == "A") & (data["step"] == 0) & (data["at"] == 2)].iloc[0]
    assert first["value"] == 2.0
    assert (first["low"], first["high"]) == (1.5, pytest.approx(2.5, abs=ABOVE))
    assert (first["left"], first["right"]) == (0.0, pytest.approx(0.94 * 10 / 20, abs=OVER + 1e-9))
    second_arm = data[data["arm"] == "B"]
    assert second_arm["left"].min() == 1.0
    assert second_arm["right"].max() <= 2.0
    assert second_arm["value"].max() == 2 * 2 * 3


def test_scrubbed_strips_end_at_the_step_and_empty_logs_draw_nothing() -> None:
    assert strips_figure(log(), "v", step=10, **STRIP).data["step"].max() == 10
    empty = strips_figure(FrameLog(), "v", arms=Arms.of("A"), **STRIP)
    assert empty.data.empty
    assert "nothing is measured" in empty.alt


def test_many_snapshots_are_thinned_with_both_ends_kept() -> None:
    data = strips_figure(log(steps=200, layers=40), "v", **{**STRIP, "last": 1990}).data
    assert len(data) <= MAX_CELLS
    assert {0.0, 1990.0} <= set(data["step"])


def test_strips_refuse_limits_without_logarithm() -> None:
    with pytest.raises(ValueError, match="limits"):
        strips_figure(log(), "v", **{**STRIP, "limits": (0.0, 1.0)})


def test_a_reference_is_a_curve_of_its_own() -> None:
    figure = profile_figure(
        log(),
        "v",
        title="T",
        x="layer",
        y="v",
        look_for="L",
        positions=[0, 1],
        reference={"theory": [5.0, 7.0]},
    )
    curve = figure.data[figure.data["arm"] == "theory"]
    assert curve[["x", "mean", "low", "high"]].to_numpy().tolist() == [[0, 5, 5, 5], [1, 7, 7, 7]]
    domain = figure.spec["layer"][1]["encoding"]["color"]["scale"]["domain"]
    assert domain == ["A", "B", "theory"]


def test_profiles_leave_out_what_is_not_finite() -> None:
    exploded = FrameLog([Frame(0, "A", 0, {"v": np.array([1.0, np.inf, np.nan])})])
    figure = profile_figure(exploded, "v", title="T", x="layer", y="v", look_for="L")
    assert figure.data["mean"].tolist() == [1.0]
