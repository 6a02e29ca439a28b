"""The weight of a sample against its loss, for every strategy; the temperature is dragged in the browser.

w_i = exp(s_i / r) / sum_j exp(s_j / r) with s = f(h): h and s do not depend on r, so they come as a table, and the
softmax over the samples of a batch that the network has just seen is left to Vega.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.arms import Arms
from normviz.experiments.sample_reweighting.knobs import NO_REPEATS, Knobs
from normviz.experiments.sample_reweighting.sample_rows import chosen_arm
from normviz.figures import Board, Figure, colours
from normviz.figures.encodings import arm_colour, arm_dash, faded, focus_param
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["SCORES", "normalized_losses", "weight_curve_figure"]

Array = NDArray[np.float64]

SCORES: dict[str, Callable[[Array], Array]] = {
    "Uniform": np.zeros_like,
    "LinUpper": lambda h: np.minimum(h + 1, 1),
    "Quadratic": lambda h: 1 - h**2,
    "Extremes": np.abs,
    "Upper": lambda h: (h + 1) / 2,
}
"""The scores s = f(h) of the arms (delta = 1), as :data:`normviz.weighting.STRATEGIES` has them."""

EVEN = "even spread"
GRID = np.linspace(-1, 1, 61)


def normalized_losses(losses: Array) -> Array:
    """h from -1 at the lowest to 1 at the highest loss; 0 if all are equal."""
    low, high = losses.min(), losses.max()
    return np.zeros_like(losses) if high - low < 1e-6 else (2 * losses - high - low) / (high - low)


def weight_curve_figure(board: Board, knobs: Knobs) -> Figure:
    """Weight over uniform weight against normalised loss, with a batch of the first seed on the curve."""
    names = knobs.sources()
    losses, source_of = (
        {e.arm: e for e in board.log.arrays(name, board.step) if e.seed == knobs.first_seed}
        for name in ("sample_loss", "sample_source")
    )
    parts = []
    for arm in board.arms:
        score = SCORES[arm.removesuffix(NO_REPEATS)]
        parts.append(pd.DataFrame({"arm": arm, "kind": "curve", "h": GRID, "s": score(GRID)}))
        if (entry := losses.get(arm)) is not None:
            h = normalized_losses(entry.value.astype(float))
            of = [names.names[int(i)] for i in source_of[arm].value]
            loss = entry.value.round(3)
        else:
            h = np.linspace(-1, 1, 25)
            of, loss = [EVEN] * len(h), np.full(len(h), np.nan)
        parts.append(
            pd.DataFrame({"arm": arm, "kind": "sample", "h": h, "s": score(h), "source": of, "loss": loss})
        )
    data = pd.concat(parts, ignore_index=True).round({"h": 4, "s": 4})
    moment = max((entry.step for entry in losses.values()), default=None)
    text = (
        "Curves of weight against loss within a batch. LinUpper rises up to the middle of the range and stays level, "
        "Quadratic is highest in the middle, Extremes at both ends, Upper rises throughout, Uniform is level at 1. "
        f"A slider sets the temperature r, at first {knobs.r:g}, where the largest weight can be "
        f"{np.exp(1 / knobs.r):.3g} times the smallest."
    )
    return Figure(
        "Weight against loss",
        "Drag r. Who gets more: the easy sample or the hard one?",
        text,
        spec=_curve_spec(board.arms, names, knobs.first_weighted(), knobs.r),
        data=data,
        moment="" if moment is None else f"batch of {board.progress.at(moment)}",
    )


@lru_cache(maxsize=64)
def _curve_spec(arms: Arms, names: Arms, first: str, r: float) -> dict[str, Any]:
    temperature = slider("r", "Temperature r", r, 0.05, max(3.0, r), 0.05)
    choice = alt.binding_select(options=list(arms.names), name="Dots of: ")
    shown = alt.param(name="shown", value=first, bind=choice)
    base = (
        alt.Chart()
        .transform_calculate(e="exp((datum.s - 1) / r)")
        .transform_calculate(
            counted="datum.kind == 'sample' ? datum.e : 0", one="datum.kind == 'sample' ? 1 : 0"
        )
        .transform_joinaggregate(total="sum(counted)", M="sum(one)", groupby=["arm"])
        .transform_calculate(weight="datum.M * datum.e / datum.total")
    )
    x = alt.X("h:Q", title="normalised loss h", scale=alt.Scale(domain=[-1.03, 1.03], nice=False))
    y = alt.Y("weight:Q", title="weight ÷ uniform", axis=alt.Axis(format="~g", tickCount=5))
    curve = (
        base.transform_filter("datum.kind == 'curve'")
        .mark_line(strokeWidth=2)
        .encode(x=x, y=y, color=arm_colour(arms), strokeDash=arm_dash(arms), opacity=faded())
    )
    legend = legend_above(names.names, lines=False)
    legend.values, legend.symbolType = list(names.names), "circle"
    dots = (
        base.transform_filter(f"datum.kind == 'sample' && datum.arm == {chosen_arm(arms)}")
        .mark_point(filled=True, size=45, opacity=0.9)
        .encode(
            x=x,
            y=y,
            fill=alt.Fill(
                "source:N",
                title=None,
                scale=alt.Scale(domain=[*names.names, EVEN], range=[*colours(names), MUTED]),
                legend=legend,
            ),
            tooltip=[
                alt.Tooltip("source:N"),
                alt.Tooltip("loss:Q", format=".3~f"),
                alt.Tooltip("weight:Q", title="weight ÷ uniform", format=".2f"),
            ],
        )
    )
    limit = (
        alt.Chart()
        .transform_aggregate(rows="count()")
        .transform_calculate(text="'max ÷ min ≤ e^(1/r) = ' + format(exp(1 / r), '.3~g')")
        .mark_text(align="right", baseline="bottom", color=MUTED, fontSize=11)
        .encode(x=alt.value("width"), y=alt.value(-6), text="text:N")
    )
    chart = alt.layer(curve, dots, limit).properties(height=height_below(names.names))
    return specification(chart.add_params(temperature, shown, focus_param()))
