"""Who is adjusted when: a cell per adjustment round and layer with the number of weights that were exchanged."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.experiments.federated_pruning.client_labels import BLUE
from normviz.experiments.federated_pruning.layers import LAYERS
from normviz.figures import Board, Figure
from normviz.figures.encodings import focus_param
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across
from normviz.figures.vega import specification

__all__ = ["adjustment_figure"]

FAINT = 0.08
"""Opacity of a cell with 0."""


def adjustment_figure(board: Board, reference: str, interval: int) -> Figure:
    """The arm in focus, else the reference; first seed.

    Args:
        board: what all charts share.
        reference: arm that is shown when none is in focus.
        interval: rounds between adjustments.
    """
    title, look_for = "Weights exchanged", "Which layer never has a weight to exchange?"
    history = board.log.array_history("exchanged")
    first = min((entry.seed for entry in history), default=0)
    rows = []
    for entry in history:
        if (
            entry.seed != first
            or entry.arm not in board.arms
            or (board.step is not None and entry.step > board.step)
        ):
            continue
        rows += [
            (entry.arm, entry.step, layer.label, int(count))
            for layer, count in zip(LAYERS, entry.value, strict=True)
            if np.isfinite(count)
        ]
    data = pd.DataFrame(rows, columns=["arm", "step", "layer", "count"])
    data["left"], data["right"] = data["step"] - 0.45 * interval, data["step"] + 0.45 * interval
    spec = _spec(
        reference, Span(0, max(board.last, 1) + interval / 2), int(max([1, *data["count"].tolist()]))
    )
    if not rows:
        return Figure(
            title, look_for, "Numbers of exchanged weights; nothing is measured yet.", spec=spec, data=data
        )
    own = data[data["arm"] == reference]
    listed = "; ".join(f"round {r.step}, {r.layer}: {r.count}" for r in own.itertuples())
    return Figure(title, look_for, f"Weights that {reference} exchanged: {listed}.", spec=spec, data=data)


@lru_cache(maxsize=64)
def _spec(reference: str, width: Span, most: int) -> dict[str, Any]:
    labels = [layer.label for layer in LAYERS]
    base = (
        alt.Chart()
        .transform_filter(f"datum.arm == (length(focus) ? focus[0] : '{reference}')")
        .encode(y=alt.Y("layer:N", title=None, sort=labels, scale=alt.Scale(domain=labels)))
    )
    cells = base.mark_rect(clip=True, fill=BLUE).encode(
        x=across("left", "communication round", width),
        x2="right:Q",
        fillOpacity=alt.FillOpacity(
            "count:Q", scale=alt.Scale(domain=[0, most], range=[FAINT, 1]), legend=None
        ),
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("step:Q", title="round"),
            alt.Tooltip("layer:N"),
            alt.Tooltip("count:Q", title="exchanged"),
        ],
    )
    numbers = base.mark_text(fontSize=10, clip=True).encode(
        x=across("step", "communication round", width),
        text="count:Q",
        color=alt.when(f"datum.count > {0.3 * most}").then(alt.value("#ffffff")).otherwise(alt.value(MUTED)),
    )
    chart = alt.layer(cells, numbers)
    return specification(chart.add_params(focus_param()))
