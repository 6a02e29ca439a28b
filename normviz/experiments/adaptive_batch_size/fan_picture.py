"""The gradients of one batch as arrows, with the error of their mean: what the norm test allows and what is found."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.experiments.adaptive_batch_size.knobs import ARM_NAMES, Knobs
from normviz.figures import Board, Figure, colours
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.vega import specification

__all__ = ["ALLOWED", "FOUND", "fan_figure", "ring"]

ALLOWED, FOUND = "allowed: η‖g‖", "found: √(‖V‖₁/b)"
RINGS = {ALLOWED: "#069e73", FOUND: "#d55e00"}
POINTS = 72
REACH = 2.2
"""Half the height of the picture, in lengths of the mean gradient; what is longer is cut."""
WIDER = 2.1
"""Half its width over half its height, so that circles are nearly round in a card."""
CAPTION = 0.5
"""Room for the words above, in the same unit."""
COLUMNS = ["part", "name", "order", "x", "y", "x2", "y2", "text"]


def ring(radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Points of a closed circle around the tip of the mean gradient (1, 0)."""
    angle = np.linspace(0.0, 2 * math.pi, POINTS + 1)
    return 1 + radius * np.cos(angle), radius * np.sin(angle)


def fan_figure(board: Board, knobs: Knobs) -> Figure:
    """One batch of the first seed of the main arm at the moment shown, in units of the mean gradient's length."""
    arm = ARM_NAMES[knobs.main_kind()]
    title = "Gradients of one batch"
    look_for = "Arrows disagree: is the orange circle inside the green one?"
    spec = _fan_spec(board.arms.only([arm]))
    fans, facts = ([e for e in board.log.arrays(n, board.step) if e.arm == arm] for n in ("fan", "fan_facts"))
    if not fans or not facts:
        text = "Arrows of the gradients of one batch; nothing is measured yet."
        return Figure(title, look_for, text, spec=spec, data=pd.DataFrame(columns=COLUMNS))
    along, across = fans[-1].value.astype(float).T
    size, suggestion, _ = facts[-1].value.astype(float).tolist()
    found = knobs.eta * math.sqrt(suggestion / size)
    passed = suggestion <= size
    verdict = f"b = {size:.0f}, the norm test asks for {suggestion:,.0f}: {'enough' if passed else 'too few'}"
    share = _share_inside(along, across)
    samples = pd.DataFrame({"part": "sample", "x": 0.0, "y": 0.0, "x2": share * along, "y2": share * across})
    tips = samples[share == 1].assign(part="tip")
    # The mean of b samples strays by a share 1/√b of what one sample does.
    strays = pd.DataFrame(
        {"part": "dot", "x": 1 + (along - 1) / math.sqrt(size), "y": across / math.sqrt(size)}
    )
    strays = strays[(strays["y"].abs() <= REACH) & ((strays["x"] - 1).abs() <= REACH * WIDER)]
    parts = [
        samples,
        tips,
        strays,
        pd.DataFrame([{"part": "mean", "x": 0.0, "y": 0.0, "x2": 1.0, "y2": 0.0}]),
    ]
    for name, radius in ((ALLOWED, knobs.eta), (FOUND, found)):
        x, y = ring(min(radius, REACH))
        parts.append(pd.DataFrame({"part": "ring", "name": name, "order": np.arange(len(x)), "x": x, "y": y}))
    parts.append(pd.DataFrame([{"part": "verdict", "text": verdict}]))
    data = pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS)
    moment = board.progress.at(fans[-1].step)
    text = (
        f"Gradients of {len(along)} samples of {arm} at {moment} as arrows, in units of their mean's length; "
        f"{verdict}. Allowed error of the mean: {knobs.eta:.2g}, found: {found:.2g}. Against the mean point "
        f"{float((along < 0).mean()):.0%} of the arrows."
    )
    return Figure(title, look_for, text, spec=spec, data=data.round(4), moment=moment)


def _share_inside(along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """The share of each arrow that is inside the picture."""
    right, left = 1 + REACH * WIDER, REACH * WIDER - 1
    room = np.where(along > 0, right, left) / np.maximum(np.abs(along), 1e-9)
    share: np.ndarray = np.minimum(1.0, np.minimum(room, REACH / np.maximum(np.abs(across), 1e-9)))
    return share


@lru_cache(maxsize=16)
def _fan_spec(arms: Arms) -> dict[str, Any]:
    colour = colours(arms)[0]
    wide = alt.Scale(domain=[1 - REACH * WIDER, 1 + REACH * WIDER], nice=False)
    high = alt.Scale(domain=[-REACH, REACH + CAPTION], nice=False)
    x = alt.X("x:Q", scale=wide, axis=None)
    y = alt.Y("y:Q", scale=high, axis=None)

    def part(name: str) -> alt.Chart:
        chart: alt.Chart = alt.Chart().transform_filter(f"datum.part == '{name}'")
        return chart

    arrows = (
        part("sample")
        .mark_rule(strokeWidth=1, opacity=0.35, color=MUTED, clip=True)
        .encode(x=x, y=y, x2="x2:Q", y2="y2:Q")
    )
    tips = (
        part("tip")
        .mark_point(size=9, filled=True, opacity=0.5, color=MUTED, clip=True)
        .encode(x=alt.X("x2:Q", scale=wide, axis=None), y=alt.Y("y2:Q", scale=high, axis=None))
    )
    dots = part("dot").mark_point(size=14, filled=True, opacity=0.8, color=colour, clip=True).encode(x=x, y=y)
    names = list(RINGS)
    rings = (
        part("ring")
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=x,
            y=y,
            order="order:Q",
            color=alt.Color(
                "name:N",
                title=None,
                scale=alt.Scale(domain=names, range=list(RINGS.values())),
                legend=legend_above(names),
            ),
        )
    )
    mean = part("mean")
    shaft = mean.mark_rule(strokeWidth=3, color=colour).encode(x=x, y=y, x2="x2:Q", y2="y2:Q")
    head = mean.mark_point(shape="triangle-right", filled=True, size=110, color=colour, opacity=1).encode(
        x=alt.X("x2:Q", scale=wide, axis=None), y=alt.Y("y2:Q", scale=high, axis=None)
    )
    verdict = (
        part("verdict")
        .mark_text(align="left", baseline="top", fontSize=11, color=MUTED)
        .encode(x=alt.value(2), y=alt.value(2), text="text:N")
    )
    layered = alt.layer(arrows, tips, dots, rings, shaft, head, verdict)
    frame = alt.ViewBackground(stroke=None)
    return specification(layered.properties(height=height_below(names), view=frame))
