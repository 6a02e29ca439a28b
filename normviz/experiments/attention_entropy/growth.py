"""Growth: a cost against a size on logarithmic axes, with the exponent of the fitted power law beside each line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.arms import Arms
from normviz.figures.encodings import arm_colour, faded, focus_param
from normviz.figures.figure import Figure
from normviz.figures.layers import band, dots, line
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification
from normviz.frame import Log

__all__ = ["growth_figure"]

COLUMNS = ["arm", "x", "mean", "low", "high"]
APART = 0.1
"""Least distance of two labels, as a share of the vertical axis."""


def growth_figure(
    log: Log,
    name: str,
    sizes: Sequence[float],
    *,
    title: str,
    x: str,
    y: str,
    look_for: str,
    arms: Arms,
    factor: float = 1.0,
    wide: bool = False,
) -> Figure:
    """A line with dots per arm (mean over seeds, band: their range), and its exponent by least squares.

    Args:
        log: frames to draw.
        name: an array value with one entry for each size; the newest of each member is drawn, sizes at which a value is
            not positive are left out.
        sizes: the sizes.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        x: horizontal axis title.
        y: vertical axis title.
        look_for: see ``title``.
        arms: the arms and their looks.
        factor: the values are multiplied by it, e.g. 1000 for milliseconds.
        wide: see ``title``.
    """
    entries = log.arrays(name)
    parts, exponents = [], {}
    at = np.asarray(sizes, dtype=float)
    for arm in arms:
        values = [e.value.astype(float) * factor for e in entries if e.arm == arm and len(e.value) == len(at)]
        stack = np.stack(values) if values else np.empty((0, len(at)))  # (seeds, sizes)
        kept = (np.isfinite(stack) & (stack > 0)).all(axis=0) & bool(values)
        if not kept.any():
            continue
        stack, x_of = stack[:, kept], at[kept]
        mean = stack.mean(0)
        if kept.sum() > 1:
            exponents[arm] = float(np.polyfit(np.log(x_of), np.log(mean), 1)[0])
        label = f"N^{exponents[arm]:.2f}" if arm in exponents else ""
        rows = {"arm": arm, "x": x_of, "mean": mean, "low": stack.min(0), "high": stack.max(0)}
        parts.append(pd.DataFrame({**rows, "label": np.where(x_of == x_of.max(), label, "")}))
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*COLUMNS, "label", "at"])
    if parts:
        data["at"] = _spread(data["mean"].to_numpy(dtype=float), (data["label"] != "").to_numpy())
        listed = ", ".join(f"{arm} {value:.2f}" for arm, value in exponents.items())
        text = f"Line chart of {y} against {x}, both logarithmic. Exponents: {listed or 'one size only'}."
    else:
        text = f"Line chart of {y} against {x}; nothing is measured yet."
    width, height = Span.exactly(sizes, log=True), Span.of(data["low"], data["high"], log=True)
    spec = _growth_spec(arms, x, y, tuple(sizes), width, height)
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide)


def _spread(values: NDArray[np.float64], labelled: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Heights of the labels: the values, moved up on the logarithmic axis where two would overlap."""
    logs = np.log(values)
    least, lower = APART * float(np.ptp(logs)), -np.inf
    for i in np.argsort(logs):
        if labelled[i]:
            logs[i] = lower = max(logs[i], lower + least)
    return np.asarray(np.exp(logs))


@lru_cache(maxsize=64)
def _growth_spec(
    arms: Arms, x: str, y: str, sizes: tuple[float, ...], width: Span, height: Span
) -> dict[str, Any]:
    scale = alt.Scale(type="log", base=2, domain=[width.low, width.high], nice=False)
    base = alt.Chart().encode(
        x=across("x", x, width, scale=scale, values=list(sizes), labelExpr="format(datum.value, '~d')"),
        color=arm_colour(arms),
    )
    text = base.mark_text(align="right", dx=-6, dy=-7, fontSize=11, fontWeight="bold").encode(
        y=up("at", y, height), text="label:N", opacity=faded()
    )
    told = alt.Tooltip("x:Q", title=x, format="d")
    chart = alt.layer(
        band(base, y, height), line(base, y, height, arms), dots(base, y, height, told, size=30), text
    )
    return specification(chart.add_params(focus_param()))
