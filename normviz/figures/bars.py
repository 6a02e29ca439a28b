"""Bars: one number for each arm, with the number that a formula predicts as a mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.figures.figure import Figure
from normviz.figures.palette import colours
from normviz.figures.vega import specification

__all__ = ["bar_figure"]


def bar_figure(
    values: Mapping[str, float],
    *,
    title: str,
    x: str,
    look_for: str,
    arms: Sequence[str],
    expected: Mapping[str, float] | None = None,
    expected_label: str = "formula",
    wide: bool = False,
) -> Figure:
    """A horizontal bar per arm, labelled with its value; a black mark where it is expected to end.

    Args:
        values: the number of each arm.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        x: axis title.
        look_for: see ``title``.
        arms: all arms in order, which fixes colours and rows; those without a value have no row.
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
    # A fixed end keeps room for the labels, and the axis from jumping.
    end = 1.15 * max([1e-9, *data["value"].tolist(), *data["expected"].dropna().tolist()])
    spec = _bar_spec(tuple(arms), tuple(present), x, expected_label, float(f"{end:.3g}"))
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide)


@lru_cache(maxsize=128)
def _bar_spec(
    palette: tuple[str, ...], arms: tuple[str, ...], x: str, expected_label: str, end: float
) -> dict[str, Any]:
    range_of = [colours(palette)[palette.index(arm)] for arm in arms]
    rows = alt.Y("arm:N", title=None, sort=list(arms), axis=alt.Axis(labelLimit=150))
    scale = alt.Scale(domain=[0, end], nice=False)
    base = alt.Chart().encode(y=rows)
    bar = base.mark_bar(height={"band": 0.6}).encode(
        x=alt.X("value:Q", title=x, scale=scale),
        color=alt.Color("arm:N", scale=alt.Scale(domain=list(arms), range=range_of), legend=None),
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("value:Q", title="counted", format=".5~g"),
            alt.Tooltip("expected:Q", title=expected_label, format=".5~g"),
        ],
    )
    mark = (
        base.transform_filter("isValid(datum.expected)")
        .mark_tick(thickness=3, color="#888888", height=22)
        .encode(x=alt.X("expected:Q", scale=scale))
    )
    label = base.mark_text(align="left", dx=8, color="#888888", fontWeight="bold").encode(
        x=alt.X("value:Q", scale=scale), text=alt.Text("value:Q", format=".4~g")
    )
    return specification(alt.layer(bar, mark, label).properties(width="container", height=340))
