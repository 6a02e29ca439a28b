"""Two closed forms: how many weights a layer exchanges by round, and which format of a sparse tensor is smallest.

The first reacts in the browser to density, share and last round; no run stands behind either.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.experiments.federated_pruning.layers import DENSE, LAYERS, PARAMETERS, PRUNABLE
from normviz.figures.encodings import arm_colour, arm_dash, focus_param
from normviz.figures.figure import Figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.scales import Span, across, up
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["ACTIVE", "EXCHANGED", "exchange_figure", "format_figure"]

LAYER_ARMS = Arms.of({layer.label: slot for layer, slot in zip(LAYERS, (1, 0, 2, 7), strict=True)})
FORMATS = Arms.of({"all values": 6, "bitmap and values": 0, "values and indices": 1})
LAST = 60
TICKS = [0, 1, 3, 10, 30, 100, 300, 1000]

ACTIVE = f"floor(datum.size * (floor(density * {PARAMETERS} + 1e-9) - {DENSE}) / {PRUNABLE} + 1e-9)"
"""Weights that a layer keeps at uniform density, as an expression."""
EXCHANGED = (
    f"datum.round <= stop ? floor(share / 2 * (1 + cos(PI * datum.round / stop)) * {ACTIVE} + 1e-9) : 0"
)
"""a_l: weights that a layer would exchange in a round, as an expression."""


def exchange_figure() -> Figure:
    """a_l of the four layers against the round, with sliders for density, share and last round."""
    rounds = np.arange(LAST + 1)
    parts = [pd.DataFrame({"arm": la.label, "size": la.size, "round": rounds}) for la in LAYERS]
    return Figure(
        "Weights that a layer may exchange",
        "Lower the density: which layer has nothing to exchange first?",
        "Steps that fall along a cosine to 0 at the last round, one per layer, higher for larger layers. At a density "
        "of 0.042 with 20 % exchanged the first convolution, with four weights left, has 0 in every round.",
        spec=_exchange_spec(),
        data=pd.concat(parts, ignore_index=True),
    )


@lru_cache(maxsize=1)
def _exchange_spec() -> dict[str, Any]:
    scale = alt.Scale(type="symlog", domain=[0, 1500], nice=False)
    lines = (
        alt.Chart()
        .transform_calculate(count=EXCHANGED, active=ACTIVE)
        .mark_line(strokeWidth=2, interpolate="step-after", clip=True)
        .encode(
            x=across("round", "communication round", Span(0, LAST)),
            y=alt.Y("count:Q", title="weights exchanged", scale=scale, axis=alt.Axis(values=TICKS)),
            color=arm_colour(LAYER_ARMS, legend=legend_above(LAYER_ARMS.names, columns=4)),
            strokeDash=arm_dash(LAYER_ARMS, legend=legend_above(LAYER_ARMS.names, columns=4)),
            tooltip=[
                alt.Tooltip("arm:N", title="layer"),
                alt.Tooltip("round:Q"),
                alt.Tooltip("active:Q", title="weights left"),
                alt.Tooltip("count:Q", title="exchanged"),
            ],
        )
        .properties(height=height_below(LAYER_ARMS.names, columns=4) + 90)
    )
    return specification(
        lines.add_params(
            focus_param(),
            slider("density", "density", 0.042, 0.025, 0.3, 0.001),
            slider("share", "share exchanged", 0.2, 0.05, 1.0, 0.05),
            slider("stop", "last round", 24, 10, LAST, 1),
        )
    )


def format_figure() -> Figure:
    """Bytes per weight of the three formats against the share of weights that are left."""
    share = np.geomspace(0.003, 1.0, 60)
    bytes_of = {"all values": np.full_like(share, 4.0), "bitmap and values": 1 / 8 + 4 * share}
    bytes_of["values and indices"] = 8 * share
    parts = [pd.DataFrame({"arm": name, "share": share, "bytes": y}) for name, y in bytes_of.items()]
    data = pd.concat(parts, ignore_index=True)
    text = (
        "Three lines of bytes per weight against the share of weights that are left: 4 for all values, 1/8 plus 4 "
        "times the share with a bitmap, 8 times the share with indices. Indices are smallest below a share of 1/32, "
        "the bitmap up to 31/32."
    )
    look_for = "The lowest line is used. Where do the lines cross?"
    spec = _format_spec(Span.of(share, log=True), Span.of(data["bytes"], log=True))
    return Figure("Which format is smallest", look_for, text, spec=spec, data=data)


@lru_cache(maxsize=1)
def _format_spec(width: Span, height: Span) -> dict[str, Any]:
    lines = (
        alt.Chart()
        .mark_line(strokeWidth=2)
        .encode(
            x=across("share", "share of weights that are left", width, grid=True),
            y=up("bytes", "bytes per weight", height),
            color=arm_colour(FORMATS, legend=legend_above(FORMATS.names)),
            strokeDash=arm_dash(FORMATS, legend=legend_above(FORMATS.names)),
            tooltip=[
                alt.Tooltip("arm:N", title="format"),
                alt.Tooltip("share:Q", format=".3f"),
                alt.Tooltip("bytes:Q", format=".3f"),
            ],
        )
        .properties(height=height_below(FORMATS.names) + 60)
    )
    return specification(lines)
