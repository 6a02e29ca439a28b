"""Cost against the threshold, counted in three ways, relative to the large model alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.arms import Arms, Look
from normviz.experiments.entropy_decoding.knobs import EAD, LARGE, Knobs
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_dash
from normviz.figures.layers import level
from normviz.figures.legends import height_below, legend_above
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["ACCOUNTS", "cost_figure"]

ACCOUNTS = Arms(
    (
        Look("as published", 2, 0, 0),
        Look("with catching up", 7, 1, 1),
        Look("measured time", 4, 2, 2),
    )
)
"""The three ways to count."""
COLUMNS = ["account", "tau", "mean", "low", "high"]


def cost_figure(board: Board, knobs: Knobs) -> Figure:
    """Parameters per token as the paper counts them, with catching up, and wall time; mean and range over seeds."""
    title, look_for = (
        "Cost against the threshold",
        "Below 1 is cheaper than the large model. Which ways agree?",
    )
    curves = _curves(board)
    rows = [
        (account, tau, *point)
        for account, stack in curves.items()
        for tau, *point in zip(knobs.taus(), stack.mean(0), stack.min(0), stack.max(0), strict=True)
    ]
    data = pd.DataFrame(rows, columns=COLUMNS)
    width = Span.exactly(list(knobs.taus()))
    height = Span.of(data["low"], data["high"], [0.0, 1.0])
    if data.empty:
        text = "Cost against the threshold; nothing is measured yet."
    else:
        at = knobs.taus().index(knobs.tau)
        listed = ", ".join(f"{account} {stack.mean(0)[at]:.2f}" for account, stack in curves.items())
        text = f"Cost at a threshold of {knobs.tau:g} bits relative to the large model alone: {listed}."
    return Figure(title, look_for, text, spec=_cost_spec(width, height), data=data)


def _curves(board: Board) -> Mapping[str, NDArray[np.float64]]:
    """Per way to count: (seeds, thresholds)."""
    found = {
        account: {e.seed: e.value.astype(float) for e in board.log.arrays(name, board.step) if e.arm == EAD}
        for account, name in zip(ACCOUNTS, ("sweep_cost", "sweep_full", "sweep_token_ms"), strict=True)
    }
    table = board.log.scalars("token_ms")
    own = table[
        (table["arm"] == LARGE) & (table["step"] <= (board.step if board.step is not None else np.inf))
    ]
    alone = own.groupby("seed")["value"].last().to_dict()
    timed = ACCOUNTS.names[2]
    found[timed] = {seed: value / alone[seed] for seed, value in found[timed].items() if seed in alone}
    return {account: np.stack(list(by.values())) for account, by in found.items() if by}


@lru_cache(maxsize=64)
def _cost_spec(width: Span, height: Span) -> dict[str, Any]:
    title = "cost ÷ large model alone"
    base = alt.Chart().encode(
        x=across("tau", "threshold τ in bits", width),
        color=arm_colour(ACCOUNTS, field="account", legend=legend_above(ACCOUNTS.names)),
    )
    told = [
        alt.Tooltip("account:N", title="counted"),
        alt.Tooltip("tau:Q", title="τ", format=".2f"),
        alt.Tooltip("mean:Q", title="cost", format=".2f"),
        alt.Tooltip("low:Q", title="lowest seed", format=".2f"),
        alt.Tooltip("high:Q", title="highest seed", format=".2f"),
    ]
    y = up("mean", title, height)
    band = base.mark_area(opacity=0.15, strokeWidth=0).encode(y=up("low", title, height), y2="high:Q")
    dash = arm_dash(ACCOUNTS, field="account", legend=legend_above(ACCOUNTS.names))
    line = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash)
    dots = base.mark_point(filled=True, size=30, opacity=1).encode(y=y, tooltip=told)
    layered = alt.layer(level(1.0), band, line, dots)
    return specification(layered.properties(height=height_below(ACCOUNTS.names)))
