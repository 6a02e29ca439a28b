"""Stability against plasticity: what is kept of the old task against what is won on the new one, a path per map."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.arms import Arms
from normviz.experiments.compatible_representations.knobs import ARM_NAMES, LAMBDAS
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_symbol, faded, focus_param
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["tradeoff_figure"]

COLUMNS = ["part", "arm", "step", "cross", "zero_shot", "last", "place"]
ALONG = ("strict", *LAMBDAS, "affine")
"""Arms in the order of their freedom, which a line connects."""
LEVELS = {"new_zero_shot": "new model without a map", "old_self": "old questions, old gallery"}
ROOM = 0.5
"""Points beside the rightmost arm."""
NEAR = 15.0
"""How far beside the points a level may be for the axis to reach to it, in points."""


def tradeoff_figure(board: Board) -> Figure:
    """Precision on the new task and on upright digits, mean over seeds, from the first measured step to the moment."""
    title = "Stability against plasticity"
    look_for = "Grey line: from strict by λ to affine. Where does it bend?"
    tables = []
    for name in ("cross", "zero_shot"):
        table = board.log.scalars(name)
        table = table[(table["step"] > 0) & table["arm"].isin(board.arms.names)]
        if board.step is not None:
            table = table[table["step"] <= board.step]
        tables.append(table.groupby(["arm", "step"], sort=False)["value"].mean())
    path = pd.concat(tables, axis=1, keys=["cross", "zero_shot"], join="inner").reset_index()
    path = path.sort_values(["arm", "step"], ignore_index=True)
    path["last"] = ~path["arm"].duplicated(keep="last")
    order = {ARM_NAMES[kind]: i for i, kind in enumerate(ALONG)}
    path["place"] = path["arm"].map(order).fillna(-1)
    path["part"] = "path"
    if path.empty:
        text = "Precision on the old task against that on the new one; nothing is measured yet."
        spec = _spec(board.arms, Span(0.0, 100.0), Span(0.0, 100.0))
        return Figure(title, look_for, text, spec=spec, data=pd.DataFrame(columns=COLUMNS))
    levels = {name: board.log.scalars(name)["value"].mean() for name in LEVELS}
    ends = path[path["last"]]
    wide = Span.of(path["cross"], path["cross"].max() + ROOM, _near(levels["old_self"], path["cross"]))
    tall = Span.of(path["zero_shot"], _near(levels["new_zero_shot"], path["zero_shot"]))
    marks = pd.DataFrame(
        [
            ("level", LEVELS["new_zero_shot"], 0, wide.low, levels["new_zero_shot"], False, -1),
            ("criterion", LEVELS["old_self"], 0, levels["old_self"], tall.low, False, -1),
        ],
        columns=COLUMNS,
    )
    data = pd.concat([path[COLUMNS], marks], ignore_index=True).round(3)
    moment = board.progress.at(int(ends["step"].max()))
    listed = "; ".join(f"{r.arm} {r.cross:.1f} and {r.zero_shot:.1f}" for r in ends.itertuples())
    text = (
        f"Precision in percent on the new task and on upright digits at {moment}, mean over seeds: {listed}. The new "
        f"model without a map has {levels['new_zero_shot']:.1f} on upright digits; old questions find "
        f"{levels['old_self']:.1f} in the old gallery on the new task."
    )
    return Figure(title, look_for, text, spec=_spec(board.arms, wide, tall), data=data, moment=moment)


def _near(level: float, values: pd.Series) -> list[float]:
    """A level where it is near enough to be shown."""
    return [level] if values.min() - NEAR <= level <= values.max() + NEAR else []


@lru_cache(maxsize=128)
def _spec(arms: Arms, wide: Span, tall: Span) -> dict[str, Any]:
    x = across("cross", "new task, old gallery (mAP, %)", wide)
    y = up("zero_shot", "upright digits, new gallery (mAP, %)", tall)
    base = alt.Chart().encode(x=x, y=y)
    told = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("step:Q", format=",d"),
        alt.Tooltip("cross:Q", title="new task", format=".1f"),
        alt.Tooltip("zero_shot:Q", title="upright digits", format=".1f"),
    ]
    level = base.transform_filter("datum.part == 'level'")
    criterion = base.transform_filter("datum.part == 'criterion'")
    dashed: dict[str, Any] = {"color": MUTED, "strokeDash": [2, 2], "clip": True}
    rule = alt.Chart().mark_rule(**dashed)
    levels = [
        rule.transform_filter("datum.part == 'level'").encode(y=y),
        rule.transform_filter("datum.part == 'criterion'").encode(x=x),
        level.mark_text(align="left", baseline="top", dx=4, dy=3, fontSize=10, color=MUTED, clip=True).encode(
            text="arm:N"
        ),
        criterion.mark_text(
            align="left", baseline="top", angle=270, dx=4, dy=3, fontSize=10, color=MUTED, clip=True
        ).encode(text="arm:N"),
    ]
    line = (
        base.transform_filter("datum.part == 'path' && datum.last && datum.place >= 0")
        .mark_line(color=MUTED, strokeWidth=1.5, opacity=0.7, clip=True)
        .encode(order="place:Q")
    )
    measured = base.transform_filter("datum.part == 'path'").encode(color=arm_colour(arms))
    way = measured.mark_line(strokeWidth=1.2, clip=True).encode(order="step:Q", opacity=faded(0.5))
    end = (
        measured.transform_filter("datum.last")
        .mark_point(filled=True, size=90, clip=True)
        .encode(shape=arm_symbol(arms), opacity=faded(), tooltip=told)
    )
    return specification(alt.layer(*levels, line, way, end).add_params(focus_param()))
