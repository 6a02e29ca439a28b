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

from normviz.arms import Arms
from normviz.figures.encodings import arm_colour, focus_param
from normviz.figures.figure import Figure
from normviz.figures.layers import FEW, band, dots, line
from normviz.figures.legends import height_below, legend_above
from normviz.figures.scales import Span, across
from normviz.figures.vega import specification
from normviz.frame import Log
from normviz.progress import STEPS, Progress

__all__ = ["theory_figure"]

MEASURED = "measured"
COLUMNS = ["arm", "kind", "x", "mean", "low", "high"]


def theory_figure(
    log: Log,
    name: str,
    theory: Mapping[str, Sequence[float]],
    *,
    title: str,
    x: str,
    y: str,
    look_for: str,
    arms: Arms,
    positions: Sequence[float] | None = None,
    log_scale: bool = True,
    limits: tuple[float, float] | None = None,
    span: tuple[float, float] | None = None,
    step: int | None = None,
    theory_label: str = "theory",
    wide: bool = False,
    progress: Progress = STEPS,
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
        arms: the arms and their looks.
        positions: horizontal coordinate of each entry (default 0, 1, 2, …); entries beyond are left out.
        log_scale: logarithmic vertical axis; values that are not positive are left out.
        limits: ends of the vertical axis; what lies beyond is left out.
        span: ends of the horizontal axis (default: as far as the data go).
        step: moment to show; None: the newest.
        theory_label: what the dotted line is called.
        wide: see ``title``.
        progress: what a step counts.
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
        moment, text = "", f"Line chart of {y} against {x}; nothing is measured yet."
    else:
        moment = progress.at(shown)
        text = f"Line chart of {y} against {x} at {moment}. From first to last: {', '.join(_ends(data))}."
    width = Span(*span) if span and span[0] < span[1] else Span.exactly(data["x"])
    height = Span(*limits, log=log_scale) if limits else Span.of(data["low"], data["high"], log=log_scale)
    dotted = data["x"].nunique() <= FEW
    spec = _theory_spec(arms, theory_label if theory else "", x, y, width, height, dotted)
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide, moment=moment)


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


@lru_cache(maxsize=256)
def _theory_spec(
    arms: Arms, label: str, x: str, y: str, width: Span, height: Span, dotted: bool
) -> dict[str, Any]:
    kinds = [MEASURED, label] if label else []
    dash = alt.StrokeDash(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=[MEASURED, label], range=[[1, 0], [2, 4]]),
        legend=legend_above(kinds) if kinds else None,
    )
    base = alt.Chart().encode(x=across("x", x, width, tickMinStep=1), color=arm_colour(arms))
    measured = base.transform_filter(f"datum.kind == '{MEASURED}'")
    told = alt.Tooltip("x:Q", title=x)
    chart = alt.layer(
        band(measured, y, height),
        line(base, y, height, None, strokeDash=dash),
        dots(measured, y, height, told, size=22, seen=dotted),
    )
    return specification(chart.properties(height=height_below(kinds)).add_params(focus_param()))
