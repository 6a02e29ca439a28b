r"""The problem of two numbers, in which gradient and noise are known at every point.

y = <a, x\*> + NOISE e with a ~ N(0, diag(CURVATURE)) and e ~ N(0, 1); f(x) = (<a, x> - y)^2 / 2. With d = x - x\* and
L = diag(CURVATURE)

    F(x) - F* = d' L d / 2
    grad F    = L d
    Cov g_i   = (d' L d + NOISE^2) L + L d d' L       (fourth moments of a Gaussian)

so that ||V||_1 = tr Cov g_i, which the tests of Lau et al., arXiv 2402.11215, estimate from a batch, is known too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["CURVATURE", "NOISE", "START", "TARGET", "gap", "gradient", "total_variance"]

Array = NDArray[np.float64]

CURVATURE: Array = np.array([1.0, 0.25])
TARGET: Array = np.array([1.0, -0.5])
START: Array = np.array([-2.0, 2.0])
NOISE = 1.0


def gap(x: ArrayLike) -> float:
    """F(x) - F* at the point x, (2,)."""
    d = np.asarray(x, dtype=float) - TARGET
    return float(d @ (CURVATURE * d) / 2)


def gradient(x: ArrayLike) -> Array:
    """The gradient of F at the point x, (2,)."""
    slope: Array = CURVATURE * (np.asarray(x, dtype=float) - TARGET)
    return slope


def total_variance(x: ArrayLike) -> float:
    """The sum over coordinates of the variance of one sample's gradient at the point x, (2,)."""
    g = gradient(x)
    return float((2 * gap(x) + NOISE**2) * CURVATURE.sum() + g @ g)
