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

SIZE = 150
"""Side of a map in pixels."""


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
    parts = [_cells(arm, entries[arm].value) for arm in arms if arm in entries]
    columns = ["arm", "row", "column", "weight", "share"]
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    if parts:
        shown = max(e.step for e in entries.values())
        peaks = ", ".join(f"{arm} {entries[arm].value.max(1).mean():.3f}" for arm in arms if arm in entries)
        text = f"Attention maps at step {shown}. Mean over the rows of the largest weight: {peaks}."
        title = f"{title} (step {shown})"
    else:
        text = "Attention maps; nothing is measured yet."
    return Figure(title, look_for, text, spec=_maps_spec(tuple(arms)), data=data, wide=wide)


def _cells(arm: str, weights: np.ndarray) -> pd.DataFrame:
    row, column = np.indices(weights.shape)
    return pd.DataFrame(
        {
            "arm": arm,
            "row": row.ravel(),
            "column": column.ravel(),
            "weight": weights.ravel().astype(float).round(5),
            "share": (weights.ravel() * weights.shape[1]).astype(float).round(3),
        }
    )


@lru_cache(maxsize=64)
def _maps_spec(arms: tuple[str, ...]) -> dict[str, Any]:
    axis = alt.Axis(ticks=False, labels=False, grid=False, domain=False)
    chart = (
        alt.Chart()
        .mark_rect(strokeWidth=0)
        .encode(
            x=alt.X("column:O", title="token that is looked at", axis=axis, scale=alt.Scale(padding=0)),
            y=alt.Y("row:O", title="token that looks", axis=axis, scale=alt.Scale(padding=0)),
            color=alt.Color(
                "share:Q",
                title="weight over an even look",
                scale=alt.Scale(type="sqrt", scheme="viridis", domain=[0, 8], clamp=True),
                legend=alt.Legend(orient="top", gradientLength=220, titleLimit=260),
            ),
            facet=alt.Facet(
                "arm:N", sort=list(arms), title=None, columns=4, header=alt.Header(labelFontSize=12)
            ),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("row:Q", title="token that looks"),
                alt.Tooltip("column:Q", title="token that is looked at"),
                alt.Tooltip("weight:Q", format=".4f"),
            ],
        )
        .properties(width=SIZE, height=SIZE)
    )
    return specification(chart)
