"""Stacked areas over training steps: how a whole splits into parts, for one arm that the reader chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.figures.figure import Figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.lines import seed_bands
from normviz.figures.palette import colours
from normviz.figures.vega import specification
from normviz.frame import Log

__all__ = ["area_figure"]

BINS = 40
"""Most moments that are drawn: averages over neighbouring steps, so that small parts do not flicker."""


def area_figure(
    log: Log,
    parts: Mapping[str, str],
    *,
    title: str,
    y: str,
    look_for: str,
    arms: Sequence[str],
    chosen: str | None = None,
    step: int | None = None,
    wide: bool = False,
    last: int = 0,
    x: str = "training step",
) -> Figure:
    """A figure with one stacked area per part, averaged over seeds; radio buttons in the chart choose the arm.

    Args:
        log: frames to draw.
        parts: from the name of a part to the scalar that holds its size.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        y: axis title.
        look_for: see ``title``.
        arms: arms to choose from.
        chosen: the arm shown at first (default: the first one).
        step: where the cursor stands; None: no cursor.
        wide: see ``title``.
        last: last step of the run, so that the axis does not move while it grows; 0: as far as the data go.
        x: horizontal axis title, where a step is no training step.
    """
    bands = [
        seed_bands(log.scalars(name), max_points=BINS).assign(part=part, order=i)
        for i, (part, name) in enumerate(parts.items())
    ]
    data = pd.concat(bands, ignore_index=True)
    data = data.loc[data["arm"].isin(arms), ["arm", "part", "order", "step", "mean"]]
    first = chosen if chosen in arms else arms[0]
    spec = dict(_area_spec(tuple(parts), tuple(arms), first, x, y, last))
    if step is not None:
        spec["params"] = [{**p, "value": step} if p["name"] == "cursor" else p for p in spec["params"]]
    return Figure(title, look_for, _describe(data, y), spec=spec, data=data, wide=wide)


def _describe(data: pd.DataFrame, y: str) -> str:
    if data.empty:
        return f"Stacked areas of {y} over training steps; nothing is measured yet."
    newest = {(a, p): v for a, p, v in zip(data["arm"], data["part"], data["mean"], strict=True)}
    listed = "; ".join(f"{arm}, {part} {value:.3g}" for (arm, part), value in newest.items())
    return f"Stacked areas of {y} over training steps, for one arm at a time. Newest values: {listed}."


@lru_cache(maxsize=256)
def _area_spec(
    parts: tuple[str, ...], arms: tuple[str, ...], chosen: str, x: str, y: str, last: int
) -> dict[str, Any]:
    span = alt.Scale(domain=[0, last], nice=False) if last else alt.Scale(nice=False)
    shown = alt.param(name="shown", value=chosen, bind=alt.binding_radio(options=list(arms), name="Shown: "))
    cursor = alt.param(name="cursor", value=-1)
    area = (
        alt.Chart()
        .transform_filter("datum.arm == shown")
        .mark_area(opacity=0.75, line=False)
        .encode(
            x=alt.X("step:Q", title=x, scale=span, axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("mean:Q", title=y, stack="zero", axis=alt.Axis(format="~r", tickCount=6)),
            color=alt.Color(
                "part:N",
                title=None,
                scale=alt.Scale(domain=list(parts), range=colours(parts)),
                legend=legend_above(parts, lines=False),
            ),
            order=alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("part:N"),
                alt.Tooltip("step:Q", format="d"),
                alt.Tooltip("mean:Q", title="mean over seeds", format=".3~g"),
            ],
        )
    )
    rule = (
        alt.Chart()
        .mark_rule(strokeWidth=1.5, color="#888888")
        .transform_filter("cursor >= 0")
        .transform_aggregate(anchor="min(step)")
        .transform_calculate(at="cursor")
        .encode(x=alt.X("at:Q"))
    )
    chart = (
        alt.layer(area, rule)
        .properties(width="container", height=height_below(parts))
        .add_params(shown, cursor)
    )
    return specification(chart)
