"""Dots: a value for each named place (domain, kind of question, …) and arm at one moment of the training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.arms import Arms
from normviz.figures.encodings import arm_colour, arm_symbol, faded, focus_param
from normviz.figures.figure import Figure
from normviz.figures.layers import seed_tooltip
from normviz.figures.legends import HEIGHT
from normviz.figures.scales import Span, across
from normviz.figures.vega import specification
from normviz.frame import Log
from normviz.progress import STEPS, Progress

__all__ = ["dot_figure"]

COLUMNS = ("step", "arm", "seed", "value")


def dot_figure(
    log: Log,
    places: Mapping[str, str],
    *,
    title: str,
    x: str,
    look_for: str,
    arms: Arms | None = None,
    step: int | None = None,
    zero: bool = True,
    wide: bool = False,
    progress: Progress = STEPS,
) -> Figure:
    """One row per place with a dot per arm: the mean over seeds, the bar is their range.

    Args:
        log: frames to draw.
        places: from the name of a place to the scalar that is shown there.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        x: axis title.
        look_for: see ``title``.
        arms: the arms and their looks (default: those of the log).
        step: moment to show; None: the newest.
        zero: the axis starts at zero.
        wide: see ``title``.
        progress: what a step counts.
    """
    present = Arms.of(log.arms) if arms is None else arms
    rows: list[tuple[str, str, float, float, float]] = []
    shown: int | None = None
    for place, name in places.items():
        table = log.scalars(name)
        newest = {  # later entries replace earlier ones
            (arm, seed): (at, value)
            for at, arm, seed, value in zip(*(table[c].tolist() for c in COLUMNS), strict=True)
            if (step is None or at <= step) and math.isfinite(value)
        }
        for arm in present:
            values = [value for (a, _), (_, value) in newest.items() if a == arm]
            if values:
                rows.append((place, arm, sum(values) / len(values), min(values), max(values)))
        shown = max([at for at, _ in newest.values()], default=shown)
    data = pd.DataFrame(rows, columns=["place", "arm", "mean", "low", "high"])
    if shown is None:
        moment, text = "", f"Dots of {x}; nothing is measured yet."
    else:
        moment = progress.at(shown)
        listed = "; ".join(f"{place}, {arm} {mean:.3g}" for place, arm, mean, _, _ in rows)
        text = f"Dots of {x} at {moment}: {listed}."
    spec = _dot_spec(present, tuple(places), x, Span.of(data["low"], data["high"], zero=zero))
    return Figure(title, look_for, text, spec=spec, data=data, wide=wide, moment=moment)


@lru_cache(maxsize=256)
def _dot_spec(arms: Arms, places: tuple[str, ...], x: str, width: Span) -> dict[str, Any]:
    names = list(arms.names)
    base = alt.Chart().encode(
        y=alt.Y(
            "place:N",
            title=None,
            sort=list(places),
            scale=alt.Scale(domain=list(places)),
            axis=alt.Axis(labelLimit=110),
        ),
        yOffset=alt.YOffset("arm:N", sort=names, scale=alt.Scale(domain=names)),
        color=arm_colour(arms),
        opacity=faded(),
    )
    bar = base.mark_rule(strokeWidth=2).encode(x=across("low", x, width, grid=True), x2="high:Q")
    dot = base.mark_point(filled=True, size=45).encode(
        x=across("mean", x, width, grid=True),
        shape=arm_symbol(arms),
        tooltip=seed_tooltip(alt.Tooltip("place:N", title="for")),
    )
    chart = alt.layer(bar, dot).properties(height=max(HEIGHT, 9 * len(names) * len(places) + 50))
    return specification(chart.add_params(focus_param()))
