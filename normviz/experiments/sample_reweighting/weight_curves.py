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

from normviz.experiments.sample_reweighting.knobs import STRATEGY_NAMES, Knobs, arm_names, sources
from normviz.figures import Figure, colours, dashes
from normviz.figures.vega import specification
from normviz.frame import Log

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


def weight_curve_figure(log: Log, knobs: Knobs, step: int | None) -> Figure:
    """Weight over uniform weight against normalised loss, with the samples of the newest batch on the curve."""
    arms = arm_names(knobs)
    losses = {e.arm: e for e in reversed(log.arrays("sample_loss", step)) if e.arm in arms}
    source_of = {(e.arm, e.seed): e.value for e in log.arrays("sample_source", step)}
    names = sources(knobs)
    parts = []
    for arm in arms:
        score = SCORES[arm]
        parts.append(pd.DataFrame({"arm": arm, "kind": "curve", "h": GRID, "s": score(GRID)}))
        if (entry := losses.get(arm)) is not None:
            h = normalized_losses(entry.value.astype(float))
            of = [names[int(i)] for i in source_of[arm, entry.seed]]
            loss = entry.value.round(3)
        else:
            h = np.linspace(-1, 1, 25)
            of, loss = [EVEN] * len(h), np.full(len(h), np.nan)
        parts.append(
            pd.DataFrame({"arm": arm, "kind": "sample", "h": h, "s": score(h), "source": of, "loss": loss})
        )
    data = pd.concat(parts, ignore_index=True).round({"h": 4, "s": 4})
    shown = max((entry.step for entry in losses.values()), default=None)
    when = "before the first batch" if shown is None else f"batch of step {shown}"
    text = (
        "Curves of weight against loss within a batch. LinUpper rises up to the middle of the range and stays level, "
        "Quadratic is highest in the middle, Extremes at both ends, Upper rises throughout, Uniform is level at 1. "
        f"A slider sets the temperature r, at first {knobs.r:g}, where the largest weight can be "
        f"{np.exp(1 / knobs.r):.3g} times the smallest."
    )
    first = next((a for a in arms if a != STRATEGY_NAMES["uniform"]), arms[0])
    return Figure(
        f"Weight against loss ({when})",
        "Drag r. Left: the easiest sample of the batch, right: the hardest. Dots: the batch as the chosen arm sees it.",
        text,
        spec=_curve_spec(tuple(arms), names, first, knobs.r),
        data=data,
    )


@lru_cache(maxsize=64)
def _curve_spec(arms: tuple[str, ...], names: tuple[str, ...], first: str, r: float) -> dict[str, Any]:
    temperature = alt.param(
        name="r",
        value=r,
        bind=alt.binding_range(min=0.05, max=max(3.0, r), step=0.05, name="Temperature r: "),
    )
    shown = alt.param(name="shown", value=first, bind=alt.binding_radio(options=list(arms), name="Dots of: "))
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
    y = alt.Y(
        "weight:Q", title="weight ÷ uniform weight", axis=alt.Axis(format="~g", tickCount=6, minExtent=34)
    )
    curve = (
        base.transform_filter("datum.kind == 'curve'")
        .mark_line(strokeWidth=2)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "arm:N",
                title=None,
                scale=alt.Scale(domain=list(arms), range=colours(arms)),
                legend=alt.Legend(orient="top", symbolType="stroke", symbolSize=240, columns=2, offset=26),
            ),
            strokeDash=alt.StrokeDash(
                "arm:N", title=None, scale=alt.Scale(domain=list(arms), range=dashes(arms))
            ),
        )
    )
    kinds = [*names, EVEN]
    dots = (
        base.transform_filter("datum.kind == 'sample' && datum.arm == shown")
        .mark_point(filled=True, size=55, opacity=0.9)
        .encode(
            x=x,
            y=y,
            fill=alt.Fill(
                "source:N",
                title=None,
                scale=alt.Scale(domain=kinds, range=[*colours(names), "#888888"]),
                legend=alt.Legend(orient="bottom", columns=2, values=list(names), symbolType="circle"),
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
        .transform_calculate(text="'largest ÷ smallest at most e^(1/r) = ' + format(exp(1 / r), '.3~g')")
        .mark_text(align="left", baseline="bottom", color="#888888", fontSize=12)
        .encode(x=alt.value(0), y=alt.value(-6), text="text:N")
    )
    chart = alt.layer(curve, dots, limit).properties(width="container", height=460)
    return specification(chart.add_params(temperature, shown))
