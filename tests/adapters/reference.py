"""Softmax attention with adapters in NumPy float64, written out with L x L matrices and sums over indices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rows_normalised(weights: Array, causal: bool = False) -> Array:
    if causal:
        weights = np.where(np.tri(len(weights), dtype=bool), weights, 0.0)
    return weights / weights.sum(1, keepdims=True)


def polynomial_of(scores: Array, coeffs: Array) -> Array:
    return sum(c * scores**i for i, c in enumerate(coeffs))


def gradients_of_scores(f: Array, c: Array, v: Array) -> Array:
    """dloss/dS by the Jacobian of a softmax row, ``df_l / ds_m = f_l (1[l = m] - f_m)``."""
    p = np.zeros_like(f)
    for j, row in enumerate(f):
        df = np.array([c[j] @ v[l] for l in range(len(v))])
        jacobian = np.diag(row) - np.outer(row, row)
        p[j] = jacobian.T @ df
    return p


def attention_step(
    q: Array, k: Array, v: Array, y: Array, tau: float, coeffs: Array | None = None, causal: bool = False
) -> dict[str, Any]:
    """Output and gradients of ``1/2 ||f v - y||^2``; f from exp or from a polynomial, with the p of a softmax."""
    scores = tau * np.array([[q_i @ k_j for k_j in k] for q_i in q])
    f = rows_normalised(np.exp(scores) if coeffs is None else polynomial_of(scores, coeffs), causal)
    out = f @ v
    c = out - y
    p = gradients_of_scores(f, c, v)
    return {
        "f": f,
        "p": p,
        "c": c,
        "output": out,
        "loss": (c**2).sum() / 2,
        "dQ": tau * p @ k,
        "dK": tau * p.T @ q,
        "dV": f.T @ c,
    }


def adapter_gradients(upstream: Array, x: Array, A: Array, B: Array, s: float) -> tuple[Array, Array]:
    """dA and dB of ``x (W + s B A)^T`` entry by entry."""
    dA, dB = np.zeros_like(A), np.zeros_like(B)
    for i in range(len(x)):
        G = np.outer(upstream[i], x[i])
        dA += s * B.T @ G
        dB += s * G @ A.T
    return dA, dB


def default_scale(d: int) -> float:
    return 1 / math.sqrt(d)
