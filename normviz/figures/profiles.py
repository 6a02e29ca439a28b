"""Profiles: a value against a position (layer, time step, channel, …) at one moment of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

__all__ = ["profile_figure"]

REFERENCE = "#a5703f"
"""Colour of curves that no arm has."""
REFERENCE_DASHES = ((2, 3), (9, 3), (9, 3, 2, 3))
"""Their dashes, which tell them apart."""


def profile_figure(
    log: Log,
    name: str,
    *,
    title: str,
    x: str,
    y: str,
    look_for: str,
    arms: Sequence[str] | None = None,
    positions: Sequence[float] | None = None,
    reference: Mapping[str, Sequence[float]] | None = None,
    log_scale: bool = False,
    step: int | None = None,
    wide: bool = False,
) -> Figure:
    """One line per arm over the entries of an array value; the band is the range over seeds.

    Args:
        log: frames to draw.
        name: an array value with one axis.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        x: horizontal axis title.
        y: vertical axis title.
        look_for: see ``title``.
        arms: arms in order (default: those of the log).
        positions: horizontal coordinate of each entry (default 1, 2, 3, …).
        reference: curves to compare with, by name, e.g. a theory's; one value for each position.
        log_scale: logarithmic vertical axis; values that are not positive are left out.
        step: moment to show; None: the newest.
        wide: see ``title``.
    """
    present = tuple(arms) if arms is not None else tuple(log.arms)
    entries = [entry for entry in log.arrays(name, step) if entry.arm in present]
    parts = []
    for arm in present:
        values = [entry.value.ravel() for entry in entries if entry.arm == arm]
        if values:
            stack = np.stack([v for v in values if len(v) == len(values[0])]).astype(
                float
            )  # (seeds, positions)
            parts.append(_rows(arm, stack, positions))
    for curve, values_of in (reference or {}).items():
        parts.append(_rows(curve, np.asarray(values_of, dtype=float)[None], positions))
    data = (
        pd.concat(parts, ignore_index=True)
        if parts
        else pd.DataFrame(columns=["arm", "x", "mean", "low", "high"])
    )
    data = data[np.isfinite(data[["low", "high"]].to_numpy(dtype=float)).all(axis=1)]
    if log_scale:
        data = data[data["low"] > 0]
    shown = max((entry.step for entry in entries), default=None)
    if shown is None:
        text = f"Line chart of {y} against {x}; nothing is measured yet."
    else:
        ends = data.groupby("arm", sort=False)["mean"].agg(["first", "last"])
        ranges = ", ".join(f"{arm} {first:.3g} to {last:.3g}" for arm, first, last in ends.itertuples())
        text = f"Line chart of {y} against {x} at step {shown}. From first to last: {ranges}."
        title = f"{title} (step {shown})"
    spec = _profile_spec(present, tuple(reference or ()), x, y, log_scale)
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide)


def _rows(arm: str, stack: NDArray[np.float64], positions: Sequence[float] | None) -> pd.DataFrame:
    """One row per position from values (seeds, positions)."""
    length = stack.shape[1]
    at = np.arange(1, length + 1) if positions is None else np.asarray(positions)[:length]
    return pd.DataFrame(
        {"arm": arm, "x": at, "mean": stack.mean(0), "low": stack.min(0), "high": stack.max(0)}
    )


@lru_cache(maxsize=256)
def _profile_spec(
    arms: tuple[str, ...], reference: tuple[str, ...], x: str, y: str, log_scale: bool
) -> dict[str, Any]:
    names = [*arms, *reference]
    colour = alt.Color(
        "arm:N",
        title=None,
        scale=alt.Scale(domain=names, range=[*colours(arms), *[REFERENCE] * len(reference)]),
        legend=legend_above(names),
    )
    scale = alt.Scale(type="log") if log_scale else alt.Scale(zero=False)
    axis = alt.Axis(format="~g" if log_scale else "~r", tickCount=6)
    base = alt.Chart().encode(x=alt.X("x:Q", title=x, scale=alt.Scale(nice=False)), color=colour)
    band = base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q", title=y, scale=scale, axis=axis), y2="high:Q")
    beside = [list(REFERENCE_DASHES[i % len(REFERENCE_DASHES)]) for i in range(len(reference))]
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("mean:Q", title=y, scale=scale, axis=axis),
        strokeDash=alt.StrokeDash(
            "arm:N", title=None, scale=alt.Scale(domain=names, range=[*dashes(arms), *beside])
        ),
    )
    measured = base.transform_filter(alt.FieldOneOfPredicate(field="arm", oneOf=list(arms)))
    dots = measured.mark_circle(size=18, opacity=1).encode(
        y=alt.Y("mean:Q", title=y, scale=scale, axis=axis),
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("x:Q", title=x),
            alt.Tooltip("mean:Q", title="mean over seeds", format=".4~g"),
            alt.Tooltip("low:Q", title="lowest seed", format=".4~g"),
            alt.Tooltip("high:Q", title="highest seed", format=".4~g"),
        ],
    )
    return specification(
        alt.layer(band, line, dots).properties(width="container", height=height_below(names))
    )
