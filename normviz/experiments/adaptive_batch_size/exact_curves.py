r"""Closed forms of the tests under sliders, computed in the browser.

**The staircase.** For gradients with mean mu and total variance d sigma^2, R = d sigma^2/||mu||^2, the norm test's
suggestion at the batch size b is about R / (eta^2 (1 + R/b)), numerator and denominator each at its mean: the batch's
own gradient is longer than mu by its noise. Tested again and again at one point, b -> max(b, s(b)) gives

    1/b_k = eta^(2k)/b_0 + (eta^2/R) (1 - eta^(2k))/(1 - eta^2)      for b_0 below the limit R (1 - eta^2)/eta^2,

while the exact test goes to R/eta^2 at once.

**Five tests.** Two dimensions, ||g|| = 1 at the angle phi to the first axis, noise of the variance a^2 along g and c^2
across it. In the axes V_1 = a^2 cos^2 phi + c^2 sin^2 phi, V_2 = a^2 sin^2 phi + c^2 cos^2 phi.
"""

from __future__ import annotations

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

__all__ = ["FIVE", "STAIRCASE", "five_tests_figure", "staircase_figure"]

TESTED = 16
USUAL, EXACT = "usual test", "exact test"
STAIRCASE: dict[str, str] = {
    USUAL: (
        "max(b0, 1 / (pow(eta, 2 * datum.k) / b0 + "
        "eta * eta / pow(10, noise) * (1 - pow(eta, 2 * datum.k)) / (1 - eta * eta)))"
    ),
    EXACT: "datum.k == 0 ? b0 : max(b0, pow(10, noise) / (eta * eta))",
}
"""Batch size after k tests; ``noise`` is the decadic logarithm of R."""

NORM, INNER, ORTHOGONAL, AUGMENTED, COORDINATES = (
    "norm",
    "inner product",
    "orthogonality",
    "augmented",
    "coordinate-wise",
)
_A, _C = "along * along", "across * across"
_COS, _SIN = "cos(phi * PI / 180)", "sin(phi * PI / 180)"
FIVE: dict[str, str] = {
    NORM: f"({_A} + {_C}) / (eta * eta)",
    INNER: f"{_A} / (theta * theta)",
    ORTHOGONAL: f"{_C} / (nu * nu)",
    AUGMENTED: f"max({_A} / (theta * theta), {_C} / (nu * nu))",
    COORDINATES: (
        f"max(({_A} * pow({_COS}, 2) + {_C} * pow({_SIN}, 2)) / pow({_COS}, 2), "
        f"({_A} * pow({_SIN}, 2) + {_C} * pow({_COS}, 2)) / pow({_SIN}, 2)) / (eta * eta)"
    ),
}
"""The batch size that each test asks for."""


def _by_case(cases: dict[str, str]) -> str:
    return " : ".join(f"datum.arm == '{name}' ? {text}" for name, text in cases.items()) + " : NaN"


def staircase_figure() -> Figure:
    """Batch size after each test at one point, for the usual and for the exact test."""
    return Figure(
        "The staircase at one point",
        "Drag η towards 1: the usual test stops asking. Why?",
        "Two lines of the batch size over the number of tests made at one point. The exact test goes to its size at "
        "once; the usual test, which judges by the batch's own gradient, climbs in steps to a smaller size.",
        spec=_staircase_spec(),
        data=pd.DataFrame({"k": np.arange(TESTED + 1)}),
        wide=True,
    )


@lru_cache(maxsize=1)
def _staircase_spec() -> dict[str, Any]:
    looks = Arms((Look(USUAL, 0, 0, 0), Look(EXACT, 6, 1, 1)))
    chart = (
        alt.Chart()
        .transform_calculate(arm=f"['{USUAL}', '{EXACT}']")
        .transform_flatten(["arm"])
        .transform_calculate(value=_by_case(STAIRCASE))
        .mark_line(strokeWidth=2.5, interpolate="step-after", clip=True)
        .encode(
            x=across("k", "tests made", Span(0.0, float(TESTED))),
            y=up("value", "batch size", Span(1.0, 1e6, log=True)),
            color=arm_colour(looks, legend=legend_above(looks.names)),
            strokeDash=arm_dash(looks, legend=legend_above(looks.names)),
            tooltip=[
                alt.Tooltip("arm:N", title="test"),
                alt.Tooltip("k:Q", title="tests made"),
                alt.Tooltip("value:Q", title="batch size", format=",.1f"),
            ],
        )
        .properties(height=height_below(looks.names) + 20)
        .add_params(
            slider("eta", "η", 0.5, 0.05, 0.99, 0.01),
            slider("noise", "noise R = ‖V‖₁/‖∇F‖², power of ten", 2.0, 0.0, 4.0, 0.1),
            slider("b0", "first batch size", 8, 2, 256, 1),
        )
    )
    return specification(chart)


def five_tests_figure() -> Figure:
    """What each test asks for, by the noise along and across the gradient and the gradient's angle to the axes."""
    return Figure(
        "Five tests, one noise",
        "Turn the gradient towards an axis: which test explodes?",
        "Bars of the batch size that each of five tests asks for in two dimensions. The norm test adds noise along and "
        "across the gradient, the augmented test takes the larger demand, the coordinate-wise test grows without bound "
        "as the gradient turns towards an axis.",
        spec=_five_spec(),
        data=pd.DataFrame({"arm": list(FIVE)}),
        wide=True,
    )


@lru_cache(maxsize=1)
def _five_spec() -> dict[str, Any]:
    names = list(FIVE)
    looks = Arms.of(dict(zip(names, (0, 1, 2, 3, 5), strict=True)))
    chart = (
        alt.Chart()
        .transform_calculate(value=_by_case(FIVE))
        .transform_calculate(shown="max(datum.value, 1)", low="1")
        .mark_bar(size=18, clip=True)
        .encode(
            x=across("low", "batch size asked for (at least 1)", Span(1.0, 1e5, log=True), grid=True),
            x2="shown:Q",
            y=alt.Y("arm:N", title=None, sort=names, axis=alt.Axis(labelLimit=120)),
            color=arm_colour(looks),
            tooltip=[
                alt.Tooltip("arm:N", title="test"),
                alt.Tooltip("value:Q", title="asks for", format=",.1f"),
            ],
        )
        .properties(height=170)
        .add_params(
            slider("along", "noise along the gradient, times its length", 2.0, 0.0, 10.0, 0.1),
            slider("across", "noise across it", 2.0, 0.0, 10.0, 0.1),
            slider("phi", "angle to the first axis, degrees", 45, 1, 89, 1),
            slider("eta", "η", 0.5, 0.05, 1.0, 0.01),
            slider("theta", "θ", 0.5, 0.05, 2.0, 0.05),
            slider("nu", "ν", 1.0, 0.05, 6.0, 0.05),
        )
    )
    return specification(chart)
