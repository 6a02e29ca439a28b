"""A chart that stands alone has the legend of its arms, its title and its moment; on the page it has not."""

from __future__ import annotations

from typing import Any

from normviz.arms import Arms
from normviz.figures import line_figure, profile_figure
from normviz.figures.exports import with_legends
from normviz.frame import Frame, FrameLog

WORDS: dict[str, Any] = {"title": "T", "y": "y", "look_for": "l"}


def log() -> FrameLog:
    return FrameLog(
        Frame(step, arm, 0, {"v": step + 1.0, "p": [1.0, 2.0]}) for step in (0, 5) for arm in "AB"
    )


def colour_legends(spec: Any) -> list[Any]:
    return [layer["encoding"]["color"]["legend"] for layer in spec["layer"] if "color" in layer["encoding"]]


def test_legend_of_the_arms_that_are_drawn() -> None:
    figure = line_figure(log(), "v", arms=Arms.of("ABC"), **WORDS)
    assert figure.spec is not None
    assert colour_legends(figure.spec) == [None] * 3
    spec = figure.chart.to_dict()
    assert [legend["values"] for legend in colour_legends(spec)] == [["A", "B"]] * 3
    assert spec["height"] > figure.spec["height"]
    assert colour_legends(figure.spec) == [None] * 3, "the page's chart is as it was"
    assert with_legends(figure.spec)["layer"][0]["encoding"]["color"]["legend"]["values"] == ["A", "B", "C"]
    svg = figure.to_svg()
    assert ">B</text>" in svg
    assert ">C</text>" not in svg


def test_title_line_and_moment() -> None:
    figure = profile_figure(log(), "p", x="x", step=3, reference={"theory": [1.0, 1.5]}, **WORDS)
    svg = figure.to_svg()
    for text in ("T (step 0)", "l", "A", "B", "theory"):
        assert f">{text}</text>" in svg
    assert figure.title == "T"


def test_long_axis_titles_have_several_lines_above_the_plot() -> None:
    y = "relative deviation of the running statistic from that of the batch"
    figure = line_figure(log(), "v", title="T", y=y, look_for="l")
    assert figure.spec is not None
    encoding = figure.spec["layer"][0]["encoding"]["y"]
    assert " ".join(encoding["title"]) == y
    assert len(encoding["title"]) == 2
    one = line_figure(log(), "v", **WORDS).spec
    assert one is not None
    assert encoding["axis"]["titleY"] < one["layer"][0]["encoding"]["y"]["axis"]["titleY"] < 0
