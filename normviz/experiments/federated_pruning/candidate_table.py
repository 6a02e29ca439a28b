"""FedTiny's table of candidates: each one's loss with the server's and with the clients' batch statistics."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.experiments.federated_pruning.recorded import STATISTICS
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_symbol
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across
from normviz.figures.vega import specification

__all__ = ["candidate_figure"]

COLUMNS = ["candidate", "kind", "loss", "best", "other"]
GUESSING = math.log(10)
"""Loss of a network that gives every digit the same probability."""


def candidate_figure(board: Board, size: int) -> Figure:
    """The candidates of the first seed, from the first one on.

    Args:
        board: what all charts share.
        size: number of candidates.
    """
    title, look_for = (
        "Loss of each candidate at the clients",
        "Ringed: the lowest. Dashed: guessing. Is any one better?",
    )
    entries = board.log.arrays("candidates", board.step)
    if not entries:
        data = pd.DataFrame(columns=COLUMNS)
        spec = _spec(size, Span(1.0, 10.0, log=True))
        return Figure(
            title, look_for, "Losses of the candidates; nothing is measured yet.", spec=spec, data=data
        )
    table = min(entries, key=lambda entry: entry.seed).value.astype(float)
    done = np.isfinite(table).all(1)
    rows = []
    texts = []
    for column, kind in enumerate(STATISTICS.names):
        losses = np.where(done, table[:, column], np.inf)
        best = int(losses.argmin())
        texts.append(f"with the {kind} candidate {best + 1} has the lowest loss, {losses[best]:.3g}")
        rows += [
            (f"{c + 1}", kind, float(losses[c]), bool(c == best and done.all()), float(table[c, 1 - column]))
            for c in np.flatnonzero(done)
        ]
    data = pd.DataFrame(rows, columns=COLUMNS)
    text = f"Losses of {int(done.sum())} of {size} candidates, first seed: {'; '.join(texts)}."
    return Figure(
        title, look_for, text, spec=_spec(size, Span.of(data["loss"], [GUESSING], log=True)), data=data
    )


@lru_cache(maxsize=64)
def _spec(size: int, width: Span) -> dict[str, Any]:
    names = [f"{c + 1}" for c in range(size)]
    base = alt.Chart().encode(
        y=alt.Y(
            "candidate:N",
            title="candidate",
            sort=names,
            scale=alt.Scale(domain=names),
            axis=alt.Axis(ticks=False),
        )
    )
    x = across("loss", "mean loss on the clients' development data", width, grid=True)
    pair = (
        base.transform_filter(f'datum.kind == "{STATISTICS.names[0]}"')
        .mark_rule(color=MUTED, strokeWidth=1, opacity=0.6)
        .encode(x=x, x2="other:Q")
    )
    legend = legend_above(STATISTICS.names, lines=False)
    colour = arm_colour(STATISTICS, field="kind", legend=legend)
    dots = base.mark_point(filled=True, size=55, opacity=1).encode(
        x=x,
        color=colour,
        shape=arm_symbol(STATISTICS, field="kind", legend=legend),
        tooltip=[
            alt.Tooltip("candidate:N"),
            alt.Tooltip("kind:N", title="with the"),
            alt.Tooltip("loss:Q", format=".3f"),
        ],
    )
    ring = (
        base.transform_filter("datum.best")
        .mark_point(filled=False, size=190, strokeWidth=2, shape="circle")
        .encode(x=x, color=colour)
    )
    guess = (
        alt.Chart()
        .transform_aggregate(rows="count()")
        .transform_calculate(guess=f"{GUESSING}")
        .mark_rule(strokeDash=[3, 3], color=MUTED)
        .encode(x=across("guess", "mean loss on the clients' development data", width, grid=True))
    )
    chart = alt.layer(guess, pair, dots, ring).properties(height=height_below(STATISTICS.names))
    return specification(chart)
