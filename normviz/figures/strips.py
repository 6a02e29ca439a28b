"""Strips: a value by position (layer, channel, …) and training step, one strip of colour per arm, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.figures.figure import Figure
from normviz.figures.vega import specification
from normviz.frame import ArrayAt, Log

__all__ = ["strips_figure"]

MAX_CELLS = 6000
"""Most cells of a chart: older snapshots are thinned out evenly above it."""
GAP = 0.06
"""Space between two strips, as a share of a strip's width."""
OVERLAP = 0.03
"""By how much a cell reaches over the next one, so that no seam shows."""


def strips_figure(
    log: Log,
    name: str,
    *,
    last: int,
    title: str,
    y: str,
    value: str,
    look_for: str,
    limits: tuple[float, float],
    arms: Sequence[str] | None = None,
    first: int = 1,
    step: int | None = None,
    wide: bool = True,
) -> Figure:
    """One strip per arm: time from left to right, positions from bottom to top, colour by the logarithm of the value.

    Shown is the first seed. White stands for 1, orange for more, blue for less.

    Args:
        log: frames to draw.
        name: an array value with one axis, positive.
        last: last step of the run, the right edge of every strip.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        y: vertical axis title.
        value: title of the colours.
        look_for: see ``title``.
        limits: values at the two ends of the colours; what lies beyond has the colour of the end.
        arms: arms in order (default: those of the log).
        first: position of the first entry.
        step: moment up to which is drawn; None: the newest.
        wide: see ``title``.

    Raises:
        ValueError: limits that are not positive and ascending.
    """
    if not 0 < limits[0] < limits[1]:
        raise ValueError(f"limits must be positive and ascending, got {limits!r}.")
    present = tuple(arms) if arms is not None else tuple(log.arms)
    seed = min(log.seeds, default=0)
    history: dict[str, list[ArrayAt]] = {arm: [] for arm in present}
    for entry in log.array_history(name):
        if entry.arm in history and entry.seed == seed and (step is None or entry.step <= step):
            history[entry.arm].append(entry)
    budget = MAX_CELLS // max(len(present), 1)
    parts = [_strip(i, _thinned(history[arm], budget), last, first) for i, arm in enumerate(present)]
    filled = [part.assign(arm=arm) for arm, part in zip(present, parts, strict=True) if part is not None]
    columns = ["arm", "step", "at", "left", "right", "low", "high", "value"]
    data = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=columns)
    return Figure(
        title,
        look_for,
        _describe(history, y, value),
        spec=_strips_spec(present, y, value, limits),
        data=data[np.isfinite(data["value"].to_numpy(dtype=float))],
        wide=wide,
    )


def _thinned(entries: list[ArrayAt], budget: int) -> list[ArrayAt]:
    """At most so many snapshots that their entries stay within the budget, first and newest among them."""
    if not entries:
        return []
    keep = max(budget // max(len(entries[-1].value), 1), 2)
    if len(entries) <= keep:
        return entries
    return [entries[i] for i in np.linspace(0, len(entries) - 1, keep).round().astype(int)]


def _strip(index: int, entries: list[ArrayAt], last: int, first: int) -> pd.DataFrame | None:
    """Cells of one arm; each snapshot reaches to the next one, the newest as far as the one before it."""
    if not entries:
        return None
    steps = np.array([entry.step for entry in entries], dtype=float)
    ends = np.append(steps[1:], steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1))
    values = np.stack([entry.value.astype(float) for entry in entries])  # (snapshots, positions)
    positions = np.arange(first, first + values.shape[1])
    shift = (1 - GAP) / max(last, 1)
    at = np.tile(positions, len(steps))
    return pd.DataFrame(
        {
            "step": np.repeat(steps, len(positions)),
            "at": at,
            "left": index + np.repeat(np.minimum(steps, last) * shift, len(positions)),
            "right": index + np.repeat(np.minimum(ends, last) * shift, len(positions)) + OVERLAP / 10,
            "low": at - 0.5,
            "high": at + 0.5 + OVERLAP,
            "value": values.ravel(),
        }
    )


def _describe(history: dict[str, list[ArrayAt]], y: str, value: str) -> str:
    newest = {arm: entries[-1] for arm, entries in history.items() if entries}
    if not newest:
        return f"Strips of colour: {value} by {y} and training step; nothing is measured yet."
    spans = ", ".join(f"{a} {e.value.min():.3g} to {e.value.max():.3g}" for a, e in newest.items())
    return f"Strips of colour, one per arm: {value} by {y} and training step. Newest ranges: {spans}."


@lru_cache(maxsize=256)
def _strips_spec(arms: tuple[str, ...], y: str, value: str, limits: tuple[float, float]) -> dict[str, Any]:
    centres = [i + (1 - GAP) / 2 for i in range(len(arms))]
    labels = "[" + ", ".join(repr(arm) for arm in arms) + "][floor(datum.value)]"
    axis = alt.Axis(
        values=centres, labelExpr=labels, grid=False, ticks=False, domain=False, labelLimit=150, labelAngle=0
    )
    colour = alt.Color(
        "value:Q",
        title=value,
        scale=alt.Scale(
            type="log", domain=[limits[0], 1, limits[1]], range=["#0a66b8", "#f4f4f0", "#d9600a"], clamp=True
        ),
        legend=alt.Legend(orient="top", gradientLength=220, format="~g", titleLimit=260),
    )
    scale = alt.Scale(domain=[0, max(len(arms), 1)], nice=False)
    cells = (
        alt.Chart()
        .mark_rect(strokeWidth=0)
        .encode(
            x=alt.X("left:Q", title="training step, one strip per arm", scale=scale, axis=axis),
            x2="right:Q",
            y=alt.Y(
                "low:Q",
                title=y,
                scale=alt.Scale(zero=False, nice=False),
                axis=alt.Axis(grid=False, tickMinStep=1),
            ),
            y2="high:Q",
            color=colour,
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("step:Q", title="step", format="d"),
                alt.Tooltip("at:Q", title=y, format="d"),
                alt.Tooltip("value:Q", title=value, format=".3g"),
            ],
        )
    )
    return specification(cells.properties(width="container", height=340))
