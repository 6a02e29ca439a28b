r"""Distance of two sets of points that stand for two distributions.

Székely, Rizzo 2013, "Energy statistics: A class of statistics based on distances", Journal of Statistical Planning and
Inference 143:

    D = 2 E||X - Y|| - E||X - X'|| - E||Y - Y'||

with every expectation as the mean over all pairs of points, those of a point with itself too. D is never negative. Two
samples of m and n points of one distribution have about ``(1/m + 1/n) E||X - X'||``, not 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["energy_distance", "mean_distance"]


def mean_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean Euclidean distance over all pairs of x [..., m, d] and y [..., n, d]: [...]."""
    # The way through matrix products is fast, but loses the small distances to rounding.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").mean((-2, -1))


def energy_distance(x: Tensor, y: Tensor, within_y: Tensor | None = None) -> Tensor:
    """D of x [..., m, d] and y [..., n, d]: [...].

    Args:
        x, y: points; leading axes broadcast.
        within_y: ``mean_distance(y, y)``, where it is known already.
    """
    own = mean_distance(y, y) if within_y is None else within_y
    return 2 * mean_distance(x, y) - mean_distance(x, x) - own
