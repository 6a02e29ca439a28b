"""What switching costs by the formulas, with sliders: as published, and with every token that is read."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms, Look
from normviz.figures import Figure, colours
from normviz.figures.layers import level
from normviz.figures.legends import legend_above
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["PAPER_POINTS", "price_figure"]

KINDS = Arms((Look("as published", 2, 0, 0), Look("with catching up", 7, 1, 1)))
PAPER_POINTS = (("LLaMA: −41.5 %", 0.43, 3 / 11), ("Qwen: −67 %", 0.25, 1.5 / 14))
"""Name, share of the large model, ratio of sizes (inferred from the arithmetic)."""


def price_figure() -> Figure:
    """Cost over the share of the large model; sliders set the ratio of sizes and where the large model writes last.

    As published ``C = f + (1 - f) r``. With catching up, for a long text whose prompt is no large part of it, the small
    model reads everything and the large one all up to the last token that it writes: ``C = r + max(f, last)``.
    """
    share = np.linspace(0, 1, 51)
    rows = pd.DataFrame({"part": "curve", "f": share, "cost": 0.0, "name": ""})
    points = pd.DataFrame(
        [("paper", f, f + (1 - f) * ratio, name) for name, f, ratio in PAPER_POINTS], columns=rows.columns
    )
    return Figure(
        "What the large model's share costs",
        "Let the large model write one token near the end: what is saved?",
        "Cost relative to the large model alone over its share of the tokens. As published it is a straight line from "
        "the ratio of sizes to 1. With catching up it depends on where the large model writes last.",
        spec=_price_spec(),
        data=pd.concat([rows, points], ignore_index=True),
        wide=True,
    )


@lru_cache(maxsize=1)
def _price_spec() -> dict[str, Any]:
    width, height = Span(0.0, 1.0), Span(0.0, 1.6)
    title = "cost ÷ large model alone"
    names = list(KINDS.names)
    colour = alt.Color(
        "kind:N", title=None, scale=alt.Scale(domain=names, range=colours(KINDS)), legend=legend_above(names)
    )
    x = across("f", "share of tokens by the large model", width)
    ways = ("datum.f + (1 - datum.f) * ratio", "ratio + max(datum.f, last)")
    lines = [
        alt.Chart()
        .transform_filter("datum.part == 'curve'")
        .transform_calculate(price=way, kind=f"'{name}'")
        .mark_line(strokeWidth=2.5, clip=True, strokeDash=dash)
        .encode(
            x=x, y=up("price", title, height), color=colour, tooltip=[alt.Tooltip("price:Q", format=".2f")]
        )
        for name, way, dash in zip(names, ways, ([1, 0], [7, 3]), strict=True)
    ]
    paper = alt.Chart().transform_filter("datum.part == 'paper'")
    spots = paper.mark_point(shape="diamond", size=110, filled=True, color=MUTED, opacity=1).encode(
        x=x, y=up("cost", title, height)
    )
    words = paper.mark_text(align="left", dx=9, fontSize=11, color=MUTED).encode(
        x=x, y=up("cost", title, height), text="name:N"
    )
    chart = alt.layer(level(1.0), *lines, spots, words).properties(height=330)
    return specification(
        chart.add_params(
            slider("ratio", "sizes N_S / N_L", 0.25, 0.02, 1.0, 0.01),
            slider("last", "large model writes last at this share of the text", 0.9, 0.0, 1.0, 0.01),
        )
    )
