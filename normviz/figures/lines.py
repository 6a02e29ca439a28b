"""Lines over training steps: one per arm, seeds as a band, a cursor at the scrubbed step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.figures.figure import Figure
from normviz.figures.palette import colours, dashes
from normviz.frame import FrameLog

__all__ = ["line_figure", "seed_bands"]

MAX_POINTS = 120
"""Most points on one line: what a chart this wide can show, and what keeps a live update small."""


def seed_bands(
    table: pd.DataFrame, *, max_points: int = MAX_POINTS, by: Sequence[str] = ("arm",)
) -> pd.DataFrame:
    """Mean and range over seeds, for each line and bin of steps.

    Args:
        table: columns ``step``, ``seed``, ``value`` and those of ``by``.
        max_points: most bins; within a bin each seed's values are averaged first.
        by: columns that tell the lines apart.

    Returns:
        Columns ``step`` (the bin's first measured step), those of ``by``, ``mean``, ``low``, ``high``, ``seeds``.
        Infinite values (a diverged seed) are left out.
    """
    finite = table[np.isfinite(table["value"].to_numpy(dtype=float))]
    keys = [*by, "step"]
    if finite.empty:
        return pd.DataFrame(columns=[*keys, "mean", "low", "high", "seeds"])
    steps = finite["step"].to_numpy()
    width = max(1, -(-(int(steps.max()) + 1) // max_points))
    binned = finite.assign(bin=steps // width)
    per_seed = binned.groupby([*by, "bin", "seed"], sort=False, as_index=False).agg(
        step=("step", "min"), value=("value", "mean")
    )
    bands = per_seed.groupby([*by, "bin"], sort=False, as_index=False).agg(
        step=("step", "min"),
        mean=("value", "mean"),
        low=("value", "min"),
        high=("value", "max"),
        seeds=("seed", "nunique"),
    )
    result: pd.DataFrame = bands.drop(columns="bin")
    return result


def line_figure(
    log: FrameLog,
    series: str | Sequence[str],
    *,
    title: str,
    y: str,
    look_for: str,
    arms: Sequence[str] | None = None,
    log_scale: bool = False,
    step: int | None = None,
    zero_line: bool = False,
    wide: bool = False,
    unit: str = "",
) -> Figure:
    """A figure with one line per arm.

    Args:
        log: frames to draw.
        series: a scalar's name, or several names of which each arm has one.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        y: axis title.
        look_for: see ``title``.
        arms: arms in order (default: those of the log); fixes the colours from the first frame on.
        log_scale: logarithmic vertical axis; values that are not positive are left out.
        step: where the cursor stands; None: no cursor.
        zero_line: draw a line at zero.
        wide: see ``title``.
        unit: unit in the textual alternative.
    """
    names = [series] if isinstance(series, str) else list(series)
    present = tuple(arms) if arms is not None else tuple(log.arms)
    data = seed_bands(pd.concat([log.scalars(name) for name in names], ignore_index=True))
    data = data[data["arm"].isin(present)]
    if log_scale:
        data = data[data["low"] > 0]
    spec = dict(_line_spec(present, y, log_scale, zero_line))
    if step is not None:
        spec["params"] = [{**p, "value": step} if p["name"] == "cursor" else p for p in spec["params"]]
    return Figure(title, look_for, _describe(data, y, unit), spec=spec, data=data, wide=wide)


def _describe(data: pd.DataFrame, y: str, unit: str) -> str:
    if data.empty:
        return f"Line chart of {y} over training steps; nothing is measured yet."
    newest = data.loc[data.groupby("arm", sort=False)["step"].idxmax()]
    values = ", ".join(f"{row.arm} {row.mean:.3g}{unit}" for row in newest.itertuples())
    return f"Line chart of {y} over training steps. Newest values: {values}."


@lru_cache(maxsize=256)
def _line_spec(arms: tuple[str, ...], y: str, log_scale: bool, zero_line: bool) -> Mapping[str, Any]:
    colour = alt.Color(
        "arm:N",
        title=None,
        scale=alt.Scale(domain=list(arms), range=colours(arms)),
        legend=alt.Legend(orient="top", symbolStrokeWidth=3, columns=3, labelLimit=220),
    )
    dash = alt.StrokeDash("arm:N", scale=alt.Scale(domain=list(arms), range=dashes(arms)), legend=None)
    x = alt.X("step:Q", title="training step", axis=alt.Axis(tickMinStep=1, format="d"))
    scale = alt.Scale(type="log") if log_scale else alt.Scale(zero=False)
    axis = alt.Axis(format="~g", tickCount=6)
    pick = alt.selection_point(name="pick", fields=["arm"], bind="legend")
    hover = alt.selection_point(
        name="hover", fields=["step"], nearest=True, on="pointermove", clear="pointerout", empty=False
    )
    cursor = alt.param(name="cursor", value=-1)
    shown = alt.when(pick)
    base = alt.Chart().encode(x=x, color=colour)
    band = base.mark_area(opacity=0.18).encode(
        y=alt.Y("low:Q", title=y, scale=scale, axis=axis),
        y2="high:Q",
        opacity=shown.then(alt.value(0.18)).otherwise(alt.value(0.03)),
    )
    line = base.mark_line(strokeWidth=2, interpolate="linear").encode(
        y=alt.Y("mean:Q", title=y, scale=scale, axis=axis),
        strokeDash=dash,
        opacity=shown.then(alt.value(1.0)).otherwise(alt.value(0.12)),
    )
    points = base.mark_circle(size=45).encode(
        y=alt.Y("mean:Q", scale=scale),
        opacity=alt.when(hover).then(alt.value(1.0)).otherwise(alt.value(0.0)),
        tooltip=[
            alt.Tooltip("arm:N", title="arm"),
            alt.Tooltip("step:Q", title="step", format="d"),
            alt.Tooltip("mean:Q", title="mean over seeds", format=".4~g"),
            alt.Tooltip("low:Q", title="lowest seed", format=".4~g"),
            alt.Tooltip("high:Q", title="highest seed", format=".4~g"),
        ],
    )
    rule = (
        alt.Chart()
        .mark_rule(strokeWidth=1.5, color="#888888")
        .transform_filter("cursor >= 0")
        .transform_aggregate(anchor="min(step)")
        .transform_calculate(at="cursor")
        .encode(x=alt.X("at:Q"))
    )
    layers: list[alt.Chart] = [band, line, points.add_params(hover), rule]
    if zero_line:
        zero = alt.Chart().mark_rule(color="#888888", strokeDash=[2, 2]).encode(y=alt.datum(0))
        layers.insert(0, zero)
    chart = alt.layer(*layers).properties(width="container", height=270).add_params(pick, cursor)
    spec: dict[str, Any] = chart.to_dict(validate=True)
    spec.pop("config", None)
    spec.pop("$schema", None)
    return spec
