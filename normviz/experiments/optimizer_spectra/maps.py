"""What the two iterations do to one singular value, computed in the browser while a slider is dragged.

Muon's quintic maps s to a s + b s^3 + c s^5, SWAN's coupled iteration x to beta x (3 - x^2); both act on every singular
value alone and leave the singular vectors as they are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.experiments.optimizer_spectra.knobs import ARMS as ALL
from normviz.figures import Figure
from normviz.figures.encodings import arm_colour, arm_dash
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["map_figure", "map_figures"]

A, B, C = 3.4445, -4.7750, 2.0315
"""Muon's coefficients; :data:`normviz.optim.newton_schulz.MUON_COEFFICIENTS` without PyTorch."""

MOST = 15
POINTS = 400
LOWEST = 1e-5
ARMS = ALL.only(("Muon", "SWAN"))


def map_figures() -> dict[str, Figure]:
    """The charts of this module, by name."""
    return {"map": map_figure()}


def map_figure() -> Figure:
    """A singular value before and after so many steps of Muon's and of SWAN's iteration, with sliders."""
    data = pd.DataFrame({"x": [LOWEST ** (1 - i / (POINTS - 1)) for i in range(POINTS)]})
    return Figure(
        "One singular value, before and after",
        "Flat means equalised. Do more steps settle at 1, for which β?",
        "Singular value after the iteration against before, for Muon and SWAN. With five steps of Muon values from "
        "0.003 to 1 land between 0.68 and 1.2. With SWAN's ten steps at beta 0.8 they lie between 0.56 and 1.6.",
        spec=_map_spec(),
        data=data,
        wide=True,
    )


@lru_cache(maxsize=1)
def _map_spec() -> dict[str, Any]:
    muon = slider("muonsteps", "Muon's steps", 5, 1, MOST, 1)
    swan = slider("swansteps", "SWAN's steps k", 10, 1, MOST, 1)
    beta = slider("beta", "SWAN's β", 0.8, 0.3, 0.9, 0.01)
    chart = alt.Chart().transform_calculate(m0="datum.x", s0="datum.x")
    for k in range(1, MOST + 1):
        m, s = f"datum.m{k - 1}", f"datum.s{k - 1}"
        chart = chart.transform_calculate(
            **{
                f"m{k}": f"{m} * ({A} + {m} * {m} * ({B} + {C} * {m} * {m}))",
                f"s{k}": f"beta * {s} * (3 - {s} * {s})",
            }
        )
    chosen = {
        name: "[" + ", ".join(f"datum.{letter}{k}" for k in range(MOST + 1)) + f"][{steps}]"
        for name, letter, steps in (("Muon", "m", "muonsteps"), ("SWAN", "s", "swansteps"))
    }
    chart = chart.transform_calculate(**chosen).transform_fold(list(ARMS.names), as_=["arm", "y"])
    height = Span(0.0, 1.8)
    line = chart.mark_line(strokeWidth=2.5, clip=True).encode(
        x=across("x", "singular value before, scaled", Span(LOWEST, 1.0, log=True)),
        y=up("y", "after", height),
        color=arm_colour(ARMS, legend=legend_above(ARMS.names)),
        strokeDash=arm_dash(ARMS),
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("x:Q", title="before", format=".3~g"),
            alt.Tooltip("y:Q", title="after", format=".4~f"),
        ],
    )
    one = alt.Chart().mark_rule(color=MUTED, strokeDash=[3, 3]).encode(y=alt.datum(1.0, scale=height.scale))
    layered = alt.layer(one, line).properties(height=height_below(ARMS.names) + 80)
    return specification(layered.add_params(muon, swan, beta))
