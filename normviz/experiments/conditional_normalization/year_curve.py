"""The forecast over a year: curves for one patch, and a day that is dragged; all in the browser."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms, Look
from normviz.experiments.conditional_normalization.recorded import DAYS_SHOWN, PATCHES
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_dash, faded, focus_param
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["MONTHS", "TRUTH", "day_name", "year_figure"]

TRUTH = "truth"
STEP = DAYS_SHOWN[1] - DAYS_SHOWN[0]
COLUMNS = ["arm", "patch", "day", "p"]
YEAR = Span(1.0, 366.0)
MONTHS = (1, 32, 61, 92, 122, 153, 183, 214, 245, 275, 306, 336)
"""First days of the months of a leap year."""
NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def day_name(day: str) -> str:
    """Vega's expression of a day as a date, e.g. "31 Jul"."""
    cases = "".join(
        f"{day} >= {first} ? ({day} - {first - 1}) + ' {name}' : "
        for first, name in reversed(list(zip(MONTHS, NAMES, strict=True)))
    )
    return f"({cases}'')"


def year_figure(board: Board) -> Figure:
    """Probability of fire over the year for the patch that the reader chooses, on the day that the reader drags to."""
    truth = board.log.arrays("true_year", board.step)
    found = {e.arm: e for e in board.log.arrays("year", board.step) if e.arm in board.arms}
    rows: list[pd.DataFrame] = []
    text, moment = "Curves of the probability of fire over the year; nothing is measured yet.", ""
    if truth and found:
        values = {TRUTH: truth[0].value, **{arm: entry.value for arm, entry in found.items()}}
        days = np.array(DAYS_SHOWN)
        rows = [
            pd.DataFrame({"arm": arm, "patch": patch, "day": days, "p": table[i].astype(float).round(4)})
            for arm, table in values.items()
            for i, patch in enumerate(PATCHES)
        ]
        moment = board.progress.at(max(entry.step for entry in found.values()))
        swing = {arm: float(np.ptp(table.astype(float)[1])) for arm, table in values.items()}
        listed = ", ".join(f"{arm} {v:.2f}" for arm, v in swing.items())
        text = (
            f"Curves of the probability of fire over the year at {moment}. Between its highest and lowest day, "
            f"patch B: {listed}. A slider chooses the day."
        )
    data = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=COLUMNS)
    return Figure(
        "Forecast over the year",
        "Drag the day. Models with flat lines are not told it.",
        text,
        spec=_year_spec(board.arms),
        data=data,
        moment=moment,
    )


@lru_cache(maxsize=16)
def _year_spec(arms: Arms) -> dict[str, Any]:
    all_lines = Arms((Look(TRUTH, 6, 2, 6), *arms.looks))
    day = slider("day", "day of the year", 211, 1, 366, STEP)
    patch = alt.param(
        name="patch", value=PATCHES[1], bind=alt.binding_radio(options=list(PATCHES), name="patch ")
    )
    base = alt.Chart().transform_filter("datum.patch == patch")
    y = up("p", "probability of fire", Span(0.0, 1.0))
    x = across(
        "day",
        "day of the year",
        YEAR,
        values=list(MONTHS[::2]),
        labelExpr=f"{list(NAMES)!r}[indexof({list(MONTHS)}, datum.value)]",
    )
    lines = base.mark_line(strokeWidth=2).encode(
        x=x, y=y, color=arm_colour(all_lines), strokeDash=arm_dash(all_lines), opacity=faded()
    )
    here = base.transform_filter("datum.day == day")
    rule = (
        base.transform_aggregate(rows="count()")
        .transform_calculate(day="day")
        .mark_rule(color=MUTED, strokeDash=[3, 3])
        .encode(x=x)
    )
    dots = here.mark_point(filled=True, size=50).encode(
        x=x,
        y=y,
        color=arm_colour(all_lines),
        opacity=faded(),
        tooltip=[alt.Tooltip("arm:N"), alt.Tooltip("p:Q", title="probability", format=".2f")],
    )
    values = (
        here.transform_filter(f"datum.arm != '{TRUTH}'")
        .mark_text(align="left", dx=7, fontSize=10)
        .encode(
            x=x,
            y=y,
            text=alt.Text("p:Q", format=".0%"),
            color=arm_colour(all_lines),
            opacity=faded(),
        )
    )
    told = (
        here.transform_filter(f"datum.arm == '{TRUTH}'")
        .transform_calculate(text=f"{day_name('datum.day')} + ': truth ' + format(datum.p, '.0%')")
        .mark_text(align="left", baseline="top", fontSize=11, fontWeight="bold", color=MUTED)
        .encode(x=alt.value(6), y=alt.value(2), text="text:N")
    )
    chart = alt.layer(lines, rule, dots, values, told).properties(height=230)
    return specification(chart.add_params(day, patch, focus_param()))
