"""A walk along a plane's normal: one picture on its way to another domain, and a position that is dragged."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.experiments.conditional_normalization.recorded import DOMAINS, POSITIONS
from normviz.experiments.conditional_normalization.tiles import painted_colours, pixel_rows, pixels_layer
from normviz.figures import Board, Figure
from normviz.figures.palette import MUTED
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["style_walk_figure"]

COLUMNS = ["part", "left", "top", "wide", "high", "colours", "text", "target", "position"]
TARGETS = DOMAINS[1:]
SMALL, BIG = 1.0, 3.0
"""Sides of a picture of the strip, and of the one that is chosen."""
ACROSS, DOWN = SMALL * len(POSITIONS), SMALL + BIG + 0.3


def style_walk_figure(board: Board, arm: str) -> Figure:
    """The strip of all positions towards the chosen domain, and the picture at the dragged position in large."""
    found = [e for e in board.log.arrays("strips", board.step) if e.arm == arm]
    nearest = [e for e in board.log.arrays("strip_domains", board.step) if e.arm == arm]
    title, look_for = (
        "A walk from domain A to another",
        "Drag along the normal. Do colours change, and shapes stay?",
    )
    if not found or not nearest:
        text = "Strip of pictures along a plane's normal; nothing is measured yet."
        return Figure(title, look_for, text, spec=_walk_spec(), data=pd.DataFrame(columns=COLUMNS))
    parts: list[pd.DataFrame] = []
    for t, target in enumerate(TARGETS):
        for p, position in enumerate(POSITIONS):
            colours = painted_colours(found[0].value[t, p])
            name = DOMAINS[int(nearest[0].value[t, p])]
            small = pixel_rows(colours, p * SMALL + 0.04, 0.02, 0.92 * SMALL, 0.92 * SMALL)
            large = pixel_rows(colours, 0.04, SMALL + 0.15, BIG, BIG).assign(part="large")
            frame = pd.DataFrame(
                [("frame", p * SMALL + 0.02, 0.0, 0.96 * SMALL, 0.97 * SMALL, "", f"nearest: domain {name}")],
                columns=COLUMNS[:7],
            )
            parts += [d.assign(target=target, position=position) for d in (small, large, frame)]
    moment = board.progress.at(found[0].step)
    ends = ", ".join(
        f"towards {target} it ends nearest to {DOMAINS[int(row[-1])]}"
        for target, row in zip(TARGETS, nearest[0].value, strict=True)
    )
    text = f"One picture of domain A by {arm} at {moment}, its code moved along the planes' normals: {ends}."
    data = pd.concat(parts, ignore_index=True)
    return Figure(title, look_for, text, spec=_walk_spec(), data=data, moment=moment)


@lru_cache(maxsize=1)
def _walk_spec() -> dict[str, Any]:
    step = float(np.diff(POSITIONS)[0])
    target = alt.param(
        name="target",
        value=TARGETS[0],
        bind=alt.binding_radio(options=list(TARGETS), name="towards domain "),
    )
    position = slider("position", "position", 0, POSITIONS[0], POSITIONS[-1], step)
    horizontal = alt.Scale(domain=[0, ACROSS], nice=False)
    vertical = alt.Scale(domain=[DOWN, 0], nice=False)
    x, y = alt.X("x:Q", axis=None, scale=horizontal), alt.Y("top:Q", axis=None, scale=vertical)
    here = "abs(datum.position - position) < 0.01"
    strip = pixels_layer(x, y, chosen="datum.target == target")
    large = pixels_layer(x, y, part="large", chosen=f"datum.target == target && {here}")
    frames = alt.Chart().transform_filter(f"datum.part == 'frame' && datum.target == target && {here}")
    frame = (
        frames.transform_calculate(x2="datum.left + datum.wide", y2="datum.top + datum.high")
        .mark_rect(filled=False, stroke="#d55e00", strokeWidth=2.5)
        .encode(x=alt.X("left:Q", axis=None, scale=horizontal), x2="x2:Q", y=y, y2="y2:Q")
    )

    def words(expression: str, line: float) -> alt.Chart:
        chart: alt.Chart = (
            frames.transform_calculate(text=expression, x=f"{BIG + 0.35}", top=f"{SMALL + 0.5 + line}")
            .mark_text(align="left", baseline="middle", fontSize=12, color=MUTED)
            .encode(x=x, y=y, text="text:N")
        )
        return chart

    told = words("'moved by ' + format(position, '.1f') + ' × the distance'", 0.0)
    near = words("datum.text", 0.6)
    chart = alt.layer(strip, large, frame, told, near).properties(
        height=230, view=alt.ViewBackground(stroke=None)
    )
    return specification(chart.add_params(target, position))
