"""Clouds: points that move while the training goes on, each in the colour of its kind."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.arms import Arms
from normviz.figures import Figure
from normviz.figures.encodings import arm_colour, arm_symbol, faded, focus_param
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["cloud_figure"]


def cloud_figure(
    data: pd.DataFrame,
    *,
    kinds: Arms,
    title: str,
    look_for: str,
    alt_text: str,
    x: str,
    y: str,
    width: Span,
    height: Span,
    moment: str = "",
    diagonal: bool = False,
    legend: bool = False,
) -> Figure:
    """Points in the plane.

    Args:
        data: columns ``arm, x, y``; ``arm`` is the kind.
        kinds: all kinds and their looks.
        title, look_for, moment: as in :class:`Figure`.
        alt_text: the textual alternative.
        x, y: titles of the axes.
        width, height: ends of the axes.
        diagonal: draw the line on which x = y.
        legend: the chart has a legend of its own, for kinds that are no arms of the page.
    """
    spec = _cloud_spec(kinds, x, y, width, height, diagonal, legend)
    return Figure(title, look_for, alt_text, spec=spec, data=data, moment=moment)


@lru_cache(maxsize=64)
def _cloud_spec(
    kinds: Arms, x: str, y: str, width: Span, height: Span, diagonal: bool, legend: bool
) -> dict[str, Any]:
    own = legend_above(kinds.names, lines=False) if legend else None
    points = (
        alt.Chart()
        .mark_point(filled=True, size=26, clip=True)
        .encode(
            x=across("x", x, width),
            y=up("y", y, height),
            color=arm_colour(kinds, legend=own),
            shape=arm_symbol(kinds, legend=own),
            opacity=faded(0.75),
            tooltip=[
                alt.Tooltip("arm:N", title=" "),
                alt.Tooltip("x:Q", title=x, format=".3~g"),
                alt.Tooltip("y:Q", title=y, format=".3~g"),
            ],
        )
    )
    layers: list[Any] = [points]
    if diagonal:
        low, high = max(width.low, height.low), min(width.high, height.high)
        line = (
            alt.Chart()
            .transform_aggregate(rows="count()")
            .transform_calculate(x=f"{low}", x2=f"{high}", y=f"{low}", y2=f"{high}")
            .mark_rule(color=MUTED, strokeDash=[3, 3])
            .encode(x=across("x", x, width), x2="x2:Q", y=up("y", y, height), y2="y2:Q")
        )
        layers.insert(0, line)
    chart = alt.layer(*layers).properties(
        height=height_below(kinds.names if legend else ()) if legend else 230
    )
    return specification(chart.add_params(focus_param()))
