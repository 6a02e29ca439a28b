"""What is kept of each layer: a point per arm, on a logarithmic axis."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.experiments.federated_pruning.layers import LAYERS
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_symbol, faded, focus_param
from normviz.figures.scales import Span, across
from normviz.figures.vega import specification

__all__ = ["share_figure"]


def share_figure(board: Board) -> Figure:
    """Mean and range over seeds at the moment shown; a layer without any weight is at the left edge."""
    title, look_for = "What is kept of each layer", "Does a method spare the first layer and the head?"
    entries = [e for e in board.log.arrays("layer_density", board.step) if e.arm in board.arms]
    rows: list[tuple[str, str, float, float, float]] = []
    for arm in board.arms:
        values = [entry.value.astype(float) for entry in entries if entry.arm == arm]
        if values:
            stack = np.maximum(np.stack(values), 0.5 / max(layer.size for layer in LAYERS))
            ends = np.stack([stack.mean(0), stack.min(0), stack.max(0)], axis=1).tolist()
            rows += [
                (la.label, arm, mean, low, high) for la, (mean, low, high) in zip(LAYERS, ends, strict=True)
            ]
    data = pd.DataFrame(rows, columns=["layer", "arm", "mean", "low", "high"])
    spec = _spec(board.arms, Span.of(data["low"], data["high"], log=True))
    if not rows:
        return Figure(
            title, look_for, "Points of kept shares; nothing is measured yet.", spec=spec, data=data
        )
    moment = board.progress.at(max(entry.step for entry in entries))
    listed = "; ".join(f"{arm}, {layer} {100 * mean:.2g} %" for layer, arm, mean, _, _ in rows)
    text = f"Points of the share of weights kept in each layer at {moment}: {listed}."
    return Figure(title, look_for, text, spec=spec, data=data, moment=moment)


@lru_cache(maxsize=64)
def _spec(arms: Arms, width: Span) -> dict[str, Any]:
    names, labels = list(arms.names), [layer.label for layer in LAYERS]
    base = alt.Chart().encode(
        y=alt.Y("layer:N", title=None, sort=labels, scale=alt.Scale(domain=labels)),
        yOffset=alt.YOffset("arm:N", sort=names, scale=alt.Scale(domain=names)),
        color=arm_colour(arms),
        opacity=faded(),
    )
    title = "share of the layer's weights"
    bar = base.mark_rule(strokeWidth=2).encode(x=across("low", title, width, grid=True), x2="high:Q")
    dot = base.mark_point(filled=True, size=50).encode(
        x=across("mean", title, width, grid=True),
        shape=arm_symbol(arms),
        tooltip=[alt.Tooltip("arm:N"), alt.Tooltip("layer:N"), alt.Tooltip("mean:Q", format=".2%")],
    )
    return specification(alt.layer(bar, dot).add_params(focus_param()))
