"""Response to a dose: a scalar of each arm against the number that the arm stands for (a scale, a rate, a size)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.figures.figure import Figure
from normviz.figures.vega import specification
from normviz.frame import Log

__all__ = ["response_figure"]

COLOUR, DIVERGED = "#0a85d1", "#e0483e"
COLUMNS = ("step", "arm", "seed", "value")


def response_figure(
    log: Log,
    name: str,
    doses: Mapping[str, float],
    *,
    title: str,
    x: str,
    y: str,
    look_for: str,
    log_scale: bool = False,
    log_doses: bool = True,
    marks: Mapping[str, float] | None = None,
    step: int | None = None,
    wide: bool = False,
) -> Figure:
    """One dot per arm at its dose: the mean over seeds; the band is their range.

    Args:
        log: frames to draw.
        name: a scalar; its newest value of each seed is drawn. A cross at the foot: a seed of that arm diverged.
        doses: the horizontal coordinate of each arm.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        x: horizontal axis title.
        y: vertical axis title.
        look_for: see ``title``.
        log_scale: logarithmic vertical axis; values that are not positive are left out.
        log_doses: logarithmic horizontal axis.
        marks: doses that are marked by a line, by name.
        step: moment to show; None: the newest.
        wide: see ``title``.
    """
    table = log.scalars(name)
    newest: dict[tuple[str, int], tuple[int, float]] = {}
    for at, arm, seed, value in zip(*(table[c].tolist() for c in COLUMNS), strict=True):
        if step is None or at <= step:
            newest[arm, seed] = (at, value)
    gone = {(e.arm, e.seed) for e in log.events if e.kind == "diverged" and (step is None or e.step <= step)}
    rows: list[tuple[str, float, float, float, float, bool]] = []
    for arm, dose in doses.items():
        values = [
            value
            for (a, seed), (_, value) in newest.items()
            if a == arm and (a, seed) not in gone and math.isfinite(value) and (value > 0 or not log_scale)
        ]
        if values:
            rows.append((arm, dose, sum(values) / len(values), min(values), max(values), False))
        if any(a == arm for a, _ in gone):
            rows.append((arm, dose, math.nan, math.nan, math.nan, True))
    data = pd.DataFrame(rows, columns=["arm", "x", "mean", "low", "high", "diverged"])
    if not newest:
        text = f"Line chart of {y} against {x}; nothing is measured yet."
    else:
        shown = max(at for at, _ in newest.values())
        listed = ", ".join(
            f"{dose:.3g}: {'diverged' if bad else f'{mean:.3g}'}" for _, dose, mean, _, _, bad in rows
        )
        text = f"Line chart of {y} against {x} at step {shown}. {listed}."
        title = f"{title} (step {shown})"
    ends = (min(doses.values(), default=0.1), max(doses.values(), default=1.0))
    spec = _response_spec(x, y, log_scale, log_doses, ends, tuple((marks or {}).items()))
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide)


@lru_cache(maxsize=256)
def _response_spec(
    x: str,
    y: str,
    log_scale: bool,
    log_doses: bool,
    ends: tuple[float, float],
    marks: tuple[tuple[str, float], ...],
) -> dict[str, Any]:
    span = alt.Scale(type="log" if log_doses else "linear", domain=list(ends), nice=False, zero=False)
    scale = alt.Scale(type="log") if log_scale else alt.Scale(zero=False)
    axis = alt.Axis(format="~g" if log_scale else "~r", tickCount=6)
    trained = "!datum.diverged"
    base = (
        alt.Chart()
        .transform_filter(trained)
        .encode(
            x=alt.X("x:Q", title=x, scale=span, axis=alt.Axis(format="~g", tickCount=6)),
            color=alt.value(COLOUR),
        )
    )
    band = base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q", title=y, scale=scale, axis=axis), y2="high:Q")
    line = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=55)).encode(
        y=alt.Y("mean:Q", title=y, scale=scale, axis=axis),
        tooltip=[
            alt.Tooltip("x:Q", title=x, format=".3~g"),
            alt.Tooltip("mean:Q", title="mean over seeds", format=".4~g"),
            alt.Tooltip("low:Q", title="lowest seed", format=".4~g"),
            alt.Tooltip("high:Q", title="highest seed", format=".4~g"),
        ],
    )
    crosses = (
        alt.Chart()
        .transform_filter("datum.diverged")
        .mark_text(text="✕", fontSize=16, color=DIVERGED, tooltip="diverged", dy=-10)
        .encode(x=alt.X("x:Q", title=x, scale=span), y=alt.value("height"))
    )
    layers: list[Any] = [band, line, crosses]
    for name, dose in marks:
        at = alt.Chart().transform_aggregate(anchor="count()").encode(x=alt.X(datum=dose, scale=span))
        layers.append(at.mark_rule(color="#888888", strokeDash=[3, 3]))
        layers.append(
            at.mark_text(align="left", dx=4, dy=6, baseline="top", color="#888888").encode(
                y=alt.value(0), text=alt.value(name)
            )
        )
    return specification(alt.layer(*layers).properties(width="container", height=340))
