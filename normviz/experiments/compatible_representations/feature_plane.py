"""The page's picture: old features as dots, mapped new ones as digits, in one plane."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.experiments.compatible_representations.knobs import ARM_NAMES, Knobs
from normviz.figures import Board, Figure, colours
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["feature_plane_figure"]

CLASSES = Arms.of([str(digit) for digit in range(10)])
COLUMNS = ["part", "x", "y", "x2", "y2", "digit"]
ROOM = 0.05
"""Space beside the outermost feature, as a share of the axis."""


def feature_plane_figure(board: Board, knobs: Knobs) -> Figure:
    """Features of the first test digits at the moment shown, first seed, in the plane of the old class means."""
    arm = ARM_NAMES.get(knobs.looked(), "")
    title = f"Old and new features, {arm}"
    look_for = "Dots: old. Small digits: new, mapped. Lines: old to new centre."
    history = [e for e in board.log.array_history("places") if e.arm == arm]
    old = [e for e in board.log.arrays("old_places") if e.arm == arm]
    labels = [e for e in board.log.arrays("place_labels") if e.arm == arm]
    shown = [e for e in history if board.step is None or e.step <= board.step]
    if not shown or not old or not labels:
        text = "Old and new features in a plane; nothing is measured yet."
        empty = pd.DataFrame(columns=COLUMNS)
        return Figure(title, look_for, text, spec=_spec(Span(-1.0, 1.0), Span(-1.0, 1.0)), data=empty)
    new, digits = shown[-1].value.astype(float), [str(int(label)) for label in labels[0].value]
    before = old[0].value.astype(float)
    parts = [_part("old", before, digits), _part("new", new, digits), _centres(before, new, digits)]
    data = pd.concat(parts, ignore_index=True)
    # Axes hold the way of all moments so far: they do not jump when the reader goes back.
    everything = np.concatenate([old[0].value, *(e.value for e in history)]).astype(float)
    moment = board.progress.at(shown[-1].step)
    distance = float(np.linalg.norm(_means(new, digits) - _means(before, digits), axis=1).mean())
    text = (
        f"Features of {len(digits)} digits in the plane of the old model's class means at {moment}, map: {arm}. "
        f"Mean distance between a class's old and new centre: {distance:.2f}."
    )
    spec = _spec(_span(everything[:, 0]), _span(everything[:, 1]))
    return Figure(title, look_for, text, spec=spec, data=data.round(4), moment=moment)


def _part(name: str, places: np.ndarray[Any, Any], digits: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"part": name, "x": places[:, 0], "y": places[:, 1], "digit": digits})


def _centres(old: np.ndarray[Any, Any], new: np.ndarray[Any, Any], digits: list[str]) -> pd.DataFrame:
    """A row for each class: from the centre of its old features to that of its new ones."""
    (x, y), (x2, y2) = _means(old, digits).T, _means(new, digits).T
    names = sorted(set(digits))
    return pd.DataFrame({"part": "centre", "x": x, "y": y, "x2": x2, "y2": y2, "digit": names})


def _means(places: np.ndarray[Any, Any], digits: list[str]) -> np.ndarray[Any, Any]:
    return np.stack([places[np.array(digits) == digit].mean(0) for digit in sorted(set(digits))])


def _span(values: np.ndarray[Any, Any]) -> Span:
    room = ROOM * max(float(np.ptp(values)), 1e-6)
    return Span.of(values.min() - room, values.max() + room)


@lru_cache(maxsize=64)
def _spec(wide: Span, tall: Span) -> dict[str, Any]:
    base = alt.Chart().encode(
        x=across("x", "first direction of the old class means", wide),
        y=up("y", "second direction", tall, grid=False),
        color=alt.Color(
            "digit:N", scale=alt.Scale(domain=list(CLASSES.names), range=colours(CLASSES)), legend=None
        ),
        tooltip=[alt.Tooltip("digit:N"), alt.Tooltip("part:N", title="model")],
    )
    old = base.transform_filter("datum.part == 'old'").mark_circle(size=26, opacity=0.4, clip=True)
    new = base.transform_filter("datum.part == 'new'").mark_text(fontSize=9, opacity=0.75, clip=True)
    centres = base.transform_filter("datum.part == 'centre'")
    way = centres.mark_rule(strokeWidth=2, clip=True).encode(x2="x2:Q", y2="y2:Q")
    end = centres.mark_text(fontSize=17, fontWeight="bold", clip=True).encode(
        x=across("x2", "first direction of the old class means", wide),
        y=up("y2", "second direction", tall, grid=False),
        text="digit:N",
    )
    return specification(alt.layer(old, new.encode(text="digit:N"), way, end))
