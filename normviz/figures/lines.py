"""Lines over training steps: one per arm, seeds as a band, a cursor at the scrubbed step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.figures.figure import Figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import colours, dashes
from normviz.figures.vega import specification
from normviz.frame import Log

__all__ = ["line_figure", "seed_bands"]

MAX_POINTS = 120
"""Most points on one line: what a chart this wide can show, and what keeps a live update small."""

LOG_LABELS = (
    "indexof(log(domain('y')[1] / domain('y')[0]) < 5 ? '125' : '1', substring(format(datum.value, '.0e'), 0, 1)) < 0"
    " ? '' : format(datum.value, '~g')"
)
"""Labels of a logarithmic axis: 1, 2 and 5 of each decade up to two decades, else powers of ten. What fits by chance
(10, 2, 0.3, 0.1) would be hard to read."""


def seed_bands(table: pd.DataFrame, *, max_points: int = MAX_POINTS) -> pd.DataFrame:
    """Mean and range over seeds, for each arm and bin of steps.

    Args:
        table: columns ``step``, ``arm``, ``seed``, ``value``.
        max_points: most bins; within a bin each seed's values are averaged first.

    Returns:
        Columns ``arm``, ``step`` (the bin's first step), ``mean``, ``low``, ``high``, ``seeds``, arms one after the
        other. Infinite values (a diverged seed) are left out.
    """
    value = table["value"].to_numpy(dtype=float)
    keep = np.isfinite(value)
    value, steps = value[keep], table["step"].to_numpy()[keep]
    arm_of, arms = pd.factorize(table["arm"].array[keep])
    seed_of, seeds = pd.factorize(table["seed"].to_numpy()[keep])
    width = max(1, -(-(int(steps.max(initial=0)) + 1) // max_points))
    bins = int(steps.max(initial=0)) // width + 1
    cell = (arm_of * bins + steps // width) * len(seeds) + seed_of
    shape = (len(arms), bins, len(seeds))
    count = np.bincount(cell, minlength=math.prod(shape)).reshape(shape)
    total = np.bincount(cell, value, minlength=math.prod(shape)).reshape(shape)
    at_arm, at_bin = np.nonzero(count.any(axis=2))
    measured = count[at_arm, at_bin] > 0  # (points, seeds)
    per_seed = total[at_arm, at_bin] / np.maximum(count[at_arm, at_bin], 1)
    n = measured.sum(axis=1)
    return pd.DataFrame(
        {
            "arm": np.asarray(arms, dtype=object)[at_arm],
            "step": at_bin * width,
            "mean": np.where(measured, per_seed, 0.0).sum(axis=1) / np.maximum(n, 1),
            "low": np.where(measured, per_seed, np.inf).min(axis=1, initial=np.inf),
            "high": np.where(measured, per_seed, -np.inf).max(axis=1, initial=-np.inf),
            "seeds": n,
        }
    )


def line_figure(
    log: Log,
    series: str | Sequence[str] | Mapping[str, str],
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
    last: int = 0,
    ceiling: float = math.inf,
    x: str = "training step",
) -> Figure:
    """A figure with one line per arm.

    Args:
        log: frames to draw.
        series: a scalar's name, or several names of which each arm has one, or a mapping from names to what is
            appended to the arm's (``{"gap": "", "bound": ", bound"}``) where an arm has several.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        y: axis title.
        look_for: see ``title``.
        arms: all arms of the experiment in order (default: those of the log), which fixes the colours; those that
            have this quantity are in the legend.
        log_scale: logarithmic vertical axis; values that are not positive are left out.
        step: where the cursor stands; None: no cursor.
        zero_line: draw a line at zero.
        wide: see ``title``.
        unit: unit in the textual alternative.
        last: last step of the run, so that the axis does not move while it grows; 0: as far as the data go.
        ceiling: means above it are left out, so that an arm that explodes does not flatten the others.
        x: horizontal axis title, where a step is no training step.
    """
    names = [series] if isinstance(series, str) else list(series)
    present = tuple(arms) if arms is not None else tuple(log.arms)
    bands = [seed_bands(log.scalars(name)) for name in names]
    if isinstance(series, Mapping):
        bands = [band.assign(arm=band["arm"] + end) for band, end in zip(bands, series.values(), strict=True)]
        present = tuple(arm + end for arm in present for end in series.values())
    data = bands[0] if len(bands) == 1 else pd.concat(bands, ignore_index=True)
    data = data[data["arm"].isin(present)]
    if log_scale:
        data = data[data["low"] > 0]
    if math.isfinite(ceiling):
        data = data[data["mean"] <= ceiling]
    measured = set(data["arm"])
    spec = dict(
        _line_spec(present, tuple(a for a in present if a in measured), x, y, log_scale, zero_line, last)
    )
    if step is not None:
        spec["params"] = [{**p, "value": step} if p["name"] == "cursor" else p for p in spec["params"]]
    return Figure(title, look_for, _describe(data, y, unit), spec=spec, data=data, wide=wide)


def _describe(data: pd.DataFrame, y: str, unit: str) -> str:
    if data.empty:
        return f"Line chart of {y} over training steps; nothing is measured yet."
    newest = data.drop_duplicates("arm", keep="last")
    values = ", ".join(f"{row.arm} {row.mean:.3g}{unit}" for row in newest.itertuples())
    return f"Line chart of {y} over training steps. Newest values: {values}."


@lru_cache(maxsize=256)
def _line_spec(
    palette: tuple[str, ...],
    arms: tuple[str, ...],
    across: str,
    y: str,
    log_scale: bool,
    zero_line: bool,
    last: int,
) -> Mapping[str, Any]:
    """The specification with a legend of ``arms``, coloured as among all arms of ``palette``."""
    at = [palette.index(arm) for arm in arms]
    range_of = [colours(palette)[i] for i in at]
    dash_of = [dashes(palette)[i] for i in at]
    colour = alt.Color(
        "arm:N",
        title=None,
        scale=alt.Scale(domain=list(arms), range=range_of),
        legend=legend_above(arms),
    )
    dash = alt.StrokeDash("arm:N", title=None, scale=alt.Scale(domain=list(arms), range=dash_of))
    span = alt.Scale(domain=[0, last], nice=False) if last else alt.Scale(nice=False)
    x = alt.X("step:Q", title=across, scale=span, axis=alt.Axis(tickMinStep=1, format="d"))
    scale = alt.Scale(type="log") if log_scale else alt.Scale(zero=False)
    axis = alt.Axis(labelExpr=LOG_LABELS) if log_scale else alt.Axis(format="~r", tickCount=6)
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
    chart = alt.layer(*layers).properties(width="container", height=height_below(arms))
    return specification(chart.add_params(pick, cursor))
