"""Columns of a legend by the length of its names, and the height of the chart below it."""

from __future__ import annotations

import pytest

from normviz.figures.legends import HEIGHT, ROW, colour_bar, height_below, legend_above


@pytest.mark.parametrize(
    ("names", "most", "columns"),
    [
        (["LayerNorm", "BatchNorm", "PowerNorm", "PowerNorm-V"], 2, 2),
        (["LayerNorm", "BatchNorm", "PowerNorm", "PowerNorm-V"], None, 3),
        (["BatchNorm", "PowerNorm in language models", "PowerNorm-V", "BatchNorm in vision"], 2, 1),
        (["SGD", "Muon", "SWAN"], 3, 3),
        (["SGD", "Muon", "SWAN", "Conda"], None, 4),
        (["Plain", "Small-loss", "MW-Net", "STORM", "Oracle"], None, 3),
        (["a" * 60], 2, 1),
        ([], 2, 2),
        ([], None, 4),
    ],
)
def test_columns_that_fit(names: list[str], most: int | None, columns: int) -> None:
    assert legend_above(names, columns=most).to_dict()["columns"] == columns


def test_symbols_are_strokes_for_lines_only() -> None:
    assert legend_above(["a"]).to_dict()["symbolType"] == "stroke"
    assert "symbolType" not in legend_above(["a"], lines=False).to_dict()


def test_each_row_of_a_legend_makes_the_chart_taller() -> None:
    assert height_below([]) == HEIGHT
    assert height_below(list("abcd")) == height_below(list("ab")) == HEIGHT + ROW
    assert height_below(list("abcd"), columns=2) == height_below(list("abcdefgh")) == HEIGHT + 2 * ROW
    assert height_below(["a" * 40] * 4) == HEIGHT + 4 * ROW


def test_a_bar_of_colours_leaves_out_what_is_not_given() -> None:
    assert colour_bar().to_dict() == {
        "orient": "top",
        "titleOrient": "left",
        "titleLimit": 190,
        "gradientLength": 110,
        "gradientThickness": 10,
    }
    more = colour_bar(format="~g", values=(0, 1)).to_dict()
    assert (more["format"], more["values"]) == ("~g", [0, 1])
