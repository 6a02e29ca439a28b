"""The gallery: pixels where they belong, captions and frames, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from normviz.arms import Arms
from normviz.figures import Figure, colours, digit_gallery_figure
from normviz.figures.gallery import gallery_figure, signal_gallery_figure


def gallery(images: np.ndarray[Any, Any], captions: list[str], kinds: list[str], **options: Any) -> Figure:
    return gallery_figure(
        images.astype(np.float32),
        captions,
        kinds,
        kind_names=Arms.of("ab"),
        title="T",
        look_for="l",
        alt_text="alt",
        **options,
    )


def test_pixels_lie_row_by_row_inside_their_cell() -> None:
    images = np.arange(3 * 2 * 4).reshape(3, 2, 4)
    figure = gallery(images, ["x", "y", "z"], ["a", "b", "a"], columns=2, rows=2)
    assert figure.data is not None
    pixels = figure.data[figure.data["kind"] == ""].reset_index(drop=True)
    assert pixels["value"].tolist() == images.ravel().tolist()
    cell = pixels[8:16]  # the second picture: right of the first
    assert ((cell["x"] >= 1) & (cell["x2"] <= 2)).all()
    assert ((cell["y"] >= 0) & (cell["y2"] <= 1)).all()
    assert cell["x"].nunique() == 4
    assert cell["y"].nunique() == 2
    assert cell["x"].iloc[:4].is_monotonic_increasing
    assert (pixels["y"][16:] >= 1).all(), "the third picture stands in the second row"
    frames = figure.data[figure.data["kind"] != ""]
    assert frames["caption"].tolist() == ["x", "y", "z"]
    assert frames["kind"].tolist() == ["a", "b", "a"]
    np.testing.assert_allclose(frames["x2"] - frames["x"], 4 * (pixels["x"][1] - pixels["x"][0]))


def test_kinds_have_the_palettes_colours_and_the_chart_exports() -> None:
    figure = gallery(np.zeros((1, 2, 2)), ["x"], ["b"])
    assert colours(Arms.of("ab"))[1] in str(figure.spec)
    assert figure.to_svg().startswith("<svg")


def test_refusals() -> None:
    with pytest.raises(ValueError, match="columns x rows = 2"):
        gallery(np.zeros((3, 2, 2)), ["x"] * 3, ["a"] * 3, columns=2, rows=1)
    with pytest.raises(ValueError, match="equally many"):
        gallery(np.zeros((2, 2, 2)), ["x"], ["a", "b"])


def test_equal_neighbours_of_a_large_picture_are_one_rectangle() -> None:
    """What is painted is what painting every pixel would give: rectangles are painted again on a fine grid."""
    images = np.random.default_rng(0).integers(0, 3, (2, 28, 28)).astype(np.float32)
    figure = gallery(images, ["x", "y"], ["a", "b"], columns=2, rows=1)
    assert figure.data is not None
    rectangles = figure.data[figure.data["kind"] == ""]
    assert len(rectangles) < 0.8 * images.size
    frames = figure.data[figure.data["kind"] != ""].reset_index(drop=True)
    painted = np.full(images.shape, np.nan)
    for x, y, x2, _, value in rectangles[["x", "y", "x2", "y2", "value"]].to_numpy(float):
        k = int(x)
        wide, high = ((frames[b][k] - frames[a][k]) / 28 for a, b in (("x", "x2"), ("y", "y2")))
        row, first = round((y - frames["y"][k]) / high), round((x - frames["x"][k]) / wide)
        for column in range(first, round((x2 - frames["x"][k]) / wide)):
            painted[k, row, column] = value
    np.testing.assert_array_equal(painted, images)


def test_signals_are_lines_from_the_lower_to_the_upper_edge_of_their_frames() -> None:
    signals = np.array([[0.0, 1.0, 4.0], [2.0, 2.0, 2.0]], dtype=np.float32)
    figure = signal_gallery_figure(
        signals,
        ["x", "y"],
        ["a", "b"],
        kind_names=Arms.of("ab"),
        title="T",
        look_for="l",
        alt_text="alt",
        columns=2,
        rows=1,
    )
    assert figure.data is not None
    points, frames = (figure.data[figure.data["kind"].eq("") == flag] for flag in (True, False))
    top, bottom = frames["y"].iloc[0], frames["y2"].iloc[0]
    heights = ((bottom - points["y"]) / (bottom - top)).tolist()
    np.testing.assert_allclose(heights, [0, 0.25, 1, 0.5, 0.5, 0.5], atol=1e-9)
    np.testing.assert_allclose(points["x"][:3], np.linspace(frames["x"].iloc[0], frames["x2"].iloc[0], 3))
    assert points["picture"].tolist() == [0, 0, 0, 1, 1, 1]
    assert points["value"].tolist() == signals.ravel().tolist()
    svg = figure.to_svg()
    assert svg.startswith("<svg")
    with pytest.raises(ValueError, match="signals must be at most columns x rows = 1, got 2"):
        signal_gallery_figure(
            signals,
            "xy",
            "ab",
            kind_names=Arms.of("ab"),
            title="",
            look_for="",
            alt_text="",
            columns=1,
            rows=1,
        )


@pytest.mark.parametrize(("data", "values"), [("digits", 64), ("mnist", 784), ("mnist1d", 40)])
def test_every_kind_of_digits_is_drawn_as_what_it_is(data: str, values: int) -> None:
    examples = np.arange(2 * values, dtype=np.float32).reshape(2, values)
    figure = digit_gallery_figure(
        data, examples, "xy", "ab", kind_names=Arms.of("ab"), title="T", look_for="l", alt_text="a"
    )
    assert figure.data is not None
    assert (figure.data["kind"] == "").sum() == 2 * values
    assert ("picture" in figure.data) == (data == "mnist1d")
    assert figure.to_svg().startswith("<svg")
