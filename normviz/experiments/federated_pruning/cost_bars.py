"""What each method costs a device, as shares of dense federated averaging: a bar per arm and quantity."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.arms import Arms
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, faded, focus_param
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across
from normviz.figures.vega import specification

__all__ = ["QUANTITIES", "cost_figure"]

QUANTITIES = {"flops": "operations", "memory": "memory", "sent": "bytes sent"}
"""Scalars of the frames, and their names on the chart."""

ROOM = 1.15
"""Length of the axis over that of the longest bar: room for its label."""


def cost_figure(board: Board) -> Figure:
    """Mean over seeds at the moment shown."""
    title, look_for = "Cost of a device, dense training = 100 %", "Which cost falls least, and why?"
    rows = []
    shown: int | None = None
    for name, label in QUANTITIES.items():
        table = board.log.scalars(name)
        if board.step is not None:
            table = table[table["step"] <= board.step]
        newest = table.sort_values("step", kind="stable").groupby(["arm", "seed"], sort=False).last()
        if len(newest):
            shown = max(shown or 0, int(newest["step"].max()))
        means = newest["value"].groupby("arm").mean()
        rows += [(label, arm, float(means[arm])) for arm in board.arms if arm in means.index]
    data = pd.DataFrame(rows, columns=["place", "arm", "share"])
    spec = _spec(board.arms, Span(0.0, ROOM * max([1.0, *data["share"].tolist()])))
    if shown is None:
        return Figure(title, look_for, "Bars of costs; nothing is measured yet.", spec=spec, data=data)
    listed = "; ".join(f"{arm}, {place} {100 * share:.3g} %" for place, arm, share in rows)
    moment = board.progress.at(shown)
    text = f"Bars of costs as shares of dense federated averaging at {moment}: {listed}."
    return Figure(title, look_for, text, spec=spec, data=data, moment=moment)


@lru_cache(maxsize=64)
def _spec(arms: Arms, width: Span) -> dict[str, Any]:
    names, places = list(arms.names), list(QUANTITIES.values())
    base = alt.Chart().encode(
        y=alt.Y("place:N", title=None, sort=places, scale=alt.Scale(domain=places)),
        yOffset=alt.YOffset("arm:N", sort=names, scale=alt.Scale(domain=names)),
        opacity=faded(),
    )
    x = across("share", "share of dense federated averaging", width, grid=True, format="~%")
    bars = base.mark_bar().encode(
        x=x,
        color=arm_colour(arms),
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("place:N", title="cost"),
            alt.Tooltip("share:Q", format=".1%"),
        ],
    )
    words = base.mark_text(align="left", dx=3, fontSize=9 if len(names) > 5 else 10, color=MUTED).encode(
        x=x, text=alt.Text("share:Q", format=".3~p")
    )
    return specification(alt.layer(bars, words).add_params(focus_param()))
