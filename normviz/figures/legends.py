"""The legend above a chart in the two-column grid: as many columns as its names leave room for, and the height."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt

__all__ = ["height_below", "legend_above"]

WIDTH = 240
"""Pixels beside the vertical axis of a chart in the two-column grid of the page, and of a phone."""

CHARACTER, NARROW, SYMBOL = 7.2, 3.6, 36
"""Pixels of a letter, of a narrow one, and of a symbol with its gaps."""

HEIGHT, ROW = 340, 22
"""Pixels of a chart with its legend of one or two rows, and of a further row."""


def legend_above(names: Sequence[str], *, lines: bool = True, columns: int | None = None) -> alt.Legend:
    """A legend for these names above the chart, one below the other where two would be cut off.

    Args:
        names: entries in order.
        lines: symbols are strokes; False: the mark's own.
        columns: most columns; None: two, and three for more than four names.
    """
    legend = alt.Legend(
        orient="top",
        columns=_columns(names, columns),
        columnPadding=5,
        labelLimit=230,
        symbolOpacity=1,
    )
    if lines:
        legend.symbolType, legend.symbolSize = "stroke", 240
    return legend


def height_below(names: Sequence[str], *, columns: int | None = None) -> int:
    """Pixels of a chart whose legend has these names, so that a tall legend does not flatten what is drawn."""
    return HEIGHT + ROW * max(0, math.ceil(len(names) / _columns(names, columns)) - 2)


def _columns(names: Sequence[str], most: int | None) -> int:
    most = most or (2 if len(names) <= 4 else 3)
    return max(c for c in range(1, most + 1) if c == 1 or _width(names, c) <= WIDTH)


def _width(names: Sequence[str], columns: int) -> float:
    """Pixels of a legend whose columns are each as wide as their longest name."""
    longest = [max((_text_width(n) for n in names[i::columns]), default=0.0) for i in range(columns)]
    return sum(SYMBOL + width for width in longest)


def _text_width(name: str) -> float:
    return sum(NARROW if c in " ,.:;'|()ijlt₀₁₂₃₄₅" else CHARACTER for c in name)
