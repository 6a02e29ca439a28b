"""Maps by question: one strip per policy, its questions from left to right, shares as colour."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from textwrap import wrap
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.figures import Board, Figure
from normviz.figures.encodings import faded, focus_param
from normviz.figures.legends import colour_bar
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["query_map_figure"]

GAP = 0.08
"""Space between two strips, as a share of a strip's width."""
LETTERS = 50
"""Letters that fit below all strips together."""
COLUMNS = ["arm", "query", "row", "left", "right", "low", "high", "share"]


def query_map_figure(
    board: Board,
    name: str,
    *,
    rows: Sequence[str],
    title: str,
    y: str,
    value: str,
    look_for: str,
    shown: Sequence[str] | None = None,
    first: int = 1,
) -> Figure:
    """An array [questions, rows] of each arm at the moment shown, first seed.

    Args:
        board: log, arms and moment.
        name: of the array.
        rows: what the rows are, from the top.
        title: as in :class:`Figure`; also ``look_for``.
        y: vertical axis title.
        value: title of the colours.
        look_for: see ``title``.
        shown: labels of the axis, where ``rows`` are too long; None: ``rows``.
        first: number of the first question.
    """
    entries = {entry.arm: entry for entry in board.log.arrays(name, board.step) if entry.arm in board.arms}
    parts, newest = [], 0
    arms = [arm for arm in board.arms if arm in entries] or list(board.arms)
    for i, arm in enumerate(arms):
        if arm not in entries:
            continue
        share = entries[arm].value.astype(float)
        times, count = share.shape
        longest = max(entry.value.shape[0] for entry in entries.values())
        wide = (1 - GAP) / longest
        t, row = np.repeat(np.arange(times), count), np.tile(np.arange(count), times)
        parts.append(
            pd.DataFrame(
                {
                    "arm": arm,
                    "query": t + first,
                    "row": [rows[j] for j in row],
                    "left": i + t * wide,
                    "right": i + (t + 1) * wide,
                    "low": row + 0.5,
                    "high": row + 1.5,
                    "share": share.ravel().round(4),
                }
            )
        )
        newest = max(newest, entries[arm].step)
    spec = _spec(tuple(arms), tuple(shown or rows), y, value)
    if not parts:
        text = f"Map of {value}; nothing is measured yet."
        return Figure(title, look_for, text, spec=spec, data=pd.DataFrame(columns=COLUMNS))
    data = pd.concat(parts, ignore_index=True)
    last = data[data["query"] == data.groupby("arm")["query"].transform("max")]
    tops = last.loc[last.groupby("arm", sort=False)["share"].idxmax()]
    listed = "; ".join(f"{r.arm}: {r.row} {r.share:.2f}" for r in tops.itertuples())
    text = f"Map of {value} by {y} and question. Largest at the last question: {listed}."
    return Figure(title, look_for, text, spec=spec, data=data, moment=board.progress.at(newest))


@lru_cache(maxsize=64)
def _spec(arms: tuple[str, ...], rows: tuple[str, ...], y: str, value: str) -> dict[str, Any]:
    room = max(LETTERS // max(len(arms), 1), 6)
    names = f"{[wrap(arm, room) for arm in arms]!r}[floor(datum.value)]"
    height = Span(0.5, len(rows) + 0.5)
    cells = (
        alt.Chart()
        .mark_rect(strokeWidth=0)
        .encode(
            x=across(
                "left",
                "strips: questions from left to right",
                Span(0.0, float(max(len(arms), 1))),
                values=[i + (1 - GAP) / 2 for i in range(len(arms))],
                labelExpr=names,
                labelAngle=0,
                labelOverlap=False,
                labelLimit=150,
                ticks=False,
                domain=False,
            ),
            x2="right:Q",
            y=up(
                "low",
                y,
                height,
                scale=alt.Scale(domain=[height.high, height.low], nice=False),
                values=list(range(1, len(rows) + 1)),
                labelExpr=f"{list(rows)!r}[datum.value - 1]",
                labelFontSize=9 if len(rows) > 10 else 11,
                labelLimit=80,
                labelOverlap="greedy",
                grid=False,
                ticks=False,
                domain=False,
            ),
            y2="high:Q",
            color=alt.Color(
                "share:Q",
                title=value,
                scale=alt.Scale(domain=[0, 1], range=["#f4f4f0", "#0a66b8"], clamp=True),
                legend=colour_bar(length=100, format=".0%", values=[0, 0.5, 1]),
            ),
            opacity=faded(),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("query:Q", title="question", format="d"),
                alt.Tooltip("row:N", title=y),
                alt.Tooltip("share:Q", title=value, format=".0%"),
            ],
        )
    )
    return specification(cells.add_params(focus_param()))
