"""Loss before training against accuracy after it: a point per candidate, seed and kind of batch statistics."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.experiments.federated_pruning.knobs import candidate_name
from normviz.experiments.federated_pruning.recorded import STATISTICS
from normviz.experiments.rank_correlation import spearman
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_symbol
from normviz.figures.legends import height_below, legend_above
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["ranking_figure"]


def ranking_figure(board: Board) -> Figure:
    """The candidates of the first seed."""
    title, look_for = "Does a low loss foretell accuracy?", "Do the points fall from left to right?"
    entries = board.log.arrays("candidates", board.step)
    seed = min((entry.seed for entry in entries), default=0)
    losses = next((entry.value.astype(float) for entry in entries if entry.seed == seed), np.empty((0, 2)))
    newest, step = _accuracies(board, seed)
    there = [c for c in range(len(losses)) if candidate_name(c) in newest]
    ends = [newest[candidate_name(c)] for c in there]
    rows, texts = [], []
    for column, kind in enumerate(STATISTICS.names):
        starts = losses[there, column]
        rows += [
            (candidate_name(c), kind, *pair)
            for c, pair in zip(there, zip(starts, ends, strict=True), strict=True)
        ]
        texts.append(f"{kind} {spearman(-starts, ends):.2f}" if len(there) > 1 else "")
    data = pd.DataFrame(rows, columns=["arm", "kind", "loss", "accuracy"])
    spec = _spec(Span.of(data["loss"], log=True), Span.of(data["accuracy"]))
    if not there:
        alt_text = "Loss against accuracy; nothing is measured yet."
        return Figure(title, look_for, alt_text, spec=spec, data=data)
    text = (
        f"Loss against accuracy of {len(there)} candidates, first seed. Rank correlation of low loss and accuracy: "
        f"{', '.join(texts)}."
    )
    return Figure(title, look_for, text, spec=spec, data=data, moment=board.progress.at(step))


def _accuracies(board: Board, seed: int) -> tuple[dict[str, float], int]:
    """The newest accuracy of each arm of a seed, and its step."""
    table = board.log.scalars("accuracy")
    table = table[table["seed"] == seed]
    if board.step is not None:
        table = table[table["step"] <= board.step]
    newest = dict(zip(table["arm"], table["value"], strict=True))  # later rows replace earlier ones
    return newest, int(table["step"].max()) if len(table) else 0


@lru_cache(maxsize=64)
def _spec(width: Span, height: Span) -> dict[str, Any]:
    legend = legend_above(STATISTICS.names, lines=False)
    dots = (
        alt.Chart()
        .mark_point(filled=True, size=60, opacity=0.9)
        .encode(
            x=across("loss", "loss before training", width, grid=True),
            y=up("accuracy", "accuracy now", height),
            color=arm_colour(STATISTICS, field="kind", legend=legend),
            shape=arm_symbol(STATISTICS, field="kind", legend=legend),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("kind:N", title="with the"),
                alt.Tooltip("loss:Q", format=".3f"),
                alt.Tooltip("accuracy:Q", format=".3f"),
            ],
        )
    )
    return specification(dots.properties(height=height_below(STATISTICS.names)))
