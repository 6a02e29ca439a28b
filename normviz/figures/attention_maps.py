"""Attention maps side by side, one per arm: which token (row) looks at which (column)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.figures.figure import Figure
from normviz.figures.vega import specification
from normviz.frame import Log

__all__ = ["attention_maps_figure"]

GAP = 0.06
"""Space between two maps, as a share of a map's width."""
HEAD = 0.12
"""Space for a map's name above it, as a share of its height."""
ABREAST = 4
"""Most maps side by side; more go to a second row."""


def attention_maps_figure(
    log: Log,
    name: str,
    *,
    title: str,
    look_for: str,
    arms: Sequence[str],
    causal: bool = False,
    step: int | None = None,
    wide: bool = True,
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
        wide: see ``title``.
    """
    entries = {e.arm: e for e in reversed(log.arrays(name, step)) if e.arm in arms}
    parts = [_cells(i, arm, entries[arm].value, causal) for i, arm in enumerate(arms) if arm in entries]
    columns = ["arm", "row", "column", "left", "right", "top", "bottom", "weight", "share"]
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    if parts:
        shown = max(e.step for e in entries.values())
        peaks = ", ".join(f"{arm} {entries[arm].value.max(1).mean():.3f}" for arm in arms if arm in entries)
        text = f"Attention maps at step {shown}. Mean over the rows of the largest weight: {peaks}."
        title = f"{title} (step {shown})"
    else:
        text = "Attention maps; nothing is measured yet."
    return Figure(title, look_for, text, spec=_maps_spec(len(arms)), data=data, wide=wide)


def _cells(index: int, arm: str, weights: np.ndarray, causal: bool) -> pd.DataFrame:
    row, column = (a.ravel() for a in np.indices(weights.shape))
    rows, columns = weights.shape
    across, down = index % ABREAST, index // ABREAST
    wide, high = (1 - GAP) / columns, (1 - HEAD) / rows
    visible = row + 1 if causal else columns
    return pd.DataFrame(
        {
            "arm": arm,
            "row": row + 1,
            "column": column + 1,
            "left": (across + column * wide).round(5),
            "right": (across + (column + 1) * wide).round(5),
            "top": (down + HEAD + row * high).round(5),
            "bottom": (down + HEAD + (row + 1) * high).round(5),
            "weight": weights.ravel().astype(float).round(5),
            "share": (weights.ravel() * visible).astype(float).round(3),
        }
    )


@lru_cache(maxsize=64)
def _maps_spec(count: int) -> dict[str, Any]:
    abreast, rows = max(1, min(count, ABREAST)), max(1, -(-count // ABREAST))
    across = alt.Axis(labels=False, orient="top", grid=False, ticks=False, domain=False)
    down = alt.Axis(labels=False, grid=False, ticks=False, domain=False)
    legend = alt.Legend(orient="bottom", gradientLength=220, titleLimit=260)
    scale = alt.Scale(type="sqrt", scheme="viridis", domain=[0, 8], clamp=True)
    horizontal = alt.Scale(domain=[0, abreast], nice=False)
    vertical = alt.Scale(domain=[rows, 0], nice=False)
    cells = (
        alt.Chart()
        .mark_rect(strokeWidth=0.7)  # a stroke of the cell's own colour closes the seams
        .encode(
            x=alt.X("left:Q", title="token that is looked at", scale=horizontal, axis=across),
            x2="right:Q",
            y=alt.Y("top:Q", title="token that looks", scale=vertical, axis=down),
            y2="bottom:Q",
            color=alt.Color("share:Q", title="weight over an even look", scale=scale, legend=legend),
            stroke=alt.Stroke("share:Q", title="weight over an even look", scale=scale, legend=legend),
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
        .mark_text(dy=-8, fontSize=11, color="#888888", limit=150)
        .encode(
            x=alt.X("centre:Q", scale=horizontal, axis=across),
            y=alt.Y("top:Q", scale=vertical, axis=down),
            text="arm:N",
        )
    )
    return specification(alt.layer(cells, names).properties(width="container", height=60 + 240 * rows))
