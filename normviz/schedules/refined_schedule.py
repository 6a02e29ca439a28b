r"""Learning-rate schedules computed from the gradient norms of an earlier run.

Defazio, Cutkosky, Mehta, Mishchenko, "When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement", arXiv
2310.07831 (2023), Algorithms 1 (SGD) and 2 (Adam). t = 1..T are the steps, G_t the norm of the gradient at step t.

    Ghat = median_filter(G), width 2 (int(tau T) // 2) + 1           smooth_gradient_norms
    w_t  = Ghat_t^-2 (l2 norms) or Ghat_t^-1 (l1 norms)              refinement_weights
    m_t  = w_t w_{t+1:T} / max_s (w_s w_{s+1:T})                     refine_schedule
    all three                                                        refine_from_norms

w_{a:b} is the sum of w_a, …, w_b. Constant norms give linear decay, norms that fall at the start give warm-up, norms
that rise at the end give faster annealing. m fixes the shape only: the base learning rate has to be tuned again.

The public code divides the weights by their last one and the multiplier by its maximum; only the second has an effect,
and only it is done here. The bound that the weights minimise is in :mod:`normviz.schedules.last_iterate`.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from normviz.schedules._sequences import Values, as_norms, as_weights, interpolate, sums_after
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["refine_from_norms", "refine_schedule", "refinement_weights", "smooth_gradient_norms"]

METHODS = ("median", "min", "none")
POWERS = {"l2": 2.0, "l1": 1.0}
"""Exponent p of w = G^-p: 2 for SGD's bound in l2 norms, 1 for coordinate-wise methods in l1 norms."""
ZERO_NORM = 1e-12
"""What a zero norm is replaced by, relative to the largest norm."""


def smooth_gradient_norms(norms: Values, tau: float = 0.1, method: str = "median") -> Tensor:
    """Gradient norms without outliers: the median of a window around each step.

    The window has the odd width 2 (int(tau T) // 2) + 1. Before the first step the first norm is repeated; after the
    last one the norms are mirrored, the last one itself not repeated (the public code's padding).

    Args:
        norms: G_1, …, G_T, at least two, >= 0. Not changed.
        tau: width of the window relative to T, in [0, 1]. Default 0.1 (the paper's plots). 0: no smoothing.
        method: "median" (default, the paper); "min", the smallest norm of the same window (not in the paper); "none".

    Returns:
        T smoothed norms, float64.

    Raises:
        ValueError: ``norms`` is not 1-D, has fewer than two entries or one that is negative or not finite; ``tau`` is
            outside [0, 1]; unknown ``method``.

    An outlier narrower than half the window leaves constant norms constant, with two exceptions that come from the
    padding: one at the first step is repeated, and one near the last step is counted twice there.

    Example:
        >>> smooth_gradient_norms([1.0, 1.0, 9.0, 1.0, 1.0, 1.0], tau=0.5).tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]

    Reference: Defazio et al., arXiv 2310.07831, Algorithm 1 (median filter).
    """
    G = as_norms(norms)
    check_real("tau", tau, 0, 1)
    check_choice("method", method, METHODS)
    half = int(tau * len(G)) // 2
    if half == 0 or method == "none":
        return G
    from scipy.ndimage import median_filter, minimum_filter1d

    padded = np.concatenate([np.full(half, G[0]), G.numpy(), G.flip(0)[1 : half + 1].numpy()])
    smooth = (median_filter if method == "median" else minimum_filter1d)(padded, size=2 * half + 1)
    return torch.from_numpy(smooth[half : half + len(G)].copy())


def refinement_weights(norms: Values, norm_type: str = "l2", exponent: float | None = None) -> Tensor:
    """Weights w_t = G_t^-p up to a common factor: constant norms give ones.

    They minimise the last iterate's bound of SGD (p = 2) and of coordinate-wise methods such as Adam (p = 1, with l1
    norms of the whole gradient). Norms are divided by their median first, so that their scale does not matter, also at
    1e-200 and 1e200.

    Args:
        norms: G_1, …, G_T, usually smoothed; at least two, >= 0, one of them > 0. Not changed.
        norm_type: what the norms are: "l2" (default, p = 2) or "l1" (p = 1).
        exponent: replaces p, > 0.

    Returns:
        T weights, float64.

    Raises:
        ValueError: ``norms`` is not 1-D, has fewer than two entries, or one that is negative or not finite, or only
            zeros; unknown ``norm_type``; ``exponent`` <= 0.

    Zero norms, whose weight would be infinite, are replaced by 1e-12 of the largest norm, with a UserWarning.

    Example:
        >>> refinement_weights([2.0, 1.0, 1.0]).tolist()
        [0.25, 1.0, 1.0]

    Reference: Defazio et al., arXiv 2310.07831, Algorithms 1 (p = 2) and 2 (p = 1).
    """
    check_choice("norm_type", norm_type, POWERS)
    power = POWERS[norm_type] if exponent is None else exponent
    check_real("exponent", power, 0, low_open=True, high_open=True)
    G = without_zeros(as_norms(norms), stacklevel=3)
    weights = (G / G.median()).pow(-power)
    if bool(torch.isfinite(weights).all()):
        return weights
    # Some norms are so far below the median that their weight overflows: the smallest norm is the unit instead.
    return (-power * (G.log() - G.min().log())).exp()


