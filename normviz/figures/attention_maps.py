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
from normviz.frame import FrameLog

__all__ = ["attention_maps_figure"]

GAP = 0.06
"""Space between two maps, as a share of a map's width."""


def attention_maps_figure(
    log: FrameLog,
    name: str,
    *,
    title: str,
    look_for: str,
    arms: Sequence[str],
    step: int | None = None,
    wide: bool = True,
) -> Figure:
    """A square of colour per arm; a cell's colour is its weight over that of an even look at all tokens.

    Args:
        log: frames to draw; the first seed that has maps is shown.
        name: an array value with two axes, rows summing to one.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        look_for: see ``title``.
        arms: arms in order.
        step: moment to show; None: the newest.
        wide: see ``title``.
    """
    entries = {e.arm: e for e in reversed(log.arrays(name, step)) if e.arm in arms}
    parts = [_cells(i, arm, entries[arm].value) for i, arm in enumerate(arms) if arm in entries]
    columns = ["arm", "row", "column", "left", "right", "top", "bottom", "weight", "share"]
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    if parts:
        shown = max(e.step for e in entries.values())
        peaks = ", ".join(f"{arm} {entries[arm].value.max(1).mean():.3f}" for arm in arms if arm in entries)
        text = f"Attention maps at step {shown}. Mean over the rows of the largest weight: {peaks}."
        title = f"{title} (step {shown})"
    else:
        text = "Attention maps; nothing is measured yet."
    return Figure(title, look_for, text, spec=_maps_spec(tuple(arms)), data=data, wide=wide)


def _cells(index: int, arm: str, weights: np.ndarray) -> pd.DataFrame:
    row, column = (a.ravel() for a in np.indices(weights.shape))
    rows, columns = weights.shape
    return pd.DataFrame(
        {
            "arm": arm,
            "row": row + 1,
            "column": column + 1,
            "left": (index + column * (1 - GAP) / columns).round(5),
            "right": (index + (column + 1) * (1 - GAP) / columns).round(5),
            "top": (row / rows).round(5),
            "bottom": ((row + 1) / rows).round(5),
            "weight": weights.ravel().astype(float).round(5),
            "share": (weights.ravel() * columns).astype(float).round(3),
        }
    )


@lru_cache(maxsize=64)
def _maps_spec(arms: tuple[str, ...]) -> dict[str, Any]:
    centres = [i + (1 - GAP) / 2 for i in range(len(arms))]
    labels = "[" + ", ".join(repr(arm) for arm in arms) + "][floor(datum.value)]"
    names = alt.Axis(
        values=centres, labelExpr=labels, orient="top", grid=False, ticks=False, domain=False, labelLimit=110
    )
    down = alt.Axis(labels=False, grid=False, ticks=False, domain=False)
    legend = alt.Legend(orient="bottom", gradientLength=220, titleLimit=260)
    scale = alt.Scale(type="sqrt", scheme="viridis", domain=[0, 8], clamp=True)
    chart = (
        alt.Chart()
        .mark_rect(strokeWidth=0.7)  # a stroke of the cell's own colour closes the seams
        .encode(
            x=alt.X(
                "left:Q",
                title="token that is looked at",
                scale=alt.Scale(domain=[0, max(len(arms), 1)], nice=False),
                axis=names,
            ),
            x2="right:Q",
            y=alt.Y(
                "top:Q",
                title="token that looks",
                scale=alt.Scale(domain=[1, 0], nice=False),
                axis=down,
            ),
            y2="bottom:Q",
            color=alt.Color(
                "share:Q",
                title="weight over an even look",
                scale=scale,
                legend=legend,
            ),
            stroke=alt.Stroke("share:Q", title="weight over an even look", scale=scale, legend=legend),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("row:Q", title="token that looks"),
                alt.Tooltip("column:Q", title="token that is looked at"),
                alt.Tooltip("weight:Q", format=".4f"),
            ],
        )
        .properties(width="container", height=300)
    )
    return specification(chart)
