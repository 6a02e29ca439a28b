"""Measured against theory: a value by position, a solid line per arm, beside it what a theory says of the same arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.figures.figure import Figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import colours
from normviz.figures.vega import specification
from normviz.frame import Log

__all__ = ["theory_figure"]

MEASURED = "measured"
COLUMNS = ["arm", "kind", "x", "mean", "low", "high"]
POWER_LABEL = "replace(format(datum.value, abs(log(datum.value)) > 3.5 * LN10 ? '.0e' : '~g'), '+', '')"
"""1e7, 1000, 0.001, 1e-5: a log axis does not keep to a format."""
BELOW = 34
"""Pixels of the legend that tells measured from theory."""
FEW = 24
"""Most positions that are marked by a dot; more would run together and hide the lines below."""


def theory_figure(
    log: Log,
    name: str,
    theory: Mapping[str, Sequence[float]],
    *,
    title: str,
    x: str,
    y: str,
    look_for: str,
    arms: Sequence[str],
    positions: Sequence[float] | None = None,
    log_scale: bool = True,
    limits: tuple[float, float] | None = None,
    span: tuple[float, float] | None = None,
    step: int | None = None,
    unit: str = "step",
    theory_label: str = "theory",
    wide: bool = False,
) -> Figure:
    """A solid line with dots per arm (mean over seeds, band: their range), and a dotted one of its theory.

    Args:
        log: frames to draw.
        name: an array value with one axis.
        theory: for some arms, what is expected at each position.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        x: horizontal axis title.
        y: vertical axis title.
        look_for: see ``title``.
        arms: arms in order.
        positions: horizontal coordinate of each entry (default 0, 1, 2, …); entries beyond are left out.
        log_scale: logarithmic vertical axis; values that are not positive are left out.
        limits: ends of the vertical axis; what lies beyond is left out.
        span: ends of the horizontal axis (default: as far as the data go).
        step: moment to show; None: the newest.
        unit: what a step is called in the title.
        theory_label: what the dotted line is called.
        wide: see ``title``.
    """
    entries = [entry for entry in log.arrays(name, step) if entry.arm in arms]
    most = None if positions is None else len(positions)  # a live log may have grown since they were read
    curves: list[tuple[str, str, NDArray[np.float64]]] = []  # arm, kind, values (seeds, positions)
    for arm in arms:
        values = [entry.value.ravel()[:most].astype(float) for entry in entries if entry.arm == arm]
        if values:
            length = max(len(v) for v in values)
            stack = np.stack([v for v in values if len(v) == length])  # (seeds, positions)
            curves.append((arm, MEASURED, stack))
            if arm in theory:
                curves.append((arm, theory_label, np.asarray(theory[arm], dtype=float)[None, :length]))
    data = _table(curves, positions)
    least = limits[0] if limits else -math.inf
    keep = np.isfinite(data["mean"]) & (data["high"] <= (limits[1] if limits else math.inf))
    keep &= data["low"] > max(least, 0.0) if log_scale else data["low"] >= least
    data = data[keep]
    shown = max((entry.step for entry in entries), default=None)
    if shown is None:
        text = f"Line chart of {y} against {x}; nothing is measured yet."
    else:
        ranges = ", ".join(_ends(data))
        text = f"Line chart of {y} against {x} at {unit} {shown}. From first to last: {ranges}."
        title = f"{title} ({unit} {shown})"
    dotted = data["x"].nunique() <= FEW
    spec = _theory_spec(tuple(arms), theory_label if theory else "", x, y, log_scale, limits, span, dotted)
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide)


def _table(
    curves: Sequence[tuple[str, str, NDArray[np.float64]]], positions: Sequence[float] | None
) -> pd.DataFrame:
    """One row per curve and position: mean and range over the first axis."""
    if not curves:
        return pd.DataFrame({name: [] for name in COLUMNS})
    lengths = [stack.shape[1] for _, _, stack in curves]
    at = np.arange(max(lengths)) if positions is None else np.asarray(positions, dtype=float)
    return pd.DataFrame(
        {
            "arm": np.repeat([arm for arm, _, _ in curves], lengths),
            "kind": np.repeat([kind for _, kind, _ in curves], lengths),
            "x": np.concatenate([at[:length] for length in lengths]),
            "mean": np.concatenate([stack.mean(0) for _, _, stack in curves]),
            "low": np.concatenate([stack.min(0) for _, _, stack in curves]),
            "high": np.concatenate([stack.max(0) for _, _, stack in curves]),
        }
    )


def _ends(data: pd.DataFrame) -> list[str]:
    """First and last value of each curve, in words."""
    ends: dict[tuple[str, str], list[float]] = {}
    for arm, kind, mean in zip(data["arm"], data["kind"], data["mean"], strict=True):
        ends.setdefault((arm, kind), [mean, mean])[1] = mean
    return [f"{arm} {kind} {first:.3g} to {last:.3g}" for (arm, kind), (first, last) in ends.items()]


def _powers(low: float, high: float) -> list[float]:
    """At most seven powers of ten inside the limits: a log axis of many decades draws too many lines by itself."""
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    return [10.0**k for k in range(first, last + 1, max(1, -(-(last - first) // 6)))]


@lru_cache(maxsize=256)
def _theory_spec(
    arms: tuple[str, ...],
    label: str,
    x: str,
    y: str,
    log_scale: bool,
    limits: tuple[float, float] | None,
    span: tuple[float, float] | None,
    dotted: bool,
) -> dict[str, Any]:
    legend = legend_above(arms)
    colour = alt.Color(
        "arm:N", title=None, scale=alt.Scale(domain=list(arms), range=colours(arms)), legend=legend
    )
    dash = alt.StrokeDash(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=[MEASURED, label], range=[[1, 0], [2, 4]]),
        legend=alt.Legend(orient="bottom", symbolType="stroke", symbolSize=240, symbolOpacity=1)
        if label
        else None,
    )
    ends = list(limits) if limits else alt.Undefined
    scale = alt.Scale(type="log", domain=ends) if log_scale else alt.Scale(zero=False, domain=ends)
    ticks = _powers(*limits) if limits and log_scale else alt.Undefined
    axis = (
        alt.Axis(labelExpr=POWER_LABEL, values=ticks)
        if log_scale
        else alt.Axis(format="~g", tickCount=6, values=ticks)
    )
    across = alt.Scale(domain=list(span) if span else alt.Undefined, nice=False, zero=False)
    base = alt.Chart().encode(
        x=alt.X("x:Q", title=x, scale=across, axis=alt.Axis(tickMinStep=1)), color=colour
    )
    measured = base.transform_filter(f"datum.kind == '{MEASURED}'")
    band = measured.mark_area(opacity=0.18).encode(
        y=alt.Y("low:Q", title=y, scale=scale, axis=axis), y2="high:Q"
    )
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("mean:Q", title=y, scale=scale, axis=axis), strokeDash=dash
    )
    dots = measured.mark_circle(size=22, opacity=1 if dotted else 0).encode(
        y=alt.Y("mean:Q", title=y, scale=scale, axis=axis),
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("x:Q", title=x),
            alt.Tooltip("mean:Q", title="mean over seeds", format=".4~g"),
            alt.Tooltip("low:Q", title="lowest seed", format=".4~g"),
            alt.Tooltip("high:Q", title="highest seed", format=".4~g"),
        ],
    )
    height = height_below(arms) + (BELOW if label else 0)
    return specification(alt.layer(band, line, dots).properties(width="container", height=height))
