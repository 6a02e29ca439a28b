"""Stacked areas along the run: how a whole splits into parts, for one arm that the reader chooses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.arms import Arms
from normviz.figures.encodings import arm_colour, focus_param
from normviz.figures.figure import Figure
from normviz.figures.layers import cursor_param, cursor_rule
from normviz.figures.legends import height_below, legend_above
from normviz.figures.lines import run_span, seed_bands
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification
from normviz.frame import Log
from normviz.progress import STEPS, Progress

__all__ = ["area_figure"]

BINS = 40
"""Most moments that are drawn: averages over neighbouring steps, so that small parts do not flicker."""
MOST_BUTTONS = 3
"""Most arms that have radio buttons; more are in a list, which takes one row."""


def area_figure(
    log: Log,
    parts: Mapping[str, str],
    *,
    title: str,
    y: str,
    look_for: str,
    arms: Arms,
    kinds: Arms | None = None,
    chosen: str | None = None,
    step: int | None = None,
    wide: bool = False,
    last: int = 0,
    progress: Progress = STEPS,
    x: str = "",
) -> Figure:
    """A figure with one stacked area per part, averaged over seeds, for one arm.

    The reader chooses the arm in the chart; a single arm in focus is shown whatever is chosen.

    Args:
        log: frames to draw.
        parts: from the name of a part to the scalar that holds its size.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        y: axis title.
        look_for: see ``title``.
        arms: arms to choose from.
        kinds: the looks of the parts (default: the first colours).
        chosen: the arm shown at first (default: the first one).
        step: where the cursor stands; None: no cursor.
        wide: see ``title``.
        last: last position of the run, so that the axis does not move while it grows; 0: as far as the data go.
        progress: what a step counts.
        x: horizontal axis title (default: that of ``progress``).
    """
    bands = [
        seed_bands(log.scalars(name), max_points=BINS).assign(part=part, order=i)
        for i, (part, name) in enumerate(parts.items())
    ]
    data = pd.concat(bands, ignore_index=True)
    data = data.loc[data["arm"].isin(arms.names), ["arm", "part", "order", "step", "mean"]]
    first = chosen if chosen is not None and chosen in arms else arms.names[0]
    sums = data.groupby(["arm", "step"], sort=False)["mean"].sum()
    looks = (kinds or Arms.of(list(parts))).ordered(parts)
    width, height = run_span(data["step"], last), Span.of(sums, zero=True)
    spec = dict(_area_spec(looks, arms.names, first, x or progress.axis, y, width, height, progress))
    if step is not None:
        spec["params"] = [{**p, "value": step} if p["name"] == "cursor" else p for p in spec["params"]]
    return Figure(title, look_for, _describe(data, y, progress), spec=spec, data=data, wide=wide)


def _describe(data: pd.DataFrame, y: str, progress: Progress) -> str:
    if data.empty:
        return f"Stacked areas of {y} over {progress.many}; nothing is measured yet."
    newest = {(a, p): v for a, p, v in zip(data["arm"], data["part"], data["mean"], strict=True)}
    listed = "; ".join(f"{arm}, {part} {value:.3g}" for (arm, part), value in newest.items())
    return f"Stacked areas of {y} over {progress.many}, for one arm at a time. Newest values: {listed}."


@lru_cache(maxsize=256)
def _area_spec(
    parts: Arms,
    arms: tuple[str, ...],
    chosen: str,
    x: str,
    y: str,
    width: Span,
    height: Span,
    progress: Progress,
) -> dict[str, Any]:
    choice = alt.binding_radio if len(arms) <= MOST_BUTTONS else alt.binding_select
    shown = alt.param(name="shown", value=chosen, bind=choice(options=list(arms), name="Shown: "))
    single = f"length(focus) == 1 && indexof({list(arms)!r}, focus[0]) >= 0"
    area = (
        alt.Chart()
        .transform_filter(f"datum.arm == ({single} ? focus[0] : shown)")
        .mark_area(opacity=0.75, line=False)
        .encode(
            x=across("step", x, width, tickMinStep=1),
            y=up("mean", y, height).stack("zero"),
            color=arm_colour(parts, field="part", legend=legend_above(parts.names, lines=False)),
            order=alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("part:N"),
                alt.Tooltip("step:Q", title=progress.one, format=",d"),
                alt.Tooltip("mean:Q", title="mean over seeds", format=".3~g"),
            ],
        )
    )
    chart = alt.layer(area, cursor_rule()).properties(height=height_below(parts.names))
    return specification(chart.add_params(shown, focus_param(), cursor_param()))
