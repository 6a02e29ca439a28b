"""Curves: a value against any quantity (seconds, a learning rate, …), one line per arm from a tidy table."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.figures.encodings import arm_colour, focus_param
from normviz.figures.figure import Figure
from normviz.figures.layers import band, dots, line
from normviz.figures.scales import Span, across
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
    arms: Arms,
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
        arms: the arms and their looks; rows of others are left out.
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
    if data.empty:
        text = f"Line chart of {y} against {x}; nothing is measured yet."
    else:
        last = {
            arm: (at, mean) for arm, at, mean in zip(*(data[c].tolist() for c in COLUMNS[:3]), strict=True)
        }
        ends = ", ".join(f"{arm} {mean:.3g} at {at:.3g}" for arm, (at, mean) in last.items())
        text = f"Line chart of {y} against {x}. Last points: {ends}."
    width = Span.of(data["x"], log=log_x)
    height = Span.of(data["low"], data["high"], log=log_y)
    spec = _curve_spec(arms, x, y, width, height, points)
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide)


@lru_cache(maxsize=256)
def _curve_spec(arms: Arms, x: str, y: str, width: Span, height: Span, points: bool) -> dict[str, Any]:
    base = alt.Chart().encode(x=across("x", x, width), color=arm_colour(arms))
    told = alt.Tooltip("x:Q", title=x, format=".3~g")
    chart = alt.layer(
        band(base, y, height),
        line(base, y, height, arms),
        dots(base, y, height, told, size=36, seen=points),
    )
    return specification(chart.add_params(focus_param()))
