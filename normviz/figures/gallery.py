"""A gallery: small pictures or signals in rows, each with a caption and a frame whose colour says what kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.arms import Arms
from normviz.figures.figure import Figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED, colours
from normviz.figures.vega import specification

__all__ = ["gallery_figure", "signal_gallery_figure"]

SIDE, TOP, FOOT = 0.06, 0.02, 0.24
"""Margins of a picture within its cell: left and right, above, below (where the caption stands)."""
INNER_WIDTH, INNER_HEIGHT = 1 - 2 * SIDE, 1 - TOP - FOOT
"""Size of a picture, in cells."""
OVERLAP, OVERLAP_OF_SMALL = 0.06, 0.35
"""By how much a pixel reaches into the next one, in pixels; those of a large picture are only some dots wide."""
MOST_PIXELS = 256
"""Pixels of the largest picture that is drawn pixel by pixel; in a larger one equal neighbours are one rectangle."""


def gallery_figure(
    images: NDArray[np.float32],
    captions: Sequence[str],
    kinds: Sequence[str],
    *,
    kind_names: Arms,
    title: str,
    look_for: str,
    alt_text: str,
    columns: int = 6,
    rows: int = 3,
    limits: tuple[float, float] = (0.0, 1.0),
    wide: bool = False,
) -> Figure:
    """Pictures from left to right and top to bottom.

    Args:
        images: grey values (k, height, width), k at most ``columns`` x ``rows``.
        captions: a few characters for each picture.
        kinds: the kind of each picture, one of ``kind_names``.
        kind_names: all kinds and their looks, in the order of the legend.
        title, look_for, wide: as in :class:`Figure`.
        alt_text: the textual alternative.
        columns, rows: cells of the gallery.
        limits: grey values that are drawn black and white.

    Raises:
        ValueError: more pictures than cells, or another number of captions or kinds.
    """
    _check_cells("images", len(images), captions, kinds, columns, rows)
    spec = _gallery_spec(kind_names, columns, rows, limits)
    data = _table(np.asarray(images, dtype=float), captions, kinds, columns)
    return Figure(title, look_for, alt_text, spec=spec, data=data, wide=wide)


def signal_gallery_figure(
    signals: NDArray[np.float32],
    captions: Sequence[str],
    kinds: Sequence[str],
    *,
    kind_names: Arms,
    title: str,
    look_for: str,
    alt_text: str,
    columns: int = 6,
    rows: int = 3,
    limits: tuple[float, float] | None = None,
    wide: bool = False,
) -> Figure:
    """Signals as lines, from left to right and top to bottom, in the frames of :func:`gallery_figure`.

    Args:
        signals: values (k, length) with length 2 or more, k at most ``columns`` x ``rows``.
        captions, kinds, kind_names, title, look_for, alt_text, columns, rows, wide: as in :func:`gallery_figure`.
        limits: values at the lower and the upper edge of a frame, which cut what lies beyond; None: the smallest and
            the largest value of all signals.

    Raises:
        ValueError: more signals than cells, or another number of captions or kinds.
    """
    _check_cells("signals", len(signals), captions, kinds, columns, rows)
    values = np.asarray(signals, dtype=float)
    low, high = limits or ((values.min(), values.max()) if values.size else (0.0, 1.0))
    share = ((values - low) / max(high - low, 1e-12)).clip(0, 1)  # 1: the upper edge of the frame
    k, length = values.shape
    x = _left(k, columns)[:, None] + INNER_WIDTH * np.linspace(0, 1, length)
    y = _top(k, columns)[:, None] + INNER_HEIGHT * (1 - share)
    points = pd.DataFrame({"x": x.ravel(), "y": y.ravel(), "value": values.ravel()})
    points["x2"], points["y2"] = points["x"], points["y"]
    points["kind"], points["caption"] = "", ""
    points["picture"] = np.arange(k).repeat(length)
    whole = _frames(captions, kinds, columns).assign(picture=range(k))
    data = pd.concat([points, whole], ignore_index=True)
    spec = _gallery_spec(kind_names, columns, rows, None)
    return Figure(title, look_for, alt_text, spec=spec, data=data, wide=wide)


def _check_cells(
    name: str, count: int, captions: Sequence[str], kinds: Sequence[str], columns: int, rows: int
) -> None:
    if count > columns * rows:
        raise ValueError(f"{name} must be at most columns x rows = {columns * rows}, got {count}.")
    if not count == len(captions) == len(kinds):
        counts = (count, len(captions), len(kinds))
        raise ValueError(f"{name}, captions and kinds must be equally many, got {counts}.")


def _left(k: int, columns: int) -> NDArray[np.float64]:
    """Left edges of the first ``k`` pictures, in cells."""
    return (np.arange(k) % columns + SIDE).astype(np.float64)


def _top(k: int, columns: int) -> NDArray[np.float64]:
    """Upper edges of the first ``k`` pictures, in cells."""
    return (np.arange(k) // columns + TOP).astype(np.float64)


def _frames(captions: Sequence[str], kinds: Sequence[str], columns: int) -> pd.DataFrame:
    """One row per picture: its frame, kind and caption."""
    left, top = _left(len(kinds), columns), _top(len(kinds), columns)
    whole = pd.DataFrame({"x": left, "y": top, "value": 0.0, "x2": left + INNER_WIDTH})
    whole["y2"], whole["kind"], whole["caption"] = top + INNER_HEIGHT, list(kinds), list(captions)
    return whole


def _table(
    images: NDArray[np.float64], captions: Sequence[str], kinds: Sequence[str], columns: int
) -> pd.DataFrame:
    """One row per pixel, or per run of equal pixels where pictures are large, then one per picture (``kind`` set)."""
    k, height, width = images.shape
    step_x, step_y = INNER_WIDTH / width, INNER_HEIGHT / height
    starts = np.ones(images.shape, dtype=bool)
    overlap = OVERLAP
    if height * width > MOST_PIXELS:
        overlap = OVERLAP_OF_SMALL
        starts[:, :, 1:] = images[:, :, 1:] != images[:, :, :-1]
    picture, row, column = np.nonzero(starts)
    runs = np.diff(np.append(np.flatnonzero(starts), starts.size))  # pixels of each rectangle
    x = _left(k, columns)[picture] + step_x * column
    y = _top(k, columns)[picture] + step_y * row
    # Neighbours overlap a little: exact edges would let the background shine through.
    pixels = pd.DataFrame({"x": x, "y": y, "value": images[starts]})
    pixels["x2"], pixels["y2"] = x + step_x * (runs + overlap), y + step_y * (1 + overlap)
    pixels["kind"], pixels["caption"] = "", ""
    return pd.concat([pixels, _frames(captions, kinds, columns)], ignore_index=True)


@lru_cache(maxsize=64)
def _gallery_spec(kinds: Arms, columns: int, rows: int, limits: tuple[float, float] | None) -> dict[str, Any]:
    """Pictures whose pixels are black and white at ``limits``; None: signals, each a line."""
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, columns], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[rows, 0], nice=False))
    base = alt.Chart().encode(x=x, y=y, x2="x2:Q", y2="y2:Q")
    inside: alt.Chart
    if limits is None:
        inside = (
            alt.Chart()
            .transform_filter("datum.kind == ''")
            .mark_line(strokeWidth=1.2, color=MUTED)
            .encode(x=x, y=y, detail="picture:N", order="x:Q")
        )
    else:
        grey = alt.Scale(domain=list(limits), range=["#101010", "#ffffff"], clamp=True)
        inside = (
            base.transform_filter("datum.kind == ''")
            .mark_rect(strokeWidth=0)
            .encode(color=alt.Color("value:Q", scale=grey, legend=None))
        )
    frames = (
        base.transform_filter("datum.kind != ''")
        .mark_rect(filled=False, strokeWidth=2.5)
        .encode(
            stroke=alt.Stroke(
                "kind:N",
                title=None,
                scale=alt.Scale(domain=list(kinds.names), range=colours(kinds)),
                legend=legend_above(kinds.names, lines=False),
            ),
            tooltip=[alt.Tooltip("caption:N"), alt.Tooltip("kind:N")],
        )
    )
    words = (
        alt.Chart()
        .transform_filter("datum.kind != ''")
        .transform_calculate(centre="(datum.x + datum.x2) / 2")
        .mark_text(baseline="top", dy=3, fontSize=10, color=MUTED)
        .encode(x=alt.X("centre:Q", axis=None), y=alt.Y("y2:Q", axis=None), text="caption:N")
    )
    layered = (
        alt.layer(inside, frames, words)
        .resolve_scale(stroke="independent", color="independent")
        .resolve_legend(stroke="independent", color="independent")
    )
    return specification(layered.properties(height=height_below(kinds.names)))
