"""The learning-rate grid of each schedule: where the loss is lowest, and how much is lost beside it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from normviz.experiments.schedule_refinement.knobs import FIRST_RUN, Knobs
from normviz.figures import Board, Figure

__all__ = ["rate_grid_figure"]


def rate_grid_figure(board: Board, knobs: Knobs) -> Figure:
    """Loss or gap at the moment shown against the learning rate, one line per schedule.

    Theory's rate differs a little from seed to seed: a point stands at the geometric mean of its rates. A rate at
    which a seed diverged has no point.
    """
    arms = [arm for arm in board.arms if arm != FIRST_RUN]
    entries = board.log.arrays("by_rate", board.step)
    known = {entry.seed: entry.value.astype(float) for entry in board.log.arrays("rates", board.step)}
    rows = []
    for arm in arms:
        own = [entry for entry in entries if entry.arm == arm and entry.seed in known]
        if not own:
            continue
        values = np.stack([entry.value.astype(float) for entry in own])
        rates = np.stack([known[entry.seed] for entry in own])
        for i in range(values.shape[1]):
            there = values[:, i][np.isfinite(values[:, i])]
            if there.size == len(values):
                rate = float(np.exp(np.log(rates[:, i]).mean()))
                rows.append((arm, rate, float(there.mean()), float(there.min()), float(there.max())))
    return board.only(arms).curves(
        pd.DataFrame(rows, columns=["arm", "x", "mean", "low", "high"]),
        title="Each schedule's own learning rate",
        x="largest learning rate",
        y="gap to the minimum" if knobs.convex() else "held-out loss (nats)",
        look_for="Where is each line lowest? Not at the same rate.",
        log_x=True,
        log_y=True,
        points=True,
    )
