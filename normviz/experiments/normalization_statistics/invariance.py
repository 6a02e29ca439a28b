"""The invariance lab: LayerNorm's table of 18 entries, measured over a range of transformations, read by dragging.

Ba, Kiros, Hinton, arXiv 1607.06450, table 1. The gaps were measured when the run began (float64, eps = 0); the browser
picks the dragged strength, so the grid changes while a slider is dragged.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.experiments.normalization_statistics.recorded import FACTORS, SHIFTS
from normviz.figures.figure import Figure
from normviz.figures.sliders import slider
from normviz.figures.vega import specification
from normviz.frame import Log

__all__ = ["NORMALISERS", "TOLERANCE", "TRANSFORMATIONS", "invariance_figure"]

TOLERANCE = 1e-8

NORMALISERS = ("batch norm", "weight norm", "layer norm")
TRANSFORMATIONS = (
    ("all weights × δ", "factor"),
    ("all weights + shift", "shift"),
    ("one neuron's weights × δ", "factor"),
    ("data set × δ", "factor"),
    ("data set + shift", "shift"),
    ("one case × δ", "factor"),
)

WRAPPED = "split(replace(replace(datum.label, ' ×', '|×'), ' +', '|+'), '|')"
"""Axis labels with the operation on a line of its own."""


def invariance_figure(log: Log) -> Figure:
    """The grid of 3 normalisers by 6 transformations with sliders for δ and the shift.

    Args:
        log: frames of which one has ``invariance_gaps`` (normalisers x transformations x strengths).
    """
    entries = log.arrays("invariance_gaps")
    rows = []
    for entry in entries[:1]:
        for i, normaliser in enumerate(NORMALISERS):
            for j, (transformation, kind) in enumerate(TRANSFORMATIONS):
                amounts = FACTORS if kind == "factor" else SHIFTS
                for k, amount in enumerate(amounts):
                    gap = float(entry.value[i, j, k])
                    rows.append((normaliser, transformation, kind, k, amount, gap, gap <= TOLERANCE))
    columns = ["normaliser", "transformation", "kind", "k", "amount", "gap", "unmoved"]
    data = pd.DataFrame(rows, columns=columns)
    return Figure(
        "Invariance lab: drag the transformation",
        "Green: the output did not move. LayerNorm survives what happens to one case, but not to one neuron.",
        _describe(data),
        spec=_spec(),
        data=data,
        wide=True,
    )


def _describe(data: pd.DataFrame) -> str:
    if data.empty:
        return "Grid of three normalisers by six transformations; nothing is measured yet."
    strongest = data[data["k"] == len(FACTORS) - 1]
    still = {
        name: ", ".join(part.loc[part["unmoved"], "transformation"]) or "none"
        for name, part in strongest.groupby("normaliser", sort=False)
    }
    listed = "; ".join(f"{name!s}: {names}" for name, names in still.items())
    return f"Grid of three normalisers by six transformations. Transformations that move nothing: {listed}."


@lru_cache(maxsize=1)
def _spec() -> dict[str, Any]:
    last = len(FACTORS) - 1
    factor = slider("factor", "δ", last // 2, 0, last, 1)
    shift = slider("shift", "shift", last // 2, 0, last, 1)
    order = [name for name, _ in TRANSFORMATIONS]
    base = (
        alt.Chart()
        .transform_filter("datum.k === (datum.kind === 'factor' ? factor : shift)")
        .transform_calculate(
            shown="datum.unmoved ? 'unmoved' : format(datum.gap, '.2g')",
            moved="datum.unmoved ? 'unmoved' : 'moved'",
        )
        .encode(
            x=alt.X(
                "transformation:N",
                sort=order,
                title=None,
                axis=alt.Axis(labelAngle=0, labelOverlap=False, labelLimit=200, labelExpr=WRAPPED),
            ),
            y=alt.Y("normaliser:N", sort=list(NORMALISERS), title=None),
            tooltip=[
                alt.Tooltip("normaliser:N"),
                alt.Tooltip("transformation:N"),
                alt.Tooltip("amount:Q", title="δ or size of the shift", format=".3g"),
                alt.Tooltip("gap:Q", title="largest change of an output", format=".3g"),
            ],
        )
    )
    cells = base.mark_rect(cornerRadius=4, stroke="#88888855").encode(
        color=alt.Color(
            "moved:N",
            title=None,
            scale=alt.Scale(domain=["unmoved", "moved"], range=["#069e73", "#d55e00"]),
            legend=alt.Legend(orient="top"),
        )
    )
    labels = base.mark_text(color="white", fontWeight="bold").encode(text="shown:N")
    chart = alt.layer(cells, labels).properties(width="container", height=220).add_params(factor, shift)
    return specification(chart)
