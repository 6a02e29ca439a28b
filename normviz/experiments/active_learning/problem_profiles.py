"""The problems on which the adversary plays now: one line per particle, coloured by its weight."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.figures import Board, Figure
from normviz.figures.legends import colour_bar
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["hardest_figure"]

COLUMNS = ["problem", "x", "y", "weight"]
WEIGHTS = (0.25, 1.0, 4.0)
"""Weights over an even share at the ends and in the middle of the colours."""


def hardest_figure(board: Board, arm: str, *, x: str, y: str, positions: Sequence[str]) -> Figure:
    """Particles of an arm's training at the moment shown, first seed.

    Args:
        board: log and moment.
        arm: whose adversary.
        x: horizontal axis title.
        y: vertical axis title.
        positions: names of the entries of a problem.
    """
    title, look_for = "Hardest problems now", "Orange: drawn often. What makes them hard?"
    found, weights = (
        {(e.arm, e.seed): e for e in board.log.arrays(name, board.step)}
        for name in ("hardest", "hardest_weight")
    )
    keys = sorted((key for key in found if key[0] == arm and key in weights), key=lambda key: key[1])
    span = Span(0.0, 1.0)
    if not keys:
        text = "Lines of the problems in training; nothing is measured yet."
        empty = pd.DataFrame(columns=COLUMNS)
        return Figure(title, look_for, text, spec=_spec(x, y, tuple(positions), span), data=empty)
    entry, weight = found[keys[0]], weights[keys[0]].value.astype(float)
    values = entry.value.astype(float)
    n = values.shape[1]
    data = pd.DataFrame(
        {
            "problem": np.repeat(np.arange(len(values)), n),
            "x": np.tile(np.arange(1, n + 1), len(values)),
            "y": values.ravel().round(4),
            "weight": np.repeat(weight, n).round(3),
        }
    )
    data = data.sort_values("weight", kind="stable", ignore_index=True)  # the heaviest are drawn last
    moment = board.progress.at(entry.step)
    top = values[int(weight.argmax())]
    listed = ", ".join(f"{value:.2f}" for value in top)
    text = (
        f"{len(values)} problems against {arm} at {moment}. The heaviest has {weight.max():.1f} times an even share "
        f"and the values {listed}."
    )
    return Figure(title, look_for, text, spec=_spec(x, y, tuple(positions), span), data=data, moment=moment)


@lru_cache(maxsize=32)
def _spec(x: str, y: str, positions: tuple[str, ...], span: Span) -> dict[str, Any]:
    labels = f"{list(positions)!r}[datum.value - 1]"
    colour = alt.Color(
        "weight:Q",
        title="weight ÷ even share",
        scale=alt.Scale(
            type="log", domain=list(WEIGHTS), range=["#0a66b8", "#8a8a8a", "#d9600a"], clamp=True
        ),
        legend=colour_bar(length=100, values=WEIGHTS, format="~g"),
    )
    lines = (
        alt.Chart()
        .mark_line(strokeWidth=1.6, opacity=0.8)
        .encode(
            x=across(
                "x",
                x,
                Span(0.8, len(positions) + 0.2),
                values=list(range(1, len(positions) + 1)),
                labelExpr=labels,
                tickCount=len(positions),
            ),
            y=up("y", y, span),
            detail="problem:N",
            color=colour,
            tooltip=[
                alt.Tooltip("y:Q", title=y, format=".2f"),
                alt.Tooltip("weight:Q", title="weight over an even share", format=".2f"),
            ],
        )
    )
    return specification(lines)
