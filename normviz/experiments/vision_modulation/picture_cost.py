"""What a picture costs a large language model, by formula: it follows its sliders in the browser.

The formulas are those of :mod:`normviz.adapters.lavi_flops`, written once more in Vega's language; a test compares the
two.
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
from normviz.figures.palette import MUTED
from normviz.figures.scales import POWER_LABEL, Span, across
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["COST_CURVES", "DECODER", "picture_cost_figure"]

MOST = 16384
POINTS = 60

DECODER = "(2 * layers * ({n} * 4 * dim * dim + 2 * {n} * {n} * dim + mats * {n} * dim * ffn))"
"""Operations of the decoder for ``{n}`` tokens; ``layers``, ``dim``, ``ffn`` and ``mats`` are parameters."""

TEXT = DECODER.format(n="words")
COST_CURVES: Mapping[str, str] = {
    "Concat": DECODER.format(n="(words + datum.m)"),
    "Cross-attention": f"{TEXT} + 2 * blocks * (2 * words * dim * dim + 2 * datum.m * dim * dim "
    "+ 2 * words * datum.m * dim)",
    "LaVi attention": f"{TEXT} + 4 * blocks * (3 * words * dim * r + 2 * datum.m * dim * r + 2 * words * datum.m * r)",
    "text alone": f"{TEXT} + 0 * datum.m",
}
"""Operations for ``datum.m`` visual tokens; the other names are parameters; a block has two modulated norms."""

LOOKS = Arms(
    (
        Look("Concat", 1, 0, 1),
        Look("Cross-attention", 3, 5, 3),
        Look("LaVi attention", 0, 0, 0),
        Look("text alone", 6, 2, 6),
    )
)


def picture_cost_figure() -> Figure:
    """Operations of one forward pass by the number of visual tokens, with sliders for the model and the text."""
    m = np.unique(np.geomspace(1, MOST, POINTS).round())
    curves = pd.DataFrame(
        {"part": "curve", "arm": np.repeat(list(COST_CURVES), len(m)), "m": np.tile(m, len(COST_CURVES))}
    )
    one = pd.DataFrame({"part": ["one"], "arm": ["Concat"], "m": [1.0]})
    return Figure(
        "What a picture costs a large language model",
        "Move the sliders. Where does LaVi's line leave that of the text alone?",
        "Operations of a forward pass against the number of visual tokens, both on logarithmic axes: concatenation "
        "grows with the square in the end, LaVi and cross-attention in proportion.",
        spec=_spec(),
        data=pd.concat([curves, one], ignore_index=True),
        wide=True,
    )


def _power_of_ten(rounded: str, value: str) -> str:
    """Expression of the power of ten below (``"floor"``) or above (``"ceil"``) a value."""
    return f"pow(10, {rounded}(log({value}) / LN10))"


def _params() -> list[Any]:
    return [
        slider("words", "words T", 64, 1, 1024, 1),
        slider("tokens", "visual tokens M", 576, 1, MOST, 1),
        slider("layers", "layers L", 32, 2, 80, 1),
        slider("wanted", "modulated layers", 8, 1, 80, 1),
        alt.param(name="blocks", expr="min(wanted, layers)"),
        slider("dim", "width d", 4096, 256, 8192, 256),
        slider("ffn", "feed-forward width", 11008, 256, 28672, 256),
        slider("r", "conditioner's width r", 1024, 64, 4096, 64),
        alt.param(
            name="mats",
            value=3,
            bind=alt.binding_radio(options=[2, 3], name="matrices of the feed-forward part "),
        ),
        alt.param(name="least", expr=_power_of_ten("floor", TEXT)),
        alt.param(
            name="most", expr=_power_of_ten("ceil", COST_CURVES["Concat"].replace("datum.m", str(MOST)))
        ),
    ]


@lru_cache(maxsize=1)
def _spec() -> dict[str, Any]:
    cases = " : ".join(f"datum.arm == '{name}' ? {text}" for name, text in COST_CURVES.items())
    x = "visual tokens M"
    ends: Any = [{"expr": "least"}, {"expr": "most"}]
    y = alt.Y(
        "value:Q",
        title="operations of a forward pass",
        scale=alt.Scale(type="log", domain=ends, nice=False),
        axis=alt.Axis(tickCount=3, labelExpr=POWER_LABEL),
    )
    lines = (
        alt.Chart()
        .transform_filter("datum.part == 'curve'")
        .transform_calculate(value=f"{cases} : NaN")
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=across("m", x, Span(1.0, MOST, log=True)),
            y=y,
            color=arm_colour(LOOKS, legend=legend_above(LOOKS.names)),
            strokeDash=arm_dash(LOOKS, legend=legend_above(LOOKS.names)),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("m:Q", title="visual tokens", format=",.0f"),
                alt.Tooltip("value:Q", title="operations", format=".3~s"),
            ],
        )
    )
    at = {name: text.replace("datum.m", "tokens") for name, text in COST_CURVES.items()}
    chosen = alt.Chart().transform_filter("datum.part == 'one'").transform_calculate(here="tokens")
    rule = chosen.mark_rule(color=MUTED, strokeDash=[3, 3]).encode(
        x=across("here", x, Span(1.0, MOST, log=True))
    )
    report = (
        chosen.transform_calculate(
            text=f"'At ' + format(tokens, ',') + ' visual tokens LaVi saves ' + "
            f"format(100 * (1 - ({at['LaVi attention']}) / ({at['Concat']})), '.1f') + ' % of concatenation'"
        )
        .mark_text(align="left", baseline="top", fontSize=13, fontWeight="bold", color=MUTED)
        .encode(x=alt.value(8), y=alt.value(4), text="text:N")
    )
    chart = alt.layer(lines, rule, report).properties(height=height_below(LOOKS.names) + 60)
    return specification(chart.add_params(*_params()))
