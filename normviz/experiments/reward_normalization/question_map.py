"""The picture of the page *Reward normalization*: all 300 questions, coloured by how surely they are answered."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.experiments.reward_normalization.knobs import OPERATIONS
from normviz.figures import Board, Figure
from normviz.figures.encodings import focus_param
from normviz.figures.vega import specification

__all__ = ["question_map_figure"]

DIGITS = 10
SIGNS = ("a + b", "|a − b|", "a × b")
GAP = 1
"""Empty columns between two operations."""


def question_map_figure(board: Board, reference: str) -> Figure:
    """One square for each question, its colour the exact probability of a right answer, first seed.

    Shown is the policy of one arm: of the first that is in focus, else of the reference.

    Args:
        board: what all charts share.
        reference: the arm that is shown at first.
    """
    entries = sorted(board.log.arrays("p", board.step), key=lambda e: -e.seed)
    found = {entry.arm: entry for entry in entries if entry.arm in board.arms}
    number, a, b = np.indices((len(OPERATIONS), DIGITS, DIGITS)).reshape(3, -1)
    columns: dict[str, Any] = {
        "column": number * (DIGITS + GAP) + a,
        "row": b,
        "question": [
            f"{SIGNS[n].replace('a', str(x), 1).replace('b', str(y), 1)}"
            for n, x, y in zip(number.tolist(), a.tolist(), b.tolist(), strict=True)
        ],
    }
    values = {arm: found[arm].value.astype(float).round(2) for arm in board.arms if arm in found}
    data = pd.DataFrame({**columns, **values} if values else {key: [] for key in columns})
    if values:
        moment = board.progress.at(max(entry.step for entry in found.values()))
        means = (
            f"{arm} " + ", ".join(f"{sign} {p[number == n].mean():.2f}" for n, sign in enumerate(SIGNS))
            for arm, p in values.items()
        )
        text = f"Map of 300 questions at {moment}, mean probability of a right answer: {'; '.join(means)}."
    else:
        moment, text = "", "Map of 300 questions; nothing is measured yet."
    return Figure(
        "Which questions does it answer?",
        f"{reference}'s policy. Click another arm: which squares stay dark?",
        text,
        spec=_spec(reference),
        data=data,
        moment=moment,
    )


@lru_cache(maxsize=16)
def _spec(reference: str) -> dict[str, Any]:
    last = len(SIGNS) * (DIGITS + GAP) - GAP
    middles = [n * (DIGITS + GAP) + DIGITS / 2 for n in range(len(SIGNS))]
    labels = " : ".join(f"datum.value < {(n + 1) * (DIGITS + GAP)} ? '{s}'" for n, s in enumerate(SIGNS))
    chart = (
        alt.Chart()
        .transform_calculate(
            p=f"datum[length(focus) ? focus[0] : '{reference}']",
            right="datum.column + 1",
            top="datum.row + 1",
        )
        .mark_rect()
        .encode(
            x=alt.X(
                "column:Q",
                title="a from 0 to 9; colour: accuracy",
                scale=alt.Scale(domain=[0, last], nice=False),
                axis=alt.Axis(
                    values=middles, labelExpr=f"{labels} : ''", grid=False, ticks=False, domain=False
                ),
            ),
            x2="right:Q",
            y=alt.Y(
                "row:Q",
                title="b",
                scale=alt.Scale(domain=[0, DIGITS], nice=False),
                axis=alt.Axis(
                    values=[0.5, DIGITS - 0.5], labelExpr="floor(datum.value)", grid=False, domain=False
                ),
            ),
            y2="top:Q",
            color=alt.Color(
                "p:Q",
                title=None,
                scale=alt.Scale(domain=[0, 1], scheme="viridis"),
                legend=alt.Legend(orient="right", gradientLength=90, gradientThickness=8, values=[0, 0.5, 1]),
            ),
            tooltip=[
                alt.Tooltip("question:N"),
                alt.Tooltip("p:Q", title="probability of a right answer", format=".2f"),
            ],
        )
    )
    return specification(chart.add_params(focus_param()))
