"""Sweeps: a scalar against the setting that was varied between arms, one line per method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.figures.figure import Figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import colours, dashes
from normviz.figures.vega import specification
from normviz.frame import Log

__all__ = ["sweep_figure"]

COLUMNS = ("step", "arm", "seed", "value")


def sweep_figure(
    log: Log,
    name: str,
    points: Mapping[str, tuple[str, float]],
    *,
    title: str,
    x: str,
    y: str,
    look_for: str,
    log_x: bool = True,
    step: int | None = None,
    wide: bool = False,
) -> Figure:
    """One line per method with a dot for every arm: the mean over seeds; the band is their range.

    Args:
        log: frames to draw.
        name: a scalar; the newest value of each arm and seed counts.
        points: from an arm to its method (the line) and its setting (the position), e.g. a batch size.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        x: title of the axis of settings.
        y: vertical axis title.
        look_for: see ``title``.
        log_x: logarithmic axis of settings.
        step: moment to show; None: the newest.
        wide: see ``title``.
    """
    table = log.scalars(name)
    newest = {  # later entries replace earlier ones
        (arm, seed): (at, value)
        for at, arm, seed, value in zip(*(table[c].tolist() for c in COLUMNS), strict=True)
        if arm in points and (step is None or at <= step) and math.isfinite(value)
    }
    rows = []
    for arm, (method, setting) in points.items():
        values = [value for (a, _), (_, value) in newest.items() if a == arm]
        if values:
            rows.append((method, float(setting), sum(values) / len(values), min(values), max(values)))
    data = pd.DataFrame(rows, columns=["arm", "x", "mean", "low", "high"])
    methods = tuple(dict.fromkeys(method for method, _ in points.values()))
    settings = tuple(sorted({float(setting) for _, setting in points.values()}))
    shown = max((at for at, _ in newest.values()), default=None)
    when = "" if shown is None else f" (step {shown})"
    spec = _sweep_spec(methods, settings, x, y, log_x)
    return Figure(title + when, look_for, _describe(data, x, y), spec=spec, data=data, wide=wide)


def _describe(data: pd.DataFrame, x: str, y: str) -> str:
    if data.empty:
        return f"Line chart of {y} against {x}; nothing is measured yet."
    listed = ", ".join(f"{row.arm} at {row.x:g}: {row.mean:.3g}" for row in data.itertuples())
    return f"Line chart of {y} against {x}, one line per method. {listed}."


@lru_cache(maxsize=64)
def _sweep_spec(
    methods: tuple[str, ...], settings: tuple[float, ...], x: str, y: str, log_x: bool
) -> dict[str, Any]:
    colour = alt.Color(
        "arm:N",
        title=None,
        scale=alt.Scale(domain=list(methods), range=colours(methods)),
        legend=legend_above(methods),
    )
    pad = math.sqrt(2) if log_x else 0.0
    domain = [settings[0] / pad, settings[-1] * pad] if log_x else [settings[0], settings[-1]]
    scale = alt.Scale(type="log" if log_x else "linear", domain=domain, nice=False)
    across = alt.X("x:Q", title=x, scale=scale, axis=alt.Axis(values=list(settings), format="~g"))
    up = alt.Scale(zero=False, padding=12)
    axis = alt.Axis(format="~r", tickCount=6)
    base = alt.Chart().encode(x=across, color=colour)
    band = base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q", title=y, scale=up, axis=axis), y2="high:Q")
    bars = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", scale=up), y2="high:Q")
    line = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=60)).encode(
        y=alt.Y("mean:Q", title=y, scale=up, axis=axis),
        strokeDash=alt.StrokeDash(
            "arm:N", title=None, scale=alt.Scale(domain=list(methods), range=dashes(methods))
        ),
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("x:Q", title=x),
            alt.Tooltip("mean:Q", title="mean over seeds", format=".4~g"),
            alt.Tooltip("low:Q", title="lowest seed", format=".4~g"),
            alt.Tooltip("high:Q", title="highest seed", format=".4~g"),
        ],
    )
    return specification(
        alt.layer(band, bars, line).properties(width="container", height=height_below(methods))
    )
