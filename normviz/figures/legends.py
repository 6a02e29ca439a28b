"""The legend above a chart in the two-column grid: as many columns as its names leave room for."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

__all__ = ["legend_above"]

WIDTH = 270
"""Pixels beside the vertical axis of a chart in the two-column grid of the page, and of a phone."""

CHARACTER, SYMBOL = 7.2, 36
"""Pixels of a letter and of a symbol with its gaps."""


def legend_above(names: Sequence[str], *, lines: bool = True, columns: int = 2) -> alt.Legend:
    """A legend for these names above the chart, one below the other where two would be cut off.

    Args:
        names: entries in order.
        lines: symbols are strokes; False: the mark's own.
        columns: most columns.
    """
    fitting = max(c for c in range(1, columns + 1) if c == 1 or _width(names, c) <= WIDTH)
    legend = alt.Legend(orient="top", columns=fitting, labelLimit=230, symbolOpacity=1)
    if lines:
        legend.symbolType, legend.symbolSize = "stroke", 240
    return legend


def _width(names: Sequence[str], columns: int) -> float:
    """Pixels of a legend whose columns are each as wide as their longest name."""
    longest = [max((len(n) for n in names[i::columns]), default=0) for i in range(columns)]
    return sum(SYMBOL + CHARACTER * length for length in longest)
