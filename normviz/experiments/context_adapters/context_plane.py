"""The decomposition in two dimensions, following its sliders in the browser: which direction does each adapter read?

Inputs are a cloud with a long and a short axis, C its covariance. W has two singular values, 1 and s. For an adapter of
rank 1 the row of A has the direction of a right singular vector of W (PiSSA), or of a column of Vhat = C'^-1 V of the
SVD of W C' (CorDA; Yang et al. 2024, arXiv 2406.05223, section 3.2). All is in closed form for 2 x 2 matrices.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.experiments.context_adapters.knobs import IPA, KPA, PISSA, Knobs
from normviz.figures import Figure
from normviz.figures.encodings import arm_colour
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["DERIVED", "DIRECTIONS", "SPREAD", "plane_figure"]

POINTS, HEIGHT = 150, 330
REACH = 3.0
"""Upper end of the vertical axis; the horizontal one has as many units as make both equally long."""
HALF = 2.3
"""Half the length of a line."""
DIRECTIONS = {PISSA: ("px", "py"), KPA: ("kx", "ky"), IPA: ("ix", "iy")}
"""Names of each direction's two entries, which have length 1 together."""
LOOKS = Knobs(arms=("pissa", "kpa", "ipa")).shown_arms()

DERIVED: dict[str, str] = {
    "t": "angle * PI / 180",
    "w": "turn * PI / 180",
    "d": "0.01 * (1 + short * short) / 2",
    "long2": "1 + d",
    "short2": "short * short + d",
    "c11": "long2 * pow(cos(t), 2) + short2 * pow(sin(t), 2)",
    "c22": "long2 * pow(sin(t), 2) + short2 * pow(cos(t), 2)",
    "c12": "(long2 - short2) * sin(t) * cos(t)",
    "g11": "pow(cos(w), 2) + s * s * pow(sin(w), 2)",
    "g22": "pow(sin(w), 2) + s * s * pow(cos(w), 2)",
    "g12": "(1 - s * s) * sin(w) * cos(w)",
    "h11": "c11 * (g11 * c11 + g12 * c12) + c12 * (g12 * c11 + g22 * c12)",
    "h12": "c11 * (g11 * c12 + g12 * c22) + c12 * (g12 * c12 + g22 * c22)",
    "h22": "c12 * (g11 * c12 + g12 * c22) + c22 * (g12 * c12 + g22 * c22)",
    "v": "0.5 * atan2(2 * h12, h11 - h22)",
    "i1": "c22 * cos(v) - c12 * sin(v)",
    "i2": "c11 * sin(v) - c12 * cos(v)",
    "k1": "-c22 * sin(v) - c12 * cos(v)",
    "k2": "c12 * sin(v) + c11 * cos(v)",
    "px": "cos(w)",
    "py": "sin(w)",
    "ix": "i1 / sqrt(i1 * i1 + i2 * i2)",
    "iy": "i2 / sqrt(i1 * i1 + i2 * i2)",
    "kx": "k1 / sqrt(k1 * k1 + k2 * k2)",
    "ky": "k2 / sqrt(k1 * k1 + k2 * k2)",
}
"""C' (c), W^T W (g), C' W^T W C' (h), the angle v of its leading eigenvector, and the directions, step by step."""
SPREAD = "sqrt(pow({x} * cos(t) + {y} * sin(t), 2) + pow(short * ({y} * cos(t) - {x} * sin(t)), 2))"
"""Standard deviation of the cloud along a direction."""


def _params() -> list[alt.Parameter]:
    return [
        slider("angle", "angle of the cloud (°)", 60, 0, 180, 1),
        slider("short", "its short axis (the long one is 1)", 0.3, 0.05, 1.0, 0.05),
        slider("turn", "strong direction of W (°)", 20, 0, 180, 1),
        slider("s", "weaker singular value of W", 0.6, 0.05, 1.0, 0.05),
        *(alt.param(name=name, expr=expression) for name, expression in DERIVED.items()),
    ]


def _picked(index: int) -> str:
    """An expression for the entry of the direction that the row's arm has."""
    pissa, kpa = DIRECTIONS[PISSA][index], DIRECTIONS[KPA][index]
    return f"datum.arm == '{PISSA}' ? {pissa} : datum.arm == '{KPA}' ? {kpa} : {DIRECTIONS[IPA][index]}"


def plane_figure() -> Figure:
    """The cloud, and a line along the direction that each adapter reads with the cloud's spread along it."""
    draw = np.random.default_rng(0).standard_normal((POINTS, 2)).round(4)
    cloud = pd.DataFrame({"arm": "", "end": 0, "a": draw[:, 0], "b": draw[:, 1]})
    lines = pd.DataFrame([(arm, end, 0.0, 0.0) for arm in DIRECTIONS for end in (-1, 1)], columns=list(cloud))
    return Figure(
        "Directions that are read",
        "Turn the cloud: which lines follow it, and which stays?",
        "A cloud of inputs in two dimensions with three lines: PiSSA reads along the strong direction of the weight "
        "whatever the cloud is; KPA reads across the cloud, where its spread is small, and IPA more along it.",
        spec=_plane_spec(),
        data=pd.concat([cloud, lines], ignore_index=True),
        wide=True,
    )


@lru_cache(maxsize=1)
def _plane_spec() -> dict[str, Any]:
    end = f"{REACH} * width / height"
    equal = alt.Scale(domain=[alt.ExprRef(f"-{end}"), alt.ExprRef(end)], nice=False)
    span = Span(-REACH, REACH)
    x, y = across("x", "first input", span, scale=equal), up("y", "second input", span)
    points = (
        alt.Chart()
        .transform_filter("datum.end == 0")
        .transform_calculate(
            x="datum.a * cos(t) - short * datum.b * sin(t)", y="datum.a * sin(t) + short * datum.b * cos(t)"
        )
        .mark_point(filled=True, size=14, color=MUTED, opacity=0.6, clip=True)
        .encode(x=x, y=y)
    )
    ends = (
        alt.Chart()
        .transform_filter("datum.end != 0")
        .transform_calculate(
            x=f"{HALF} * datum.end * ({_picked(0)})", y=f"{HALF} * datum.end * ({_picked(1)})"
        )
    )
    colour = arm_colour(LOOKS)
    line = ends.mark_line(strokeWidth=3, clip=True).encode(x=x, y=y, color=colour)
    name = (
        ends.transform_filter("datum.x > 0")
        .transform_calculate(spread=SPREAD.format(x=f"({_picked(0)})", y=f"({_picked(1)})"))
        .transform_calculate(
            name="replace(datum.arm, 'CorDA ', '') + ', spread ' + format(datum.spread, '.2f')"
        )
        .mark_text(fontSize=12, dx=6, align="left", fontWeight="bold")
        .encode(x=x, y=y, color=colour, text="name:N")
    )
    chart = alt.layer(points, line, name).properties(height=HEIGHT).add_params(*_params())
    return specification(chart)
