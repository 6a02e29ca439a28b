"""The problem of two numbers seen from above: the paths of the arms, and the gradients of one batch as arrows."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.experiments.adaptive_batch_size import toy
from normviz.experiments.adaptive_batch_size.knobs import ARM_NAMES, Knobs
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_symbol, faded, focus_param
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["contour", "landscape_figure"]

LEVELS = (0.05, 0.25, 1.0, 2.5, 5.0)
"""Gaps to the minimum along which the landscape is drawn."""
POINTS = 60
SHOWN, LENGTH = 24, 0.35
"""Samples whose step is drawn, and its length in units of the gradient."""
WIDTH, HEIGHT = Span(-2.6, 2.6), Span(-2.0, 2.4)
COLUMNS = ["part", "arm", "seed", "order", "x", "y", "x2", "y2"]


def contour(level: float) -> tuple[np.ndarray, np.ndarray]:
    """Points at which the gap to the minimum is ``level``: an ellipse around the minimum."""
    angle = np.linspace(0.0, 2 * math.pi, POINTS + 1)
    half = np.sqrt(2 * level / toy.CURVATURE)
    return toy.TARGET[0] + half[0] * np.cos(angle), toy.TARGET[1] + half[1] * np.sin(angle)


def landscape_figure(board: Board, knobs: Knobs) -> Figure:
    """Paths of the first seed up to the moment shown; arrows: where single samples would go from the main arm."""
    title, look_for = (
        "The landscape from above",
        "Thin lines: where single samples pull. When do they disagree?",
    )
    seed = knobs.first_seed
    parts = [_contours()]
    ends: dict[str, tuple[float, float]] = {}
    for arm in board.arms:
        found = [
            e
            for e in board.log.array_history("point")
            if e.arm == arm and e.seed == seed and (board.step is None or e.step <= board.step)
        ]
        if found:
            x, y = np.stack([e.value.astype(float) for e in found]).T
            parts.append(
                pd.DataFrame({"part": "path", "arm": arm, "order": np.arange(len(x)), "x": x, "y": y})
            )
            parts.append(pd.DataFrame([{"part": "end", "arm": arm, "x": x[-1], "y": y[-1]}]))
            ends[arm] = (float(x[-1]), float(y[-1]))
    spec = _landscape_spec(board.arms)
    if not ends:
        text = "Contours of the loss; nothing is measured yet."
        return Figure(title, look_for, text, spec=spec, data=parts[0].reindex(columns=COLUMNS))
    main = ARM_NAMES[knobs.main_kind()]
    pulls = [e for e in board.log.arrays("arrows", board.step) if e.arm == main and e.seed == seed]
    if pulls and main in ends:
        x, y = ends[main]
        step = -LENGTH * pulls[-1].value[:SHOWN].astype(float)
        parts.append(
            pd.DataFrame(
                {"part": "pull", "arm": main, "x": x, "y": y, "x2": x + step[:, 0], "y2": y + step[:, 1]}
            )
        )
    listed = ", ".join(f"{arm} at ({x:.2f}, {y:.2f})" for arm, (x, y) in ends.items())
    text = f"Paths on the contours of the loss, minimum at ({toy.TARGET[0]:g}, {toy.TARGET[1]:g}): {listed}."
    newest = max(e.step for e in board.log.arrays("point", board.step))
    data = pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS).round(4)
    return Figure(title, look_for, text, spec=spec, data=data, moment=board.progress.at(newest))


def _contours() -> pd.DataFrame:
    rows = []
    for i, level in enumerate(LEVELS):
        x, y = contour(level)
        rows.append(pd.DataFrame({"part": "contour", "seed": i, "order": np.arange(len(x)), "x": x, "y": y}))
    return pd.concat(rows, ignore_index=True)


@lru_cache(maxsize=16)
def _landscape_spec(arms: Arms) -> dict[str, Any]:
    x, y = across("x", "first number", WIDTH), up("y", "second number", HEIGHT, grid=False)

    def part(name: str) -> alt.Chart:
        chart: alt.Chart = alt.Chart().transform_filter(f"datum.part == '{name}'").encode(x=x, y=y)
        return chart

    contours = (
        part("contour")
        .mark_line(strokeWidth=1, color=MUTED, opacity=0.5, clip=True)
        .encode(detail="seed:N", order="order:Q")
    )
    pulls = (
        part("pull")
        .mark_rule(strokeWidth=1, opacity=0.6, clip=True, color=MUTED)
        .encode(x2="x2:Q", y2="y2:Q")
    )
    paths = (
        part("path")
        .mark_line(strokeWidth=2, clip=True)
        .encode(order="order:Q", color=arm_colour(arms), opacity=faded())
    )
    ends = (
        part("end")
        .mark_point(filled=True, size=70, clip=True)
        .encode(
            color=arm_colour(arms), shape=arm_symbol(arms), opacity=faded(), tooltip=[alt.Tooltip("arm:N")]
        )
    )
    return specification(alt.layer(contours, pulls, paths, ends).add_params(focus_param()))
