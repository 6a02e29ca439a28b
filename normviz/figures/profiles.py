"""Profiles: a value against a position (layer, time step, channel, …) at one moment of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.arms import Arms
from normviz.figures.encodings import arm_colour, arm_dash, focus_param
from normviz.figures.figure import Figure
from normviz.figures.layers import FEW, band, dots, line
from normviz.figures.legends import height_below, legend_above
from normviz.figures.scales import Span, across
from normviz.figures.vega import specification
from normviz.frame import Log
from normviz.progress import STEPS, Progress

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
    arms: Arms | None = None,
    positions: Sequence[float] | None = None,
    reference: Mapping[str, Sequence[float]] | None = None,
    log_scale: bool = False,
    step: int | None = None,
    wide: bool = False,
    progress: Progress = STEPS,
) -> Figure:
    """One line per arm over the entries of an array value; the band is the range over seeds.

    Args:
        log: frames to draw.
        name: an array value with one axis.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        x: horizontal axis title.
        y: vertical axis title.
        look_for: see ``title``.
        arms: the arms and their looks (default: those of the log).
        positions: horizontal coordinate of each entry (default 1, 2, 3, …).
        reference: curves to compare with, by name, e.g. a theory's; one value for each position.
        log_scale: logarithmic vertical axis; values that are not positive are left out.
        step: moment to show; None: the newest.
        wide: see ``title``.
        progress: what a step counts.
    """
    present = Arms.of(log.arms) if arms is None else arms
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
        moment, text = "", f"Line chart of {y} against {x}; nothing is measured yet."
    else:
        moment = progress.at(shown)
        ends = data.groupby("arm", sort=False)["mean"].agg(["first", "last"])
        ranges = ", ".join(f"{arm} {first:.3g} to {last:.3g}" for arm, first, last in ends.itertuples())
        text = f"Line chart of {y} against {x} at {moment}. From first to last: {ranges}."
    width, height = Span.exactly(data["x"]), Span.of(data["low"], data["high"], log=log_scale)
    dotted = data["x"].nunique() <= FEW
    spec = _profile_spec(present, tuple(reference or ()), x, y, width, height, dotted)
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide, moment=moment)


def _rows(arm: str, stack: NDArray[np.float64], positions: Sequence[float] | None) -> pd.DataFrame:
    """One row per position from values (seeds, positions)."""
    length = stack.shape[1]
    at = np.arange(1, length + 1) if positions is None else np.asarray(positions)[:length]
    return pd.DataFrame(
        {"arm": arm, "x": at, "mean": stack.mean(0), "low": stack.min(0), "high": stack.max(0)}
    )


@lru_cache(maxsize=256)
def _profile_spec(
    arms: Arms, reference: tuple[str, ...], x: str, y: str, width: Span, height: Span, dotted: bool
) -> dict[str, Any]:
    legend = legend_above(reference) if reference else None
    if legend is not None:
        legend.values = list(reference)
    beside = {name: list(REFERENCE_DASHES[i % len(REFERENCE_DASHES)]) for i, name in enumerate(reference)}
    base = alt.Chart().encode(
        x=across("x", x, width),
        color=arm_colour(arms, beside=dict.fromkeys(reference, REFERENCE), legend=legend),
    )
    measured = base.transform_filter(alt.FieldOneOfPredicate(field="arm", oneOf=list(arms.names)))
    told = alt.Tooltip("x:Q", title=x)
    dash = arm_dash(arms, beside=beside, legend=legend)
    layers: list[alt.Chart] = [
        band(measured, y, height),
        line(measured, y, height, None, strokeDash=dash),
        dots(measured, y, height, told, seen=dotted),
    ]
    if reference:
        compared = base.transform_filter(alt.FieldOneOfPredicate(field="arm", oneOf=list(reference)))
        layers.append(line(compared, y, height, None, strokeDash=dash, opacity=alt.value(1.0)))
    chart = alt.layer(*layers).properties(height=height_below(reference))
    return specification(chart.add_params(focus_param()))
