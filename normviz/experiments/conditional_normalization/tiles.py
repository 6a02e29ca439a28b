"""Tiles: small pictures in rows and columns, with names beside, above and below them.

A row of pixels is sent as one text of colours and taken apart in the browser, so that a table of many pictures stays
small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.figures import Figure
from normviz.figures.legends import HEIGHT
from normviz.figures.palette import MUTED
from normviz.figures.vega import specification

__all__ = [
    "COLUMNS",
    "REGION_COLOURS",
    "Tile",
    "layout_colours",
    "painted_colours",
    "pixel_rows",
    "pixels_layer",
    "signed_colours",
    "tiles_figure",
]

COLUMNS = ("part", "left", "top", "wide", "high", "colours", "text")
SIDE, TOP, FOOT = 0.04, 0.03, 0.17
"""Margins of a picture within its cell; below stands its caption, where there are captions."""
NAMES, HEAD = 0.85, 0.22
"""Room for the rows' names on the left and the columns' names above, in cells."""
OVERLAP = 0.35
"""By how much a pixel reaches into the next one, in pixels: no seam shows."""

NEGATIVE, ZERO, POSITIVE = (np.array(c, dtype=float) for c in ((20, 96, 170), (244, 244, 242), (200, 78, 10)))
"""Colours of −1, 0 and 1 on a map."""
REGION_COLOURS = ("#9ecae1", "#a1843c", "#fdd835", "#1f5f9e")
"""How sky, ground, disc and water look on a layout."""


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture.

    Args:
        row, column: its cell.
        colours: of its pixels, "#rrggbb", (height, width).
        caption: below it.
    """

    row: int
    column: int
    colours: NDArray[np.str_]
    caption: str = ""


def signed_colours(values: NDArray[Any], largest: float) -> NDArray[np.str_]:
    """Blue for −largest, near white for 0, orange for largest."""
    share = np.clip(np.nan_to_num(values.astype(float)) / max(largest, 1e-12), -1, 1)[..., None]
    mixed = np.where(share < 0, ZERO + (NEGATIVE - ZERO) * -share, ZERO + (POSITIVE - ZERO) * share)
    return _hex(mixed)


def painted_colours(image: NDArray[Any]) -> NDArray[np.str_]:
    """Colours of a picture (3, height, width) with values in [-1, 1]."""
    return _hex(np.moveaxis(np.clip(image.astype(float), -1, 1) * 127.5 + 127.5, 0, -1))


def layout_colours(segmap: NDArray[Any]) -> NDArray[np.str_]:
    """Colours of a layout's classes."""
    colours: NDArray[np.str_] = np.array(REGION_COLOURS)[segmap.astype(int)]
    return colours


def _hex(rgb: NDArray[np.float64]) -> NDArray[np.str_]:
    whole = np.rint(rgb).astype(int)
    packed = (whole[..., 0] << 16) + (whole[..., 1] << 8) + whole[..., 2]
    texts: NDArray[np.str_] = np.char.mod("#%06x", packed)
    return texts


def pixel_rows(
    colours: NDArray[np.str_], left: float, top: float, width: float, height: float
) -> pd.DataFrame:
    """One row of the table for each row of pixels of a picture at that place."""
    rows, columns = colours.shape
    high = height / rows
    return pd.DataFrame(
        {
            "part": "pixels",
            "left": round(left, 4),
            "top": (top + high * np.arange(rows)).round(4),
            "wide": round(width / columns, 5),
            "high": round(high, 5),
            "colours": [" ".join(row) for row in colours.tolist()],
            "text": "",
        }
    )


def pixels_layer(x: alt.X, y: alt.Y, *, part: str = "pixels", chosen: str = "") -> alt.Chart:
    """Squares for all rows of pixels of a part, or for those that satisfy an expression too."""
    wanted = f"datum.part == '{part}'" + (f" && {chosen}" if chosen else "")
    chart: alt.Chart = (
        alt.Chart()
        .transform_filter(wanted)
        .transform_calculate(colour="split(datum.colours, ' ')", at="sequence(length(datum.colour))")
        .transform_flatten(["colour", "at"])
        .transform_calculate(
            x="datum.left + datum.at * datum.wide",
            x2=f"datum.left + (datum.at + {1 + OVERLAP}) * datum.wide",
            y2=f"datum.top + {1 + OVERLAP} * datum.high",
        )
        .mark_rect(strokeWidth=0)
        .encode(x=x, y=y, x2="x2:Q", y2="y2:Q", color=alt.Color("colour:N", scale=None))
    )
    return chart


def tiles_figure(
    tiles: Sequence[Tile],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    look_for: str,
    alt_text: str,
    captions: bool = False,
    moment: str = "",
) -> Figure:
    """Pictures in rows and columns.

    Args:
        tiles: those that are there.
        rows: names at the left, from top to bottom.
        columns: names above, from left to right.
        title, look_for, moment: as in :class:`Figure`.
        alt_text: the textual alternative.
        captions: room for a caption below each picture.
    """
    foot = FOOT if captions else 0.0
    names = NAMES if any(rows) else 0.0
    parts = [_text("row", names - 0.06, HEAD + i + (1 - foot) / 2, name) for i, name in enumerate(rows)]
    parts += [_text("column", names + i + 0.5, HEAD / 2, name) for i, name in enumerate(columns)]
    for tile in tiles:
        left, top = names + tile.column + SIDE, HEAD + tile.row + TOP
        parts.append(pixel_rows(tile.colours, left, top, 1 - 2 * SIDE, 1 - TOP - TOP - foot))
        if tile.caption:
            parts.append(
                _text("caption", names + tile.column + 0.5, HEAD + tile.row + 1 - foot / 2, tile.caption)
            )
    data = pd.concat(parts, ignore_index=True)
    spec = _tiles_spec(round(names + len(columns), 3), HEAD + len(rows))
    return Figure(title, look_for, alt_text, spec=spec, data=data, moment=moment)


def _text(part: str, x: float, y: float, text: str) -> pd.DataFrame:
    return pd.DataFrame([(part, round(x, 4), round(y, 4), 0.0, 0.0, "", text)], columns=list(COLUMNS))


@lru_cache(maxsize=64)
def _tiles_spec(across: float, down: float) -> dict[str, Any]:
    horizontal = alt.Scale(domain=[0, across], nice=False)
    vertical = alt.Scale(domain=[down, 0], nice=False)
    pixels = pixels_layer(
        alt.X("x:Q", axis=None, scale=horizontal), alt.Y("top:Q", axis=None, scale=vertical)
    )
    x, y = alt.X("left:Q", axis=None, scale=horizontal), alt.Y("top:Q", axis=None, scale=vertical)

    def words(part: str, **style: Any) -> alt.Chart:
        chart: alt.Chart = (
            alt.Chart()
            .transform_filter(f"datum.part == '{part}'")
            .mark_text(baseline="middle", color=MUTED, **style)
            .encode(x=x, y=y, text="text:N")
        )
        return chart

    layered = alt.layer(
        pixels,
        words("row", align="right", fontSize=10, limit=90),
        words("column", align="center", fontSize=11),
        words("caption", align="center", fontSize=10),
    )
    return specification(layered.properties(height=HEIGHT, view=alt.ViewBackground(stroke=None)))
