r"""Where LoRA stops being computable in almost linear time: certificates, degrees, the phase transition.

Hu, Su, Kuo, Song, Liu 2024, "Computational Limits of Low-Rank Adaptation (LoRA) Fine-Tuning for Transformer Models",
arXiv 2406.03136. Statement as remembered, with d = O(log L), r < d, entries of the products X W (adapters included)
bounded by Gamma, tau = 1/d and target error 1/poly(L):

- Gamma = o(sqrt(log L)): the adapters' gradients can be had in time L^(1 + o(1)), in the special and the general case;
- Gamma = C sqrt(log L), C large enough: no algorithm in time O(L^(2 - delta)) for any delta > 0, under the strong
  exponential time hypothesis (SETH).

The first half runs here: a polynomial near exp of degree g gives factors with C(d + g, g) columns, and g grows with the
scores' radius R (at tau = 1/d, R <= Gamma^2). :func:`critical_radius` is where that number reaches L. It is the limit
of this algorithm; the hardness half is a theorem under SETH and cannot be measured.

The error bound is derived here from the definitions. It is a worst case, many orders above the true error on random
data: a polynomial is far better near 0, where most scores are, than its largest error on [-R, R].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from normviz.adapters._values import check_floating
from normviz.adapters.exp_polynomial import (
    KINDS,
    LARGEST_RADIUS,
    exp_polynomial,
    polynomial_relative_error,
    required_degree,
)
from normviz.adapters.monomial_features import check_queries_and_keys, feature_rank
from normviz.adapters.score_radius import score_radius
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["DegreeFit", "critical_radius", "fit_degree", "gradient_error_bound", "norm_report"]


def gradient_error_bound(eps: float, x1: Tensor, c: Tensor, v: Tensor, k: Tensor, scale: float) -> float:
    r"""A bound of ``max |G~_Q - G_Q|``, the error of the gradient of W_Q by low-rank factors.

    With ``delta = 2 eps / (1 - eps)`` (entrywise relative error of f), ``M3 = max |v|``, ``N1 = max_l ||v_l||_1`` and
    ``Q' = max |c| N1 + delta M3 N1 >= max |q~|``:

        row sums of |p~ - p|  <=  delta (3 Q' + 2 M3 N1)
        max |G~_Q - G_Q|      <=  |tau| max_a sum_j |x1_ja| delta (3 Q' + 2 M3 N1) max |k|

    dA and dB follow by the norms of B and A. Companion of Hu et al. 2024, arXiv 2406.03136; derived here.

    Args:
        eps: relative error of the polynomial on the scores' range, >= 0.
        x1: [..., L, d_in] inputs of the queries.
        c: [..., L, d] exact upstream gradient.
        v: [..., L, d] exact values.
        k: [..., L, d] exact keys.
        scale: tau.

    Returns:
        The bound, the largest over batch axes; inf if eps >= 1.

    Raises:
        ValueError: eps < 0; tensors with fewer than two axes.
        TypeError: integer tensors.
    """
    eps = check_real("eps", eps, 0)
    scale = _finite_scale(scale)
    for name, x in {"x1": x1, "c": c, "v": v, "k": k}.items():
        check_floating(name, x)
        if x.ndim < 2 or x.numel() == 0:
            raise ValueError(f"{name} must have shape (..., L, n) with L, n >= 1, got {tuple(x.shape)}.")
    if eps >= 1:
        return math.inf
    delta = 2 * eps / (1 - eps)
    with torch.no_grad():
        x1, c, v, k = (x.double().abs() for x in (x1, c, v, k))
        m3, n1 = v.amax((-2, -1)), v.sum(-1).amax(-1)
        q_bound = c.amax((-2, -1)) * n1 + delta * m3 * n1
        row_sum = delta * (3 * q_bound + 2 * m3 * n1)
        bound = abs(scale) * x1.sum(-2).amax(-1) * row_sum * k.amax((-2, -1))
        return float(bound.max())


class DegreeFit(NamedTuple):
    """What :func:`fit_degree` finds.

    Attributes:
        degree: g.
        rank: C(d + g, g).
        eps: relative error of the polynomial on [-R, R].
        bound: the certificate, None if none was asked for.
        gain: rank < L. Otherwise use the exact method.

    Reference: Hu et al. 2024, arXiv 2406.03136; that the degree decides between almost linear and quadratic time is
    the paper's, the bound is derived here.
    """

    degree: int
    rank: int
    eps: float
    bound: float | None
    gain: bool


def fit_degree(
    q: Tensor,
    k: Tensor,
    scale: float,
    target: float,
    *,
    kind: str = "taylor",
    certificate: tuple[Tensor, Tensor, Tensor] | None = None,
    max_degree: int = 40,
) -> DegreeFit:
    """The smallest degree that meets a target, on the Cauchy-Schwarz radius of the scores.

    Companion of Hu et al. 2024, arXiv 2406.03136.

    Args:
        q: [..., L, d].
        k: [..., L, d].
        scale: tau.
        target: without certificate, of the polynomial's relative error, in (0, 1); with one, of
            :func:`gradient_error_bound`, > 0.
        kind: "taylor" (default) or "chebyshev".
        certificate: (x1, c, v) of :func:`gradient_error_bound`, or None.
        max_degree: the highest degree that is tried. Default 40.

    Returns:
        :class:`DegreeFit`.

    Raises:
        ValueError: arguments out of range; no degree meets the target (the message names ``target``).
        TypeError: integer tensors.
    """
    check_queries_and_keys(q, k)
    scale = _finite_scale(scale)
    check_choice("kind", kind, KINDS)
    highest = 1.0 if certificate is None else math.inf
    target = check_real("target", target, 0, highest, low_open=True, high_open=True)
    max_degree = check_integer("max_degree", max_degree, 0)
    radius = float(score_radius(q, k, scale))
    for degree in range(max_degree + 1):
        eps = polynomial_relative_error(exp_polynomial(kind, degree, radius), radius)
        bound = None
        if certificate is not None:
            x1, c, v = certificate
            bound = gradient_error_bound(eps, x1, c, v, k, scale)
        if (eps if bound is None else bound) <= target:
            rank = feature_rank(q.shape[-1], degree)
            return DegreeFit(degree, rank, eps, bound, rank < k.shape[-2])
    what = "relative error" if certificate is None else "error bound"
    raise ValueError(
        f"target must be larger: no {kind} polynomial of degree <= {max_degree} has a {what} of {target:g} at radius"
        f" {radius:g}."
    )


def norm_report(q: Tensor, k: Tensor, scale: float, length: int) -> dict[str, float]:
    """The sizes that decide on which side of the phase transition attention stands.

    Hu et al. 2024, arXiv 2406.03136: Gamma against sqrt(log L).

    Args:
        q: [..., L, d].
        k: [..., L, d].
        scale: tau.
        length: L of the threshold.

    Returns:
        ``gamma_q`` = max |q|, ``gamma_k`` = max |k|, ``radius`` = |tau| max ||q_i|| max ||k_j|| and ``threshold`` =
        sqrt(log length).

    Raises:
        ValueError: shapes that do not fit, length < 1.
        TypeError: integer tensors.
    """
    check_queries_and_keys(q, k)
    scale = _finite_scale(scale)
    length = check_integer("length", length, 1)
    return {
        "gamma_q": float(q.detach().abs().max()),
        "gamma_k": float(k.detach().abs().max()),
        "radius": float(score_radius(q, k, scale)),
        "threshold": math.sqrt(math.log(length)),
    }


def critical_radius(length: int, dim: int, eps: float = 1e-3, kind: str = "taylor") -> float:
    """The largest radius at which the low-rank factors are narrower than the sequence is long.

    ``C(dim + required_degree(R, eps), dim) < length``, by bisection to 1e-3 relative. ``sqrt(R)`` against
    ``sqrt(log length)`` is the phase transition of Hu et al. 2024 (arXiv 2406.03136) for this algorithm. It ends where
    float64 does (R of about 16 at eps = 1e-3), which for dim = 2 comes before the rank reaches the length from about
    2000 tokens on.

    Args:
        length: L >= 1.
        dim: d >= 1, of one head.
        eps: relative error, in (0, 1). Default 1e-3.
        kind: "taylor" (default) or "chebyshev".

    Returns:
        R*; 0.0 if even degree 0 is too much (length 1).

    Raises:
        ValueError: arguments out of range.
    """
    length, dim = check_integer("length", length, 1), check_integer("dim", dim, 1)
    eps = check_real("eps", eps, 0, 1, low_open=True, high_open=True)
    check_choice("kind", kind, KINDS)
    if length == 1:
        return 0.0
    highest = 0
    while highest < 200 and feature_rank(dim, highest + 1) < length:
        highest += 1

    def narrower(radius: float) -> bool:
        try:
            required_degree(radius, eps, kind, max_degree=highest)
        except ValueError:
            return False
        return True

    low, high = 0.0, LARGEST_RADIUS
    while high - low > 5e-4 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if narrower(middle) else (low, middle)
    return low


def _finite_scale(scale: float) -> float:
    return check_real("scale", scale, -math.inf, math.inf, low_open=True, high_open=True)
