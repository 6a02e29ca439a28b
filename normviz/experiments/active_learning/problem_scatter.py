"""Every test problem as a dot: how hard it is, and how much each policy loses on it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_symbol, faded, focus_param
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["scatter_figure"]

COLUMNS = ["arm", "hardness", "loss"]


def scatter_figure(board: Board, *, loss: str) -> Figure:
    """Losses over complexities at the moment shown, first seed.

    Args:
        board: log, arms and moment.
        loss: what the loss is called.
    """
    title, look_for = "Every test problem, one dot", "Where on the left or right does each policy lose most?"
    hardness = {(e.arm, e.seed): e for e in board.log.arrays("hardness", board.step)}
    parts, newest = [], None
    for entry in board.log.arrays("losses", board.step):
        if entry.arm in board.arms and (entry.arm, entry.seed) in hardness:
            at = hardness[entry.arm, entry.seed].value.astype(float)
            values = entry.value.astype(float)
            parts.append(pd.DataFrame({"arm": entry.arm, "hardness": at, "loss": values}))
            newest = max(entry.step, newest or 0)
    if not parts:
        text = f"Dots of expected {loss} over complexity; nothing is measured yet."
        spec = _spec(board.arms, loss, Span(1.0, 30.0, log=True), Span(0.0, 1.0))
        return Figure(title, look_for, text, spec=spec, data=pd.DataFrame(columns=COLUMNS))
    data = pd.concat(parts, ignore_index=True)
    data = data[np.isfinite(data["hardness"].to_numpy())].round(4)
    moment = board.progress.at(newest or 0)
    means = data.groupby("arm", sort=False)["loss"].mean()
    listed = ", ".join(f"{arm} {value:.3f}" for arm, value in means.items())
    text = f"Dots of expected {loss} over complexity at {moment}; means: {listed}."
    widest = Span.of(data["hardness"], log=True)
    spec = _spec(board.arms, loss, widest, Span.of(data["loss"], zero=True))
    return Figure(title, look_for, text, spec=spec, data=data, moment=moment)


@lru_cache(maxsize=64)
def _spec(arms: Arms, loss: str, width: Span, height: Span) -> dict[str, Any]:
    dots = (
        alt.Chart()
        .mark_point(filled=True, size=16)
        .encode(
            x=across("hardness", "complexity C", width),
            y=up("loss", f"expected {loss}", height),
            color=arm_colour(arms),
            shape=arm_symbol(arms),
            opacity=faded(0.7),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("hardness:Q", title="complexity", format=".3~g"),
                alt.Tooltip("loss:Q", title=loss, format=".3f"),
            ],
        )
    )
    return specification(dots.add_params(focus_param()))
