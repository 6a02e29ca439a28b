"""What the analyst is told: each answer against the mean that the holdout really has."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, faded, focus_param
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["answer_plane_figure"]

SHARE = 0.04
"""Share of answers at either end that may lie at the chart's edge."""
COLUMNS = ("arm", "mean", "answer")


def answer_plane_figure(board: Board, look_for: str) -> Figure:
    """The newest answers of the first seed as dots; those far out stand at the edge."""
    entries = [entry for entry in board.log.arrays("answers", board.step) if entry.arm in board.arms]
    rows = [
        (entry.arm, float(mean), float(answer))
        for entry in entries
        for mean, answer in 100 * entry.value.astype(float)
    ]
    data = pd.DataFrame(rows, columns=list(COLUMNS))
    title = "Answers, one dot each"
    if data.empty:
        text = "Answers against means of the holdout; nothing is measured yet."
        spec = _answer_spec(board.arms, Span(45.0, 55.0), Span(40.0, 60.0))
        return Figure(title, look_for, text, spec=spec, data=data)
    wide, tall = Span.of(data["mean"]), _middle(data)
    ends = pd.DataFrame({"arm": "", "mean": [wide.low, wide.high], "answer": [wide.low, wide.high]})
    shown = pd.concat([data.round(3), ends], ignore_index=True)
    moment = board.progress.at(max(entry.step for entry in entries))
    listed = "; ".join(
        f"{arm} {(part['answer'] - part['mean']).abs().mean():.2g}"
        for arm, part in data.groupby("arm", sort=False)
    )
    text = f"Answers against means of the holdout at {moment}, first seed. Mean distance in points: {listed}."
    return Figure(title, look_for, text, spec=_answer_spec(board.arms, wide, tall), data=shown, moment=moment)


def _middle(data: pd.DataFrame) -> Span:
    """A span of most answers: that of the mechanism with the second widest spread would hide, so all but the ends."""
    low, high = np.inf, -np.inf
    for _, part in data.groupby("arm"):
        values = part["answer"].to_numpy(float)
        if np.isin(values, (0.0, 100.0)).mean() > 0.5:
            continue  # one row per question: every answer is 0 or 100
        low, high = min(low, np.quantile(values, SHARE)), max(high, np.quantile(values, 1 - SHARE))
    return Span.of(low, high) if low < high else Span(0.0, 100.0)


@lru_cache(maxsize=128)
def _answer_spec(arms: Arms, wide: Span, tall: Span) -> dict[str, Any]:
    clamped = alt.Scale(domain=[tall.low, tall.high], nice=False, clamp=True)
    base = alt.Chart().encode(
        x=across("mean", "mean on the holdout (%)", wide),
        y=up("answer", "answer (%)", tall, scale=clamped),
    )
    exact = base.transform_filter("datum.arm == ''").mark_line(
        color=MUTED, strokeDash=[4, 3], strokeWidth=1.5
    )
    dots = (
        base.transform_filter("datum.arm != ''")
        .mark_point(filled=True, size=18)
        .encode(
            color=arm_colour(arms),
            opacity=faded(0.7, 0.04),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("mean:Q", title="holdout", format=".1f"),
                alt.Tooltip("answer:Q", format=".1f"),
            ],
        )
    )
    return specification(alt.layer(exact, dots).add_params(focus_param()))
