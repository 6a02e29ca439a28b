"""How arms look on a chart, and how a chart fades those that are not in focus.

A chart that draws arms takes the parameter :func:`focus_param`; the page sets it (:meth:`normviz.figures.Figure.shown`)
when the reader clicks arms in its legend. The rows of its data have the column ``arm``; where a line shows a part of an
arm (``"LayerNorm, bound"``), the column ``of`` holds the arm's own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from normviz.arms import Arms
from normviz.figures.palette import colours, dashes, symbols

__all__ = ["FAINT", "IN_FOCUS", "arm_colour", "arm_dash", "arm_symbol", "faded", "focus_param"]

FAINT = 0.12
"""Opacity of what is not in focus."""

IN_FOCUS = "(length(focus) == 0 || indexof(focus, datum.arm) >= 0 || indexof(focus, datum.of) >= 0)"
"""Vega expression: the row's arm is in focus, or all are."""


def focus_param() -> alt.Parameter:
    """The list of arms in focus; empty: all."""
    return alt.param(name="focus", value=[])


def faded(opacity: float = 1.0, faint: float | None = None, *, test: str = IN_FOCUS) -> Any:
    """An opacity that drops for arms that are not in focus.

    Args:
        opacity: of arms in focus.
        faint: of the others (default: the same share of :data:`FAINT`).
        test: the expression that says that a row is in focus.
    """
    weak = round(FAINT * opacity, 3) if faint is None else faint
    return alt.when(test).then(alt.value(opacity)).otherwise(alt.value(weak))


def arm_colour(
    arms: Arms, *, field: str = "arm", beside: Mapping[str, str] | None = None, legend: Any = None
) -> alt.Color:
    """Colour by arm.

    Args:
        arms: names and looks.
        field: column that holds the name.
        beside: colours of further names that are no arms.
        legend: a legend, where the names are no arms of the page (default: none, the page has one for all charts).
    """
    more = beside or {}
    scale = alt.Scale(domain=[*arms.names, *more], range=[*colours(arms), *more.values()])
    return alt.Color(f"{field}:N", title=None, scale=scale, legend=legend)


def arm_dash(
    arms: Arms, *, field: str = "arm", beside: Mapping[str, list[int]] | None = None, legend: Any = None
) -> alt.StrokeDash:
    """Dash by arm; see :func:`arm_colour`."""
    more = beside or {}
    scale = alt.Scale(domain=[*arms.names, *more], range=[*dashes(arms), *more.values()])
    return alt.StrokeDash(f"{field}:N", title=None, scale=scale, legend=legend)


def arm_symbol(arms: Arms, *, field: str = "arm", legend: Any = None) -> alt.Shape:
    """Symbol by arm; see :func:`arm_colour`."""
    scale = alt.Scale(domain=list(arms.names), range=symbols(arms))
    return alt.Shape(f"{field}:N", title=None, scale=scale, legend=legend)
