"""Growth: a cost against a size on logarithmic axes, with the exponent of the fitted power law beside each line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.figures.figure import Figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import colours, dashes
from normviz.figures.vega import specification
from normviz.frame import Log

__all__ = ["growth_figure"]

COLUMNS = ["arm", "x", "mean", "low", "high"]
POWERS = [10.0**k for k in range(-9, 13)]
"""Ticks of the vertical axis, those of its range."""
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
    arms: Sequence[str],
    factor: float = 1.0,
    wide: bool = False,
) -> Figure:
    """A line with dots per arm (mean over seeds, band: their range), and its exponent by least squares.

    Args:
        log: frames to draw.
        name: an array value with one entry for each size, positive; the newest of each member is drawn.
        sizes: the sizes.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        x: horizontal axis title.
        y: vertical axis title.
        look_for: see ``title``.
        arms: arms in order.
        factor: the values are multiplied by it, e.g. 1000 for milliseconds.
        wide: see ``title``.
    """
    entries = log.arrays(name)
    parts, exponents = [], {}
    at = np.asarray(sizes, dtype=float)
    for arm in arms:
        values = [e.value.astype(float) * factor for e in entries if e.arm == arm and len(e.value) == len(at)]
        if values:
            stack = np.stack(values)  # (seeds, sizes)
            mean = stack.mean(0)
            rows = {"arm": arm, "x": at, "mean": mean, "low": stack.min(0), "high": stack.max(0)}
            parts.append(pd.DataFrame(rows))
            if len(at) > 1:
                exponents[arm] = float(np.polyfit(np.log(at), np.log(mean), 1)[0])
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*COLUMNS, "label", "at"])
    if parts:
        last = data["x"].to_numpy() == at.max()
        texts = [f"N^{exponents[arm]:.2f}" if arm in exponents else "" for arm in data["arm"]]
        data["label"] = np.where(last, texts, "")
        data["at"] = _spread(data["mean"].to_numpy(dtype=float), last)
        listed = ", ".join(f"{arm} {value:.2f}" for arm, value in exponents.items())
        text = f"Line chart of {y} against {x}, both logarithmic. Exponents: {listed or 'one size only'}."
    else:
        text = f"Line chart of {y} against {x}; nothing is measured yet."
    measured = tuple(arm for arm in arms if arm in set(data["arm"]))
    return Figure(
        title,
        look_for,
        text,
        spec=_growth_spec(tuple(arms), measured, x, y, tuple(sizes)),
        data=data,
        wide=wide,
    )


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
    palette: tuple[str, ...], arms: tuple[str, ...], x: str, y: str, sizes: tuple[float, ...]
) -> dict[str, Any]:
    at = [palette.index(arm) for arm in arms]
    colour = alt.Color(
        "arm:N",
        title=None,
        scale=alt.Scale(domain=list(arms), range=[colours(palette)[i] for i in at]),
        legend=legend_above(arms),
    )
    dash = alt.StrokeDash(
        "arm:N", title=None, scale=alt.Scale(domain=list(arms), range=[dashes(palette)[i] for i in at])
    )
    span = alt.Scale(type="log", base=2, nice=False)
    scale = alt.Scale(type="log")
    axis = alt.Axis(format="~g", values=POWERS)
    base = alt.Chart().encode(
        x=alt.X("x:Q", title=x, scale=span, axis=alt.Axis(format="~d", grid=False, values=list(sizes))),
        color=colour,
    )
    band = base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q", title=y, scale=scale, axis=axis), y2="high:Q")
    line = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=30)).encode(
        y=alt.Y("mean:Q", title=y, scale=scale, axis=axis),
        strokeDash=dash,
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("x:Q", title=x, format="d"),
            alt.Tooltip("mean:Q", title="mean over seeds", format=".4~g"),
            alt.Tooltip("low:Q", title="lowest seed", format=".4~g"),
            alt.Tooltip("high:Q", title="highest seed", format=".4~g"),
        ],
    )
    text = base.mark_text(align="right", dx=-6, dy=-8, fontSize=11, fontWeight="bold").encode(
        y=alt.Y("at:Q", scale=scale, axis=axis), text="label:N"
    )
    return specification(alt.layer(band, line, text).properties(width="container", height=height_below(arms)))
