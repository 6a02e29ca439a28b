"""Levels of a residual tower as pictures to play with (Dherin, Munn, arXiv 2510.03470): closed forms, no training.

Both react in the browser while a slider is dragged. Logarithms of factorials are handed over as a table, exact path
counts as digits up to :data:`EXACT` modules.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.figures.figure import Figure
from normviz.figures.legends import legend_above
from normviz.figures.sliders import slider
from normviz.figures.vega import specification
from normviz.residual.counting import path_count

__all__ = ["EXACT", "LARGEST", "level_growth_figure", "level_weights_figure"]

LARGEST = 1000
"""Greatest depth."""
EXACT = 64
"""Greatest depth at which path counts are shown digit by digit."""
FLOOR = -6.0
"""Least power of ten that is drawn: smaller weights do not matter."""
SHOWN = 60
"""Levels that are drawn when the reader zooms to the first ones."""

COUNT, WEIGHT, MARK = "#8a8a8a", "#0a85d1", "#d55e00"
RULES = {"1": "1", "1/√n": "pow(n, -0.5)", "1/n": "1 / n", "n^−p": "pow(n, -p)"}
LINES = {
    "λ = 1": ("1", "#8a8a8a"),
    "λ = 1/√n": ("pow(datum.n, -0.5)", "#7f7fff"),
    "λ = 1/n": ("1 / datum.n", "#069e73"),
    "λ = n^−p": ("pow(datum.n, -p)", "#d55e00"),
}


def level_weights_figure() -> Figure:
    """Number of paths C(n, k) and weight C(n, k) lambda^k of each level; n, lambda and a level are set by sliders."""
    return Figure(
        "How many paths, and what they weigh",
        "Drag n: the grey curve of path counts shoots up. Blue is what is left of it after the scale.",
        "Number of paths through exactly k of n modules, and the weight of that level after scaling by lambda to the "
        "k, on a logarithmic axis. With lambda 1 both are the same hill around n/2; with 1/n the weight falls like "
        "1 over k factorial; with 1/√n its highest point lies near the square root of n.",
        spec=_weights_spec(),
        data=_levels(),
    )


def level_growth_figure() -> Figure:
    """How the whole sum grows with depth when paths add up coherently or like independent ones, for four scales."""
    return Figure(
        "How fast the whole sum grows with depth",
        "Drag p from 0 to 1. If paths add up, only 1/n holds; if they are independent, 1/√n is enough.",
        "Growth of the output with depth, from 1 to 1000 modules, on a logarithmic axis, for lambda 1, 1/√n, 1/n and n "
        "to the minus p. Coherent paths: only 1/n is bounded, by e. Independent paths: 1/√n is bounded too.",
        spec=_growth_spec(),
        data=_depths(),
    )


@lru_cache(maxsize=1)
def _levels() -> pd.DataFrame:
    return pd.DataFrame({"k": np.arange(LARGEST + 1)})


@lru_cache(maxsize=1)
def _depths() -> pd.DataFrame:
    return pd.DataFrame({"n": sorted({round(float(n)) for n in np.geomspace(1, LARGEST, 90)})})


def _power_of_ten(log10: str) -> str:
    """Text of 10^log10: plain up to a million, else mantissa and exponent."""
    mantissa = f"format(pow(10, {log10} - floor({log10})), '.3f') + ' · 10^' + floor({log10})"
    return f"({log10} < 6 ? format(pow(10, {log10}), ',.6~r') : {mantissa})"


def _log_paths(k: str) -> str:
    """log10 C(n, k) from the table of log10 m!."""
    return f"(facts[n] - facts[{k}] - facts[n - {k}])"


@lru_cache(maxsize=1)
def _weights_spec() -> dict[str, Any]:
    facts = [round(math.lgamma(m + 1) / math.log(10), 12) for m in range(LARGEST + 1)]
    exact = [[str(path_count(n, k)) for k in range(n // 2 + 1)] if n else ["1"] for n in range(EXACT + 1)]
    rule = (
        " : ".join(f"rule == '{name}' ? {e}" for name, e in list(RULES.items())[:-1]) + f" : {RULES['n^−p']}"
    )
    level = "min(level, n)"
    digits = f"exact[n][min({level}, n - {level})]"
    paths = f"(n <= {EXACT} ? {digits} : {_power_of_ten(_log_paths(level))})"
    params = [
        slider("n", "depth n", 32, 1, LARGEST, 1),
        alt.param(name="rule", value="1/√n", bind=alt.binding_radio(options=list(RULES), name="scale λ")),
        slider("p", "p of n^−p", 0.75, 0.0, 1.5, 0.01),
        slider("level", "level k", 3, 0, LARGEST, 1),
        alt.param(name="near", value=False, bind=alt.binding_checkbox(name=f"only levels up to {SHOWN}")),
        alt.param(name="facts", value=facts),
        alt.param(name="exact", value=exact),
        alt.param(name="lam", expr=rule),
        alt.param(name="right", expr=f"max(near ? min(n, {SHOWN}) : n, 1)"),
        alt.param(name="total", expr="n * log(1 + lam) / LN10"),
        alt.param(name="mode", expr="floor((n + 1) * lam / (1 + lam))"),
        alt.param(name="top", expr=f"max({_log_paths('floor(n / 2)')}, 1)"),
    ]
    every = _power_of_ten("(n * log(2) / LN10)")
    lines = [
        f"'grey: paths C(n, k), in all 2^' + n + ' = ' + (n < 50 ? format(pow(2, n), ',d') : {every})",
        f"'dashed: paths through exactly ' + {level} + ' modules: ' + {paths}",
        f"'blue: C(n, k) λ^k with λ = ' + format(lam, '.3~g') + ', sum ' + {_power_of_ten('total')}",
        "'heaviest level ' + min(mode, n) + '; most of the sum: levels ' + "
        "format(n * lam / (1 + lam), '.1f') + ' ± ' + format(sqrt(n * lam) / (1 + lam), '.1f')",
    ]
    x = alt.X(
        "k:Q",
        title="level k: modules on the path",
        scale=alt.Scale(domain=[0, {"expr": "right"}], nice=False),
        axis=alt.Axis(format="d", tickMinStep=1, grid=False),
    )
    y_scale = alt.Scale(domain=[FLOOR, {"expr": "top * 1.05"}], nice=False)
    colour = alt.Color(
        "what:N",
        title=None,
        scale=alt.Scale(domain=["paths C(n, k)", "weight C(n, k) λᵏ"], range=[COUNT, WEIGHT]),
        legend=None,
    )
    y = alt.Y("value:Q", title="power of ten", scale=y_scale, axis=alt.Axis(tickCount=6))
    curves = (
        alt.Chart()
        .transform_filter("datum.k <= n && datum.k <= right")
        .transform_calculate(paths=_log_paths("datum.k"))
        .transform_calculate(weight="datum.paths + datum.k * log(lam) / LN10")
        .transform_fold(["paths", "weight"], as_=["kind", "value"])
        .transform_calculate(what="datum.kind == 'paths' ? 'paths C(n, k)' : 'weight C(n, k) λᵏ'")
        .transform_filter(f"datum.value >= {FLOOR}")
    )
    line = curves.mark_line(strokeWidth=2, clip=True).encode(x=x, y=y, color=colour)
    dots = curves.mark_circle(size=22, opacity=1, clip=True).encode(
        x=x,
        y=y,
        color=colour,
        tooltip=[
            alt.Tooltip("what:N", title="of the level"),
            alt.Tooltip("k:Q", title="level", format="d"),
            alt.Tooltip("value:Q", title="power of ten", format=".3f"),
        ],
    )
    chosen = (
        alt.Chart()
        .transform_filter(f"datum.k == {level} && datum.k <= right")
        .mark_rule(color=MARK, strokeDash=[3, 3])
        .encode(x=x)
    )
    one = alt.Chart().mark_rule(color="#888888", strokeDash=[2, 2]).encode(y=alt.datum(0, scale=y_scale))
    text = [
        alt.Chart()
        .transform_filter("datum.k == 0")
        .transform_calculate(text=content)
        .mark_text(align="left", baseline="top", fontSize=12, color=colour_of)
        .encode(x=alt.value(4), y=alt.value(-96 + 18 * row), text="text:N")
        for row, (content, colour_of) in enumerate(zip(lines, (COUNT, MARK, WEIGHT, WEIGHT), strict=True))
    ]
    chart = alt.layer(one, line, dots, chosen, *text).properties(height=320)
    return specification(chart.add_params(*params))


@lru_cache(maxsize=1)
def _growth_spec() -> dict[str, Any]:
    kinds = ["coherent: they add up", "independent: they average out"]
    params = [
        alt.param(name="kind", value=kinds[0], bind=alt.binding_radio(options=kinds, name="paths")),
        slider("p", "p of n^−p", 0.75, 0.0, 1.5, 0.01),
        slider("gain", "size s of a module", 1.0, 0.1, 2.0, 0.05),
        alt.param(name="coherent", expr=f"kind == '{kinds[0]}'"),
    ]
    curves = alt.Chart()
    for i, (_, (lam, _)) in enumerate(LINES.items()):
        share = f"gain * {lam}"
        curves = curves.transform_calculate(
            **{f"g{i}": f"datum.n * (coherent ? log(1 + {share}) : 0.5 * log(1 + pow({share}, 2))) / LN10"}
        )
    names = "[" + ", ".join(f"'{name}'" for name in LINES) + "]"
    curves = (
        curves.transform_fold([f"g{i}" for i in range(len(LINES))], as_=["which", "grown"])
        .transform_calculate(line=f"{names}[toNumber(slice(datum.which, 1))]")
        .transform_calculate(value="pow(10, min(datum.grown, 300))")
        .transform_filter("datum.grown < 8")
    )
    line = curves.mark_line(strokeWidth=2.5, clip=True).encode(
        x=alt.X(
            "n:Q",
            title="depth n, log scale",
            scale=alt.Scale(type="log", domain=[1, LARGEST], nice=False),
            axis=alt.Axis(values=[1, 3, 10, 30, 100, 300, 1000], format="d"),
        ),
        y=alt.Y(
            "value:Q",
            title="output over input, log scale",
            scale=alt.Scale(type="log", domain=[0.8, 1e6], nice=False),
            axis=alt.Axis(format="~g", tickCount=6),
        ),
        color=alt.Color(
            "line:N",
            title=None,
            scale=alt.Scale(domain=list(LINES), range=[c for _, c in LINES.values()]),
            legend=legend_above(tuple(LINES)),
        ),
        strokeDash=alt.StrokeDash(
            "line:N",
            title=None,
            scale=alt.Scale(domain=list(LINES), range=[[1, 0], [7, 3], [2, 2], [9, 3, 2, 3]]),
        ),
        tooltip=[
            alt.Tooltip("line:N", title="scale"),
            alt.Tooltip("n:Q", title="depth", format="d"),
            alt.Tooltip("value:Q", title="output over input", format=".4~g"),
        ],
    )
    return specification(alt.layer(line).properties(height=320).add_params(*params))
