"""Scatter of candidates by two scores: who is on the Pareto front, who is still alive, where known ones stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.figures.figure import Figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import colours
from normviz.figures.vega import specification

__all__ = ["Dot", "scatter_figure"]

KNOWN = "#a5703f"


@dataclass(frozen=True)
class Dot:
    """One candidate: group (colour), two coordinates, the text of its tooltip, whether it stands out."""

    group: str
    x: float
    y: float
    text: str = ""
    bold: bool = False


def scatter_figure(
    dots: Sequence[Dot],
    *,
    groups: Sequence[str],
    known: Mapping[str, tuple[float, float]] | None = None,
    title: str,
    x: str,
    y: str,
    look_for: str,
    x_domain: tuple[float, float] | None = None,
    y_domain: tuple[float, float] | None = None,
    wide: bool = False,
) -> Figure:
    """Dots by group; bold ones are large and filled, the others small and pale; known places have a name.

    Args:
        dots: the candidates.
        groups: all groups in order, which fixes the colours.
        known: named places to compare with.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        x: horizontal axis title.
        y: vertical axis title.
        look_for: see ``title``.
        x_domain: ends of the axis (default: as far as the dots go).
        y_domain: likewise.
        wide: see ``title``.
    """
    rows = [(d.group, d.x, d.y, d.text, "front" if d.bold else "rest") for d in dots]
    places = ("known above", "known below")
    rows += [(name, a, b, name, places[i % 2]) for i, (name, (a, b)) in enumerate((known or {}).items())]
    data = pd.DataFrame(rows, columns=["group", "x", "y", "text", "part"])
    present = [g for g in groups if any(d.group == g for d in dots)]
    text = (
        f"Scatter chart of {y} against {x}: "
        + ", ".join(f"{g} {sum(d.group == g for d in dots)} dots" for g in present)
        + "."
        if dots
        else f"Scatter chart of {y} against {x}; nothing is measured yet."
    )
    spec = _scatter_spec(tuple(groups), x, y, x_domain, y_domain)
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide)


@lru_cache(maxsize=64)
def _scatter_spec(
    groups: tuple[str, ...],
    x: str,
    y: str,
    x_domain: tuple[float, float] | None,
    y_domain: tuple[float, float] | None,
) -> dict[str, Any]:
    def scale(domain: tuple[float, float] | None) -> alt.Scale:
        return alt.Scale(zero=False) if domain is None else alt.Scale(domain=list(domain))

    across = alt.X("x:Q", title=x, scale=scale(x_domain), axis=alt.Axis(tickCount=6))
    up = alt.Y("y:Q", title=y, scale=scale(y_domain), axis=alt.Axis(tickCount=6))
    colour = alt.Color(
        "group:N",
        title=None,
        scale=alt.Scale(domain=list(groups), range=colours(groups)),
        legend=legend_above(groups, lines=False),
    )
    tooltip = [
        alt.Tooltip("group:N", title="from"),
        alt.Tooltip("text:N", title="layer"),
        alt.Tooltip("x:Q", title=x, format=".3g"),
        alt.Tooltip("y:Q", title=y, format=".3g"),
    ]
    dots = alt.Chart().encode(x=across, y=up, tooltip=tooltip)
    rest = (
        dots.transform_filter("datum.part == 'rest'").mark_circle(size=40, opacity=0.35).encode(color=colour)
    )
    front = (
        dots.transform_filter("datum.part == 'front'")
        .mark_circle(size=140, opacity=0.9, stroke="#888888", strokeWidth=1)
        .encode(color=colour)
    )
    known = dots.transform_filter("indexof(datum.part, 'known') == 0")
    cross = known.mark_point(shape="cross", size=110, color=KNOWN, filled=True, opacity=1)
    names = [
        dots.transform_filter(f"datum.part == 'known {place}'")
        .mark_text(dy=shift, fontWeight="bold", color=KNOWN)
        .encode(text="text:N")
        for place, shift in (("above", -13), ("below", 14))
    ]
    return specification(
        alt.layer(rest, front, cross, *names).properties(width="container", height=height_below(groups))
    )
