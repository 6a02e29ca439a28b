"""What loss-based weights optimise and what they buy: KL-regularised DRO and a bound on the optimality gap.

Sow et al., "Dynamic Loss-Based Sample Reweighting for Improved Large Language Model Pretraining", ICLR 2025,
arXiv 2502.06733.

The weights w_i proportional to exp(s_i / r) maximise sum_i w_i s_i - r KL(w || uniform) over the simplex; the maximum
is r log((1/M) sum_i exp(s_i / r)).

The bound is derived here in the paper's setting (the paper's own constants are not used): f_i convex, each L-smooth,
with a common minimiser theta* (interpolation), Delta_i = f_i(theta) - f_i(theta*), step theta - eta sum_i w_i grad f_i
with eta <= 1/L. Then |theta+ - theta*|^2 <= |theta - theta*|^2 - 2 eta sum_i w_i Delta_i; summed over T steps::

    (1/T) sum_t mean_i Delta_i^t <= |theta_0 - theta*|^2 / (2 eta T) - (1/T) sum_t sum_i (w_i^t - 1/M) Delta_i^t.

The last sum is M times the covariance of weights and gaps. It is >= 0 where w is non-decreasing in the loss (LinUpper,
upper), so the bound is never worse than that of uniform weights; for Quadratic it can be negative.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normviz.validation import check_real
from normviz.weighting._values import at_least_float32

__all__ = ["kl_dro_value", "weighted_gap_bound"]


def kl_dro_value(s: Tensor, r: float) -> Tensor:
    """max over the simplex of sum_i w_i s_i - r KL(w || uniform) = r log((1/M) sum_i exp(s_i / r)).

    Args:
        s: scores [M].
        r: temperature > 0.

    Returns:
        0-dim, differentiable in s (the gradient is the maximising w), by logsumexp: no overflow.

    Raises:
        ValueError: s not 1-D or empty, r <= 0.

    Example:
        >>> kl_dro_value(torch.tensor([1.0, 1.0]), r=0.1)
        tensor(1.)
    """
    check_real("r", r, 0.0, math.inf, low_open=True, high_open=True)
    if s.ndim != 1 or s.shape[0] == 0:
        raise ValueError(f"s must have shape [M] with M >= 1, got {tuple(s.shape)}.")
    return r * (torch.logsumexp(at_least_float32(s) / r, 0) - math.log(s.shape[0]))


def weighted_gap_bound(
    delta_hist: Tensor, w_hist: Tensor, eta: float, dist0_sq: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Both sides of the module's bound after the T steps given (pass prefixes for a curve).

    Args:
        delta_hist: optimality gaps Delta_i^t >= 0 [T, M], before each step.
        w_hist: the weights used in each step [T, M].
        eta: step size, at most 1/L for the bound to hold.
        dist0_sq: |theta_0 - theta*|^2.

    Returns:
        (lhs, rhs), 0-dim each.

    Raises:
        ValueError: histories not of one shape [T, M] with T, M >= 1; eta <= 0; dist0_sq < 0.
    """
    check_real("eta", eta, 0.0, math.inf, low_open=True, high_open=True)
    if not isinstance(dist0_sq, Tensor):
        check_real("dist0_sq", dist0_sq, 0.0)
    if delta_hist.ndim != 2 or delta_hist.numel() == 0:
        raise ValueError(f"delta_hist must have shape [T, M] with T, M >= 1, got {tuple(delta_hist.shape)}.")
    if w_hist.shape != delta_hist.shape:
        raise ValueError(
            f"w_hist must have delta_hist's shape {tuple(delta_hist.shape)}, got {tuple(w_hist.shape)}."
        )
    gaps, w = at_least_float32(delta_hist), at_least_float32(w_hist)
    T, M = gaps.shape
    rhs = dist0_sq / (2 * eta * T) - ((w - 1 / M) * gaps).sum() / T
    return gaps.mean(), rhs
