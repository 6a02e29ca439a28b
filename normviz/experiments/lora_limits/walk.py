"""The page's picture: training walks along the curve of the rank that its norms need, towards the limit."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.experiments.lora_limits.degree_table import columns, needed_degrees
from normviz.experiments.lora_limits.knobs import CHEBYSHEV, TAYLOR, Knobs
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_symbol, faded, focus_param
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["walk_figure"]

CURVES = {TAYLOR: "taylor", CHEBYSHEV: "chebyshev"}
POINTS = 70
COLUMNS = ["part", "arm", "x", "y", "order", "label"]


def walk_figure(board: Board, knobs: Knobs) -> Figure:
    """Norm and rank of each arm of the first seed up to the moment, on the staircase of the rank that is needed."""
    threshold = math.sqrt(math.log(knobs.length))
    farthest = 1.15 * max(threshold, math.sqrt(knobs.teacher_radius), math.sqrt(knobs.start_radius))
    rows: list[tuple[str, str, float, float, int, str]] = []
    at = np.linspace(0.1, farthest, POINTS)
    for arm, kind in CURVES.items():
        if arm not in board.arms and kind != "taylor":
            continue
        needed = needed_degrees(kind, tuple((at**2).round(6).tolist()), knobs.eps)
        rows += [
            ("curve", arm, float(x), columns(knobs.head_dim, g), i, "")
            for i, (x, g) in enumerate(zip(at, needed, strict=True))
            if not math.isnan(g)
        ]
    rows.append(
        ("rank", "", 0.02 * farthest, float(knobs.length), 0, f"L = {knobs.length} columns: no gain above")
    )
    rows.append(("norm", "", threshold, 1.6, 0, "√log L"))
    walked, shown = _walked(board)
    data = pd.DataFrame([*rows, *walked], columns=COLUMNS)
    height = Span.of([1.0, 2.5 * knobs.length], data["y"], log=True)
    last = {arm: (x, y) for part, arm, x, y, _, _ in walked if part == "now"}
    moment = "" if shown is None else board.progress.at(shown)
    if shown is None:
        text = "Rank against the norm of the scores; nothing is measured yet."
    else:
        listed = "; ".join(f"{arm} norm {x:.2f}, rank {y:.0f}" for arm, (x, y) in last.items())
        text = (
            f"Rank against the norm, the root of the radius, at {moment}, first seed: {listed}. The limits are "
            f"{knobs.length} columns and a norm of {threshold:.2f}."
        )
    spec = _walk_spec(board.arms, Span(0.0, round(farthest, 2)), height)
    return Figure(
        "Training walks towards the limit",
        "Which way do the dots walk? Above the line exact is cheaper.",
        text,
        spec=spec,
        data=data.round({"x": 4, "y": 2}),
        moment=moment,
    )


def _walked(board: Board) -> tuple[list[tuple[str, str, float, float, int, str]], int | None]:
    norms, ranks = board.log.scalars("norm"), board.log.scalars("rank")
    if ranks.empty:
        return [], None
    both = ranks.merge(norms, on=["step", "arm", "seed"], suffixes=("", "_norm"))
    both = both[both["seed"] == both["seed"].min()]
    if board.step is not None:
        both = both[both["step"] <= board.step]
    rows: list[tuple[str, str, float, float, int, str]] = []
    for arm in board.arms:
        mine = both[both["arm"] == arm]
        points = zip(*(mine[c].tolist() for c in ("step", "value_norm", "value")), strict=True)
        trail = [("trail", arm, x, y, int(step), "") for step, x, y in points]
        rows += trail
        rows += [("now", *trail[-1][1:])] if trail else []
    return rows, None if both.empty else int(both["step"].max())


@lru_cache(maxsize=64)
def _walk_spec(arms: Arms, width: Span, height: Span) -> dict[str, Any]:
    base = alt.Chart().encode(
        x=across("x", "norm Γ = √radius of the scores", width), y=up("y", "columns of the factors", height)
    )

    def part(name: str) -> alt.Chart:
        chart: alt.Chart = base.transform_filter(f"datum.part == '{name}'")
        return chart

    colour = arm_colour(arms, beside={} if TAYLOR in arms else {TAYLOR: MUTED})
    limits = [
        part("rank").mark_rule(color=MUTED, strokeDash=[4, 3]).encode(x=alt.value(0), x2=alt.value("width")),
        part("rank")
        .mark_text(color=MUTED, align="left", baseline="bottom", dy=-3, fontSize=11)
        .encode(text="label:N"),
        part("norm").mark_rule(color=MUTED, strokeDash=[4, 3]).encode(y=alt.value(0), y2=alt.value("height")),
        part("norm").mark_text(color=MUTED, align="right", dx=-4, fontSize=11).encode(text="label:N"),
    ]
    told = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("x:Q", title="norm", format=".2f"),
        alt.Tooltip("y:Q", title="columns", format="d"),
    ]
    curve = part("curve").mark_line(interpolate="step-after", strokeWidth=1, clip=True)
    trail = part("trail").mark_line(strokeWidth=2.5, clip=True)
    now = part("now").mark_point(filled=False, size=110, strokeWidth=2.5, clip=True)
    layers = [
        *limits,
        curve.encode(color=colour, order="order:Q", opacity=faded(0.55, 0.1), detail="arm:N"),
        trail.encode(color=colour, order="order:Q", opacity=faded(), detail="arm:N"),
        now.encode(color=colour, shape=arm_symbol(arms), opacity=faded(), tooltip=told),
    ]
    return specification(alt.layer(*layers).add_params(focus_param()))
