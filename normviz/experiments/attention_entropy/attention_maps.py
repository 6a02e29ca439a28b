"""Attention maps side by side, one per arm: which token (row) looks at which (column)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.figures.encodings import faded, focus_param
from normviz.figures.figure import Figure
from normviz.figures.legends import colour_bar
from normviz.figures.palette import MUTED
from normviz.figures.vega import specification
from normviz.frame import Log
from normviz.progress import STEPS, Progress

__all__ = ["attention_maps_figure"]

GAP = 0.06
"""Space between two maps, as a share of a map's width."""
HEAD = 0.15
"""Space for a map's name above it, as a share of its height."""
OVERLAP = 0.2
"""By how much a cell reaches over the next ones, which are drawn later and cover it: no seam shows."""
ABREAST, NARROW = 4, 3
"""Most maps side by side, on a wide chart and on another; more go to a second row."""


def attention_maps_figure(
    log: Log,
    name: str,
    *,
    title: str,
    look_for: str,
    arms: Arms,
    causal: bool = False,
    step: int | None = None,
    wide: bool = True,
    progress: Progress = STEPS,
) -> Figure:
    """A square of colour per arm; a cell's colour is its weight over that of an even look at all visible tokens.

    Args:
        log: frames to draw; the first seed that has maps is shown.
        name: an array value with two axes, rows summing to one.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        look_for: see ``title``.
        arms: arms in order.
        causal: a token sees itself and those before it only.
        step: moment to show; None: the newest.
        wide: see ``title``; if not, at most :data:`NARROW` maps stand side by side.
        progress: what a step counts.
    """
    abreast = ABREAST if wide else NARROW
    entries = {e.arm: e for e in reversed(log.arrays(name, step)) if e.arm in arms}
    parts = [
        _cells(i, arm, entries[arm].value, causal, abreast) for i, arm in enumerate(arms) if arm in entries
    ]
    columns = ["arm", "row", "column", "left", "right", "top", "bottom", "weight", "share"]
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    if parts:
        peaks = ", ".join(f"{arm} {entries[arm].value.max(1).mean():.3f}" for arm in arms if arm in entries)
        moment = progress.at(max(e.step for e in entries.values()))
        text = f"Attention maps at {moment}. Mean over the rows of the largest weight: {peaks}."
    else:
        moment, text = "", "Attention maps; nothing is measured yet."
    return Figure(
        title, look_for, text, spec=_maps_spec(len(arms), abreast), data=data, wide=wide, moment=moment
    )


def _cells(index: int, arm: str, weights: np.ndarray, causal: bool, abreast: int) -> pd.DataFrame:
    row, column = (a.ravel() for a in np.indices(weights.shape))
    rows, columns = weights.shape
    across, down = index % abreast, index // abreast
    wide, high = (1 - GAP) / columns, (1 - HEAD) / rows
    visible = row + 1 if causal else columns
    return pd.DataFrame(
        {
            "arm": arm,
            "row": row + 1,
            "column": column + 1,
            "left": (across + column * wide).round(5),
            "right": np.minimum(across + (column + 1 + OVERLAP) * wide, across + 1 - GAP).round(5),
            "top": (down + HEAD + row * high).round(5),
            "bottom": np.minimum(down + HEAD + (row + 1 + OVERLAP) * high, down + 1).round(5),
            "weight": weights.ravel().astype(float).round(5),
            "share": (weights.ravel() * visible).astype(float).round(3),
        }
    )


@lru_cache(maxsize=64)
def _maps_spec(count: int, most: int) -> dict[str, Any]:
    abreast, rows = max(1, min(count, most)), max(1, -(-count // most))
    across = alt.Axis(labels=False, orient="bottom", grid=False, ticks=False, domain=False)
    down = alt.Axis(labels=False, grid=False, ticks=False, domain=False)
    legend = colour_bar()
    scale = alt.Scale(type="sqrt", scheme="viridis", domain=[0, 8], clamp=True)
    horizontal = alt.Scale(domain=[0, abreast], nice=False)
    vertical = alt.Scale(domain=[rows, 0], nice=False)
    cells = (
        alt.Chart()
        .mark_rect(strokeWidth=0, clip=True)
        .encode(
            x=alt.X("left:Q", title="token that is looked at", scale=horizontal, axis=across),
            x2="right:Q",
            y=alt.Y("top:Q", title="token that looks", scale=vertical, axis=down),
            y2="bottom:Q",
            color=alt.Color("share:Q", title="weight over an even look", scale=scale, legend=legend),
            opacity=faded(),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("row:Q", title="token that looks"),
                alt.Tooltip("column:Q", title="token that is looked at"),
                alt.Tooltip("weight:Q", format=".4f"),
            ],
        )
    )
    names = (
        alt.Chart()
        .transform_aggregate(left="min(left)", right="max(right)", top="min(top)", groupby=["arm"])
        .transform_calculate(centre="(datum.left + datum.right) / 2")
        .mark_text(dy=-5, fontSize=10, color=MUTED, limit=340 / abreast)
        .encode(
            x=alt.X("centre:Q", scale=horizontal, axis=across),
            y=alt.Y("top:Q", scale=vertical, axis=down),
            text="arm:N",
        )
    )
    chart = alt.layer(cells, names).properties(height=60 + 170 * rows)
    return specification(chart.add_params(focus_param()))
