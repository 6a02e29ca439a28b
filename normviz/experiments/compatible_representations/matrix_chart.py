"""Compatibility matrices side by side: every kind of question in every kind of gallery."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.experiments.compatible_representations.knobs import ARM_NAMES, Knobs
from normviz.figures import Board, Figure
from normviz.figures.legends import colour_bar
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span
from normviz.figures.vega import specification

__all__ = ["matrix_figure"]

COLUMNS = ["arm", "x", "x2", "y", "y2", "asks", "answers", "value", "head"]
GAP = 0.12
"""Space between two matrices, as a share of a matrix's width."""
HEAD = 0.45
"""Room for the columns' names, in cells."""
NAMES = {2: ("old", "updated", "new"), 3: ("old", "updated", "middle", "new")}
"""Rows and columns by the number of models."""


def matrix_figure(board: Board, knobs: Knobs) -> Figure:
    """Mean average precision in percent for at most three maps, first seed."""
    title, look_for = "Who finds what in which gallery", "Row new, column old: is it above old, old?"
    arms = tuple(ARM_NAMES[kind] for kind in knobs.compared())
    names = NAMES[knobs.models]
    shown = {e.arm: e for e in board.log.arrays("matrix", board.step) if e.arm in arms}
    if not shown:
        text = "Compatibility matrices; nothing is measured yet."
        spec = _spec(arms, names, Span(0.0, 100.0))
        return Figure(title, look_for, text, spec=spec, data=pd.DataFrame(columns=COLUMNS))
    rows = []
    for n, arm in enumerate(arms):
        if arm not in shown:
            continue
        matrix = shown[arm].value.astype(float)
        width = (1 - GAP) / len(matrix)
        for i, j in np.ndindex(*matrix.shape):
            head = names[j] if i == 0 else ""
            place = (n + width * j, n + width * (j + 1), i, i + 1)
            rows.append((arm, *place, names[i], names[j], float(matrix[i, j]), head))
    data = pd.DataFrame(rows, columns=COLUMNS)
    moment = board.progress.at(max(e.step for e in shown.values()))
    listed = "; ".join(
        f"{arm}: old in old {m[0, 0]:.1f}, new in old {m[-1, 0]:.1f}, new in updated {m[-1, 1]:.1f}, "
        f"new in new {m[-1, -1]:.1f}"
        for arm, m in ((arm, shown[arm].value) for arm in arms if arm in shown)
    )
    text = f"Mean average precision in percent by kind of question and gallery at {moment}, first seed. {listed}."
    spec = _spec(arms, names, Span.of(data["value"]))
    return Figure(title, look_for, text, spec=spec, data=data.round(4), moment=moment)


@lru_cache(maxsize=128)
def _spec(arms: tuple[str, ...], names: tuple[str, ...], colours: Span) -> dict[str, Any]:
    centres = [n + (1 - GAP) / 2 for n in range(len(arms))]
    across = alt.Scale(domain=[0, max(len(arms), 1)], nice=False)
    down = alt.Scale(domain=[len(names), -HEAD], nice=False)
    x = alt.X(
        "x:Q",
        title="gallery (above each matrix), map (below)",
        scale=across,
        axis=alt.Axis(
            values=centres,
            labelExpr=f"{list(arms)!r}[floor(datum.value)]",
            labelOverlap=False,
            grid=False,
            ticks=False,
            domain=False,
        ),
    )
    y = alt.Y(
        "y:Q",
        title="question",
        scale=down,
        axis=alt.Axis(
            values=[i + 0.5 for i in range(len(names))],
            labelExpr=f"{list(names)!r}[floor(datum.value)]",
            grid=False,
            ticks=False,
            domain=False,
        ),
    )
    colour = alt.Color(
        "value:Q",
        title="mAP in %",
        scale=alt.Scale(domain=[colours.low, colours.high], range=["#eef2f6", "#0a66b8"], interpolate="rgb"),
        legend=colour_bar(length=90, format=".0f", values=[colours.low, colours.high]),
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
                alt.Tooltip("arm:N", title="map"),
                alt.Tooltip("asks:N", title="question"),
                alt.Tooltip("answers:N", title="gallery"),
                alt.Tooltip("value:Q", title="mAP in %", format=".1f"),
            ],
        )
    )
    middle = alt.Chart().transform_calculate(mx="(datum.x + datum.x2) / 2", my="(datum.y + datum.y2) / 2")
    dark = alt.when(f"datum.value > {0.45 * colours.low + 0.55 * colours.high}")
    numbers = (
        middle.transform_calculate(text="format(datum.value, '.0f')")
        .mark_text(fontSize=11)
        .encode(
            x=alt.X("mx:Q", scale=across),
            y=alt.Y("my:Q", scale=down),
            text="text:N",
            color=dark.then(alt.value("white")).otherwise(alt.value("#222222")),
        )
    )
    heads = (
        middle.transform_filter("datum.head != ''")
        .mark_text(fontSize=9 if len(names) < 4 else 8, baseline="bottom", dy=-2, color=MUTED)
        .encode(x=alt.X("mx:Q", scale=across), y=alt.Y("y:Q", scale=down), text="head:N")
    )
    layered = alt.layer(cells, numbers, heads).resolve_scale(color="independent")
    return specification(layered.properties(view=alt.ViewBackground(stroke=None)))
