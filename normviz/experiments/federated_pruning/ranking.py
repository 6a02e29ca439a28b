"""How well the candidates' losses foretell their accuracy: rank correlations per seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from normviz.experiments.federated_pruning.knobs import candidate_name
from normviz.experiments.rank_correlation import spearman
from normviz.frame import Log

__all__ = ["ranking_gain"]


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
