"""Lines along the run: one per arm, seeds as a band, a cursor at the moment that is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.figures.encodings import arm_colour, focus_param
from normviz.figures.figure import Figure
from normviz.figures.layers import band, cursor_param, cursor_rule, dots, level, line
from normviz.figures.scales import Span, across
from normviz.figures.vega import specification
from normviz.frame import Log
from normviz.progress import STEPS, Progress

__all__ = ["line_figure", "run_span", "seed_bands"]

MAX_POINTS = 120
"""Most points on one line: what a chart this wide can show, and what keeps a live update small."""


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


def run_span(steps: pd.Series, last: int) -> Span:
    """The horizontal axis of a run: to its last position, or as far as the data go if that is 0."""
    return Span(0, last) if last else Span.of(steps, zero=True)


def line_figure(
    log: Log,
    series: str | Sequence[str] | Mapping[str, str],
    *,
    title: str,
    y: str,
    look_for: str,
    arms: Arms | None = None,
    log_scale: bool = False,
    step: int | None = None,
    zero_line: bool = False,
    wide: bool = False,
    unit: str = "",
    last: int = 0,
    ceiling: float = math.inf,
    progress: Progress = STEPS,
    x: str = "",
) -> Figure:
    """A figure with one line per arm.

    Args:
        log: frames to draw.
        series: a scalar's name, or several names of which each arm has one, or a mapping from names to what is
            appended to the arm's (``{"gap": "", "bound": ", bound"}``) where an arm has several.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        y: axis title.
        look_for: see ``title``.
        arms: the arms and their looks (default: those of the log).
        log_scale: logarithmic vertical axis; values that are not positive are left out.
        step: where the cursor stands; None: no cursor.
        zero_line: draw a line at zero.
        wide: see ``title``.
        unit: unit in the textual alternative.
        last: last position of the run, so that the axis does not move while it grows; 0: as far as the data go.
        ceiling: means above it are left out, so that an arm that explodes does not flatten the others.
        progress: what a step counts.
        x: horizontal axis title (default: that of ``progress``).
    """
    names = [series] if isinstance(series, str) else list(series)
    drawn = Arms.of(log.arms) if arms is None else arms
    bands = [seed_bands(log.scalars(name)) for name in names]
    if isinstance(series, Mapping):
        endings = series.values()
        bands = [
            part.assign(of=part["arm"], arm=part["arm"] + end)
            for part, end in zip(bands, endings, strict=True)
        ]
        drawn = drawn.with_endings(endings)
    data = bands[0] if len(bands) == 1 else pd.concat(bands, ignore_index=True)
    data = data[data["arm"].isin(drawn.names)]
    if log_scale:
        data = data[data["low"] > 0]
    if math.isfinite(ceiling):
        data = data[data["mean"] <= ceiling]
    height = Span.of(
        data["low"], np.minimum(data["high"], ceiling), [0.0] if zero_line else [], log=log_scale
    )
    spec = dict(
        _line_spec(drawn, x or progress.axis, y, run_span(data["step"], last), height, zero_line, progress)
    )
    if step is not None:
        spec["params"] = [{**p, "value": step} if p["name"] == "cursor" else p for p in spec["params"]]
    return Figure(title, look_for, _describe(data, y, unit, progress), spec=spec, data=data, wide=wide)


def _describe(data: pd.DataFrame, y: str, unit: str, progress: Progress) -> str:
    if data.empty:
        return f"Line chart of {y} over {progress.many}; nothing is measured yet."
    newest = data.drop_duplicates("arm", keep="last")
    values = ", ".join(f"{row.arm} {row.mean:.3g}{unit}" for row in newest.itertuples())
    return f"Line chart of {y} over {progress.many}. Newest values: {values}."


@lru_cache(maxsize=256)
def _line_spec(
    arms: Arms, x: str, y: str, width: Span, height: Span, zero_line: bool, progress: Progress
) -> Mapping[str, Any]:
    hover = alt.selection_point(
        name="hover", fields=["step"], nearest=True, on="pointermove", clear="pointerout", empty=False
    )
    base = alt.Chart().encode(x=across("step", x, width, tickMinStep=1), color=arm_colour(arms))
    told = alt.Tooltip("step:Q", title=progress.one, format=",d")
    seen = alt.when(hover).then(alt.value(1.0)).otherwise(alt.value(0.0))
    points = dots(base, y, height, told, size=45, opacity=seen).add_params(hover)
    layers: list[alt.Chart] = [band(base, y, height), line(base, y, height, arms), points, cursor_rule()]
    if zero_line:
        layers.insert(0, level(0))
    return specification(alt.layer(*layers).add_params(focus_param(), cursor_param()))
