r"""How often random frames overlap, in closed form: the chart follows its sliders in the browser.

Two concepts draw r of n columns each. They share no column with probability ``C(n - r, r) / C(n, r)``, and N concepts
are all disjoint with probability ``prod_i C(n - i r, r) / C(n, r)`` for i = 1 .. N - 1: given that the first i are
disjoint, the next must avoid their i r columns. The chart has the logarithms of these factors in its data.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.arms import Arms, Look
from normviz.figures import Figure
from normviz.figures.encodings import arm_colour, arm_dash
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["MOST_CONCEPTS", "RANKS", "WIDTHS", "all_disjoint", "frame_overlap_figure", "log_avoids"]

WIDTHS = (32, 48, 64, 96, 128, 192, 256, 320, 512, 640, 768, 1024, 1280, 2048, 4096)
"""Input sizes n of layers."""
RANKS = (1, 2, 4, 8, 12, 16, 20, 32)
"""Ranks r that the slider steps through."""
MOST_CONCEPTS = 24

PAIR, ALL, SHARE = "two concepts share no column", "no two of N share a column", "overlap ‖BᵢᵀBⱼ‖² ÷ r, mean"
LINES = Arms((Look(PAIR, 0, 0, 0), Look(ALL, 2, 1, 2), Look(SHARE, 1, 3, 1)))


def log_avoids(n: int, r: int, taken: int) -> float:
    """Log of the probability that r of n columns avoid ``taken`` columns; minus infinity if they cannot."""
    if taken + r > n:
        return -math.inf
    return math.log(math.comb(n - taken, r)) - math.log(math.comb(n, r))


def all_disjoint(n: int, r: int, concepts: int) -> float:
    """Probability that no two of so many concepts share a column."""
    return math.exp(sum(log_avoids(n, r, i * r) for i in range(1, concepts)))


@lru_cache(maxsize=1)
def _table() -> pd.DataFrame:
    """One row per rank, number of concepts, width and curve: the value in [0, 1]."""
    rows: list[tuple[str, int, int, int, float]] = []
    for r in RANKS:
        for n in WIDTHS:
            if r > n:
                continue
            rows += [(PAIR, r, 0, n, all_disjoint(n, r, 2)), (SHARE, r, 0, n, r / n)]
            total = 0.0
            for concepts in range(2, MOST_CONCEPTS + 1):
                total += log_avoids(n, r, (concepts - 1) * r)
                rows.append((ALL, r, concepts, n, math.exp(total)))
    return pd.DataFrame(rows, columns=["arm", "r", "concepts", "n", "value"]).round({"value": 4})


def frame_overlap_figure() -> Figure:
    """Probabilities that frames are disjoint, and their mean overlap, over the width of the layer."""
    return Figure(
        "How often random frames overlap",
        "Move the sliders. How wide must a layer be for your concepts?",
        "Probability that frames of rank r share no column, for two and for N concepts, and the mean overlap r/n, "
        "against the input size n of a layer. All come near their best values as n grows.",
        spec=_spec(),
        data=_table(),
        wide=True,
    )


@lru_cache(maxsize=1)
def _spec() -> dict[str, Any]:
    ticks = [32, 64, 128, 256, 512, 1024, 2048, 4096]
    width = Span(float(WIDTHS[0]), float(WIDTHS[-1]), log=True)
    scale = alt.Scale(type="log", base=2, domain=[width.low, width.high], nice=False)
    x = across(
        "n",
        "input size n of the layer",
        width,
        scale=scale,
        values=ticks,
        labelExpr="format(datum.value, 'd')",
    )
    chosen = (
        alt.Chart()
        .transform_filter("datum.r == ranks[place]")
        .transform_filter("datum.concepts == 0 || datum.concepts == concepts")
    )
    legend = legend_above(LINES.names, columns=1)
    base = chosen.encode(
        x=x,
        y=up("value", "probability, or overlap as a share of r", Span(0.0, 1.0)),
        color=arm_colour(LINES, legend=legend),
    )
    told = [
        alt.Tooltip("arm:N", title="what"),
        alt.Tooltip("n:Q"),
        alt.Tooltip("value:Q", format=".3f"),
    ]
    line = base.mark_line(strokeWidth=2).encode(strokeDash=arm_dash(LINES, legend=legend))
    dots = base.mark_point(filled=True, size=30).encode(tooltip=told)
    words = (
        alt.Chart()
        .transform_aggregate(rows="count()")
        .transform_calculate(
            text="'r = ' + ranks[place] + ', N = ' + concepts + ': ' + concepts * (concepts - 1) / 2 + ' pairs'"
        )
        .mark_text(align="right", baseline="top", fontSize=12, fontWeight="bold", color=MUTED)
        .encode(x=alt.value({"expr": "width - 6"}), y=alt.value(4), text="text:N")
    )
    params = [
        alt.param(name="ranks", value=list(RANKS)),
        slider("place", "rank: 1, 2, 4, 8, 12, 16, 20, 32", RANKS.index(4), 0, len(RANKS) - 1, 1),
        slider("concepts", "concepts N", 12, 2, MOST_CONCEPTS, 1),
    ]
    chart = alt.layer(line, dots, words).properties(height=height_below(LINES.names, columns=1) + 60)
    return specification(chart.add_params(*params))
