"""A gallery: small pictures in rows, each with a caption and a frame whose colour says what kind it is."""

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

__all__ = ["gallery_figure"]

SIDE, TOP, FOOT = 0.06, 0.02, 0.24
"""Margins of a picture within its cell: left and right, above, below (where the caption stands)."""
OVERLAP = 0.06
"""By how much a pixel reaches into the next one, in pixels."""


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
    if len(images) > columns * rows:
        raise ValueError(f"images must be at most columns x rows = {columns * rows}, got {len(images)}.")
    if not len(images) == len(captions) == len(kinds):
        counts = (len(images), len(captions), len(kinds))
        raise ValueError(f"images, captions and kinds must be equally many, got {counts}.")
    spec = _gallery_spec(kind_names, columns, rows, limits)
    data = _table(np.asarray(images, dtype=float), captions, kinds, columns)
    return Figure(title, look_for, alt_text, spec=spec, data=data, wide=wide)


def _table(
    images: NDArray[np.float64], captions: Sequence[str], kinds: Sequence[str], columns: int
) -> pd.DataFrame:
    """One row per pixel, then one per picture (``kind`` set)."""
    k, height, width = images.shape
    left = np.arange(k) % columns + SIDE  # of each picture, in cells
    top = np.arange(k) // columns + TOP
    step_x, step_y = (1 - 2 * SIDE) / width, (1 - TOP - FOOT) / height
    x = (left[:, None, None] + step_x * np.arange(width)[None, None]).repeat(height, 1)  # (k, height, width)
    y = (top[:, None, None] + step_y * np.arange(height)[None, :, None]).repeat(width, 2)
    # Neighbours overlap a little: exact edges would let the background shine through.
    pixels = pd.DataFrame({"x": x.ravel(), "y": y.ravel(), "value": images.ravel()})
    pixels["x2"], pixels["y2"] = x.ravel() + step_x * (1 + OVERLAP), y.ravel() + step_y * (1 + OVERLAP)
    pixels["kind"], pixels["caption"] = "", ""
    whole = pd.DataFrame({"x": left, "y": top, "value": 0.0, "x2": left + 1 - 2 * SIDE})
    whole["y2"], whole["kind"], whole["caption"] = top + 1 - TOP - FOOT, list(kinds), list(captions)
    return pd.concat([pixels, whole], ignore_index=True)


@lru_cache(maxsize=64)
def _gallery_spec(kinds: Arms, columns: int, rows: int, limits: tuple[float, float]) -> dict[str, Any]:
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, columns], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[rows, 0], nice=False))
    grey = alt.Scale(domain=list(limits), range=["#101010", "#ffffff"], clamp=True)
    base = alt.Chart().encode(x=x, y=y, x2="x2:Q", y2="y2:Q")
    pixels = (
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
        alt.layer(pixels, frames, words)
        .resolve_scale(stroke="independent", color="independent")
        .resolve_legend(stroke="independent", color="independent")
    )
    return specification(layered.properties(height=height_below(kinds.names)))
