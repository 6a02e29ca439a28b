"""Scatter of candidates by two scores: who is on the Pareto front, who is still alive, where known ones stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.arms import Arms
from normviz.figures.encodings import arm_colour, faded, focus_param
from normviz.figures.figure import Figure
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["Dot", "scatter_figure"]

KNOWN = "#a5703f"


@dataclass(frozen=True)
class Dot:
    """One candidate: group (an arm), two coordinates, the text of its tooltip, whether it stands out."""

    group: str
    x: float
    y: float
    text: str = ""
    bold: bool = False


def scatter_figure(
    dots: Sequence[Dot],
    *,
    groups: Arms,
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
        groups: the groups (arms) and their looks.
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
    data = pd.DataFrame(rows, columns=["arm", "x", "y", "text", "part"])
    present = [g for g in groups if any(d.group == g for d in dots)]
    text = (
        f"Scatter chart of {y} against {x}: "
        + ", ".join(f"{g} {sum(d.group == g for d in dots)} dots" for g in present)
        + "."
        if dots
        else f"Scatter chart of {y} against {x}; nothing is measured yet."
    )
    width, height = (
        Span(*domain) if domain else Span.of(data[field])
        for domain, field in ((x_domain, "x"), (y_domain, "y"))
    )
    spec = _scatter_spec(groups, x, y, width, height)
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide)


@lru_cache(maxsize=64)
def _scatter_spec(groups: Arms, x: str, y: str, width: Span, height: Span) -> dict[str, Any]:
    tooltip = [
        alt.Tooltip("arm:N", title="from"),
        alt.Tooltip("text:N", title="layer"),
        alt.Tooltip("x:Q", title=x, format=".3g"),
        alt.Tooltip("y:Q", title=y, format=".3g"),
    ]
    base = alt.Chart().encode(x=across("x", x, width, grid=True), y=up("y", y, height), tooltip=tooltip)
    rest = (
        base.transform_filter("datum.part == 'rest'")
        .mark_circle(size=30)
        .encode(color=arm_colour(groups), opacity=faded(0.35))
    )
    front = (
        base.transform_filter("datum.part == 'front'")
        .mark_circle(size=100, stroke=MUTED, strokeWidth=1)
        .encode(color=arm_colour(groups), opacity=faded(0.9))
    )
    known = base.transform_filter("indexof(datum.part, 'known') == 0")
    cross = known.mark_point(shape="cross", size=90, color=KNOWN, filled=True, opacity=1)
    names = [
        base.transform_filter(f"datum.part == 'known {place}'")
        .mark_text(dy=shift, fontWeight="bold", color=KNOWN)
        .encode(text="text:N")
        for place, shift in (("above", -12), ("below", 13))
    ]
    return specification(alt.layer(rest, front, cross, *names).add_params(focus_param()))
