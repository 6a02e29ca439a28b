"""The schedule that follows from a norm curve while its sliders are dragged, in the browser; no run behind it.

Defazio et al., arXiv 2310.07831, Algorithms 1 and 2 without smoothing: w_t = G_t^-p, m_t = w_t w_{t+1:T}, divided by
its maximum. The equations are those of :func:`normviz.schedules.refinement_weights` and ``refine_schedule``, written
once more in Vega's language; the tests compare the two.
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

__all__ = ["CURVES", "GUARANTEES", "NORM", "SLIDERS", "guarantee_figure", "refinement_figure"]

POINTS = 200

SLIDERS: dict[str, tuple[str, float, float, float, float]] = {
    "start": ("norm at the start, times", 5.0, 0.1, 10.0, 0.1),
    "knee": ("… until this share of the run", 0.1, 0.005, 0.5, 0.005),
    "finish": ("norm at the end, times", 1.0, 0.05, 10.0, 0.05),
    "turn": ("… from this share of the run", 0.7, 0.5, 0.95, 0.01),
}
"""Label, value, lowest, highest and step of the sliders that shape the norm curve; its middle is 1."""

NORM = (
    "datum.u < knee ? start + (1 - start) * datum.u / knee : "
    "datum.u > turn ? 1 + (finish - 1) * (datum.u - turn) / (1 - turn) : 1"
)
"""The norm at the share u of the run: straight to 1, flat, and straight to its end."""

GRADIENTS, REFINED, LINEAR, COSINE = "norm ÷ largest", "refined", "linear", "cosine"
CURVES: dict[str, str] = {
    GRADIENTS: "datum.norm / datum.largest",
    REFINED: "datum.product / datum.peak",
    LINEAR: "1 - datum.t / datum.total",
    COSINE: "(1 + cos(PI * (datum.t - 1) / datum.total)) / 2",
}

UNKNOWN, FLAT_WEIGHTS, KNOWN = "only the largest norm known", "norms known, linear", "norms known, refined"
GUARANTEES: dict[str, str] = {
    UNKNOWN: "sqrt(datum.total) * datum.largest / datum.total",
    FLAT_WEIGHTS: "sqrt(datum.squares) / datum.total",
    KNOWN: "1 / sqrt(datum.inverse)",
}
"""What the last iterate's gap is promised to stay below, in units of the distance D times the norm 1."""


def _params() -> list[Any]:
    sliders = [
        slider(name, label, value, low, high, step)
        for name, (label, value, low, high, step) in SLIDERS.items()
    ]
    power = alt.binding_radio(options=[2, 1], labels=["SGD: 1/G²", "Adam: 1/G"], name="weights ")
    return [*sliders, alt.param(name="power", value=2, bind=power)]


def _with_schedule() -> alt.Chart:
    """Each step with its norm, weight, tail of the weights and product, and what holds for all steps."""
    return (
        alt.Chart()
        .transform_calculate(norm=NORM)
        .transform_calculate(
            w="pow(datum.norm, -power)", square="pow(datum.norm, 2)", over="pow(datum.norm, -2)"
        )
        .transform_window(tail="sum(w)", frame=[None, 0], sort=[alt.SortField("t", order="descending")])
        .transform_calculate(product="datum.w * (datum.tail - datum.w)")
        .transform_joinaggregate(
            largest="max(norm)",
            peak="max(product)",
            squares="sum(square)",
            inverse="sum(over)",
            total="count()",
        )
    )


def refinement_figure() -> Figure:
    """A norm curve by sliders, and the refined schedule beside linear decay and cosine."""
    return Figure(
        "Bend the norms: the schedule follows",
        "Raise the start: a warm-up appears. Lower the end: where is the peak?",
        "Curves over the share of the run: gradient norms shaped by sliders, the refined schedule that follows, linear "
        "decay and cosine. Norms that fall early give a warm-up; norms that rise late give a faster decay; constant "
        "norms give linear decay.",
        spec=_refinement_spec(),
        data=_steps(),
        wide=True,
    )


@lru_cache(maxsize=1)
def _steps() -> pd.DataFrame:
    t = np.arange(1, POINTS + 1)
    return pd.DataFrame({"t": t, "u": ((t - 1) / (POINTS - 1)).round(9)})


@lru_cache(maxsize=1)
def _refinement_spec() -> dict[str, Any]:
    looks = Arms(
        (Look(GRADIENTS, 6, 2, 0), Look(REFINED, 0, 0, 0), Look(LINEAR, 1, 0, 0), Look(COSINE, 2, 0, 0))
    )
    cases = " : ".join(f"datum.arm == '{name}' ? {text}" for name, text in CURVES.items())
    chart = (
        _with_schedule()
        .transform_calculate(arm="['" + "', '".join(CURVES) + "']")
        .transform_flatten(["arm"])
        .transform_calculate(value=f"{cases} : NaN")
        .mark_line(strokeWidth=2.5, clip=True)
        .encode(
            x=across("u", "share of the run", Span(0.0, 1.0)),
            y=up("value", "share of its maximum", Span(0.0, 1.0)),
            color=arm_colour(looks, legend=legend_above(looks.names)),
            strokeDash=arm_dash(looks, legend=legend_above(looks.names)),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("u:Q", title="share of the run", format=".2f"),
                alt.Tooltip("value:Q", title="share of its maximum", format=".3f"),
            ],
        )
        .properties(height=height_below(looks.names) + 80)
    )
    return specification(chart.add_params(*_params()))


def guarantee_figure() -> Figure:
    """What theory promises for the last iterate under SGD, with and without knowing the norms."""
    return Figure(
        "What knowing the norms is worth",
        "Constant norms: all bars are equal. When is the last one shortest?",
        "Bars of the guarantee for the last iterate under SGD after 200 steps, by what is known of the norms: the "
        "largest norm alone, all norms with linear decay, all norms with the refined schedule, which is never the "
        "largest.",
        spec=_guarantee_spec(),
        data=_steps(),
        wide=True,
    )


@lru_cache(maxsize=1)
def _guarantee_spec() -> dict[str, Any]:
    names = list(GUARANTEES)
    looks = Arms((Look(UNKNOWN, 6, 0, 0), Look(FLAT_WEIGHTS, 1, 0, 0), Look(KNOWN, 0, 0, 0)))
    cases = " : ".join(f"datum.arm == '{name}' ? {text}" for name, text in GUARANTEES.items())
    params = [param for param in _params() if param.name != "power"]
    chart = (
        _with_schedule()
        .transform_filter("datum.t == 1")
        .transform_calculate(arm="['" + "', '".join(names) + "']")
        .transform_flatten(["arm"])
        .transform_calculate(value=f"{cases} : NaN")
        .mark_bar(size=22)
        .encode(
            x=alt.X("value:Q", title="guarantee, in D × the middle norm", axis=alt.Axis(grid=True)),
            y=alt.Y("arm:N", title=None, sort=names, axis=alt.Axis(labelLimit=190)),
            color=arm_colour(looks),
            tooltip=[alt.Tooltip("arm:N"), alt.Tooltip("value:Q", title="guarantee", format=".3f")],
        )
        .properties(height=130)
    )
    power = alt.param(name="power", value=2)
    return specification(chart.add_params(*params, power))
