"""Closed forms that follow their sliders in the browser: what a reused holdout says, rows that are enough, privacy.

Dwork et al., arXiv 1411.2664; the equations are those of :mod:`normviz.adaptive.validity_bounds` and of
:func:`normviz.adaptive.expected_attack_accuracy`, written once more in Vega's language; the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms, Look
from normviz.figures import Figure
from normviz.figures.encodings import arm_colour, arm_dash
from normviz.figures.legends import height_below, legend_above
from normviz.figures.scales import Span, across, up
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = [
    "BOUND_CURVES",
    "PRIVACY_CURVES",
    "REPORT_CURVES",
    "privacy_figure",
    "report_figure",
    "rows_needed_figure",
]

POINTS = 90

REPORT_CURVES: Mapping[str, str] = {
    "without noise": "100 * cumulativeNormal(sqrt(2 * datum.m / PI) / rows / sqrt(1 / rows))",
    "with noise": "100 * cumulativeNormal(sqrt(2 * datum.m / PI) / rows / sqrt(1 / rows + 4 * noise * noise))",
    "true": "50 + 0 * datum.m",
}
"""Accuracy of the vote of m noise features on its own rows, in percent; ``rows`` and ``noise`` are sliders."""

EXACT, SHAPE = "exact", "up to constants"
BOUND_CURVES: Mapping[str, tuple[str, str]] = {
    "fixed questions": (EXACT, "log(2 * datum.m / beta) / (2 * tau * tau)"),
    "splitting": (EXACT, "datum.m * log(2 * datum.m / beta) / (2 * tau * tau)"),
    "noise": (SHAPE, "sqrt(datum.m) / pow(tau, 2.5)"),
    "noise, 2016": (SHAPE, "sqrt(datum.m) / pow(tau, 2)"),
    "PMW": (SHAPE, "log(datum.m) * sqrt(bits * LN2) / pow(tau, 3.5)"),
    "PMW, 2016": (SHAPE, "log(datum.m) * sqrt(bits * LN2) / pow(tau, 3)"),
}
"""Rows that are enough for m questions with error ``tau``; ``beta``: chance of failure, ``bits``: log2 of universe."""

SCALE, RHO = "(noise / SQRT2)", "(datum.m / (2 * rows * rows * noise * noise))"
PRIVACY_CURVES: Mapping[str, str] = {
    "Laplace noise": f"datum.m / (rows * {SCALE})",
    "Gaussian noise": f"{RHO} + 2 * sqrt({RHO} * log(1e6))",
    "sparse test": "2 * budget / (sigma * rows) + 0 * datum.m",
    "wanted: τ/2": "tau / 2 + 0 * datum.m",
}
"""Privacy eps after m answers (delta = 1e-6 for Gaussian noise), and what the transfer theorem asks for."""


def _table(curves: Mapping[str, Any], most: float, *, least: float = 1.0) -> pd.DataFrame:
    m = np.geomspace(least, most, POINTS).round(3)
    return pd.DataFrame({"arm": np.repeat(list(curves), len(m)), "m": np.tile(m, len(curves))})


def _power(name: str, label: str, value: float, low: float, high: float) -> list[Any]:
    """A slider in powers of ten, and the number that it stands for."""
    return [
        slider(f"{name}_log", f"log₁₀ of {label}", value, low, high, 0.05),
        alt.param(name=name, expr=f"pow(10, {name}_log)"),
    ]


def _chart(
    curves: Mapping[str, str], looks: Arms, y: str, height: Span, most: float, params: list[Any]
) -> dict[str, Any]:
    cases = " : ".join(f"datum.arm == '{name}' ? {text}" for name, text in curves.items())
    chart = (
        alt.Chart()
        .transform_calculate(value=f"{cases} : NaN")
        .transform_filter("isValid(datum.value) && isFinite(datum.value)")
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=across("m", "questions m", Span(1.0, most, log=True)),
            y=up("value", y, height),
            color=arm_colour(looks, legend=legend_above(looks.names)),
            strokeDash=arm_dash(looks, legend=legend_above(looks.names)),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("m:Q", title="questions", format=",.0f"),
                alt.Tooltip("value:Q", title=y, format=".4~g"),
            ],
        )
        .properties(height=height_below(looks.names) + 60)
    )
    return specification(chart.add_params(*params))


def report_figure() -> Figure:
    """What a holdout says about a vote of m noise features, with and without noise in the answers."""
    return Figure(
        "What the holdout says about nothing",
        "Drag rows and noise: how many questions until 60 % appear?",
        "Curves of the accuracy of a vote of m noise features on the holdout it was made from: it rises from 50 % to "
        "78.8 % at as many questions as rows, less with noise in the answers. True is always 50 %.",
        spec=_report_spec(),
        data=_table(REPORT_CURVES, 1e5),
    )


@lru_cache(maxsize=1)
def _report_spec() -> dict[str, Any]:
    looks = Arms((Look("without noise", 1, 0, 0), Look("with noise", 4, 0, 0), Look("true", 6, 2, 0)))
    params = [
        *_power("rows", "rows n", 3.3, 2, 5),
        slider("noise", "noise of an answer", 0.05, 0.0, 0.2, 0.005),
    ]
    return _chart(REPORT_CURVES, looks, "reported accuracy (%)", Span(45.0, 100.0), 1e5, params)


def rows_needed_figure() -> Figure:
    """How many rows are enough for m adaptive questions, by mechanism."""
    return Figure(
        "Rows that are enough for m questions",
        "Slopes count: linear, square root, logarithm. Broken lines lack constants.",
        "Curves of sufficient rows against the number of questions on logarithmic axes: fixed questions grow like a "
        "logarithm, sample splitting linearly, noise like a square root, private multiplicative weights like a "
        "logarithm. For the last two only the shape is known: their constants are set to 1.",
        spec=_bound_spec(),
        data=_table(BOUND_CURVES, 1e9, least=2.0),
    )


@lru_cache(maxsize=1)
def _bound_spec() -> dict[str, Any]:
    colours = dict(zip(BOUND_CURVES, (8, 6, 4, 4, 2, 2), strict=True))
    dashes = dict(zip(BOUND_CURVES, (0, 0, 2, 3, 2, 3), strict=True))
    looks = Arms(tuple(Look(name, colours[name], dashes[name], 0) for name in BOUND_CURVES))
    params = [
        slider("tau", "error τ", 0.1, 0.01, 0.3, 0.01),
        slider("beta", "chance of failure β", 0.05, 0.001, 0.2, 0.001),
        slider("bits", "log₂ of the universe", 10, 1, 100, 1),
    ]
    curves = {name: text for name, (_, text) in BOUND_CURVES.items()}
    return _chart(curves, looks, "rows n", Span(1.0, 1e12, log=True), 1e9, params)


def privacy_figure() -> Figure:
    """Privacy that m answers spend, and how little the transfer theorem allows."""
    return Figure(
        "Privacy spent by m answers",
        "Below the dotted line theory promises validity. How many rows does it take?",
        "Curves of eps against the number of answers: linear for Laplace noise, nearly a square root for Gaussian "
        "noise, constant for the sparse test with its budget. The transfer theorem asks for half of the error.",
        spec=_privacy_spec(),
        data=_table(PRIVACY_CURVES, 1e5),
        wide=True,
    )


@lru_cache(maxsize=1)
def _privacy_spec() -> dict[str, Any]:
    looks = Arms(
        (
            Look("Laplace noise", 3, 0, 0),
            Look("Gaussian noise", 4, 0, 0),
            Look("sparse test", 0, 0, 0),
            Look("wanted: τ/2", 6, 2, 0),
        )
    )
    params = [
        *_power("rows", "rows n", 3.3, 2, 7),
        slider("noise", "noise of an answer", 0.05, 0.01, 0.3, 0.01),
        slider("budget", "budget of the sparse test", 10, 1, 500, 1),
        slider("sigma", "its σ", 0.01, 0.001, 0.1, 0.001),
        slider("tau", "error τ", 0.1, 0.01, 0.3, 0.01),
    ]
    height = Span(1e-4, 1e4, log=True)
    return _chart(PRIVACY_CURVES, looks, "privacy ε", height, 1e5, params)
