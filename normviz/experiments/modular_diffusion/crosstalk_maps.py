"""Crosstalk of every two concepts as a map, one per arm."""

from __future__ import annotations

from functools import lru_cache
from textwrap import wrap
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.experiments.modular_diffusion.knobs import Knobs
from normviz.experiments.modular_diffusion.recorded import CONCEPTS
from normviz.figures import Board, Figure
from normviz.figures.legends import colour_bar
from normviz.figures.palette import MUTED
from normviz.figures.vega import specification

__all__ = ["crosstalk_maps_figure"]

GAP, HEAD = 0.1, 0.09
"""Space between two maps, as a share of a map's width, and above each for a line of its name, of its height."""
LETTERS = 48
"""Letters that fit above all maps together."""
COLUMNS = ["arm", "one", "other", "x", "x2", "y", "y2", "value", "label"]


def crosstalk_maps_figure(board: Board, knobs: Knobs) -> Figure:
    """Weight crosstalk between concepts, mean over layers and seeds; the diagonal, a concept with itself, is left out.

    Args:
        board: log, arms, moment.
        knobs: the setting.
    """
    names = CONCEPTS[: knobs.concepts]
    title, look_for = (
        "Crosstalk of the weights",
        "0: two adapters read different directions. Whose are apart?",
    )
    entries = board.log.arrays("crosstalk", board.step)
    spec = _spec(board.arms, names)
    rows: list[tuple[Any, ...]] = []
    found: dict[str, float] = {}
    count = len(names)
    head = HEAD * _name_lines(board.arms)
    high = (1 - head) / count
    for k, arm in enumerate(board.arms):
        values = [e.value.astype(float) for e in entries if e.arm == arm]
        if not values:
            continue
        mean = np.stack(values).mean(0)
        found[arm] = float(mean[~np.eye(count, dtype=bool)].mean())
        for (i, j), value in np.ndenumerate(mean):
            if i == j:
                continue
            left, top = k + (1 - GAP) * j / count, head + high * i
            label = f"{value:.2f}" if count * len(board.arms) <= 9 else ""
            right = left + (1 - GAP) / count
            rows.append((arm, names[i], names[j], left, right, top, top + high, float(value), label))
    data = pd.DataFrame(rows, columns=COLUMNS)
    if not found:
        return Figure(
            title, look_for, "Maps of weight crosstalk; nothing is measured yet.", spec=spec, data=data
        )
    moment = board.progress.at(max(e.step for e in entries))
    listed = ", ".join(f"{arm} {value:.2f}" for arm, value in found.items())
    text = f"Weight crosstalk of every two concepts at {moment}. Mean over pairs: {listed}."
    return Figure(title, look_for, text, spec=spec, data=data, moment=moment)


def _name(arm: str, maps: int) -> list[str]:
    """An arm's name in lines that fit above its map."""
    return wrap(arm, max(LETTERS // max(maps, 1), 8))


def _name_lines(arms: Arms) -> int:
    """Most lines of a name."""
    return max((len(_name(arm, len(arms))) for arm in arms), default=1)


@lru_cache(maxsize=64)
def _spec(arms: Arms, names: tuple[str, ...]) -> dict[str, Any]:
    count, maps = len(names), max(len(arms), 1)
    plain: dict[str, Any] = {
        "grid": False,
        "ticks": False,
        "domain": False,
        "labelOverlap": False,
        "title": None,
    }
    head = HEAD * _name_lines(arms)
    high, wide = (1 - head) / count, (1 - GAP) / count
    x_axis = alt.Axis(
        values=[k + (i + 0.5) * wide for k in range(maps) for i in range(count)],
        labelExpr=f"{list(names)!r}[floor((datum.value - floor(datum.value)) / {wide})]",
        labelAngle=0 if count * maps <= 6 else -45,
        **plain,
    )
    y_axis = alt.Axis(
        values=[head + (i + 0.5) * high for i in range(count)],
        labelExpr=f"{list(names)!r}[floor((datum.value - {head}) / {high})]",
        **plain,
    )
    x = alt.X("x:Q", scale=alt.Scale(domain=[0, maps - GAP], nice=False), axis=x_axis)
    y = alt.Y("y:Q", scale=alt.Scale(domain=[1, 0], nice=False), axis=y_axis)
    colour = alt.Color(
        "value:Q",
        title="weight crosstalk",
        scale=alt.Scale(domain=[0, 0.6], range=["#eef2f6", "#c2410c"], clamp=True, interpolate="rgb"),
        legend=colour_bar(format=".1f", values=[0, 0.3, 0.6]),
    )
    cells = (
        alt.Chart()
        .mark_rect(stroke="white", strokeWidth=1)
        .encode(
            x=x,
            x2="x2:Q",
            y=y,
            y2="y2:Q",
            color=colour,
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("one:N", title="concept"),
                alt.Tooltip("other:N", title="and"),
                alt.Tooltip("value:Q", title="crosstalk", format=".3f"),
            ],
        )
    )
    middle = alt.Chart().transform_calculate(mx="(datum.x + datum.x2) / 2", my="(datum.y + datum.y2) / 2")
    numbers = middle.mark_text(fontSize=11).encode(
        x=alt.X("mx:Q", axis=x_axis),
        y=alt.Y("my:Q", axis=y_axis),
        text="label:N",
        color=alt.when("datum.value > 0.33").then(alt.value("white")).otherwise(alt.value("#222222")),
    )
    lines = f"{ {arm: _name(arm, maps) for arm in arms}!r}[datum.arm]"
    heads = (
        alt.Chart()
        .transform_aggregate(left="min(x)", groupby=["arm"])
        .transform_calculate(centre=f"floor(datum.left) + {(1 - GAP) / 2}", top="0", words=lines)
        .mark_text(fontSize=10, baseline="top", color=MUTED, lineHeight=11)
        .encode(x=alt.X("centre:Q", axis=x_axis), y=alt.Y("top:Q", axis=y_axis), text="words:N")
    )
    layered = alt.layer(cells, numbers, heads).resolve_scale(color="independent")
    return specification(layered.properties(view=alt.ViewBackground(stroke=None)))
