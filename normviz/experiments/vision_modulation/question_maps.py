"""What every question reads of every cell, at every modulated norm."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.experiments.vision_modulation.knobs import Knobs
from normviz.experiments.vision_modulation.world_picture import looking_arm
from normviz.figures import Board, Figure
from normviz.figures.legends import colour_bar
from normviz.figures.vega import specification

__all__ = ["question_maps_figure"]

COLUMNS = ["norm", "x", "x2", "y", "y2", "asked", "cell", "share"]
GAP = 0.12
"""Space between two maps, as a share of a map's width."""


def question_maps_figure(board: Board, knobs: Knobs) -> Figure:
    """One map per norm: rows are questions, columns the cells that are read."""
    arm, title = looking_arm(knobs), "What each question reads, norm by norm"
    look_for = "A diagonal: the word reads the cell it names."
    entries = [e for e in board.log.arrays("read", board.step) if e.arm == arm]
    norms = tuple(f"block {name}" for name in knobs.modulated_norms())
    spec = _spec(norms, knobs.vocabulary().cells)
    if not entries:
        text = "Maps of attention by question and cell; nothing is measured yet."
        return Figure(title, look_for, text, spec=spec, data=pd.DataFrame(columns=COLUMNS))
    read = entries[-1].value.astype(float)  # (asked, norms, cells)
    names = knobs.vocabulary().cells
    M = len(names)
    rows = [
        (
            norms[n],
            n + (1 - GAP) * c / M,
            n + (1 - GAP) * (c + 1) / M,
            q,
            q + 1,
            names[q],
            names[c],
            float(read[q, n, c]),
        )
        for q, n, c in np.ndindex(*read.shape)
    ]
    moment = board.progress.at(entries[-1].step)
    own = ", ".join(f"{norm} {read[:, n].diagonal().mean():.0%}" for n, norm in enumerate(norms))
    text = f"Attention by question and cell at {moment}. Share of the cell that is asked for: {own}."
    return Figure(title, look_for, text, spec=spec, data=pd.DataFrame(rows, columns=COLUMNS), moment=moment)


@lru_cache(maxsize=64)
def _spec(norms: tuple[str, ...], cells: tuple[str, ...]) -> dict[str, Any]:
    centres = [n + (1 - GAP) / 2 for n in range(len(norms))]
    x = alt.X(
        "x:Q",
        title="cells that are read, from left to right",
        scale=alt.Scale(domain=[0, max(len(norms), 1)], nice=False),
        axis=alt.Axis(
            values=centres,
            labelExpr=f"{list(norms)!r}[floor(datum.value)]",
            labelOverlap=False,
            grid=False,
            ticks=False,
            domain=False,
        ),
    )
    y = alt.Y(
        "y:Q",
        title="cell that is asked for",
        scale=alt.Scale(domain=[len(cells), 0], nice=False),
        axis=alt.Axis(
            values=[i + 0.5 for i in range(len(cells))],
            labelExpr=f"{list(cells)!r}[floor(datum.value)]",
            grid=False,
            ticks=False,
            domain=False,
        ),
    )
    colour = alt.Color(
        "share:Q",
        title="share of the attention",
        scale=alt.Scale(domain=[0, 1], range=["#f1f3f5", "#0a66b8"], interpolate="rgb"),
        legend=colour_bar(length=90, format="%", values=[0, 0.5, 1]),
    )
    chart = (
        alt.Chart()
        .mark_rect(stroke="white", strokeWidth=1 if len(cells) <= 9 else 0.3)
        .encode(
            x=x,
            x2="x2:Q",
            y=y,
            y2="y2:Q",
            color=colour,
            tooltip=[
                alt.Tooltip("norm:N"),
                alt.Tooltip("asked:N", title="asked for"),
                alt.Tooltip("cell:N", title="reads"),
                alt.Tooltip("share:Q", title="share", format=".0%"),
            ],
        )
    )
    return specification(chart.properties(view=alt.ViewBackground(stroke=None)))
