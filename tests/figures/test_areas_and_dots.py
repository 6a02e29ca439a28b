"""Stacked areas, dots, and lines with several quantities per arm."""

from __future__ import annotations

import math

import pytest

from normviz.arms import Arms
from normviz.figures import area_figure, colours, dot_figure, line_figure
from normviz.frame import Frame, FrameLog

PARTS = {"easy": "share/easy", "hard": "share/hard"}
AB = Arms.of("AB")


@pytest.fixture
def log() -> FrameLog:
    rows = [
        (step, arm, seed, {"share/easy": 0.25 + seed / 2, "share/hard": 0.75 - seed / 2, "gap": step + 1.0})
        for step in range(4)
        for arm in ("A", "B")
        for seed in range(2)
    ]
    return FrameLog(Frame(*row) for row in rows)


def test_areas_hold_the_mean_over_seeds_of_each_part(log: FrameLog) -> None:
    figure = area_figure(log, PARTS, title="t", y="share", look_for="l", arms=AB, chosen="B", step=2)
    assert figure.data is not None
    assert figure.spec is not None
    assert len(figure.data) == 16
    assert set(figure.data["mean"]) == {0.5}
    params = {p["name"]: p for p in figure.spec["params"]}
    assert params["shown"]["value"] == "B"
    assert params["shown"]["bind"]["options"] == ["A", "B"]
    assert params["cursor"]["value"] == 2
    assert "A, easy 0.5" in figure.alt
    empty = area_figure(FrameLog(), PARTS, title="t", y="share", look_for="l", arms=Arms.of("A"))
    assert empty.data is not None
    assert empty.data.empty
    assert "nothing is measured" in empty.alt


def test_areas_are_computed_in_the_browser(log: FrameLog) -> None:
    kinds = Arms.of({"hard": 7, "easy": 3})
    figure = area_figure(log, PARTS, title="t", y="share", look_for="l", arms=AB, kinds=kinds)
    svg = figure.to_svg()
    assert all(colour in svg for colour in colours(kinds))
    assert figure.spec is not None
    assert figure.spec["layer"][0]["encoding"]["color"]["scale"]["domain"] == ["easy", "hard"]


def test_a_single_arm_in_focus_is_the_one_whose_areas_are_shown() -> None:
    shares = {"A": 0.25, "B": 0.5}
    log = FrameLog(
        Frame(step, arm, 0, {"share/easy": share, "share/hard": 1.0})
        for arm, share in shares.items()
        for step in (0, 1)
    )
    figure = area_figure(log, PARTS, title="t", y="v", look_for="l", arms=AB)
    first = figure.shown().to_svg()
    assert figure.shown(focus=["A"]).to_svg() == first
    assert figure.shown(focus=["A", "B"]).to_svg() == figure.shown(focus=["C"]).to_svg() == first
    assert figure.shown(focus=["B"]).to_svg() != first


def test_dots_show_the_newest_value_at_or_before_the_step() -> None:
    log = FrameLog(
        [
            Frame(0, "A", 0, {"x": 1.0}),
            Frame(0, "A", 1, {"x": 3.0}),
            Frame(5, "A", 0, {"x": 7.0}),
            Frame(5, "A", 1, {"x": math.inf}),
            Frame(5, "B", 0, {"y": 2.0}),
            Frame(5, "C", 0, {"x": 9.0}),
        ]
    )

    def rows(step: int | None) -> list[tuple[object, ...]]:
        figure = dot_figure(
            log, {"first": "x", "second": "y"}, title="t", x="v", look_for="l", arms=AB, step=step
        )
        assert figure.data is not None
        return list(figure.data.itertuples(index=False, name=None))

    assert rows(None) == [("first", "A", 5.0, 3.0, 7.0), ("second", "B", 2.0, 2.0, 2.0)]
    assert rows(4) == [("first", "A", 2.0, 1.0, 3.0)]
    figure = dot_figure(log, {"first": "x"}, title="t", x="v", look_for="l", arms=Arms.of("A"), step=4)
    assert (figure.title, figure.moment) == ("t", "step 0")
    assert "first, A 2" in figure.alt
    empty = dot_figure(FrameLog(), {"first": "x"}, title="t", x="v", look_for="l")
    assert "nothing is measured" in empty.alt


def test_lines_of_several_quantities_are_variants_of_the_arm(log: FrameLog) -> None:
    series = {"share/easy": "", "gap": ", gap"}
    figure = line_figure(log, series, title="t", y="v", look_for="l", arms=AB)
    assert figure.data is not None
    assert figure.spec is not None
    assert list(dict.fromkeys(figure.data["arm"])) == ["A", "B", "A, gap", "B, gap"]
    scale = figure.spec["layer"][0]["encoding"]["color"]["scale"]
    assert scale["domain"] == ["A", "A, gap", "B", "B, gap"]
    assert scale["range"][0] == scale["range"][1] != scale["range"][2]
