"""Heat maps of the covariances that the first layer is given: the first task, the new one, noise."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.digit_sources import digit_source
from normviz.experiments.context_adapters.recorded import SOURCES, TOGETHER
from normviz.figures import Board, Figure
from normviz.figures.legends import colour_bar
from normviz.figures.vega import specification

__all__ = ["covariance_figure"]

COLUMNS = ["source", "x", "x2", "y", "y2", "value"]
GAP = 0.08
"""Space between two maps, as a share of a map's width."""

OVERLAP = 0.1
"""By how much a cell reaches into the next one, in cells: exact edges would let the background shine through."""


def covariance_figure(board: Board, data: str = "digits") -> Figure:
    """Three maps side by side; an entry stands for a pair of groups of pixels that are neighbours in a row.

    Args:
        board: log and arms.
        data: which digits.
    """
    spec = _spec(data)
    title, look_for = (
        "Covariance of the first layer's input",
        "Which pixels are white together? Does noise know?",
    )
    found = board.log.arrays("covariances")
    if not found:
        text = "Maps of covariances; nothing is measured yet."
        return Figure(title, look_for, text, spec=spec, data=pd.DataFrame(columns=COLUMNS))
    maps = found[0].value.astype(float)  # (sources, size, size)
    wide = (1 - GAP) / maps.shape[-1]
    parts = []
    for place, (source, values) in enumerate(zip(SOURCES, maps, strict=True)):
        row, column = (grid.ravel() for grid in np.indices(values.shape))
        parts.append(
            pd.DataFrame(
                {
                    "source": source,
                    "x": (place + wide * column).round(4),
                    "x2": (place + wide * (column + 1 + OVERLAP)).round(4),
                    "y": row,
                    "y2": row + 1 + OVERLAP,
                    "value": values.ravel().round(3),
                }
            )
        )
    dark = ", ".join(f"{s} {(m < 0.01).mean():.0%}" for s, m in zip(SOURCES, maps, strict=True))
    text = f"Maps of covariances by pixel. Share of entries below 1 % of the largest: {dark}."
    return Figure(title, look_for, text, spec=spec, data=pd.concat(parts, ignore_index=True)[COLUMNS])


@lru_cache(maxsize=8)
def _spec(data: str) -> dict[str, Any]:
    source, together = digit_source(data), TOGETHER[data]
    size = source.values // together
    words = "two neighbours together" if together == 2 else "each row together"
    inputs = "pixels, row by row" if source.picture else "values of a signal, in order"
    centres = [place + (1 - GAP) / 2 for place in range(len(SOURCES))]
    x = alt.X(
        "x:Q",
        title=f"{inputs} ({words})",
        scale=alt.Scale(domain=[0, len(SOURCES)], nice=False),
        axis=alt.Axis(
            values=centres,
            labelExpr=f"{list(SOURCES)!r}[floor(datum.value)]",
            labelOverlap=False,
            grid=False,
            ticks=False,
            domain=False,
        ),
    )
    y = alt.Y("y:Q", title=None, scale=alt.Scale(domain=[size, 0], nice=False), axis=None)
    colour = alt.Color(
        "value:Q",
        title="entry ÷ largest",
        scale=alt.Scale(domain=[0, 1], range=["#f1f3f5", "#0a66b8"], interpolate="rgb", clamp=True),
        legend=colour_bar(length=90, format="~g", values=[0, 0.5, 1]),
    )
    chart = (
        alt.Chart()
        .mark_rect(strokeWidth=0)
        .encode(
            x=x,
            x2="x2:Q",
            y=y,
            y2="y2:Q",
            color=colour,
            tooltip=[
                alt.Tooltip("source:N", title="samples of"),
                alt.Tooltip("value:Q", title="entry", format=".3f"),
            ],
        )
    )
    return specification(chart.properties(view=alt.ViewBackground(stroke=None)))
