"""Imaginary samples on a grid of label probability and top probability, with all seven features of STORM's rescaler.

The features are not free of one another: a sample whose label has probability p_y and whose likeliest class has p_max
either agrees with its label (p_y = p_max: the diagonal) or not (p_y < p_max, and p_y + p_max <= 1: a wedge).
The remaining probability is spread evenly over the other classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["RESOLUTION", "grid_cells", "grid_features"]

RESOLUTION = 26
"""Cells along each side."""


def grid_cells(num_classes: int) -> NDArray[np.float64]:
    """Centres (p_y, p_max) of the cells that a sample of ``num_classes`` >= 3 classes can be in (cells, 2)."""
    centres = (np.arange(RESOLUTION) + 0.5) / RESOLUTION
    p_y, p_max = (a.ravel() for a in np.meshgrid(centres, centres, indexing="ij"))
    agrees = np.isclose(p_y, p_max) & (p_max >= 1 / num_classes)
    spread = (1 - p_y - p_max) / (num_classes - 2)
    differs = (p_max > p_y + 1e-9) & (spread >= -1e-9) & (spread <= p_max)
    return np.stack([p_y, p_max], axis=1)[agrees | differs]


def grid_features(num_classes: int, disagreement: float) -> NDArray[np.float32]:
    """f1..f7 of the cells of :func:`grid_cells` (cells, 7), with f6 = ``disagreement`` where that is possible."""
    p_y, p_max = grid_cells(num_classes).T
    agrees = np.isclose(p_y, p_max)
    count = np.where(agrees, num_classes - 1, num_classes - 2)
    rest = np.where(agrees, 1 - p_y, np.maximum(1 - p_y - p_max, 0.0))
    best_other = np.where(agrees, rest / count, p_max)
    entropy = _entr(p_y) + np.where(agrees, 0.0, _entr(p_max)) + count * _entr(rest / count)
    # A number in [0, 1] with mean p deviates by at most sqrt(p (1 - p)).
    spread = np.minimum(disagreement, np.sqrt(p_y * (1 - p_y)))
    columns = [
        1 - p_y,
        p_y,
        p_max,
        entropy / np.log(num_classes),
        (1 + p_y - best_other) / 2,
        spread,
        agrees.astype(float),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _entr(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """-p log p, 0 at 0."""
    return -p * np.log(np.where(p > 0, p, 1.0))
