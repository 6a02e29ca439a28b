"""Measured against theory: a value by position, a solid line per arm, beside it what a theory says of the same arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.figures.figure import Figure
from normviz.figures.palette import colours
from normviz.figures.vega import specification
from normviz.frame import FrameLog

__all__ = ["theory_figure"]

MEASURED = "measured"
COLUMNS = ["arm", "kind", "x", "mean", "low", "high"]


def theory_figure(
    log: FrameLog,
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
        positions: horizontal coordinate of each entry (default 0, 1, 2, …).
        log_scale: logarithmic vertical axis; values that are not positive are left out.
        limits: ends of the vertical axis; what lies beyond is left out.
        step: moment to show; None: the newest.
        unit: what a step is called in the title.
        theory_label: what the dotted line is called.
        wide: see ``title``.
    """
    entries = [entry for entry in log.arrays(name, step) if entry.arm in arms]
    parts = []
    for arm in arms:
        values = [entry.value.ravel().astype(float) for entry in entries if entry.arm == arm]
        if values:
            length = max(len(v) for v in values)
            stack = np.stack([v for v in values if len(v) == length])  # (seeds, positions)
            parts.append(_rows(arm, MEASURED, stack, positions))
            if arm in theory:
                curve = np.asarray(theory[arm], dtype=float)[None, :length]
                parts.append(_rows(arm, theory_label, curve, positions))
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    keep = np.isfinite(data[["mean", "low", "high"]].to_numpy(dtype=float)).all(axis=1)
    low = max(limits[0], 0.0) if limits and log_scale else (limits[0] if limits else -np.inf)
    floor = data["low"].to_numpy(dtype=float)
    keep &= floor > max(low, 0.0) if log_scale else floor >= low
    keep &= data["high"].to_numpy(dtype=float) <= (limits[1] if limits else np.inf)
    data = data[keep]
    shown = max((entry.step for entry in entries), default=None)
    if shown is None:
        text = f"Line chart of {y} against {x}; nothing is measured yet."
    else:
        ends = data.groupby(["arm", "kind"], sort=False)["mean"].agg(["first", "last"])
        ranges = ", ".join(
            f"{arm} {kind} {first:.3g} to {last:.3g}" for (arm, kind), first, last in ends.itertuples()
        )
        text = f"Line chart of {y} against {x} at {unit} {shown}. From first to last: {ranges}."
        title = f"{title} ({unit} {shown})"
    spec = _theory_spec(tuple(arms), theory_label if theory else "", x, y, log_scale, limits)
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide)


def _rows(arm: str, kind: str, stack: np.ndarray, positions: Sequence[float] | None) -> pd.DataFrame:
    length = stack.shape[1]
    at = np.arange(length) if positions is None else np.asarray(positions, dtype=float)[:length]
    return pd.DataFrame(
        {"arm": arm, "kind": kind, "x": at, "mean": stack.mean(0), "low": stack.min(0), "high": stack.max(0)}
    )


@lru_cache(maxsize=256)
def _theory_spec(
    arms: tuple[str, ...],
    label: str,
    x: str,
    y: str,
    log_scale: bool,
    limits: tuple[float, float] | None,
) -> dict[str, Any]:
    legend = alt.Legend(
        orient="top", symbolType="stroke", symbolSize=240, columns=2, labelLimit=170, symbolOpacity=1
    )
    colour = alt.Color(
        "arm:N", title=None, scale=alt.Scale(domain=list(arms), range=colours(arms)), legend=legend
    )
    dash = alt.StrokeDash(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=[MEASURED, label], range=[[1, 0], [2, 4]]),
        legend=legend if label else None,
    )
    ends = list(limits) if limits else alt.Undefined
    scale = alt.Scale(type="log", domain=ends) if log_scale else alt.Scale(zero=False, domain=ends)
    axis = alt.Axis(format="~g", tickCount=6)
    base = alt.Chart().encode(x=alt.X("x:Q", title=x, scale=alt.Scale(nice=False)), color=colour)
    band = base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q", title=y, scale=scale, axis=axis), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("mean:Q", title=y, scale=scale, axis=axis), strokeDash=dash
    )
    dots = (
        base.mark_circle(size=22, opacity=1)
        .transform_filter(f"datum.kind == '{MEASURED}'")
        .encode(
            y=alt.Y("mean:Q", title=y, scale=scale, axis=axis),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("x:Q", title=x),
                alt.Tooltip("mean:Q", title="mean over seeds", format=".4~g"),
                alt.Tooltip("low:Q", title="lowest seed", format=".4~g"),
                alt.Tooltip("high:Q", title="highest seed", format=".4~g"),
            ],
        )
    )
    return specification(alt.layer(band, line, dots).properties(width="container", height=340))