def without_zeros(norms: Tensor, stacklevel: int) -> Tensor:
    """Norms whose zeros are replaced by ``ZERO_NORM`` times the largest.

    Raises:
        ValueError: all are zero.
    """
    zero = norms == 0
    if not bool(zero.any()):
        return norms
    if bool(zero.all()):
        raise ValueError("norms must have an entry > 0, got only zeros.")
    warnings.warn(
        f"norms has {int(zero.sum())} zeros among {len(norms)}; they are replaced by {ZERO_NORM:g} of the largest.",
        UserWarning,
        stacklevel=stacklevel,
    )
    return norms.masked_fill(zero, max(ZERO_NORM * float(norms.max()), math.ulp(0.0)))


def refine_schedule(weights: Values, normalize: bool = True) -> Tensor:
    """Multipliers of the learning rate from weights: m_t = w_t w_{t+1:T}.

    The last one is always 0: the last iterate is the point before step T.

    Args:
        weights: w_1, …, w_T >= 0, one of them > 0. Not changed.
        normalize: divide by the largest m (default); the weights' scale then does not matter. False: divide by w_{1:T},
            the theory's shape, which is 1 - t/T for weights of one.

    Returns:
        T multipliers, float64; all zero if only the last weight of all is positive or T = 1, since no step is then
        taken.

    Raises:
        ValueError: ``weights`` is empty, not 1-D, all zero, or has an entry that is negative or not finite.

    Example:
        >>> refine_schedule([1.0, 1.0, 1.0, 1.0, 1.0]).tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
        >>> refine_schedule([1.0, 1.0, 1.0, 1.0], normalize=False).tolist()
        [0.75, 0.5, 0.25, 0.0]

    Reference: Defazio et al., arXiv 2310.07831, Theorem 1 and Algorithm 1.
    """
    w = as_weights(weights)
    largest = w.max()
    scaled = w / largest
    m = scaled * sums_after(scaled)
    if not normalize:
        return largest * (m / scaled.sum())
    return m / m.max() if bool(m.max() > 0) else m


def refine_from_norms(
    norms: Values,
    norm_type: str,
    tau: float = 0.1,
    total_steps: int | None = None,
    drop_nonfinite: bool = True,
) -> Tensor:
    """The refined schedule of a run: smooth its gradient norms, weigh, and compute the multipliers.

    Args:
        norms: G_1, …, G_T recorded in a run, before any clipping; at least two finite ones, >= 0. Not changed.
        norm_type: what they are: "l2" for SGD, "l1" for Adam and other coordinate-wise methods.
        tau: width of the median filter relative to T, in [0, 1]. Default 0.1 (the paper's plots).
        total_steps: length of the result, >= 2. Default: the length of ``norms``.
        drop_nonfinite: leave out infinite and NaN norms with a UserWarning (default). False: refuse them.

    Returns:
        ``total_steps`` multipliers in [0, 1], float64, the last 0. If the history has another length (shortened by
        dropped norms, or because ``total_steps`` says so), the multiplier is interpolated over relative time
        u = (t-1)/(T-1), and not divided by its maximum again: the curve is the same for every length.

    Raises:
        ValueError: ``norms`` is not 1-D, has fewer than two usable entries, a negative one, or only zeros; one that is
            not finite with ``drop_nonfinite=False``; unknown ``norm_type``; ``tau`` outside [0, 1];
            ``total_steps`` < 2.

    Example:
        >>> m = refine_from_norms([4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0], "l2", tau=0)
        >>> int(m.argmax()), round(float(m[0]), 3)
        (3, 0.084)

    Reference: Defazio et al., arXiv 2310.07831, Algorithms 1 and 2.
    """
    check_choice("norm_type", norm_type, POWERS)
    check_real("tau", tau, 0, 1)
    length = None if total_steps is None else check_integer("total_steps", total_steps, 2)
    G = as_norms(norms, finite=not drop_nonfinite)
    length = len(G) if length is None else length
    finite = torch.isfinite(G)
    dropped = len(G) - int(finite.sum())
    if dropped:
        warnings.warn(
            f"norms has {dropped} infinite or NaN entries among {len(G)}; they are left out.",
            UserWarning,
            stacklevel=2,
        )
        G = as_norms(G[finite])
    smooth = without_zeros(smooth_gradient_norms(G, tau), stacklevel=3)
    return interpolate(refine_schedule(refinement_weights(smooth, norm_type)), length)
