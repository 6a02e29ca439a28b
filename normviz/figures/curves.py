"""Curves: a value against any quantity (seconds, a learning rate, …), one line per arm from a tidy table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.figures.figure import Figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import colours, dashes
from normviz.figures.vega import specification

__all__ = ["curve_figure"]

COLUMNS = ("arm", "x", "mean", "low", "high")


def curve_figure(
    data: pd.DataFrame,
    *,
    title: str,
    x: str,
    y: str,
    look_for: str,
    arms: Sequence[str],
    log_x: bool = False,
    log_y: bool = False,
    points: bool = False,
    wide: bool = False,
) -> Figure:
    """One line per arm with the range over seeds as a band.

    Args:
        data: columns ``arm, x, mean, low, high``; rows of an arm in the order of the line.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        x: horizontal axis title.
        y: vertical axis title.
        look_for: see ``title``.
        arms: all arms of the experiment in order, which fixes the colours; those in ``data`` are in the legend.
        log_x: logarithmic horizontal axis; values that are not positive are left out.
        log_y: logarithmic vertical axis; values that are not positive are left out.
        points: mark each row with a dot.
        wide: see ``title``.

    Raises:
        ValueError: a column is missing.
    """
    missing = [name for name in COLUMNS if name not in data.columns]
    if missing:
        raise ValueError(f"data must have the columns {', '.join(COLUMNS)}, it lacks {', '.join(missing)}.")
    known = set(arms)
    kept = np.array([arm in known for arm in data["arm"].tolist()], dtype=bool)
    if log_x:
        kept &= data["x"].to_numpy(dtype=float) > 0
    if log_y:
        kept &= data["low"].to_numpy(dtype=float) > 0
    data = data[kept]
    measured = set(data["arm"].tolist())
    present = tuple(arm for arm in arms if arm in measured)
    if data.empty:
        text = f"Line chart of {y} against {x}; nothing is measured yet."
    else:
        last = {
            arm: (at, mean) for arm, at, mean in zip(*(data[c].tolist() for c in COLUMNS[:3]), strict=True)
        }
        ends = ", ".join(f"{arm} {mean:.3g} at {at:.3g}" for arm, (at, mean) in last.items())
        text = f"Line chart of {y} against {x}. Last points: {ends}."
    spec = _curve_spec(tuple(arms), present, x, y, log_x, log_y, points)
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide)


@lru_cache(maxsize=256)
def _curve_spec(
    palette: tuple[str, ...], arms: tuple[str, ...], x: str, y: str, log_x: bool, log_y: bool, points: bool
) -> dict[str, Any]:
    at = [palette.index(arm) for arm in arms]
    colour = alt.Color(
        "arm:N",
        title=None,
        scale=alt.Scale(domain=list(arms), range=[colours(palette)[i] for i in at]),
        legend=legend_above(arms),
    )
    dash = alt.StrokeDash(
        "arm:N", title=None, scale=alt.Scale(domain=list(arms), range=[dashes(palette)[i] for i in at])
    )
    span = alt.Scale(type="log" if log_x else "linear", nice=False)
    scale = alt.Scale(type="log", nice=False) if log_y else alt.Scale(zero=False)
    axis = alt.Axis(format="~g" if log_y else "~r", tickCount=6)
    pick = alt.selection_point(name="pick", fields=["arm"], bind="legend")
    shown = alt.when(pick)
    base = alt.Chart().encode(
        x=alt.X("x:Q", title=x, scale=span, axis=alt.Axis(format="~g" if log_x else "~r", tickCount=6)),
        color=colour,
    )
    band = base.mark_area(opacity=0.18).encode(
        y=alt.Y("low:Q", title=y, scale=scale, axis=axis),
        y2="high:Q",
        opacity=shown.then(alt.value(0.18)).otherwise(alt.value(0.03)),
    )
    marks: dict[str, Any] = {"point": alt.OverlayMarkDef(size=40)} if points else {}
    line = base.mark_line(strokeWidth=2, **marks).encode(
        y=alt.Y("mean:Q", title=y, scale=scale, axis=axis),
        strokeDash=dash,
        opacity=shown.then(alt.value(1.0)).otherwise(alt.value(0.1)),
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("x:Q", title=x, format=".3~g"),
            alt.Tooltip("mean:Q", title="mean over seeds", format=".4~g"),
            alt.Tooltip("low:Q", title="lowest seed", format=".4~g"),
            alt.Tooltip("high:Q", title="highest seed", format=".4~g"),
        ],
    )
    layers = alt.layer(band, line).properties(width="container", height=height_below(arms))
    return specification(layers.add_params(pick))
