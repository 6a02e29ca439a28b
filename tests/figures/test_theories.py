"""Measured against theory."""

from __future__ import annotations

import numpy as np

from normviz.arms import Arms
from normviz.experiments.residual_depth.theories import theory_figure
from normviz.frame import Frame, FrameLog


def test_theory_figure_keeps_what_is_inside_the_limits() -> None:
    log = FrameLog(Frame(0, "A", seed, {"v": np.array([1.0, 10.0 + seed, np.inf, 1e9])}) for seed in (0, 1))
    figure = theory_figure(
        log,
        "v",
        {"A": [1.0, 9.0, 8.0, 7.0]},
        title="T",
        x="x",
        y="y",
        look_for="l",
        arms=Arms.of("A"),
        limits=(0.1, 1e6),
    )
    assert figure.data is not None
    measured = figure.data[figure.data["kind"] == "measured"]
    assert measured["mean"].tolist() == [1.0, 10.5]
    assert (measured["low"].tolist(), measured["high"].tolist()) == ([1.0, 10.0], [1.0, 11.0])
    assert figure.data[figure.data["kind"] == "theory"]["mean"].tolist() == [1.0, 9.0, 8.0, 7.0]
    assert (figure.title, figure.moment) == ("T", "step 0")
    assert "<svg" in figure.to_svg()


def test_entries_without_a_position_are_left_out() -> None:
    """A log that grew while its positions were read."""
    log = FrameLog([Frame(0, "A", 0, {"v": np.array([1.0, 2.0, 3.0])})])
    figure = theory_figure(
        log,
        "v",
        {"A": [1.0, 2.0]},
        title="T",
        x="x",
        y="y",
        look_for="l",
        arms=Arms.of("A"),
        positions=[5, 7],
    )
    assert figure.data is not None
    measured = figure.data[figure.data["kind"] == "measured"]
    assert (measured["x"].tolist(), measured["mean"].tolist()) == ([5.0, 7.0], [1.0, 2.0])
