"""How well the candidates' losses foretell their accuracy: rank correlations per seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from normviz.experiments.federated_pruning.knobs import candidate_name
from normviz.frame import Log

__all__ = ["ranking_gain", "spearman"]


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Spearman's rank correlation, equal values with their mean rank; NaN if one side has no two different values."""
    x, y = (_ranks(np.asarray(v, dtype=float)) for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / scale) if scale else math.nan


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    less = (values[None, :] < values[:, None]).sum(1)
    same = (values[None, :] == values[:, None]).sum(1)
    ranks: npt.NDArray[np.float64] = less + (same + 1) / 2
    return ranks


def ranking_gain(log: Log, knobs: Any) -> dict[int, float]:
    """By seed: rank correlation of low loss and accuracy, with the clients' statistics minus with the server's."""
    names = [candidate_name(c) for c in range(knobs.pool_size)]
    final = log.final("accuracy")
    accuracy = {
        (arm, seed): value
        for arm, seed, value in zip(final["arm"], final["seed"], final["value"], strict=True)
    }
    found = {}
    for entry in log.arrays("candidates"):
        if len(entry.value) != len(names) or not np.isfinite(entry.value).all():
            continue
        reached = [log.members.get((name, entry.seed), 0) for name in names]
        if any((name, entry.seed) not in accuracy for name in names) or min(reached) < knobs.total_steps():
            continue
        ends = [accuracy[name, entry.seed] for name in names]
        server, clients = (spearman(-entry.value[:, column], ends) for column in (0, 1))
        found[entry.seed] = clients - server
    return found
