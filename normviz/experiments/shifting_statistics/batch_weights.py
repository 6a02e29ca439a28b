r"""Which weight every past batch has in the running mean of AdaB²N: a picture that reacts while kappa is dragged.

Lyu et al., arXiv 2310.08855. With a = (1 - m)^kappa and m the momentum, after T batches batch s has the weight
``a^(T-1-s) / I``, ``I = 1/eta_{T-1} = sum_{j < T-1} a^j + a^(T-1) / m^kappa``; the initial value has the rest,
``(1 - m^kappa) a^(T-1) / (m^kappa I)``. The browser computes this; the tests compare it with the layer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.experiments.shifting_statistics.knobs import BATCHES_PER_TASK, TASKS, Knobs
from normviz.figures import Board, Figure, colours
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["TASK_NAMES", "batch_weights_figure", "played_weights_figure", "weight_expression"]

TASK_NAMES = Arms.of({str(t + 1): slot for t, slot in enumerate((0, 1, 2, 3, 4))})
"""The tasks and their colours."""
TITLE = "What the running mean is made of"
LOOK_FOR = "Drag κ: at 1 the newest task, at 0 all alike."
MOST = TASKS * BATCHES_PER_TASK


def weight_expression(ago: str, batches: str, kappa: str, momentum: str) -> str:
    """Vega expression of the weight of the batch that came ``ago`` batches before the newest of ``batches``.

    Args:
        ago: expression, 0 for the newest batch.
        batches: expression of T.
        kappa: expression, in [0, 1].
        momentum: expression, in (0, 1).
    """
    a = f"pow(1 - {momentum}, {kappa})"
    before = f"({a} > 1 - 1e-9 ? {batches} - 1 : (1 - pow({a}, {batches} - 1)) / (1 - {a}))"
    return f"pow({a}, {ago}) / ({before} + pow({a}, {batches} - 1) / pow({momentum}, {kappa}))"


def batch_weights_figure(board: Board, knobs: Knobs) -> Figure:
    """The weights at the moment shown, with a slider for kappa; colours say which task a batch came from."""
    seen = board.log.last_step if board.step is None else min(board.step, board.log.last_step)
    data = _batches(max(seen, 1), knobs.steps_per_task())
    return Figure(
        TITLE,
        LOOK_FOR,
        _words(len(data)),
        spec=_weights_spec(False, knobs.total_steps()),
        data=data,
        moment=board.progress.at(max(seen, 1)),
    )


def played_weights_figure() -> Figure:
    """The weights after so many batches, with sliders for kappa, the momentum and the number of batches."""
    return Figure(
        "The memory of the running mean",
        "Drag κ, the momentum and the batches seen.",
        _words(MOST),
        spec=_weights_spec(True, MOST),
        data=_batches(MOST, BATCHES_PER_TASK),
    )


def _words(batches: int) -> str:
    return (
        f"Bars of the weight of each of {batches} batches in the running mean, coloured by task. With kappa 1 only "
        "about the last 1/momentum batches count, with kappa 0 all count alike; a slider sets kappa."
    )


def _batches(seen: int, per_task: int) -> pd.DataFrame:
    number = np.arange(seen)
    task = np.minimum(number // per_task, TASKS - 1)
    return pd.DataFrame({"batch": number, "seen": seen, "arm": [TASK_NAMES.names[t] for t in task]})


@lru_cache(maxsize=16)
def _weights_spec(played: bool, last: int) -> dict[str, Any]:
    batches = "seen_batches" if played else "datum.seen"
    momentum = "momentum" if played else "0.1"
    weight = weight_expression(f"({batches} - 1 - datum.batch)", f"({batches})", "kappa", momentum)
    base = alt.Chart()
    if played:
        base = base.transform_filter("datum.batch < seen_batches")
    base = base.transform_calculate(weight=weight, right="datum.batch + 1")
    legend = legend_above(TASK_NAMES.names, lines=False, columns=5)
    legend.titleOrient = "left"
    colour = alt.Color(
        "arm:N",
        title="task",
        scale=alt.Scale(domain=list(TASK_NAMES.names), range=colours(TASK_NAMES)),
        legend=legend,
    )
    height = Span(0.0, 0.2)
    bars = (
        base.transform_calculate(shown="min(datum.weight, 0.2)", floor="0")
        .mark_rect(strokeWidth=0)
        .encode(
            x=across("batch", "batch, oldest first", Span(0.0, float(last))),
            x2="right:Q",
            y=up("shown", "weight in the running mean (root scale)", height, scale=_root(height)),
            y2="floor:Q",
            color=colour,
            tooltip=[
                alt.Tooltip("arm:N", title="task"),
                alt.Tooltip("batch:Q"),
                alt.Tooltip("weight:Q", format=".3~g"),
            ],
        )
    )
    shares = (
        base.transform_aggregate(total="sum(weight)", middle="mean(batch)", groupby=["arm"])
        .transform_calculate(words="format(datum.total, '.0%')")
        .mark_text(baseline="top", fontSize=12, fontWeight="bold", color=MUTED)
        .encode(x=alt.X("middle:Q"), y=alt.value(2), text="words:N")
    )
    params = [slider("kappa", "κ", 0.4, 0.0, 1.0, 0.01)]
    if played:
        params += [
            slider("momentum", "momentum m", 0.1, 0.01, 0.5, 0.01),
            slider("seen_batches", "batches seen", float(MOST), 1.0, float(MOST), 1.0),
        ]
    chart = alt.layer(bars, shares).properties(height=height_below(TASK_NAMES.names, columns=5) + 20)
    return specification(chart.add_params(*params))


def _root(span: Span) -> alt.Scale:
    return alt.Scale(type="sqrt", domain=[span.low, span.high], nice=False)
