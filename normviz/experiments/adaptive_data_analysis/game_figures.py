"""Charts of the game in which the reader is the analyst: the answers about features, and the reports so far."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms, Look
from normviz.experiments.adaptive_data_analysis.analyst_game import FEATURES, AnalystGame
from normviz.figures import Figure, curve_figure
from normviz.figures.encodings import arm_colour
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["clues_figure", "history_figure"]

PICKED, OTHER, REAL, TRUE = "in your vote", "not in it", "tells something", "true"
KINDS = Arms((Look(PICKED, 1, 0, 0), Look(OTHER, 6, 0, 0), Look(REAL, 2, 0, 0)))
REPORTED = "the holdout says"
CURVES = Arms((Look(REPORTED, 1, 0, 0), Look(TRUE, 6, 1, 0)))


def clues_figure(game: AnalystGame, picked: set[int], *, reveal: bool) -> Figure:
    """One bar per feature from 50 %: how often it agrees with the label, by the mechanism's answer."""
    features = np.arange(FEATURES)
    kinds = np.where([j in picked for j in features], PICKED, OTHER).astype(object)
    data = pd.DataFrame(
        {
            "feature": features + 1,
            "answer": (100 * game.clues).round(2),
            "middle": 50.0,
            "kind": kinds,
            "real": [bool(reveal and j in set(game.real.tolist())) for j in features],
        }
    ).dropna()
    known = ", ".join(str(j + 1) for j in game.real) if reveal else "not shown"
    text = (
        f"Bars of {len(data)} answers about features, from 50 %. Furthest: "
        f"{', '.join(str(j + 1) for j in game.best(5))}. Features that tell something: {known}."
    )
    values = data["answer"]
    span = Span.of(values, [44.0, 56.0])
    return Figure(
        "One answer per feature",
        "Far from 50 %: it seems to tell something. Which do you trust?",
        text,
        spec=_clue_spec(span, reveal),
        data=data,
    )


@lru_cache(maxsize=64)
def _clue_spec(span: Span, reveal: bool) -> dict[str, Any]:
    x = across("feature", "feature", Span(0.0, FEATURES + 1.0))
    y = up("answer", "agrees with the label (%)", span)
    names = KINDS.names if reveal else KINDS.names[:2]
    bars = (
        alt.Chart()
        .mark_bar(size=5)
        .encode(
            x=x,
            y=y,
            y2="middle:Q",
            color=arm_colour(KINDS.only(names), field="kind", legend=legend_above(names, lines=False)),
            tooltip=[alt.Tooltip("feature:Q"), alt.Tooltip("answer:Q", format=".1f")],
        )
    )
    line = alt.Chart().mark_rule(color=MUTED).encode(y=alt.datum(50))
    real = (
        alt.Chart()
        .transform_filter("datum.real")
        .transform_calculate(above="max(datum.answer, 50)")
        .mark_point(filled=True, size=60, shape="triangle-down", color="#069e73", yOffset=-9)
        .encode(x=x, y=up("above", "agrees with the label (%)", span))
    )
    layers = [bars, line, real] if reveal else [bars, line]
    return specification(alt.layer(*layers).properties(height=height_below(names)))


def history_figure(game: AnalystGame) -> Figure:
    """Reported and true accuracy of the votes so far."""
    rows = []
    for i, report in enumerate(game.history, start=1):
        for name, value in ((REPORTED, report.reported), (TRUE, report.true)):
            if value is not None:
                rows.append((name, i, 100 * value, 100 * value, 100 * value))
    return curve_figure(
        pd.DataFrame(rows, columns=["arm", "x", "mean", "low", "high"]),
        title="Your votes so far",
        x="question about a vote",
        y="accuracy (%)",
        look_for="Solid: what the holdout says. Dashed: what is true. How far apart?",
        arms=CURVES,
        points=True,
    )
