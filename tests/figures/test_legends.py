"""Columns of a legend by the length of its names, and the height of the chart below it."""

from __future__ import annotations

import pytest

from normviz.figures.legends import height_below, legend_above


@pytest.mark.parametrize(
    ("names", "most", "columns"),
    [
        (["LayerNorm", "BatchNorm", "PowerNorm", "PowerNorm-V"], 2, 2),
        (["BatchNorm", "PowerNorm", "PowerNorm-V", "BatchNorm in vision"], 2, 1),
        (["SGD", "Muon", "SWAN"], 3, 3),
        (["SGD", "Muon", "SWAN", "Conda"], None, 2),
        (["SGD", "Muon", "SWAN", "Conda", "Fira"], None, 3),
        (["AdamW", "Muon", "GradNorm", "Conda", "Fira, no limiter"], None, 2),
        (["Plain", "Small-loss", "MW-Net", "STORM", "Oracle"], None, 2),
        (["a" * 60], 2, 1),
        ([], 2, 2),
        ([], None, 2),
    ],
)
def test_columns_that_fit(names: list[str], most: int | None, columns: int) -> None:
    assert legend_above(names, columns=most).to_dict()["columns"] == columns


def test_symbols_are_strokes_for_lines_only() -> None:
    assert legend_above(["a"]).to_dict()["symbolType"] == "stroke"
    assert "symbolType" not in legend_above(["a"], lines=False).to_dict()


def test_a_tall_legend_makes_the_chart_taller() -> None:
    assert height_below([]) == height_below(list("abcd")) == height_below(list("abcdef"), columns=3) == 340
    assert height_below(["a" * 30] * 4) == 340 + 2 * 22
    assert height_below(list("abcdefgh")) == 340 + 22
