"""What STORM's rescaler has learned: its weight for imaginary samples, with real samples on top."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.experiments.noisy_labels.knobs import LABELS
from normviz.experiments.noisy_labels.omega_grid import RESOLUTION, grid_cells
from normviz.figures import Board, Figure, colours
from normviz.figures.legends import colour_bar, height_below, legend_above
from normviz.figures.vega import specification

__all__ = ["omega_map_figure"]


def omega_map_figure(board: Board, arm: str, num_classes: int) -> Figure:
    """Colour: weight relative to the mean, by loss and confidence; dots: training samples of the first seed."""
    title = "The learned rescaling"
    look_for = "Blue: ignored, orange: trusted. Where do the wrong labels lie?"
    cells, points = (
        [e for e in board.log.arrays(name, board.step) if e.arm == arm]
        for name in ("omega_map", "omega_points")
    )
    spec = _map_spec()
    columns = ["what", "x", "x2", "y", "y2", "weight", "label"]
    if not cells or not points:
        return Figure(
            title,
            look_for,
            "Map of the rescaler's weight by loss and confidence; nothing is measured yet.",
            spec=spec,
            data=pd.DataFrame(columns=columns),
        )
    weight = cells[-1].value.astype(float)
    p_y, p_max = grid_cells(num_classes).T
    half = 0.51 / RESOLUTION  # a little overlap: exact edges would let the background shine through
    grid = pd.DataFrame({"x": 1 - p_y - half, "x2": 1 - p_y + half, "y": p_max - half, "y2": p_max + half})
    grid = grid.assign(what="cell", weight=weight, label="")
    loss, top, wrong = points[-1].value.astype(float).T
    names = np.where(wrong > 0.5, *reversed(LABELS.names))
    dots = pd.DataFrame({"x": loss, "x2": loss, "y": top, "y2": top}).assign(
        what="sample", weight=0.0, label=names
    )
    data = pd.concat([grid, dots], ignore_index=True)[columns]
    agrees = np.isclose(p_y, p_max)
    moment = board.progress.at(cells[-1].step)
    text = (
        f"Map of the rescaler's weight at {moment} relative to its mean: where the model agrees with the "
        f"label {weight[agrees].min():.2g} to {weight[agrees].max():.2g}, where it prefers another class "
        f"{weight[~agrees].min():.2g} to {weight[~agrees].max():.2g}."
    )
    return Figure(title, look_for, text, spec=spec, data=data, moment=moment)


@lru_cache(maxsize=1)
def _map_spec() -> dict[str, Any]:
    scale = alt.Scale(domain=[0, 1], nice=False)
    x = alt.X("x:Q", title="loss, as 1 − probability of the label", scale=scale)
    y = alt.Y("y:Q", title="confidence (probability of the top class)", scale=scale)
    cells = (
        alt.Chart()
        .transform_filter("datum.what == 'cell'")
        .mark_rect(strokeWidth=0)
        .encode(
            x=x,
            x2="x2:Q",
            y=y,
            y2="y2:Q",
            color=alt.Color(
                "weight:Q",
                title="weight ÷ mean weight",
                scale=alt.Scale(
                    domain=[0, 1, 2], range=["#0a66b8", "#f4f4f0", "#d9600a"], clamp=True, interpolate="rgb"
                ),
                legend=colour_bar(format="~g"),
            ),
            tooltip=[
                alt.Tooltip("x:Q", title="loss", format=".2f"),
                alt.Tooltip("y:Q", title="confidence", format=".2f"),
                alt.Tooltip("weight:Q", title="weight ÷ mean", format=".3g"),
            ],
        )
    )
    dots = (
        alt.Chart()
        .transform_filter("datum.what == 'sample'")
        .mark_point(size=22, strokeWidth=1.2, filled=False, opacity=0.85)
        .encode(
            x=x,
            y=y,
            shape=alt.Shape(
                "label:N",
                title=None,
                scale=alt.Scale(domain=list(LABELS.names), range=["circle", "cross"]),
                legend=legend_above(LABELS.names, lines=False, columns=1),
            ),
            stroke=alt.Stroke(
                "label:N", title=None, scale=alt.Scale(domain=list(LABELS.names), range=colours(LABELS))
            ),
        )
    )
    layered = alt.layer(cells, dots).resolve_scale(color="independent")
    return specification(layered.properties(height=height_below(LABELS.names, columns=1)))
