"""Bars: one number for each arm, with the number that a formula predicts as a mark."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.arms import Arms
from normviz.figures.encodings import arm_colour, faded, focus_param
from normviz.figures.figure import Figure
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across
from normviz.figures.vega import specification

__all__ = ["bar_figure"]

ROOM = 1.2
"""Length of the axis over that of the longest bar: room for its label."""


def bar_figure(
    values: Mapping[str, float],
    *,
    title: str,
    x: str,
    look_for: str,
    arms: Arms,
    expected: Mapping[str, float] | None = None,
    expected_label: str = "formula",
    wide: bool = False,
) -> Figure:
    """A horizontal bar per arm, labelled with its value; a grey mark where it is expected to end.

    Args:
        values: the number of each arm.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        x: axis title.
        look_for: see ``title``.
        arms: the arms and their looks, in the order of the rows; those without a value have no row.
        expected: for some arms, what a formula says.
        expected_label: what the mark is called.
        wide: see ``title``.
    """
    present = [arm for arm in arms if arm in values]
    wanted = expected or {}
    data = pd.DataFrame(
        {
            "arm": present,
            "value": [float(values[arm]) for arm in present],
            "expected": [float(wanted.get(arm, float("nan"))) for arm in present],
        }
    )
    if present:
        listed = ", ".join(f"{arm} {values[arm]:.4g}" for arm in present)
        text = f"Bars of {x}: {listed}."
    else:
        text = f"Bars of {x}; nothing is measured yet."
    span = Span.of(data["value"] * ROOM, data["expected"], zero=True)
    spec = _bar_spec(arms.ordered(present), x, expected_label, span)
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide)


@lru_cache(maxsize=128)
def _bar_spec(arms: Arms, x: str, expected_label: str, width: Span) -> dict[str, Any]:
    rows = alt.Y("arm:N", title=None, sort=list(arms.names), axis=alt.Axis(labelLimit=110))
    base = alt.Chart().encode(y=rows, opacity=faded())
    bar = base.mark_bar(height={"band": 0.6}).encode(
        x=across("value", x, width, grid=True),
        color=arm_colour(arms),
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("value:Q", title="counted", format=".5~g"),
            alt.Tooltip("expected:Q", title=expected_label, format=".5~g"),
        ],
    )
    mark = (
        base.transform_filter("isValid(datum.expected)")
        .mark_tick(thickness=3, color=MUTED, height={"band": 0.9})
        .encode(x=alt.X("expected:Q", scale=width.scale))
    )
    label = base.mark_text(align="left", dx=6, color=MUTED, fontWeight="bold").encode(
        x=alt.X("value:Q", scale=width.scale), text=alt.Text("value:Q", format=".4~g")
    )
    return specification(alt.layer(bar, mark, label).add_params(focus_param()))
