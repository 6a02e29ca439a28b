"""Response to a dose: a scalar of each arm against the number that the arm stands for (a scale, a rate, a size)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.arms import Arms
from normviz.figures.encodings import arm_colour, faded, focus_param
from normviz.figures.figure import Figure
from normviz.figures.layers import BAND, dots
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification
from normviz.frame import Log
from normviz.progress import STEPS, Progress

__all__ = ["response_figure"]

DIVERGED = "#e0483e"
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
    arms: Arms | None = None,
    log_scale: bool = False,
    log_doses: bool = True,
    marks: Mapping[str, float] | None = None,
    step: int | None = None,
    wide: bool = False,
    progress: Progress = STEPS,
) -> Figure:
    """One dot per arm at its dose: the mean over seeds; the band is their range. A grey line joins the dots.

    Args:
        log: frames to draw.
        name: a scalar; its newest value of each seed is drawn. A cross at the foot: a seed of that arm diverged.
        doses: the horizontal coordinate of each arm.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        x: horizontal axis title.
        y: vertical axis title.
        look_for: see ``title``.
        arms: the arms and their looks (default: those that have a dose, in order).
        log_scale: logarithmic vertical axis; values that are not positive are left out.
        log_doses: logarithmic horizontal axis.
        marks: doses that are marked by a line, by name.
        step: moment to show; None: the newest.
        wide: see ``title``.
        progress: what a step counts.
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
        moment, text = "", f"Line chart of {y} against {x}; nothing is measured yet."
    else:
        moment = progress.at(max(at for at, _ in newest.values()))
        listed = ", ".join(
            f"{dose:.3g}: {'diverged' if bad else f'{mean:.3g}'}" for _, dose, mean, _, _, bad in rows
        )
        text = f"Line chart of {y} against {x} at {moment}. {listed}."
    width = Span.exactly(list(doses.values()), log=log_doses)
    height = Span.of(data["low"], data["high"], log=log_scale)
    looks = Arms.of(list(doses)) if arms is None else arms.ordered(doses)
    spec = _response_spec(looks, x, y, width, height, tuple((marks or {}).items()))
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide, moment=moment)


@lru_cache(maxsize=256)
def _response_spec(
    arms: Arms, x: str, y: str, width: Span, height: Span, marks: tuple[tuple[str, float], ...]
) -> dict[str, Any]:
    base = alt.Chart().transform_filter("!datum.diverged").encode(x=across("x", x, width))
    band = base.mark_area(opacity=BAND, color=MUTED).encode(y=up("low", y, height), y2="high:Q")
    line = base.mark_line(strokeWidth=1.5, color=MUTED).encode(y=up("mean", y, height))
    told = alt.Tooltip("x:Q", title=x, format=".3~g")
    crosses = (
        alt.Chart()
        .transform_filter("datum.diverged")
        .mark_text(text="✕", fontSize=16, color=DIVERGED, tooltip="diverged", dy=-10)
        .encode(x=across("x", x, width), y=alt.value("height"), opacity=faded())
    )
    layers: list[Any] = [
        band,
        line,
        dots(base.encode(color=arm_colour(arms)), y, height, told, size=60),
        crosses,
    ]
    for name, dose in marks:
        at = alt.Chart().transform_aggregate(anchor="count()").encode(x=alt.X(datum=dose, scale=width.scale))
        layers.append(at.mark_rule(color=MUTED, strokeDash=[3, 3]))
        layers.append(
            at.mark_text(align="left", dx=4, dy=6, baseline="top", color=MUTED).encode(
                y=alt.value(0), text=alt.value(name)
            )
        )
    return specification(alt.layer(*layers).add_params(focus_param()))
