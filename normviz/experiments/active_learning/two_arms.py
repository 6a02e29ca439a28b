"""Two arms in closed form, drawn in the browser: how complexity turns into wrong decisions and regret.

T questions, half for each of two arms whose means differ by Delta, answers with Gaussian noise of variance 1: the
difference of the two averages has variance 4 / T, so the wrong arm wins with probability Phi(-Delta sqrt(T) / 2). With
C = 4 / Delta^2 (Zhang, Jain, Jamieson, arXiv 2010.15382) that is Phi(-sqrt(T / C)), and the regret is Delta times it.
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

__all__ = ["TWO_ARM_CURVES", "two_arm_figure"]

POINTS = 120
LOW, HIGH = 0.3, 3000.0

TWO_ARM_CURVES: Mapping[str, str] = {
    "wrong decision": "cumulativeNormal(-sqrt(budget / datum.c))",
    "regret": "2 / sqrt(datum.c) * cumulativeNormal(-sqrt(budget / datum.c))",
    "gap Δ": "2 / sqrt(datum.c)",
}
"""Of complexity ``datum.c`` and the slider ``budget``."""


def two_arm_figure() -> Figure:
    """Probability of a wrong decision and regret of two arms over their complexity."""
    c = np.geomspace(LOW, HIGH, POINTS)
    data = pd.DataFrame(
        {"arm": np.repeat(list(TWO_ARM_CURVES), POINTS), "c": np.tile(c, len(TWO_ARM_CURVES))}
    )
    return Figure(
        "Two arms: which problems hurt?",
        "Drag T. Right: impossible, yet little regret. Where is regret largest?",
        "Curves over complexity: the probability of a wrong decision rises to one half, the gap falls, and their "
        "product, the regret, has its maximum where the complexity is about 1.8 times the number of questions.",
        spec=_spec(),
        data=data.round(5),
        wide=True,
    )


@lru_cache(maxsize=1)
def _spec() -> dict[str, Any]:
    looks = Arms((Look("wrong decision", 1, 0, 0), Look("regret", 0, 0, 0), Look("gap Δ", 6, 1, 0)))
    questions = slider("budget", "questions T", 20, 2, 200, 2)
    cases = " : ".join(f"datum.arm == '{name}' ? {text}" for name, text in TWO_ARM_CURVES.items())
    chart = (
        alt.Chart()
        .transform_calculate(value=f"{cases} : NaN")
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=across("c", "complexity C = 4/Δ²", Span(LOW, HIGH, log=True)),
            y=up("value", "probability, or loss", Span(0.0, 1.0)),
            color=arm_colour(looks, legend=legend_above(looks.names)),
            strokeDash=arm_dash(looks, legend=legend_above(looks.names)),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("c:Q", title="complexity", format=".3~g"),
                alt.Tooltip("value:Q", format=".3f"),
            ],
        )
        .properties(height=height_below(looks.names) + 40)
    )
    return specification(chart.add_params(questions))
