"""Formulas that follow their sliders in the browser: the ring that lambda leaves a map in the plane, and the penalty.

The formulas are those of :mod:`normviz.adapters.orthogonality`, written once more in Vega's language; a test compares
the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms, Look
from normviz.experiments.compatible_representations.band_chart import BAND
from normviz.figures import Figure
from normviz.figures.encodings import arm_colour, arm_dash
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["DELTA", "IMAGE", "PENALTIES", "penalty_figure", "ring_figure"]

POINTS = 97
FARTHEST = 2.6
"""Half the height of the plane."""
MOST = 6.0
"""Largest distance of the penalty's chart."""

IMAGE = (
    "cos(turn * PI / 180) * s1 * cos(datum.t) - sin(turn * PI / 180) * s2 * sin(datum.t)",
    "sin(turn * PI / 180) * s1 * cos(datum.t) + cos(turn * PI / 180) * s2 * sin(datum.t)",
)
"""Where the map takes the point at angle ``datum.t`` of the unit circle: stretched by s1 and s2, then turned."""

DELTA = "sqrt(pow(s1 * s1 - 1, 2) + pow(s2 * s2 - 1, 2))"
"""Its distance from the orthogonal matrices."""

PENALTIES: Mapping[str, str] = {
    "gated": "datum.delta / (1 + exp(-slope * (datum.delta - lam)))",
    "hinge": "max(0, datum.delta - lam)",
    "softplus": "log(1 + exp(slope * (datum.delta - lam))) / slope",
    "soft": "datum.delta * datum.delta",
}
"""The term at distance ``datum.delta``, by its form; ``lam`` is a slider, ``slope`` the steepness."""

LOOKS = Arms(
    (Look("gated", 0, 0, 0), Look("hinge", 1, 1, 1), Look("softplus", 2, 2, 2), Look("soft", 6, 3, 3))
)
CIRCLES = Arms((Look("unit circle", 6, 0, 0), Look("its image", 0, 0, 0), Look("band of λ", 2, 1, 0)))


def ring_figure() -> Figure:
    """The unit circle, its image under a map of the plane, and the ring in which lambda keeps it."""
    t = np.linspace(0, 2 * np.pi, POINTS)
    names = {"unit": "unit circle", "image": "its image", "low": "band of λ", "high": "band of λ"}
    parts = [pd.DataFrame({"part": part, "arm": arm, "t": t}) for part, arm in names.items()]
    one = pd.DataFrame({"part": ["one"], "arm": ["its image"], "t": [0.0]})
    return Figure(
        "What λ allows a map of the plane",
        "Drag λ: the ring moves. Stretch the map: when is it pulled back?",
        "The unit circle and its image under a map with two singular values: an ellipse. A distance of at most λ keeps "
        "the ellipse inside the ring between √(1−λ) and √(1+λ), however the map turns it.",
        spec=_ring_spec(),
        data=pd.concat([*parts, one], ignore_index=True).round(5),
        wide=True,
    )


