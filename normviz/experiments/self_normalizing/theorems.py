"""The theorems of self-normalizing networks, checked on grids with the closed moment map.

Domains from Klambauer et al., arXiv 1706.02515. A grid is evidence, not a proof; the paper proves them.
"""

from __future__ import annotations

import numpy as np

from normviz.norms.selu_moments import is_contraction, moment_map, moment_map_jacobian

__all__ = ["THEOREM_1", "theorem_values"]

GRID = 9
"""Points per axis, both ends included."""

Box = dict[str, tuple[float, float]]
THEOREM_1: Box = {"mu": (-0.1, 0.1), "nu": (0.8, 1.5), "omega": (-0.1, 0.1), "tau": (0.95, 1.1)}
THEOREM_2: Box = {"mu": (-1.0, 1.0), "nu": (3.0, 16.0), "omega": (-0.1, 0.1), "tau": (0.8, 1.25)}
THEOREM_3: tuple[Box, ...] = (
    {"mu": (-0.1, 0.1), "nu": (0.02, 0.16), "omega": (-0.1, 0.1), "tau": (0.8, 1.25)},
    {"mu": (-0.1, 0.1), "nu": (0.02, 0.24), "omega": (-0.1, 0.1), "tau": (0.9, 1.25)},
)


def _growth(box: Box) -> np.ndarray:
    """Variance after the layer minus variance before, on the grid of a box."""
    axes = [np.linspace(*box[name], GRID) for name in ("mu", "nu", "omega", "tau")]
    mu, nu, omega, tau = np.meshgrid(*axes, indexing="ij", sparse=True)
    return moment_map(mu, nu, omega, tau)[1] - nu


def theorem_values() -> dict[str, float]:
    """What the theorems bound, for the standard SELU.

    ``theorem/fixed_point_norm``: spectral norm of the Jacobian at mean 0 and variance 1. ``theorem/contraction``: the
    largest norm on theorem 1's box, infinite if the box is not mapped into itself. ``theorem/large_variance``: the
    largest growth of a large variance (theorem 2). ``theorem/small_variance``: the least growth of a small one (3).
    """
    report = is_contraction(THEOREM_1, GRID)
    inside = all(
        THEOREM_1[name][0] <= low and high <= THEOREM_1[name][1]
        for name, (low, high) in zip(("mu", "nu"), report["image"], strict=True)
    )
    return {
        "theorem/fixed_point_norm": float(np.linalg.norm(moment_map_jacobian(0.0, 1.0), 2)),
        "theorem/contraction": report["max_norm"] if inside else float("inf"),
        "theorem/large_variance": float(_growth(THEOREM_2).max()),
        "theorem/small_variance": min(float(_growth(box).min()) for box in THEOREM_3),
    }
