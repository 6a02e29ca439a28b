r"""Errors of polynomials near exp and the degrees they need, in closed form, without PyTorch: for charts.

For the Taylor polynomial P of degree g the relative error ``|P(x) exp(-x) - 1|`` is largest at x = -R, where it is

    (1/g!) int_0^R u^g e^u du = R^(g+1) / (g+1)! * 1F1(g + 1; g + 2; R).

The Chebyshev interpolant is evaluated on a grid. The tests compare both with :mod:`normviz.adapters.exp_polynomial`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "HIGHEST",
    "KINDS",
    "chebyshev_errors",
    "columns",
    "needed_degrees",
    "relative_errors",
    "taylor_errors",
]

Array = NDArray[np.float64]

KINDS = ("taylor", "chebyshev")
HIGHEST = 60
"""Highest degree of a table."""
POINTS = 401
"""Points of [-R, R] at which a Chebyshev interpolant is compared with exp."""


def taylor_errors(radii: Array, highest: int = HIGHEST) -> Array:
    """Largest relative error of the Taylor polynomial, [radii, degrees 0..highest]."""
    from scipy.special import gammaln, hyp1f1

    R, g = np.asarray(radii, dtype=float)[:, None], np.arange(highest + 1.0)
    log_first = (g + 1) * np.log(R) - gammaln(g + 2)
    errors: Array = np.exp(log_first) * hyp1f1(g + 1, g + 2, R)
    return errors


def chebyshev_errors(radii: Array, highest: int = HIGHEST) -> Array:
    """Largest relative error of the interpolant in Chebyshev's points, [radii, degrees 0..highest]."""
    R = np.asarray(radii, dtype=float)
    t = np.linspace(-1.0, 1.0, POINTS)
    down = np.exp(-R[:, None] * t)
    columns = []
    for g in range(highest + 1):
        angles = np.pi * (np.arange(g + 1) + 0.5) / (g + 1)
        waves = np.cos(np.arange(g + 1)[:, None] * angles)  # T_k at the points, [g + 1, g + 1]
        weights = 2 / (g + 1) * waves
        weights[0] /= 2
        at_points = np.exp(R[:, None] * np.cos(angles))
        values = at_points @ weights.T @ np.cos(np.arange(g + 1)[:, None] * np.arccos(t))
        columns.append(np.abs(values * down - 1).max(axis=1))
    return np.stack(columns, axis=1)


def relative_errors(kind: str, radii: Array, highest: int = HIGHEST) -> Array:
    """Errors of a family, [radii, degrees 0..highest]; see above."""
    return (taylor_errors if kind == "taylor" else chebyshev_errors)(radii, highest)


@lru_cache(maxsize=64)
def needed_degrees(kind: str, radii: tuple[float, ...], eps: float) -> tuple[float, ...]:
    """The smallest degree whose error is at most ``eps``, for each radius; NaN above :data:`HIGHEST`."""
    errors = relative_errors(kind, np.array(radii))
    enough = errors <= eps
    first = np.argmax(enough, axis=1).astype(float)
    return tuple(np.where(enough.any(axis=1), first, np.nan).tolist())


def columns(dim: int, degree: float) -> float:
    """Monomials of at most this degree in ``dim`` variables, C(dim + degree, degree); NaN for a NaN degree."""
    return math.nan if math.isnan(degree) else float(math.comb(dim + int(degree), dim))
