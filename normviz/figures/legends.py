"""A chart's own legend, for colours that are no arms: as many columns as its names leave room for, and the height; or
a bar of colours.

The arms have one legend for the whole page, so that charts keep their place for what they draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt

__all__ = ["HEIGHT", "colour_bar", "height_below", "legend_above"]

WIDTH = 270
"""Pixels beside the vertical axis of a chart in the three-column grid of the page, and of a phone."""

CHARACTER, NARROW, SYMBOL = 6.2, 3.2, 30
"""Pixels of a letter, of a narrow one, and of a symbol with its gaps."""

HEIGHT, ROW = 230, 17
"""Pixels of a chart without a legend, and of a row of its legend."""


def legend_above(names: Sequence[str], *, lines: bool = True, columns: int | None = None) -> alt.Legend:
    """A legend for these names above the chart, one below the other where two would be cut off.

    Args:
        names: entries in order.
        lines: symbols are strokes; False: the mark's own.
        columns: most columns; None: four.
    """
    legend = alt.Legend(
        orient="top",
        columns=_columns(names, columns),
        columnPadding=5,
        rowPadding=1,
        labelFontSize=11,
        labelLimit=230,
        symbolOpacity=1,
    )
    if lines:
        legend.symbolType, legend.symbolSize = "stroke", 160
    return legend


def colour_bar(
    *, length: int = 110, format: str | None = None, values: Sequence[float] | None = None
) -> alt.Legend:
    """The legend of a continuous colour: a bar above the chart, its title at the left.

    Args:
        length: pixels.
        format: of the numbers, in d3's language; None: Vega's choice.
        values: which numbers stand beside the bar; None: Vega's choice.
    """
    bar = alt.Legend(
        orient="top", titleOrient="left", titleLimit=190, gradientLength=length, gradientThickness=10
    )
    if format is not None:
        bar.format = format
    if values is not None:
        bar.values = list(values)
    return bar


def height_below(names: Sequence[str], *, columns: int | None = None) -> int:
    """Pixels of a chart whose legend has these names, so that a tall legend does not flatten what is drawn."""
    return HEIGHT + ROW * math.ceil(len(names) / _columns(names, columns))


def _columns(names: Sequence[str], most: int | None) -> int:
    return max(c for c in range(1, (most or 4) + 1) if c == 1 or _width(names, c) <= WIDTH)


def _width(names: Sequence[str], columns: int) -> float:
    """Pixels of a legend whose columns are each as wide as their longest name."""
    longest = [max((_text_width(n) for n in names[i::columns]), default=0.0) for i in range(columns)]
    return sum(SYMBOL + width for width in longest)


def _text_width(name: str) -> float:
    return sum(NARROW if c in " ,.:;'|()ijlt₀₁₂₃₄₅" else CHARACTER for c in name)
