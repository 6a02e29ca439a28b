"""Strips: a value by position (layer, channel, …) and training step, one strip of colour per arm, side by side."""

from __future__ import annotations

from functools import lru_cache
from textwrap import wrap
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.figures.encodings import faded, focus_param
from normviz.figures.figure import Figure
from normviz.figures.legends import colour_bar
from normviz.figures.scales import Span, up
from normviz.figures.vega import specification
from normviz.frame import ArrayAt, Log
from normviz.progress import STEPS, Progress

__all__ = ["strips_figure"]

MAX_CELLS = 6000
"""Most cells of a chart: older snapshots are thinned out evenly above it."""
GAP = 0.06
"""Space between two strips, as a share of a strip's width."""
OVER, ABOVE = 0.01, 0.3
"""By how much a cell reaches over the next moment's (in widths of a strip) and over the next position's, which is drawn
later and covers it: no seam shows."""
LETTERS = 54
"""Letters that fit below all strips together; longer names have several lines."""


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
    arms: Arms | None = None,
    first: int = 1,
    step: int | None = None,
    wide: bool = True,
    progress: Progress = STEPS,
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
        arms: the arms in order (default: those of the log).
        first: position of the first entry.
        step: moment up to which is drawn; None: the newest.
        wide: see ``title``.
        progress: what a step counts.

    Raises:
        ValueError: limits that are not positive and ascending.
    """
    if not 0 < limits[0] < limits[1]:
        raise ValueError(f"limits must be positive and ascending, got {limits!r}.")
    present = tuple(log.arms) if arms is None else arms.names
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
    data = data[np.isfinite(data["value"].to_numpy(dtype=float))]
    text = _describe(history, y, value, progress)
    height = Span(first - 0.5, max([first, *data["at"].tolist()]) + 0.5)
    spec = _strips_spec(present, y, value, limits, height, progress)
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide)


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
            "right": index
            + np.repeat(np.minimum(np.minimum(ends, last) * shift + OVER, 1 - GAP), len(positions)),
            "low": at - 0.5,
            "high": at + 0.5 + ABOVE,
            "value": values.ravel(),
        }
    )


def _describe(history: dict[str, list[ArrayAt]], y: str, value: str, progress: Progress) -> str:
    newest = {arm: entries[-1] for arm, entries in history.items() if entries}
    if not newest:
        return f"Strips of colour: {value} by {y} and {progress.one}; nothing is measured yet."
    spans = ", ".join(f"{a} {e.value.min():.3g} to {e.value.max():.3g}" for a, e in newest.items())
    return f"Strips of colour, one per arm: {value} by {y} and {progress.one}. Newest ranges: {spans}."


@lru_cache(maxsize=256)
def _strips_spec(
    arms: tuple[str, ...], y: str, value: str, limits: tuple[float, float], height: Span, progress: Progress
) -> dict[str, Any]:
    centres = [i + (1 - GAP) / 2 for i in range(len(arms))]
    room = max(LETTERS // max(len(arms), 1), 6)
    labels = f"{[wrap(arm, room) for arm in arms]!r}[floor(datum.value)]"
    axis = alt.Axis(
        values=centres,
        labelExpr=labels,
        labelAngle=0,
        labelOverlap=False,
        labelLimit=150,
        grid=False,
        ticks=False,
        domain=False,
    )
    colour = alt.Color(
        "value:Q",
        title=value,
        scale=alt.Scale(
            type="log", domain=[limits[0], 1, limits[1]], range=["#0a66b8", "#f4f4f0", "#d9600a"], clamp=True
        ),
        legend=colour_bar(length=120, format="~g", values=[limits[0], 1, limits[1]]),
    )
    scale = alt.Scale(domain=[0, max(len(arms), 1)], nice=False)
    cells = (
        alt.Chart()
        .mark_rect(strokeWidth=0, clip=True)
        .encode(
            x=alt.X(
                "left:Q",
                title=f"one strip per arm, {progress.many} from left to right",
                scale=scale,
                axis=axis,
            ),
            x2="right:Q",
            y=up("low", y, height, grid=False, tickMinStep=1),
            y2="high:Q",
            color=colour,
            opacity=faded(),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("step:Q", title=progress.one, format=",d"),
                alt.Tooltip("at:Q", title=y, format="d"),
                alt.Tooltip("value:Q", title=value, format=".3g"),
            ],
        )
    )
    return specification(cells.add_params(focus_param()))
