"""What the EvoNorm layers do to a single value, in the browser (Liu et al., arXiv 2004.02967).

The value x of one pixel is moved while the statistics around it stay put: the batch's standard deviation of its
channel, and that of its own image (for inputs of mean 0 the root mean square is the same). gamma = 1, beta = 0, eps
left out.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.figures.encodings import arm_colour, arm_dash
from normviz.figures.figure import Figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.scales import Span, across, up
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["RESPONSES", "norm_response_figure"]

RESPONSES: dict[str, str] = {
    "BN-ReLU": "max(0, datum.x / batch)",
    "GN-SiLU": "datum.x / image / (1 + exp(-datum.x / image))",
    "B0": "datum.x / max(batch, v * datum.x + image)",
    "B1": "datum.x / max(batch, (datum.x + 1) * image)",
    "B2": "datum.x / max(batch, image - datum.x)",
    "S0": "datum.x / (1 + exp(-v * datum.x)) / image",
    "S1": "datum.x / (1 + exp(-datum.x)) / image",
}
"""Name of each layer -> its value at ``datum.x``; S2 is S1 where the mean is 0."""
LAYERS = Arms.of({"BN-ReLU": 1, "GN-SiLU": 3, "B0": 2, "B1": 4, "B2": 5, "S0": 0, "S1": 8})


def norm_response_figure() -> Figure:
    """Output against the moved input, one line per layer, with sliders for v1 and the two standard deviations."""
    return Figure(
        "A layer's answer to one value",
        "No evolved layer has an activation function in it, and yet each curve bends. Drag v₁ and the deviations.",
        "Line chart of a layer's output against the value of one pixel, for batch norm with ReLU, group norm with "
        "SiLU and five EvoNorm layers: B layers saturate for large values, S0 and S1 look like a swish.",
        spec=_spec(),
        data=_grid(),
        wide=True,
    )


@lru_cache(maxsize=1)
def _grid() -> pd.DataFrame:
    x = np.linspace(-5, 5, 101)
    return pd.DataFrame({"layer": np.repeat(list(RESPONSES), len(x)), "x": np.tile(x, len(RESPONSES))})


@lru_cache(maxsize=1)
def _spec() -> dict[str, Any]:
    chosen = "0"
    for layer, text in RESPONSES.items():
        chosen = f"datum.layer == '{layer}' ? {text} : ({chosen})"
    legend = legend_above(LAYERS.names)
    pick = alt.selection_point(name="pick", fields=["layer"], bind="legend")
    lines = (
        alt.Chart()
        .transform_calculate(y=chosen)
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=across("x", "value x of one pixel", Span(-5, 5)),
            y=up("y", "output y", Span(-3, 5)),
            color=arm_colour(LAYERS, field="layer", legend=legend),
            strokeDash=arm_dash(LAYERS, field="layer", legend=legend),
            opacity=alt.when(pick).then(alt.value(1.0)).otherwise(alt.value(0.12)),
            tooltip=[
                alt.Tooltip("layer:N"),
                alt.Tooltip("x:Q", format=".2f"),
                alt.Tooltip("y:Q", format=".3f"),
            ],
        )
        .add_params(
            pick,
            slider("v", "trained v₁", 1.0, -2.0, 4.0, 0.05),
            slider("batch", "batch deviation", 1.0, 0.2, 3.0, 0.05),
            slider("image", "image deviation", 1.0, 0.2, 3.0, 0.05),
        )
    )
    return specification(lines.properties(height=height_below(LAYERS.names) + 60))