@lru_cache(maxsize=1)
def _ring_spec() -> dict[str, Any]:
    ends: Any = [{"expr": f"-{FARTHEST} * width / height"}, {"expr": f"{FARTHEST} * width / height"}]
    x = alt.X(
        "x:Q", title="first feature", scale=alt.Scale(domain=ends, nice=False), axis=alt.Axis(grid=False)
    )
    y = up("y", "second feature", Span(-FARTHEST, FARTHEST), grid=False)
    circle = ("cos(datum.t)", "sin(datum.t)")
    places = {
        "unit": circle,
        "image": IMAGE,
        "low": tuple(f"{BAND[0]} * {part}" for part in circle),
        "high": tuple(f"{BAND[1]} * {part}" for part in circle),
    }

    def drawn(part: str, width: float) -> alt.Chart:
        across, along = places[part]
        chart: alt.Chart = (
            alt.Chart()
            .transform_filter(f"datum.part == '{part}'")
            .transform_calculate(x=across, y=along)
            .mark_line(strokeWidth=width, clip=True)
            .encode(
                x=x,
                y=y,
                order="t:Q",
                color=arm_colour(CIRCLES, legend=legend_above(CIRCLES.names)),
                strokeDash=arm_dash(CIRCLES, legend=legend_above(CIRCLES.names)),
            )
        )
        return chart

    said = f"'δ = ' + format({DELTA}, '.2f') + ({DELTA} <= lam ? ', not above λ: free' : ', above λ: pulled back')"
    report = (
        alt.Chart()
        .transform_filter("datum.part == 'one'")
        .transform_calculate(text=said)
        .mark_text(align="left", baseline="top", fontSize=13, fontWeight="bold", color=MUTED)
        .encode(x=alt.value(8), y=alt.value(4), text="text:N")
    )
    params = [
        slider("lam", "λ", 0.8, 0.0, 4.0, 0.05),
        slider("s1", "first singular value", 1.3, 0.0, 2.5, 0.01),
        slider("s2", "second singular value", 0.8, 0.0, 2.5, 0.01),
        slider("turn", "turn by (degrees)", 30, 0, 180, 1),
    ]
    chart = alt.layer(drawn("unit", 1.2), drawn("low", 1.6), drawn("high", 1.6), drawn("image", 2.4), report)
    return specification(chart.properties(height=height_below(CIRCLES.names) + 90).add_params(*params))


def penalty_figure() -> Figure:
    """The term by the distance from the orthogonal matrices, in its four forms."""
    delta = np.linspace(0, MOST, 121).round(4)
    data = pd.DataFrame(
        {"arm": np.repeat(list(PENALTIES), len(delta)), "delta": np.tile(delta, len(PENALTIES))}
    )
    rule = pd.DataFrame({"arm": ["threshold"], "delta": [0.0]})
    return Figure(
        "The term of λ in four forms",
        "Drag λ: where does each form begin to pull?",
        "The term against the distance: gated stays near zero below λ and follows the distance above, hinge is zero up "
        "to λ, softplus is a smooth hinge, soft is the square of the distance and ignores λ.",
        spec=_penalty_spec(),
        data=pd.concat([data, rule], ignore_index=True),
        wide=True,
    )


@lru_cache(maxsize=1)
def _penalty_spec() -> dict[str, Any]:
    cases = " : ".join(f"datum.arm == '{name}' ? {text}" for name, text in PENALTIES.items())
    x, height = across("delta", "distance δ from the orthogonal matrices", Span(0.0, MOST)), Span(0.0, MOST)
    lines = (
        alt.Chart()
        .transform_filter("datum.arm != 'threshold'")
        .transform_calculate(value=f"{cases} : NaN")
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=x,
            y=up("value", "term L_λ", height),
            color=arm_colour(LOOKS, legend=legend_above(LOOKS.names)),
            strokeDash=arm_dash(LOOKS, legend=legend_above(LOOKS.names)),
            tooltip=[
                alt.Tooltip("arm:N", title="form"),
                alt.Tooltip("delta:Q", title="δ", format=".2f"),
                alt.Tooltip("value:Q", title="term", format=".3f"),
            ],
        )
    )
    threshold = (
        alt.Chart()
        .transform_filter("datum.arm == 'threshold'")
        .transform_calculate(delta="lam")
        .mark_rule(color=MUTED, strokeDash=[3, 3])
        .encode(x=x)
    )
    params = [
        slider("lam", "λ", 2.0, 0.1, 4.0, 0.05),
        slider("beta", "steepness β (0: 10/λ, at least 1)", 0, 0, 20, 0.5),
        alt.param(name="slope", expr="beta > 0 ? beta : max(1, 10 / lam)"),
    ]
    chart = alt.layer(threshold, lines).properties(height=height_below(LOOKS.names) + 60)
    return specification(chart.add_params(*params))
