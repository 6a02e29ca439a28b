r"""The law of growing weights in closed form, with sliders that act in the browser.

A scale-invariant weight of length r (1 at the start) meets gradients orthogonal to it. Let g be the gradient's norm at
length 1 and call n the number of steps:

    SGD     gradient g / r,    dr^2/dn = lr^2 g^2 / r^2,    r^4 = 1 + 2 lr^2 g^2 n,    lr_eff = lr / r^2
    Adam    step of length s,  dr^2/dn = lr^2 s^2,          r^2 = 1 + lr^2 s^2 n,      lr_eff = lr / r

with s the root of the number of weights over the initial length (Adam moves each weight by about lr). Steps are taken
as small and g, s as constant. For many steps lr_eff tends to 1 / (g sqrt(2 n)) and 1 / (s sqrt(n)), whatever lr was:
the explicit rate is forgotten.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.figures import Figure
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["EXPRESSIONS", "growth_figure"]

EXPRESSIONS = {
    "SGD": "lr / sqrt(1 + 2 * pow(lr * size, 2) * datum.n)",
    "Adam": "lr / sqrt(1 + pow(lr * size, 2) * datum.n)",
    "NaP": "lr",
}
"""Effective learning rate after ``n`` steps, as Vega expressions of the parameters ``lr`` and ``size`` (g or s)."""

COLOURS = {"SGD": "#0a85d1", "Adam": "#069e73", "NaP": "#d55e00"}
DASHES = {"SGD": [1, 0], "Adam": [7, 3], "NaP": [2, 2]}
POINTS = 61
"""Step counts on the axis, from 1 to a million."""


def growth_figure() -> Figure:
    """Effective learning rate against the number of steps, for two learning rates 30 apart."""
    steps = [10 ** (6 * i / (POINTS - 1)) for i in range(POINTS)]
    data = pd.DataFrame(
        [(law, scale, n) for law in EXPRESSIONS for scale in ("lr", "lr / 30") for n in steps],
        columns=["law", "rate", "n"],
    )
    return Figure(
        "How a learning rate is forgotten",
        "Drag the sliders: SGD and Adam forget which of two learning rates was set, only NaP keeps them apart.",
        "Effective learning rate against steps, both axes logarithmic. Under SGD and Adam two learning rates, a "
        "factor 30 apart, bend down to one straight line of slope -1/2. NaP's two lines stay level and apart.",
        spec=_growth_spec(),
        data=data,
        wide=True,
    )


@lru_cache(maxsize=1)
def _growth_spec() -> dict[str, Any]:
    log_lr = slider("loglr", "log₁₀ of lr", -1.0, -3, 0.5, 0.05)
    log_size = slider("logsize", "log₁₀ of the gradient (or step) size", 0.5, -2, 2, 0.05)
    expression = "0"
    for law, formula in reversed(EXPRESSIONS.items()):
        scaled = formula.replace("lr", "datum.lr").replace("size", "pow(10, logsize)")
        expression = f"datum.law == '{law}' ? {scaled} : ({expression})"
    laws = list(EXPRESSIONS)
    chart = (
        alt.Chart()
        .transform_calculate(lr="pow(10, loglr) / (datum.rate == 'lr' ? 1 : 30)")
        .transform_calculate(effective=expression)
        .mark_line(strokeWidth=2.5)
        .encode(
            x=alt.X(
                "n:Q",
                title="steps",
                scale=alt.Scale(type="log", domain=[1, 1e6]),
                axis=alt.Axis(format="~s", tickCount=6),
            ),
            y=alt.Y(
                "effective:Q",
                title="effective learning rate",
                scale=alt.Scale(type="log", domain=[1e-6, 5]),
                axis=alt.Axis(format="~g", tickCount=6),
            ),
            color=alt.Color(
                "law:N",
                title=None,
                scale=alt.Scale(domain=laws, range=list(COLOURS.values())),
                legend=alt.Legend(orient="top", symbolType="stroke", symbolSize=240, symbolOpacity=1),
            ),
            strokeDash=alt.StrokeDash(
                "law:N", title=None, scale=alt.Scale(domain=laws, range=list(DASHES.values()))
            ),
            detail="rate:N",
            tooltip=[
                alt.Tooltip("law:N"),
                alt.Tooltip("rate:N", title="learning rate"),
                alt.Tooltip("n:Q", title="steps", format=".3~s"),
                alt.Tooltip("effective:Q", title="effective", format=".3~g"),
            ],
        )
        .properties(width="container", height=340)
        .add_params(log_lr, log_size)
    )
    return specification(chart)
