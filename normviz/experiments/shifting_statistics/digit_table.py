"""Digits in rows with what is said of each below: the pictures themselves, and words in the colour of their kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.arms import Arms
from normviz.figures.figure import Figure
from normviz.figures.legends import HEIGHT, height_below, legend_above
from normviz.figures.palette import MUTED, colours
from normviz.figures.vega import specification

__all__ = ["PictureRow", "TextRow", "digit_table_figure"]

NAMES = 2.3
"""Room for the rows' names on the left, in widths of a picture."""
TEXT_HEIGHT = 0.34
"""Height of a row of words over that of a row of pictures."""
OVERLAP = 0.06
"""By how much a pixel reaches into the next one, in pixels: exact edges would let the background shine through."""
COLUMNS = ("part", "left", "right", "top", "bottom", "value", "text", "kind")


@dataclass(frozen=True, eq=False)
class PictureRow:
    """A row of pictures.

    Args:
        name: what stands to the left.
        images: grey values in [0, 1], (k, height, width).
    """

    name: str
    images: NDArray[np.float32]


@dataclass(frozen=True)
class TextRow:
    """A row of short words, one below each picture.

    Args:
        name: what stands to the left.
        words: one for each picture.
        kinds: the kind of each, one of the figure's ``kind_names``.
    """

    name: str
    words: Sequence[str]
    kinds: Sequence[str]


def digit_table_figure(
    rows: Sequence[PictureRow | TextRow],
    *,
    columns: int,
    kind_names: Arms,
    title: str,
    look_for: str,
    alt_text: str,
    moment: str = "",
    pictures: int = 2,
    words: int = 6,
) -> Figure:
    """Rows of pictures and of words below each other, in common columns.

    Args:
        rows: from top to bottom.
        columns: pictures of a row.
        kind_names: all kinds of words and their colours, in the order of the legend.
        title, look_for, moment: as in :class:`Figure`.
        alt_text: the textual alternative.
        pictures, words: rows of each sort that there is room for, so that the chart does not move while they come.

    Raises:
        ValueError: a row with more entries than columns, or a word without a kind.
    """
    parts: list[pd.DataFrame] = []
    top = 0.0
    for row in rows:
        count = len(row.images) if isinstance(row, PictureRow) else len(row.words)
        if count > columns:
            raise ValueError(
                f"rows must have at most columns = {columns} entries, got {count} in {row.name!r}."
            )
        high = 1.0 if isinstance(row, PictureRow) else TEXT_HEIGHT
        middle = top + high / 2
        parts.append(_name(row.name, middle))
        if isinstance(row, PictureRow):
            parts.append(_pixels(row.images, top))
        else:
            if len(row.kinds) != count:
                raise ValueError(f"kinds must be as many as words = {count}, got {len(row.kinds)}.")
            parts.append(_words(row, middle))
        top += high
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))
    depth = max(top, pictures + TEXT_HEIGHT * words)
    return Figure(
        title,
        look_for,
        alt_text,
        spec=_table_spec(kind_names, columns, round(depth, 3)),
        data=data,
        moment=moment,
    )


def _name(name: str, middle: float) -> pd.DataFrame:
    return pd.DataFrame([("name", 0.0, 0.0, middle, middle, 0.0, name, "")], columns=list(COLUMNS))


def _pixels(images: NDArray[np.float32], top: float) -> pd.DataFrame:
    k, height, width = images.shape
    step_x, step_y = 0.92 / width, 0.92 / height
    left = NAMES + np.arange(k)[:, None, None] + step_x * np.arange(width)[None, None]
    upper = top + 0.02 + step_y * np.arange(height)[None, :, None]
    left, upper = (np.broadcast_to(v, images.shape).ravel() for v in (left, upper))
    return pd.DataFrame(
        {
            "part": "pixel",
            "left": left.round(4),
            "right": (left + step_x * (1 + OVERLAP)).round(4),
            "top": upper.round(4),
            "bottom": (upper + step_y * (1 + OVERLAP)).round(4),
            "value": images.ravel().astype(float).round(3),
            "text": "",
            "kind": "",
        }
    )


def _words(row: TextRow, middle: float) -> pd.DataFrame:
    at = NAMES + np.arange(len(row.words)) + 0.46
    return pd.DataFrame(
        {
            "part": "word",
            "left": at,
            "right": at,
            "top": middle,
            "bottom": middle,
            "value": 0.0,
            "text": list(row.words),
            "kind": list(row.kinds),
        }
    )


@lru_cache(maxsize=64)
def _table_spec(kinds: Arms, columns: int, depth: float) -> dict[str, Any]:
    across = alt.Scale(domain=[0, NAMES + columns], nice=False)
    down = alt.Scale(domain=[depth, 0], nice=False)
    x, y = alt.X("left:Q", axis=None, scale=across), alt.Y("top:Q", axis=None, scale=down)
    pixels = (
        alt.Chart()
        .transform_filter("datum.part == 'pixel'")
        .mark_rect(strokeWidth=0)
        .encode(
            x=x,
            y=y,
            x2="right:Q",
            y2="bottom:Q",
            color=alt.Color(
                "value:Q",
                scale=alt.Scale(domain=[0, 1], range=["#101010", "#ffffff"], clamp=True),
                legend=None,
            ),
        )
    )
    names = (
        alt.Chart()
        .transform_filter("datum.part == 'name'")
        .mark_text(align="left", fontSize=10, color=MUTED)
        .encode(x=x, y=y, text="text:N")
    )
    words = (
        alt.Chart()
        .transform_filter("datum.part == 'word'")
        .mark_text(fontSize=11, fontWeight="bold")
        .encode(
            x=x,
            y=y,
            text="text:N",
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(domain=list(kinds.names), range=colours(kinds)),
                legend=legend_above(kinds.names, lines=False) if kinds.names else None,
            ),
        )
    )
    layered = (
        alt.layer(pixels, names, words).resolve_scale(color="independent").resolve_legend(color="independent")
    )
    return specification(layered.properties(height=height_below(kinds.names) if kinds.names else HEIGHT))
