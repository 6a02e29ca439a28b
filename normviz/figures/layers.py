"""Layers that charts share: the band over seeds, lines, dots with their texts, the cursor, a level that is marked."""

from __future__ import annotations

from typing import Any

import altair as alt

from normviz.arms import Arms
from normviz.figures.encodings import arm_dash, faded
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, up

__all__ = ["BAND", "FEW", "band", "cursor_param", "cursor_rule", "dots", "level", "line", "seed_tooltip"]

BAND = 0.18
"""Opacity of a band."""
FEW = 24
"""Most positions that are marked by a dot; more would run together and hide the lines below."""


def seed_tooltip(*first: alt.Tooltip) -> list[alt.Tooltip]:
    """The arm, what is named, and the mean over seeds with its range."""
    return [
        alt.Tooltip("arm:N", title="arm"),
        *first,
        alt.Tooltip("mean:Q", title="mean over seeds", format=".4~g"),
        alt.Tooltip("low:Q", title="lowest seed", format=".4~g"),
        alt.Tooltip("high:Q", title="highest seed", format=".4~g"),
    ]


def band(base: alt.Chart, title: str, span: Span) -> alt.Chart:
    """The range over seeds from ``low`` to ``high``; ``base`` says the horizontal position and the colour."""
    chart: alt.Chart = base.mark_area(clip=True).encode(
        y=up("low", title, span), y2="high:Q", opacity=faded(BAND, 0.02)
    )
    return chart


def line(base: alt.Chart, title: str, span: Span, arms: Arms | None, **encoding: Any) -> alt.Chart:
    """The mean over seeds; with ``arms`` dashed by arm."""
    dash = {} if arms is None else {"strokeDash": arm_dash(arms)}
    chart: alt.Chart = base.mark_line(strokeWidth=2).encode(
        y=up("mean", title, span), **{"opacity": faded(), **dash, **encoding}
    )
    return chart


def dots(
    base: alt.Chart,
    title: str,
    span: Span,
    *told: alt.Tooltip,
    size: float = 18,
    seen: bool = True,
    **encoding: Any,
) -> alt.Chart:
    """A dot at each mean, which says its numbers when pointed at; with ``seen=False`` there is only the text."""
    shared = {"opacity": faded() if seen else alt.value(0), "tooltip": seed_tooltip(*told)}
    chart: alt.Chart = base.mark_point(filled=True, size=size if seen else 40).encode(
        y=up("mean", title, span), **{**shared, **encoding}
    )
    return chart


def cursor_param(step: int = -1) -> alt.Parameter:
    """Where the cursor stands; below zero: nowhere."""
    return alt.param(name="cursor", value=step)


def cursor_rule() -> alt.Chart:
    """A vertical line at the cursor, for charts whose data have the column ``step``."""
    chart: alt.Chart = (
        alt.Chart()
        .mark_rule(strokeWidth=1.5, color=MUTED)
        .transform_filter("cursor >= 0")
        .transform_aggregate(anchor="min(step)")
        .transform_calculate(at="cursor")
        .encode(x=alt.X("at:Q"))
    )
    return chart


def level(value: float) -> alt.Chart:
    """A dashed horizontal line."""
    chart: alt.Chart = alt.Chart().mark_rule(color=MUTED, strokeDash=[2, 2]).encode(y=alt.datum(value))
    return chart
