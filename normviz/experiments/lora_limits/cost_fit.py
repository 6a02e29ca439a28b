"""The exponent of a cost over the length, for charts and claims alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["FITTED_SHARE", "exponent"]

Array = NDArray[np.float64]

FITTED_SHARE = {"exact": 4, "lowrank": 8}
"""Exponents are fitted from the longest length down to this share of it: at short lengths overhead decides."""


def exponent(table: Array, share: int) -> float:
    """Slope of log cost over log length by least squares, for lengths of at least ``longest / share``.

    Args:
        table: [lengths, 2], length and cost.
        share: see above.

    Returns:
        NaN with fewer than two lengths.
    """
    lengths, cost = table[:, 0], table[:, 1]
    kept = (lengths >= lengths.max() / share) & (cost > 0)
    if kept.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(lengths[kept]), np.log(cost[kept]), 1)[0])
