"""The page's picture: every layer of one arm as a field of weights, those that are left as cells, movers in colour.

A convolution is drawn as a table of its kernels: a row of kernels per input channel, a column per output channel. The
head is a table of inputs by digits. Of a dense network there is nothing to draw.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.experiments.federated_pruning.layers import LAYERS
from normviz.experiments.federated_pruning.recorded import CELL_KINDS, GROWN, PRUNED
from normviz.figures import Board, Figure, colours
from normviz.figures.encodings import focus_param
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.vega import specification

__all__ = ["mask_figure", "places"]

MOST_CELLS = 5000
"""Cells above which only the reference arm is drawn, so that a live chart stays quick."""


class Field(NamedTuple):
    """Where a layer is drawn: left upper corner and size, in units of the picture."""

    left: float
    top: float
    width: float
    height: float


FIELDS = (
    Field(0, 16, 96, 12),
    Field(0, 50, 96, 46),
    Field(104, 16, 88, 80),
    Field(200, 16, 50, 80),
)
WIDTH, HEIGHT = 252, 98
COLUMNS = ["what", "arm", "kind", "x", "y", "x2", "y2", "label"]


def places(layer: int, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], int, int]:
    """Column and row of flat indices in the table of kernels, and the table's numbers of columns and rows."""
    shape = LAYERS[layer]
    side = shape.side
    output, rest = np.divmod(index, shape.inputs * side**2)
    entry, tap = np.divmod(rest, side**2)
    row, column = np.divmod(tap, side)
    return output * side + column, entry * side + row, shape.outputs * side, shape.inputs * side


def mask_figure(board: Board, reference: str) -> Figure:
    """The masks of the arm in focus, else of the reference, first seed.

    Args:
        board: what all charts share.
        reference: arm that is shown when none is in focus.
    """
    entries = {e.arm: e for e in sorted(board.log.arrays("cells", board.step), key=lambda e: -e.seed)}
    shown = {arm: entries[arm] for arm in board.arms if arm in entries}
    if sum(len(e.value) for e in shown.values()) > MOST_CELLS:
        shown = {arm: e for arm, e in shown.items() if arm == reference}
    title, look_for = "The weights that are left", "Do the new weights gather at some channels?"
    spec = _spec(reference)
    parts = [_fields()]
    texts = []
    for arm, entry in shown.items():
        values = entry.value.astype(np.int64)
        parts.append(_cells(arm, values))
        parts.append(_counts(arm, values))
        moved = [int((values[:, 2] == kind).sum()) for kind in (GROWN, PRUNED)]
        texts.append(
            f"{arm} at {board.progress.at(entry.step)}: {int((values[:, 2] != PRUNED).sum())} weights are left, "
            f"{moved[0]} just grown, {moved[1]} just pruned"
        )
    data = pd.concat(parts, ignore_index=True)[COLUMNS]
    if not texts:
        return Figure(
            title, look_for, "Pictures of the masks; nothing is measured yet.", spec=spec, data=data
        )
    newest = shown.get(reference) or next(iter(shown.values()))
    text = f"Each layer as a table of its weights. {'. '.join(texts)}."
    return Figure(title, look_for, text, spec=spec, data=data, moment=board.progress.at(newest.step))


def _fields() -> pd.DataFrame:
    rows = [
        ("field", "", "", f.left, f.top, f.left + f.width, f.top + f.height, layer.label)
        for layer, f in zip(LAYERS, FIELDS, strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _cells(arm: str, values: NDArray[np.int64]) -> pd.DataFrame:
    parts = []
    for place, field in enumerate(FIELDS):
        own = values[values[:, 0] == place]
        column, row, columns, rows = places(place, own[:, 1])
        wide, high = field.width / columns, field.height / rows
        parts.append(
            pd.DataFrame(
                {
                    "kind": np.array(CELL_KINDS.names, dtype=object)[own[:, 2]],
                    "x": (field.left + column * wide).round(3),
                    "y": (field.top + row * high).round(3),
                    "x2": (field.left + (column + 1) * wide).round(3),
                    "y2": (field.top + (row + 1) * high).round(3),
                }
            )
        )
    return pd.concat(parts, ignore_index=True).assign(what="cell", arm=arm, label="")


def _counts(arm: str, values: NDArray[np.int64]) -> pd.DataFrame:
    """The line above each field: what is left of the layer."""
    rows = []
    for place, (layer, field) in enumerate(zip(LAYERS, FIELDS, strict=True)):
        left = int(((values[:, 0] == place) & (values[:, 2] != PRUNED)).sum())
        text = f"{layer.label}: {left} of {layer.size:,}"
        rows.append(("count", arm, "", field.left, field.top, field.left, field.top, text))
    return pd.DataFrame(rows, columns=COLUMNS)


@lru_cache(maxsize=16)
def _spec(reference: str) -> dict[str, Any]:
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, WIDTH], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[HEIGHT, 0], nice=False))
    base = alt.Chart().encode(x=x, y=y)
    focus = f"datum.arm == (length(focus) ? focus[0] : '{reference}')"
    fields = (
        base.transform_filter("datum.what == 'field'")
        .mark_rect(fill=MUTED, fillOpacity=0.12, stroke=MUTED, strokeOpacity=0.5, strokeWidth=0.5)
        .encode(x2="x2:Q", y2="y2:Q")
    )
    names = list(CELL_KINDS.names)
    scale = alt.Scale(domain=names, range=colours(CELL_KINDS))
    legend = legend_above(names, lines=False, columns=2)
    cells = (
        base.transform_filter(f"datum.what == 'cell' && {focus}")
        .mark_rect(strokeWidth=0.9)
        .encode(
            x2="x2:Q",
            y2="y2:Q",
            color=alt.Color("kind:N", title=None, scale=scale, legend=legend),
            stroke=alt.Stroke("kind:N", title=None, scale=scale, legend=legend),
            tooltip=[alt.Tooltip("arm:N"), alt.Tooltip("kind:N", title="weight")],
        )
    )
    counts = (
        base.transform_filter(f"datum.what == 'count' && {focus}")
        .mark_text(align="left", baseline="bottom", dy=-3, fontSize=10, color=MUTED)
        .encode(text="label:N")
    )
    chart = alt.layer(fields, cells, counts).properties(height=height_below(names, columns=2))
    return specification(chart.add_params(focus_param()))
