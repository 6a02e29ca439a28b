"""Every feature as a dot: its correlation with the label on the training set and on the holdout."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms, Look
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_symbol
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["feature_plane_figure"]

USED, KEPT, LEFT, SIGNAL = "used", "kept", "not kept", "signal"
KINDS = Arms((Look(USED, 1, 0, 0), Look(KEPT, 4, 0, 0), Look(LEFT, 6, 0, 0), Look(SIGNAL, 2, 0, 3)))
BAND = 4.0
"""T of the Science paper in units of 1 / sqrt(n)."""
COLUMNS = ("x", "y", "kind", "what")


def _legend() -> alt.Legend:
    return legend_above(KINDS.names, lines=False)


def feature_plane_figure(board: Board) -> Figure:
    """Which features plain reuse keeps and uses at the moment shown, first seed; the band is what T lets pass."""
    title, look_for = (
        "The features, one dot each",
        "Kept: both sets agree. The band: Thresholdout sees no difference.",
    )
    entries = board.log.arrays("features", 0)
    if not entries:
        text = "Features by their correlations; nothing is measured yet."
        empty = pd.DataFrame(columns=list(COLUMNS))
        return Figure(title, look_for, text, spec=_feature_spec(Span(-4.0, 4.0)), data=empty)
    x, y, signal = entries[0].value.astype(float).T
    at = int(board.log.last_step if board.step is None else board.step)
    kept = (x * y > 0) & (np.abs(x) > 1) & (np.abs(y) > 1)
    order = np.argsort(-np.where(kept, np.abs(x), 0.0), kind="stable")
    used = np.zeros(len(x), dtype=bool)
    used[order[:at]] = True
    kind = np.where(kept & used, USED, np.where(kept, KEPT, LEFT))
    data = pd.DataFrame({"x": x, "y": y, "kind": kind, "what": "feature"})
    if signal.any():
        true = signal > 0
        data = pd.concat(
            [data, pd.DataFrame({"x": x[true], "y": y[true], "kind": SIGNAL, "what": "ring"})],
            ignore_index=True,
        )
    reach = float(np.ceil(max(np.abs(x).max(), np.abs(y).max())))
    moment = board.progress.at(at)
    text = (
        f"{len(x)} features by their correlation with the label on training set and holdout at {moment}: "
        f"{int(kept.sum())} kept, {int((kept & used).sum())} used, {int((kept & used & (signal > 0)).sum())} of them "
        "with signal."
    )
    spec = _feature_spec(Span(-reach, reach))
    return Figure(title, look_for, text, spec=spec, data=data.round(3), moment=moment)


@lru_cache(maxsize=32)
def _feature_spec(span: Span) -> dict[str, Any]:
    x = across("x", "correlation on the training set (1/√n)", span)
    y = up("y", "correlation on the holdout (1/√n)", span)
    base = alt.Chart().encode(x=x, y=y)
    edge = (
        alt.Chart()
        .transform_aggregate(rows="count()")
        .transform_calculate(low=f"{span.low}", high=f"{span.high}")
        .mark_rule(color=MUTED, strokeDash=[4, 3], clip=True)
    )
    band = [
        edge.transform_calculate(a=f"{span.low + shift}", b=f"{span.high + shift}").encode(
            x=alt.X("low:Q", scale=span.scale),
            x2="high:Q",
            y=alt.Y("a:Q", scale=span.scale),
            y2="b:Q",
        )
        for shift in (-BAND, BAND)
    ]
    dots = (
        base.transform_filter("datum.what == 'feature'")
        .mark_point(filled=True, size=14, opacity=0.75)
        .encode(color=arm_colour(KINDS, field="kind", legend=_legend()))
    )
    rings = (
        base.transform_filter("datum.what == 'ring'")
        .mark_point(filled=False, size=55, strokeWidth=1.6, opacity=1)
        .encode(
            color=arm_colour(KINDS, field="kind", legend=_legend()), shape=arm_symbol(KINDS, field="kind")
        )
    )
    layered = alt.layer(*band, dots, rings)
    return specification(layered.properties(height=height_below(KINDS.names)))
