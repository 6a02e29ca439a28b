"""Reported against true accuracy, one path per mechanism: honest reports lie on the diagonal."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_symbol, faded, focus_param
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["honesty_plane_figure"]

ROOM = 2.0
"""Points beside the outermost path."""


def honesty_plane_figure(board: Board, look_for: str) -> Figure:
    """The way of each mechanism from the first report to the moment shown, mean over seeds; its end is marked."""
    tables = []
    for name in ("fresh", "reported"):
        table = board.log.scalars(name)
        table = table[table["arm"].isin(board.arms.names)]
        if board.step is not None:
            table = table[table["step"] <= board.step]
        tables.append(table.groupby(["arm", "step"], sort=False)["value"].mean())
    path = pd.concat(tables, axis=1, keys=["fresh", "reported"], join="inner").reset_index()
    path = path.sort_values(["arm", "step"], ignore_index=True)
    path["last"] = ~path["arm"].duplicated(keep="last")
    span = _span(path)
    ends = pd.DataFrame({"arm": "", "fresh": [span.low, span.high], "reported": [span.low, span.high]})
    data = pd.concat([path, ends.assign(step=0, last=False)], ignore_index=True) if len(path) else path
    title = "Reported against true accuracy"
    if path.empty:
        text = "Reported against fresh accuracy; nothing is measured yet."
        return Figure(title, look_for, text, spec=_plane_spec(board.arms, span), data=data)
    moment = board.progress.at(path["step"].max())
    listed = "; ".join(
        f"{row.arm} reports {row.reported:.1f} %, true is {row.fresh:.1f} %"
        for row in path[path["last"]].itertuples()
    )
    text = f"Reported against fresh accuracy with the diagonal of honest reports, at {moment}: {listed}."
    return Figure(title, look_for, text, spec=_plane_spec(board.arms, span), data=data, moment=moment)


def _span(path: pd.DataFrame) -> Span:
    """One span for both axes, so that the diagonal is one."""
    both = np.concatenate([path["fresh"].to_numpy(float), path["reported"].to_numpy(float)])
    return Span.of(both.min() - ROOM, both.max() + ROOM) if len(both) else Span(40.0, 80.0)


@lru_cache(maxsize=128)
def _plane_spec(arms: Arms, span: Span) -> dict[str, Any]:
    base = alt.Chart().encode(
        x=across("fresh", "accuracy on fresh data (%)", span),
        y=up("reported", "reported accuracy (%)", span),
    )
    honest = base.transform_filter("datum.arm == ''").mark_line(
        color=MUTED, strokeDash=[4, 3], strokeWidth=1.5
    )
    words = (
        alt.Chart()
        .transform_aggregate(rows="count()")
        .mark_text(align="left", baseline="top", color=MUTED, fontSize=11, text="says too much")
        .encode(x=alt.value(6), y=alt.value(3))
    )
    measured = base.transform_filter("datum.arm != ''").encode(color=arm_colour(arms))
    told = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("step:Q", title="after", format=",d"),
        alt.Tooltip("reported:Q", format=".1f"),
        alt.Tooltip("fresh:Q", format=".1f"),
    ]
    way = measured.mark_line(strokeWidth=1.5, clip=True).encode(order="step:Q", opacity=faded(0.55))
    end = (
        measured.transform_filter("datum.last")
        .mark_point(filled=True, size=90)
        .encode(shape=arm_symbol(arms), opacity=faded(), tooltip=told)
    )
    return specification(alt.layer(honest, words, way, end).add_params(focus_param()))
