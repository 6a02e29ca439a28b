"""FedTiny's selection, candidate by candidate: the losses with the server's statistics and with the clients'."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from normviz.experiments.federated_pruning.clients import Federation
from normviz.experiments.federated_pruning.knobs import Knobs
from normviz.federated import AdaptiveBNSelection, CandidatePool

__all__ = ["candidate_losses", "pool_of"]


def pool_of(knobs: Knobs, federation: Federation) -> CandidatePool:
    """The server's candidates."""
    return CandidatePool(
        federation.network(),
        knobs.density,
        knobs.pool_size,
        noise=knobs.noise,
        rule=knobs.rule,
        seed=federation.seed,
    )


def candidate_losses(knobs: Knobs, federation: Federation) -> Iterator[NDArray[np.float64]]:
    """The table as it fills: (candidates, 2), mean loss at the clients with the server's statistics and with theirs.

    The entries of candidates that are still to come are NaN.
    """
    pool = pool_of(knobs, federation)
    vanilla, adapted = (
        AdaptiveBNSelection(
            pool,
            federation.clients,
            knobs.dev_fraction,
            adapt,
            batch_size=knobs.batch_size,
            seed=federation.seed,
        )
        for adapt in (False, True)
    )
    table = np.full((len(pool), 2), np.nan)
    for candidate in range(len(pool)):
        for column, selection in enumerate((vanilla, adapted)):
            selection.evaluate(candidate)
            table[candidate, column] = float(selection.losses[:, candidate].mean())
        yield table.copy()
