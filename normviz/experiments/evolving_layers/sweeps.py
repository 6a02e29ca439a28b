"""Sweeps: a scalar against the setting that was varied between arms, one line per method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.arms import Arms
from normviz.figures.encodings import IN_FOCUS, arm_colour, faded, focus_param
from normviz.figures.figure import Figure
from normviz.figures.layers import band, dots, line
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification
from normviz.frame import Log
from normviz.progress import STEPS, Progress

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
    arms: Arms,
    log_x: bool = True,
    step: int | None = None,
    wide: bool = False,
    progress: Progress = STEPS,
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
        arms: the arms and their looks; a method looks like its first arm, with the dash of its own colour.
        log_x: logarithmic axis of settings.
        step: moment to show; None: the newest.
        wide: see ``title``.
        progress: what a step counts.
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
            rows.append((method, arm, float(setting), sum(values) / len(values), min(values), max(values)))
    data = pd.DataFrame(rows, columns=["arm", "of", "x", "mean", "low", "high"])
    settings = tuple(sorted({float(setting) for _, setting in points.values()}))
    shown = max((at for at, _ in newest.values()), default=None)
    moment = "" if shown is None else progress.at(shown)
    height = Span.of(data["low"], data["high"])
    spec = _sweep_spec(_methods(points, arms), settings, x, y, log_x, height)
    text = _describe(data, x, y)
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide, moment=moment)


def _methods(points: Mapping[str, tuple[str, float]], arms: Arms) -> Arms:
    slots: dict[str, int] = {}
    for arm, (method, _) in points.items():
        slots.setdefault(method, arms[arm].colour)
    return Arms.of(slots)


def _describe(data: pd.DataFrame, x: str, y: str) -> str:
    if data.empty:
        return f"Line chart of {y} against {x}; nothing is measured yet."
    listed = ", ".join(f"{row.arm} at {row.x:g}: {row.mean:.3g}" for row in data.itertuples())
    return f"Line chart of {y} against {x}, one line per method. {listed}."


@lru_cache(maxsize=64)
def _sweep_spec(
    methods: Arms, settings: tuple[float, ...], x: str, y: str, log_x: bool, height: Span
) -> dict[str, Any]:
    pad = math.sqrt(2) if log_x else 0.0
    ends = (settings[0] / pad, settings[-1] * pad) if log_x else (settings[0], settings[-1])
    width = Span(*ends, log=log_x) if ends[0] < ends[1] else Span.of(settings, log=log_x)
    labels: dict[str, Any] = {"values": list(settings), "labelExpr": "format(datum.value, '~g')"}
    base = (
        alt.Chart()
        .transform_calculate(lit=f"{IN_FOCUS} ? 1 : 0")
        .transform_joinaggregate(any_lit="max(lit)", groupby=["arm"])
        .encode(x=across("x", x, width, **labels), color=arm_colour(methods))
    )
    any_lit, lit = "datum.any_lit > 0", "datum.lit > 0"
    told = alt.Tooltip("x:Q", title=x)
    range_of_seeds = base.mark_rule(strokeWidth=1.5).encode(
        y=up("low", y, height), y2="high:Q", opacity=faded(test=lit)
    )
    chart = alt.layer(
        band(base, y, height).encode(opacity=faded(0.16, 0.02, test=any_lit)),
        range_of_seeds,
        line(base, y, height, methods, opacity=faded(test=any_lit)),
        dots(base, y, height, told, size=45, opacity=faded(test=lit)),
    )
    return specification(chart.add_params(focus_param()))
