"""Ridgelines: one distribution per layer and arm at one moment of the training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.figures.encodings import arm_colour, faded, focus_param
from normviz.figures.figure import Figure
from normviz.figures.legends import HEIGHT
from normviz.figures.scales import Span, across
from normviz.figures.vega import specification
from normviz.frame import Log
from normviz.progress import STEPS, Progress

__all__ = ["ridge_figure"]

_HEIGHT = 0.9
"""Height of the tallest ridge in units of the distance between two layers."""


def ridge_figure(
    log: Log,
    name: str,
    *,
    low: float,
    high: float,
    title: str,
    x: str,
    look_for: str,
    layer_names: Sequence[str],
    arms: Arms | None = None,
    step: int | None = None,
    wide: bool = False,
    quantity: str = "activations",
    progress: Progress = STEPS,
) -> Figure:
    """Histograms by layer, stacked upwards from the input, arms overlaid; several seeds are averaged.

    Args:
        log: frames to draw.
        name: an array value of shape (layers, bins) with densities over [low, high].
        low: left edge of the first bin.
        high: right edge of the last bin.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        x: axis title.
        look_for: see ``title``.
        layer_names: names of the layers (or of other groups), bottom first; an arm with fewer uses the first ones.
        arms: the arms and their looks (default: those of the log).
        step: moment to show; None: the newest.
        wide: see ``title``.
        quantity: what is counted, in the textual alternative.
        progress: what a step counts.
    """
    present = Arms.of(log.arms) if arms is None else arms
    entries = [entry for entry in log.arrays(name, step) if entry.arm in present]
    peak = max((float(entry.value.max()) for entry in entries), default=1.0) or 1.0
    parts = []
    for arm in present:
        values = [entry.value for entry in entries if entry.arm == arm]
        if not values:
            continue
        density = np.mean([v for v in values if v.shape == values[0].shape], axis=0)  # (layers, bins)
        layers, bins = density.shape
        centres = low + (np.arange(bins) + 0.5) * (high - low) / bins
        base = np.repeat(np.arange(layers), bins)
        parts.append(
            pd.DataFrame(
                {
                    "arm": arm,
                    "layer": [layer_names[i] if i < len(layer_names) else f"layer {i + 1}" for i in base],
                    "x": np.tile(centres, layers),
                    "base": base.astype(float),
                    "top": base + _HEIGHT * density.ravel() / peak,
                    "density": density.ravel(),
                }
            )
        )
    columns = ["arm", "layer", "x", "base", "top", "density"]
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    shown = max((entry.step for entry in entries), default=None)
    moment = "" if shown is None else progress.at(shown)
    text = _describe(entries, low, high, layer_names, moment, quantity)
    spec = _ridge_spec(present, tuple(layer_names), x, Span(low, high))
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide, moment=moment)


def _describe(
    entries: Sequence[Any],
    low: float,
    high: float,
    layers: Sequence[str],
    moment: str,
    quantity: str,
) -> str:
    if not moment:
        return f"Histograms of {quantity}; nothing is measured yet."
    outside = []
    for arm in dict.fromkeys(entry.arm for entry in entries):
        edges = [
            entry.value[-1, [0, -1]].sum() / entry.value[-1].sum() for entry in entries if entry.arm == arm
        ]
        outside.append(f"{arm} {100 * float(np.mean(edges)):.1f} %")
    return (
        f"Histograms of {quantity} at {moment}, bottom to top: {', '.join(layers)}. "
        f"Share of the last one at or beyond {low:g} and {high:g}: {', '.join(outside)}."
    )


@lru_cache(maxsize=256)
def _ridge_spec(arms: Arms, layer_names: tuple[str, ...], x: str, width: Span) -> dict[str, Any]:
    labels = "[" + ", ".join(repr(n) for n in layer_names) + "][datum.value] || ''"
    axis = alt.Axis(
        values=list(range(len(layer_names))), labelExpr=labels, grid=False, title=None, labelLimit=90
    )
    layers = max(len(layer_names), 1)
    base = alt.Chart().encode(
        x=across("x", x, width),
        y=alt.Y("top:Q", axis=axis, scale=alt.Scale(domain=[0, layers], nice=False)),
        detail="layer:N",
        color=arm_colour(arms),
    )
    area = base.mark_area(interpolate="monotone", line=False).encode(y2="base:Q", opacity=faded(0.25, 0.02))
    line = base.mark_line(interpolate="monotone", strokeWidth=1.5).encode(
        opacity=faded(1.0, 0.08),
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("layer:N"),
            alt.Tooltip("x:Q", title="value", format=".2f"),
            alt.Tooltip("density:Q", format=".3g"),
        ],
    )
    chart = alt.layer(area, line).properties(height=max(HEIGHT, 40 * layers))
    return specification(chart.add_params(focus_param()))
