"""A batch of gradients in two dimensions under sliders: arrows, the circle of the norm test and its cone.

No run behind it: gradients are N((1, 0), noise^2 I), drawn once; the browser computes mean, variance and the norm test
of the first b of them while a slider is dragged, as :func:`normviz.adaptive.norm_test` does; the tests compare the two.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.figures import Figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["DRAWS", "FAN_STEPS", "MOST", "exact_fan_figure", "fan_rows"]

MOST = 256
POINTS = 72
REACH = 2.2
"""Half the height of the picture, in lengths of the true gradient; its width follows, so that circles are round."""
MEAN, ALLOWED, FOUND = "mean gradient g", "allowed error η‖g‖, and its cone", "found error √(‖V‖₁/b)"
COLOURS = {MEAN: "#0a85d1", ALLOWED: "#069e73", FOUND: "#d55e00"}

SLIDERS: dict[str, tuple[str, float, float, float, float]] = {
    "eta": ("η", 0.35, 0.05, 1.0, 0.01),
    "noise": ("noise of one sample, times the gradient", 1.5, 0.1, 5.0, 0.1),
    "b": ("batch size b", 16, 2, MOST, 1),
}
"""Label, value, lowest, highest and step of each slider."""

DRAWS = np.random.default_rng(2402).standard_normal((MOST, 2)).round(4)
"""The samples' noise in units of its standard deviation, (MOST, 2)."""

FAN_STEPS: tuple[dict[str, str], ...] = (
    {
        "gx": "datum.part == 'sample' && datum.i < b ? 1 + noise * datum.z1 : null",
        "gy": "datum.part == 'sample' && datum.i < b ? noise * datum.z2 : null",
    },
    {
        "norm": "sqrt(datum.mx * datum.mx + datum.my * datum.my)",
        "v": "datum.vx + datum.vy",
    },
    {
        "s": "datum.v / (eta * eta * datum.norm * datum.norm)",
        "angle": "atan2(datum.my, datum.mx)",
        "radius": f"datum.name == '{ALLOWED}' ? eta * datum.norm : sqrt(datum.v / b)",
    },
)
"""What is computed: after the first of the three the means mx, my and variances vx, vy of gx, gy are taken."""


@lru_cache(maxsize=1)
def fan_rows() -> pd.DataFrame:
    """All rows of the picture, before anything is computed."""
    angle = np.linspace(0.0, 2 * math.pi, POINTS + 1)
    samples = pd.DataFrame({"part": "sample", "i": np.arange(MOST), "z1": DRAWS[:, 0], "z2": DRAWS[:, 1]})
    rings = [
        pd.DataFrame({"part": "ring", "name": name, "i": np.arange(POINTS + 1), "z1": angle.round(4)})
        for name in (ALLOWED, FOUND)
    ]
    cone = pd.DataFrame({"part": "cone", "name": ALLOWED, "i": [0, 1], "z1": [-1.0, 1.0]})
    mean = pd.DataFrame({"part": ["mean", "verdict"], "name": MEAN, "i": [0, 0]})
    return pd.concat([samples, *rings, cone, mean], ignore_index=True)


def exact_fan_figure() -> Figure:
    """Arrows of a batch, the mean, the circle of allowed errors with its cone, and the circle of the error found."""
    return Figure(
        "One batch and the norm test",
        "Drag η: circle and cone change. When is orange inside green?",
        "Arrows of the gradients of a batch around their mean. A green circle around the tip of the mean has the "
        "radius that the norm test allows for the mean's error, an orange one the radius that the samples' variance "
        "gives. The batch passes if the orange circle is inside the green one; larger batches shrink it.",
        spec=_spec(),
        data=fan_rows(),
        wide=True,
    )


@lru_cache(maxsize=1)
def _spec() -> dict[str, Any]:
    half = f"{REACH} * width / height"
    # The expressions win; without the numbers Vega looks for ends in data that have not come yet, and warns.
    wide = alt.Scale(
        domain=[1 - REACH, 1 + REACH],
        domainMin=alt.expr(f"1 - {half}"),
        domainMax=alt.expr(f"1 + {half}"),
        nice=False,
    )
    high = alt.Scale(domain=[-REACH, REACH], nice=False)

    def place(x: str, y: str) -> dict[str, Any]:
        return {"x": alt.X(f"{x}:Q", scale=wide, axis=None), "y": alt.Y(f"{y}:Q", scale=high, axis=None)}

    names = list(COLOURS)
    scale = alt.Scale(domain=names, range=list(COLOURS.values()))
    colour = alt.Color("name:N", title=None, scale=scale, legend=legend_above(names, columns=1))

    def part(name: str) -> alt.Chart:
        chart: alt.Chart = alt.Chart().transform_filter(f"datum.part == '{name}'")
        return chart

    seen = part("sample").transform_filter("datum.i < b").transform_calculate(x0="0", y0="0")
    to = {"x2": "gx:Q", "y2": "gy:Q"}
    arrows = seen.mark_rule(strokeWidth=1, opacity=0.4, color=MUTED, clip=True).encode(
        **place("x0", "y0"), **to
    )
    tips = seen.mark_point(size=10, filled=True, opacity=0.6, color=MUTED, clip=True).encode(
        **place("gx", "gy")
    )
    rings = (
        part("ring")
        .transform_calculate(
            x="datum.mx + datum.radius * cos(datum.z1)", y="datum.my + datum.radius * sin(datum.z1)"
        )
        .mark_line(strokeWidth=2.5, clip=True)
        .encode(**place("x", "y"), order="i:Q", color=colour)
    )
    long = 6 * REACH
    cone = (
        part("cone")
        .transform_calculate(x0="0", y0="0", half="datum.angle + datum.z1 * asin(eta)")
        .transform_calculate(x=f"{long} * cos(datum.half)", y=f"{long} * sin(datum.half)")
        .mark_rule(strokeWidth=1.5, strokeDash=[5, 3], clip=True)
        .encode(**place("x0", "y0"), x2="x:Q", y2="y:Q", color=colour)
    )
    mean = (
        part("mean")
        .transform_calculate(x0="0", y0="0")
        .mark_rule(strokeWidth=4)
        .encode(**place("x0", "y0"), x2="mx:Q", y2="my:Q", color=colour)
    )
    words = (
        "'b = ' + b + ', the test asks for ' + format(ceil(datum.s), ',') + "
        "(datum.s <= b ? ': the batch stays' : ': the batch grows')"
    )
    verdict = (
        part("verdict")
        .transform_calculate(text=words)
        .mark_text(align="left", baseline="top", fontSize=13, color=MUTED)
        .encode(x=alt.value(4), y=alt.value(4), text="text:N")
    )
    first, second, third = FAN_STEPS
    layered = (
        alt.layer(arrows, tips, rings, cone, mean, verdict)
        .transform_calculate(**first)
        .transform_joinaggregate(mx="mean(gx)", my="mean(gy)", vx="variance(gx)", vy="variance(gy)")
        .transform_calculate(**second)
        .transform_calculate(**third)
        .add_params(*(slider(name, *rest) for name, rest in SLIDERS.items()))
        .properties(height=height_below(names, columns=1) + 60, view=alt.ViewBackground(stroke=None))
    )
    return specification(layered)
