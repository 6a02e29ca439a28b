"""The weight of every task in AdaB²N's batch statistics beside its share of the batch."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms, Look
from normviz.experiments.shifting_statistics.knobs import TASKS
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour
from normviz.figures.legends import height_below, legend_above
from normviz.figures.scales import Span, up
from normviz.figures.vega import specification

__all__ = ["WEIGHTS", "task_weights_figure"]

WEIGHTS = Arms(
    (Look("share of samples", 6, 0, 0), Look("weight, layer 1", 0, 0, 0), Look("weight, layer 2", 2, 0, 0))
)
"""What is compared, by the array that holds it."""
ARRAYS = dict(zip(("share", "posterior/1", "posterior/2"), WEIGHTS.names, strict=True))


def task_weights_figure(board: Board, arm: str) -> Figure:
    """Bars by task for one arm, mean over seeds, in the last batch before the moment shown.

    Args:
        board: log and moment.
        arm: an arm with AdaB²N.
    """
    rows: list[tuple[str, str, float]] = []
    shown = None
    for name, kind in ARRAYS.items():
        entries = [e for e in board.log.arrays(name, board.step) if e.arm == arm]
        if entries:
            shown = max(shown or 0, *(e.step for e in entries))
            mean = np.mean([e.value for e in entries], axis=0).astype(float)
            rows += [(f"task {t + 1}", kind, round(float(v), 4)) for t, v in enumerate(mean)]
    data = pd.DataFrame(rows, columns=["task", "arm", "weight"])
    moment = "" if shown is None else board.progress.at(shown)
    if rows:
        listed = "; ".join(f"{task}, {kind} {value:.2f}" for task, kind, value in rows)
        text = f"Bars of the weight of each task for {arm} at {moment}: {listed}."
    else:
        text = "Bars of the weight of each task; nothing is measured yet."
    return Figure(
        "Weight of each task in the batch",
        f"{arm}: do older tasks count for more than their samples?",
        text,
        spec=_bars_spec(),
        data=data,
        moment=moment,
    )


@lru_cache(maxsize=1)
def _bars_spec() -> dict[str, Any]:
    names = list(WEIGHTS.names)
    chart = (
        alt.Chart()
        .mark_bar()
        .encode(
            x=alt.X(
                "task:N",
                title=None,
                scale=alt.Scale(domain=[f"task {t + 1}" for t in range(TASKS)]),
                axis=alt.Axis(labelAngle=0),
            ),
            xOffset=alt.XOffset("arm:N", sort=names, scale=alt.Scale(domain=names)),
            y=up("weight", "weight in the batch statistics", Span(0.0, 1.0)),
            color=arm_colour(WEIGHTS, legend=legend_above(names, lines=False)),
            tooltip=[
                alt.Tooltip("task:N"),
                alt.Tooltip("arm:N", title=" "),
                alt.Tooltip("weight:Q", format=".3f"),
            ],
        )
    )
    return specification(chart.properties(height=height_below(names)))
