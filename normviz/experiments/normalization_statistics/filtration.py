"""UnifiedNorm's outlier test over the steps: gap, threshold, and which steps were filtered."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.figures import Figure, colours
from normviz.figures.vega import specification
from normviz.frame import Log

__all__ = ["filtration_figure"]

GAP, THRESHOLD, FILTERED = "AM − GM (largest channel)", "threshold M·V", "filtered step"


def filtration_figure(log: Log, arm: str, *, last: int, step: int | None = None) -> Figure:
    """Gap and threshold of one arm's first UnifiedNorm for its lowest seed, filtered steps marked.

    Args:
        log: frames with the values of :class:`normviz.probes.OutlierFiltration`.
        arm: the UnifiedNorm arm.
        last: last step of the run.
        step: leave out what comes later; None: all.
    """
    parts = []
    skipped = _values(log, "filter/skipped", arm)
    for name, line in (("filter/gap", GAP), ("filter/threshold", THRESHOLD)):
        table = _values(log, name, arm)
        parts.append(pd.DataFrame({"step": table["step"], "value": table["value"], "line": line}))
        if line == GAP and len(table):
            hits = table[np.isin(table["step"], skipped.loc[skipped["value"] > 0, "step"])]
            parts.append(pd.DataFrame({"step": hits["step"], "value": hits["value"], "line": FILTERED}))
    data = pd.concat(parts, ignore_index=True)
    data = data[data["value"] > 0]
    if step is not None:
        data = data[data["step"] <= step]
    count = int((data["line"] == FILTERED).sum())
    total = int((data["line"] == GAP).sum())
    return Figure(
        f"Outlier test of {arm}",
        "A batch whose gap exceeds the threshold does not belong: red marks are steps that were filtered out.",
        f"Gap between arithmetic and geometric mean and its threshold over steps; {count} of {total} steps filtered.",
        spec=_spec(last),
        data=data,
    )


def _values(log: Log, name: str, arm: str) -> pd.DataFrame:
    table = log.scalars(name)
    table = table[table["arm"] == arm]
    lowest: pd.DataFrame = table[table["seed"] == table["seed"].min()]
    return lowest


LINES = Arms.of({GAP: 0, THRESHOLD: 6, FILTERED: 7})
"""The lines of this chart; they are no arms, and their colours are theirs alone."""


@lru_cache(maxsize=16)
def _spec(last: int) -> dict[str, Any]:
    domain = list(LINES)
    colour = alt.Color(
        "line:N",
        title=None,
        scale=alt.Scale(domain=domain, range=colours(LINES)),
        legend=alt.Legend(orient="top", columns=1, labelLimit=300),
    )
    x = alt.X(
        "step:Q",
        title="training step",
        scale=alt.Scale(domain=[0, last], nice=False),
        axis=alt.Axis(format="d"),
    )
    y = alt.Y(
        "value:Q", title="second moment", scale=alt.Scale(type="log"), axis=alt.Axis(format="~g", tickCount=6)
    )
    base = alt.Chart().encode(
        x=x, y=y, color=colour, tooltip=["line:N", "step:Q", alt.Tooltip("value:Q", format=".3g")]
    )
    lines = base.transform_filter(alt.datum.line != FILTERED).mark_line(strokeWidth=1.5)
    marks = base.transform_filter(alt.datum.line == FILTERED).mark_point(shape="cross", size=60, filled=True)
    return specification(alt.layer(lines, marks).properties(width="container", height=340))
