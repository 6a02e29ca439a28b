"""LOAN's code of the day of the year, and how far two days lie apart in it: computed in the browser from its sliders.

The formula is that of :class:`normviz.norms.DayOfYearEncoding`, written once more in Vega's language; a test compares
the two.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.experiments.conditional_normalization.year_curve import MONTHS, NAMES, day_name
from normviz.figures import Figure
from normviz.figures.legends import colour_bar
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["CODE", "day_code_figure", "day_distance_figure"]

WIDTH = 64
"""d: columns of the code, as in this page's networks at their default width; the paper has 256."""
EVERY, COLUMN_STEP = 6, 2
"""Days and columns between two that are drawn on the map."""
FINE = 3
"""Days between two points of the curve of distances."""

CODE = (
    "(datum.column % 2 == 0 ? sin({p} / pow(base, 2 * datum.column / d)) "
    ": cos({p} / pow(base, 2 * datum.column / d)))"
)
"""The code in the row ``{p}`` (day − 1) and the column ``datum.column``; ``base`` and ``d`` are parameters."""


def _base() -> Any:
    return slider("logbase", "log10 of the base", 1, 0.3, 4, 0.1)


def _derived() -> tuple[Any, Any]:
    return alt.param(name="base", expr="pow(10, logbase)"), alt.param(name="d", value=WIDTH)


def day_code_figure() -> Figure:
    """The table of the code: days from left to right, columns from top to bottom."""
    days, columns = np.arange(1, 367, EVERY), np.arange(0, WIDTH, COLUMN_STEP)
    data = pd.DataFrame({"day": np.repeat(days, 2 * len(columns))})
    both = np.sort(np.concatenate([columns, columns + 1]))
    data["column"] = np.tile(both, len(days))
    return Figure(
        "The code of every day",
        "Raise the base: do the lower columns still tell the months apart?",
        "Map of sines and cosines by day and column. At base 10 the upper columns swing once in six days, the lowest "
        "once in almost two years; a slider sets the base.",
        spec=_code_spec(),
        data=data,
        wide=True,
    )


@lru_cache(maxsize=1)
def _code_spec() -> dict[str, Any]:
    x = across(
        "day",
        "day of the year",
        Span(1.0, 367.0),
        values=list(MONTHS),
        labelExpr=f"{list(NAMES)!r}[indexof({list(MONTHS)}, datum.value)]",
    )
    y = alt.Y("column:Q", title="column", scale=alt.Scale(domain=[WIDTH, 0], nice=False))
    chart = (
        alt.Chart()
        .transform_calculate(
            value=CODE.format(p="(datum.day - 1)"),
            day2=f"datum.day + {EVERY}.3",
            column2="datum.column + 1.05",
        )
        .mark_rect(strokeWidth=0, clip=True)
        .encode(
            x=x,
            x2="day2:Q",
            y=y,
            y2="column2:Q",
            color=alt.Color(
                "value:Q",
                title="value",
                scale=alt.Scale(
                    domain=[-1, 0, 1], range=["#1460aa", "#f4f4f2", "#c84e0a"], interpolate="rgb"
                ),
                legend=colour_bar(),
            ),
            tooltip=[alt.Tooltip("day:Q"), alt.Tooltip("column:Q"), alt.Tooltip("value:Q", format=".2f")],
        )
    )
    return specification(chart.properties(height=300).add_params(_base(), *_derived()))


def day_distance_figure() -> Figure:
    """Distance of the code of one day from that of every other day."""
    days, columns = np.arange(1, 367, FINE), np.arange(WIDTH)
    data = pd.DataFrame({"day": np.repeat(days, WIDTH), "column": np.tile(columns, len(days))})
    return Figure(
        "How far two days lie apart",
        "Drag to 31 December: is 1 January its neighbour?",
        "Curve of the distance between the code of a chosen day and those of all days: 0 at the day itself, high "
        "elsewhere. The code is not cyclic: the ends of the year are far apart. Sliders set the day and the base.",
        spec=_distance_spec(),
        data=data,
        wide=True,
    )


@lru_cache(maxsize=1)
def _distance_spec() -> dict[str, Any]:
    day = slider("day", "day of the year", 366, 1, 366, 1)
    x = across(
        "day",
        "day of the year",
        Span(1.0, 366.0),
        values=list(MONTHS),
        labelExpr=f"{list(NAMES)!r}[indexof({list(MONTHS)}, datum.value)]",
    )
    distances = (
        alt.Chart()
        .transform_calculate(
            square=f"pow({CODE.format(p='(datum.day - 1)')} - {CODE.format(p='(day - 1)')}, 2)"
        )
        .transform_aggregate(square="sum(square)", groupby=["day"])
        .transform_calculate(distance="sqrt(datum.square)")
    )
    y = up("distance", "distance of the codes (d = 64)", Span(0.0, 12.0))
    line = distances.mark_line(strokeWidth=2, color="#0a85d1").encode(x=x, y=y)
    one = alt.Chart().transform_aggregate(rows="count()")
    rule = one.transform_calculate(day="day").mark_rule(color=MUTED, strokeDash=[3, 3]).encode(x=x)
    told = (
        one.transform_calculate(text=f"'the chosen day: ' + {day_name('day')}")
        .mark_text(align="left", baseline="top", fontSize=13, fontWeight="bold", color=MUTED)
        .encode(x=alt.value(8), y=alt.value(4), text="text:N")
    )
    chart = alt.layer(line, rule, told).properties(height=260)
    return specification(chart.add_params(day, _base(), *_derived()))
