"""A slider below a chart of closed forms: it moves a Vega parameter, so the chart follows in the browser."""

from __future__ import annotations

import altair as alt

__all__ = ["slider"]


def slider(name: str, label: str, value: float, low: float, high: float, step: float) -> alt.Parameter:
    """A Vega parameter with a slider.

    Args:
        name: of the parameter, as the chart's expressions use it.
        label: what the reader sees beside the slider, without a colon.
        value: at first.
        low, high: ends of the range.
        step: distance of two positions.
    """
    bind = alt.binding_range(min=low, max=high, step=step, name=f"{label} ")
    return alt.param(name=name, value=value, bind=bind)
