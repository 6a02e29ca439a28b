"""The page's picture: the worst loss in every class of difficulty, one line per policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from normviz.figures import Board, Figure

__all__ = ["class_figure"]


def class_figure(board: Board, radii: Sequence[float], *, loss: str) -> Figure:
    """Mean and range over seeds of each policy's worst loss at the moment shown.

    Args:
        board: log, arms and moment.
        radii: largest complexity of each class.
        loss: what the loss is called.
    """
    rows: list[tuple[str, float, float, float, float]] = []
    entries = board.log.arrays("worst", board.step)
    for arm in board.arms:
        mine = [entry.value.astype(float) for entry in entries if entry.arm == arm]
        for k, radius in enumerate(radii):
            values = [value[k] for value in mine if len(value) > k and np.isfinite(value[k])]
            if values:
                rows.append((arm, radius, float(np.mean(values)), min(values), max(values)))
    figure = board.curves(
        pd.DataFrame(rows, columns=["arm", "x", "mean", "low", "high"]),
        title="Worst case in each class",
        x="class: complexity up to C",
        y=f"largest expected {loss}",
        look_for="Lower is better. Does the robust policy sink below uniform?",
        log_x=True,
        points=True,
    )
    newest = max((entry.step for entry in entries), default=None)
    return figure if newest is None else replace(figure, moment=board.progress.at(newest))
