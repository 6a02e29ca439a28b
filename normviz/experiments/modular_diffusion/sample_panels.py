"""The page's picture: samples of every concept as points, a row of panels for each arm, the data in grey behind."""

from __future__ import annotations

from functools import lru_cache
from textwrap import wrap
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.arms import Arms
from normviz.experiments.modular_diffusion.knobs import Knobs
from normviz.experiments.modular_diffusion.recorded import CONCEPTS, REACH
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, faded, focus_param
from normviz.figures.palette import MUTED
from normviz.figures.vega import specification

__all__ = ["sample_panels_figure"]

GAP = 0.06
"""Space between two panels, as a share of a panel."""
LETTERS = 13
"""Letters of an arm's name in one line beside its row."""
COLUMNS = ["part", "arm", "concept", "x", "y", "x2", "y2"]

Points = NDArray[np.float64]


def sample_panels_figure(board: Board, knobs: Knobs, how: str, title: str, look_for: str) -> Figure:
    """Panels of the first seed at the moment shown.

    Args:
        board: log, arms, moment.
        knobs: the setting.
        how: which samples: "alone", "sum", "average" or "fused".
        title, look_for: as in :class:`~normviz.figures.Figure`.
    """
    names = CONCEPTS[: knobs.concepts]
    entries = {e.arm: e for e in board.log.arrays(f"samples_{how}", board.step)}
    targets = next((e.value.astype(float) for e in board.log.arrays("targets", board.step)), None)
    rows: list[pd.DataFrame] = []
    for row, arm in enumerate(board.arms):
        for column, concept in enumerate(names):
            rows.append(_frame(arm, concept, row, column))
            if targets is not None:
                rows.append(_dots("data", arm, concept, row, column, targets[column]))
            if arm in entries:
                rows.append(
                    _dots("sample", arm, concept, row, column, entries[arm].value[column].astype(float))
                )
    data = pd.concat(rows, ignore_index=True) if entries else pd.DataFrame(columns=COLUMNS)
    words = {
        "alone": "each concept's own model",
        "sum": "the summed model",
        "average": "the averaged model",
        "fused": "the fused model",
    }[how]
    if not entries:
        text, moment = f"Panels of points from {words}; nothing is measured yet.", ""
    else:
        moment = board.progress.at(max(e.step for e in entries.values()))
        table = board.log.arrays(f"concepts_{how}", board.step)
        found = "; ".join(
            f"{e.arm}: "
            + ", ".join(f"{name} {d:.2f}" for name, d in zip(names, e.value.tolist(), strict=True))
            for e in table
            if e.arm in entries and e.seed == entries[e.arm].seed
        )
        text = f"Points from {words} at {moment}, a panel per concept. Distance to the data, {found}."
    spec = _spec(board.arms, names)
    return Figure(title, look_for, text, spec=spec, data=data, moment=moment)


def _place(points: Points, row: int, column: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where points of a panel stand on the whole chart; what is out of reach is left out."""
    kept = points[(np.abs(points) <= REACH).all(axis=1)]
    unit = (kept / REACH + 1) / 2 * (1 - GAP) + GAP / 2
    return column + unit[:, 0], row + 1 - unit[:, 1]


def _dots(part: str, arm: str, concept: str, row: int, column: int, points: Points) -> pd.DataFrame:
    x, y = _place(points, row, column)
    return pd.DataFrame(
        {"part": part, "arm": arm, "concept": concept, "x": x.round(3), "y": y.round(3)}, columns=COLUMNS
    )


def _frame(arm: str, concept: str, row: int, column: int) -> pd.DataFrame:
    edge = GAP / 2
    ends = (column + edge, row + edge, column + 1 - edge, row + 1 - edge)
    return pd.DataFrame([("panel", arm, concept, *ends)], columns=COLUMNS)


@lru_cache(maxsize=64)
def _spec(arms: Arms, concepts: tuple[str, ...]) -> dict[str, Any]:
    rows = max(len(arms), 1)
    plain: dict[str, Any] = {
        "grid": False,
        "ticks": False,
        "domain": False,
        "labelOverlap": False,
        "title": None,
    }
    x_axis = alt.Axis(
        values=[i + 0.5 for i in range(len(concepts))],
        labelExpr=f"{list(concepts)!r}[floor(datum.value)]",
        orient="top",
        **plain,
    )
    y_axis = alt.Axis(
        values=[i + 0.5 for i in range(rows)],
        labelExpr=f"{[wrap(arm, LETTERS) for arm in arms]!r}[floor(datum.value)]",
        **plain,
    )
    x = alt.X("x:Q", scale=alt.Scale(domain=[0, len(concepts)], nice=False), axis=x_axis)
    y = alt.Y("y:Q", scale=alt.Scale(domain=[rows, 0], nice=False), axis=y_axis)
    base = alt.Chart().encode(x=x, y=y)
    panel = (
        base.transform_filter("datum.part == 'panel'")
        .mark_rect(filled=False, stroke=MUTED, strokeWidth=0.6)
        .encode(x2="x2:Q", y2="y2:Q")
    )
    size = 9 if len(concepts) * rows <= 8 else 6
    behind = base.transform_filter("datum.part == 'data'").mark_circle(size=size, color=MUTED, opacity=0.35)
    samples = (
        base.transform_filter("datum.part == 'sample'")
        .mark_circle(size=1.4 * size)
        .encode(
            color=arm_colour(arms),
            opacity=faded(0.85),
            tooltip=[alt.Tooltip("arm:N"), alt.Tooltip("concept:N")],
        )
    )
    layered = alt.layer(panel, behind, samples)
    return specification(layered.properties(view=alt.ViewBackground(stroke=None)).add_params(focus_param()))
