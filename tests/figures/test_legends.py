"""Columns of a legend by the length of its names."""

from __future__ import annotations

import pytest

from normviz.figures.legends import legend_above


@pytest.mark.parametrize(
    ("names", "most", "columns"),
    [
        (["LayerNorm", "BatchNorm", "PowerNorm", "PowerNorm-V"], 2, 2),
        (["BatchNorm", "PowerNorm", "PowerNorm-V", "BatchNorm in vision"], 2, 1),
        (["SGD", "Muon", "SWAN"], 3, 3),
        (["a" * 60], 2, 1),
        ([], 2, 2),
    ],
)
def test_columns_that_fit(names: list[str], most: int, columns: int) -> None:
    assert legend_above(names, columns=most).to_dict()["columns"] == columns


def test_symbols_are_strokes_for_lines_only() -> None:
    assert legend_above(["a"]).to_dict()["symbolType"] == "stroke"
    assert "symbolType" not in legend_above(["a"], lines=False).to_dict()
