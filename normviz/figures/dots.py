"""Dots: a value for each named place (domain, kind of question, …) and arm at one moment of the training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.figures.figure import Figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import colours
from normviz.figures.vega import specification
from normviz.frame import Log

__all__ = ["dot_figure"]

COLUMNS = ("step", "arm", "seed", "value")


def dot_figure(
    log: Log,
    places: Mapping[str, str],
    *,
    title: str,
    x: str,
    look_for: str,
    arms: Sequence[str] | None = None,
    step: int | None = None,
    zero: bool = True,
    wide: bool = False,
) -> Figure:
    """One row per place with a dot per arm: the mean over seeds, the bar is their range.

    Args:
        log: frames to draw.
        places: from the name of a place to the scalar that is shown there.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        x: axis title.
        look_for: see ``title``.
        arms: arms in order (default: those of the log).
        step: moment to show; None: the newest.
        zero: the axis starts at zero.
        wide: see ``title``.
    """
    present = tuple(arms) if arms is not None else tuple(log.arms)
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
        text = f"Dots of {x}; nothing is measured yet."
    else:
        listed = "; ".join(f"{place}, {arm} {mean:.3g}" for place, arm, mean, _, _ in rows)
        text = f"Dots of {x} at step {shown}: {listed}."
        title = f"{title} (step {shown})"
    return Figure(
        title, look_for, text, spec=_dot_spec(present, tuple(places), x, zero), data=data, wide=wide
    )


@lru_cache(maxsize=256)
def _dot_spec(arms: tuple[str, ...], places: tuple[str, ...], x: str, zero: bool) -> dict[str, Any]:
    scale = alt.Scale(zero=zero)
    axis = alt.Axis(format="~g", tickCount=6)
    base = alt.Chart().encode(
        y=alt.Y("place:N", title=None, sort=list(places), scale=alt.Scale(domain=list(places))),
        yOffset=alt.YOffset("arm:N", sort=list(arms), scale=alt.Scale(domain=list(arms))),
        color=alt.Color(
            "arm:N",
            title=None,
            scale=alt.Scale(domain=list(arms), range=colours(arms)),
            legend=legend_above(arms, lines=False),
        ),
    )
    bar = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=x, scale=scale, axis=axis), x2="high:Q")
    dot = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("mean:Q", title=x, scale=scale, axis=axis),
        shape=alt.Shape("arm:N", title=None, scale=alt.Scale(domain=list(arms))),
        tooltip=[
            alt.Tooltip("place:N", title="for"),
            alt.Tooltip("arm:N"),
            alt.Tooltip("mean:Q", title="mean over seeds", format=".4~g"),
            alt.Tooltip("low:Q", title="lowest seed", format=".4~g"),
            alt.Tooltip("high:Q", title="highest seed", format=".4~g"),
        ],
    )
    return specification(alt.layer(bar, dot).properties(width="container", height=height_below(arms)))
