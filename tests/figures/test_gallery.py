"""The gallery: pixels where they belong, captions and frames, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from normviz.arms import Arms
from normviz.figures import Figure, colours
from normviz.figures.gallery import gallery_figure


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
