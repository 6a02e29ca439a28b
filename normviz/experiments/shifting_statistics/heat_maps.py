"""Heat maps: values of rows and columns as colours, in panels side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.figures.figure import Figure
from normviz.figures.legends import HEIGHT, colour_bar
from normviz.figures.palette import MUTED
from normviz.figures.vega import specification

__all__ = ["Panel", "heat_map_figure"]

GAP, HEAD = 0.06, 0.13
"""Space between two panels, and above each for its name, as shares of a panel."""
ABREAST = 3
"""Most panels side by side."""
OVERLAP = 0.04
"""By how much a cell reaches over the next one, in cells: no seam shows."""
Scheme = Literal["viridis", "blueorange"]
"""Colours for amounts, and for differences."""
COLUMNS = ("panel", "left", "right", "top", "bottom", "row", "column", "value")


@dataclass(frozen=True, eq=False)
class Panel:
    """One map.

    Args:
        name: above it ("" for none).
        values: (rows, columns), the first row on top; NaN: no cell.
        edges: left and right ends of the columns in [0, 1], (columns + 1,); None: equally wide.
    """

    name: str
    values: NDArray[np.float64]
    edges: NDArray[np.float64] | None = None


def heat_map_figure(
    panels: Sequence[Panel],
    *,
    count: int,
    row_names: Sequence[str],
    column_names: Sequence[str],
    title: str,
    look_for: str,
    alt_text: str,
    value: str,
    limits: tuple[float, float],
    x: str,
    y: str,
    scheme: Scheme = "viridis",
    moment: str = "",
    named_columns: bool = False,
    power: float = 1.0,
    height: int = HEIGHT,
) -> Figure:
    """Panels of coloured cells with one scale of colours.

    Args:
        panels: those that are measured, at most ``count``.
        count: panels that there is room for.
        row_names: of the rows, from top to bottom; drawn at the left.
        column_names: of the columns, for the text shown when pointing at a cell.
        title, look_for, moment: as in :class:`Figure`.
        alt_text: the textual alternative.
        value: title of the colours.
        limits: values at the ends of the colours.
        x: title below.
        y: title above the rows' names.
        scheme: Vega's colours.
        named_columns: the columns' names stand below.
        power: exponent of the scale of colours; below 1 small values are told apart better.
        height: pixels.
    """
    parts = [_cells(i, panel, row_names, column_names) for i, panel in enumerate(panels[:count])]
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))
    spec = _heat_spec(
        count,
        tuple(row_names),
        tuple(column_names) if named_columns else (),
        value,
        limits,
        x,
        y,
        scheme,
        power,
        height,
    )
    return Figure(title, look_for, alt_text, spec=spec, data=data, moment=moment)


def _cells(index: int, panel: Panel, row_names: Sequence[str], column_names: Sequence[str]) -> pd.DataFrame:
    rows, columns = panel.values.shape
    edges = np.linspace(0, 1, columns + 1) if panel.edges is None else panel.edges
    head = HEAD if panel.name else 0.0
    high = (1 - head) / rows
    row, column = (a.ravel() for a in np.indices(panel.values.shape))
    across, down = index % ABREAST, index // ABREAST
    widths = np.diff(edges)
    data = pd.DataFrame(
        {
            "panel": panel.name,
            "left": (across + edges[column] * (1 - GAP)).round(5),
            "right": (
                across + np.minimum(edges[column] + widths[column] * (1 + OVERLAP), 1.0) * (1 - GAP)
            ).round(5),
            "top": (down + head + row * high).round(5),
            "bottom": (down + head + np.minimum(row + 1 + OVERLAP, rows) * high).round(5),
            "row": [row_names[i] for i in row.tolist()],
            "column": [column_names[i] for i in column.tolist()],
            "value": panel.values.ravel().astype(float).round(4),
        }
    )
    kept: pd.DataFrame = data[np.isfinite(data["value"].to_numpy())]
    return kept


@lru_cache(maxsize=128)
def _heat_spec(
    count: int,
    rows: tuple[str, ...],
    columns: tuple[str, ...],
    value: str,
    limits: tuple[float, float],
    x: str,
    y: str,
    scheme: Scheme,
    power: float,
    height: int,
) -> dict[str, Any]:
    abreast, down = max(1, min(count, ABREAST)), max(1, -(-count // ABREAST))
    head = HEAD if count > 1 else 0.0
    places = [k + head + (i + 0.5) * (1 - head) / len(rows) for k in range(down) for i in range(len(rows))]
    named = f"{list(rows)!r}[floor(((datum.value - floor(datum.value)) - {head}) * {len(rows)} / {1 - head})]"
    left = alt.Axis(
        values=places,
        labelExpr=named,
        grid=False,
        ticks=False,
        domain=False,
        labelOverlap=False,
        labelLimit=130,
        labelFontSize=10 if len(rows) * down <= 10 else 9,
    )
    if columns:
        wide = (1 - GAP) / len(columns)
        below = alt.Axis(
            values=[p + (i + 0.5) * wide for p in range(abreast) for i in range(len(columns))],
            labelExpr=f"{list(columns)!r}[floor((datum.value - floor(datum.value)) / {wide})]",
            grid=False,
            ticks=False,
            domain=False,
            labelOverlap=False,
            labelLimit=70,
            labelAngle=0 if abreast * sum(map(len, columns)) < 48 else -40,
        )
    else:
        below = alt.Axis(labels=False, grid=False, ticks=False, domain=False)
    horizontal = alt.Scale(domain=[0, abreast - GAP], nice=False)
    vertical = alt.Scale(domain=[down, 0], nice=False)
    colour = alt.Color(
        "value:Q",
        title=value,
        scale=alt.Scale(type="pow", exponent=power, scheme=scheme, domain=list(limits), clamp=True),
        legend=colour_bar(format=".3~r"),
    )
    across_x = alt.X("left:Q", title=x, scale=horizontal, axis=below)
    cells = (
        alt.Chart()
        .mark_rect(strokeWidth=0, clip=True)
        .encode(
            x=across_x,
            x2="right:Q",
            y=alt.Y("top:Q", title=y, scale=vertical, axis=left),
            y2="bottom:Q",
            color=colour,
            tooltip=[
                alt.Tooltip("panel:N", title="for"),
                alt.Tooltip("row:N", title=y),
                alt.Tooltip("column:N", title=x),
                alt.Tooltip("value:Q", title=value, format=".3~g"),
            ],
        )
    )
    names = (
        alt.Chart()
        .transform_aggregate(left="min(left)", top="min(top)", groupby=["panel"])
        .transform_calculate(centre=f"floor(datum.left) + {(1 - GAP) / 2}", name="datum.panel")
        .mark_text(dy=-6, fontSize=10, color=MUTED, limit=360 / abreast)
        .encode(
            x=alt.X("centre:Q", scale=horizontal, axis=below),
            y=alt.Y("top:Q", scale=vertical, axis=left),
            text="name:N",
        )
    )
    return specification(alt.layer(cells, names).properties(height=height if down == 1 else 60 + 150 * down))
