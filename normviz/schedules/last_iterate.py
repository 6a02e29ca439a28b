r"""Bounds for the last iterate of subgradient descent, and the learning rates that make them small.

Defazio, Cutkosky, Mehta, Mishchenko, arXiv 2310.07831 (2023). f is convex, D >= ||x_1 - x*||, G_t the norm of the
gradient at x_t, w_t >= 0 weights, w_{a:b} the sum of w_a, …, w_b, t = 1..T. x_T is the point BEFORE step T.

    conversion (Theorem 1)   x_1 = z_1,  x_{t+1} = x_t + (w_{t+1:T}/w_{1:T}) (z_{t+1} - z_t)
                             E f(x_T) - f(u) <= E sum_t w_t <g_t, z_t - u> / w_{1:T}       last_iterate_conversion
    SGD                      eta_t = eta w_t w_{t+1:T} / w_{1:T},  eta = D / sqrt(sum w_t^2 G_t^2)
                             f(x_T) - f* <= D sqrt(sum w_t^2 G_t^2) / w_{1:T}              theory_learning_rates
    any steps lambda_t       f(x_T) - f* <= B(lambda)                                      last_iterate_bound
                             the lambda that minimises B                                   optimize_schedule_bound

Any learner's iterates z can be converted; the guarantee asks that w_t does not depend on g_t given the past, so for
weights computed from the gradients of the same run it is a heuristic.

B is computed in a simpler form than the paper's. With the tail sums S_k = lambda_{k:T} the paper's last sum has the
factors lambda_k / (S_{k+1} S_k) = 1/S_{k+1} - 1/S_k, and summing by parts leaves

    B = D^2 / (2 S_1) + (1/2) sum_{k<T} lambda_k^2 G_k^2 / S_{k+1} + (1/2) lambda_T G_T^2.

Each term is convex in lambda, so B has one minimum. Its terms also have one degree each in the tail sums, which gives
the minimum in closed form, from the end to the start:

    a_k = G_k^2,  f_T = a_T,  r_k = S_{k+1}/S_k = sqrt(a_k / (a_k + f_{k+1})),  f_k = 2 f_{k+1} r_k / (1 + r_k),
    S_1 = D / sqrt(f_1),  B = D sqrt(f_1).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normviz.schedules._sequences import Values, as_norms, as_values, as_weights, sums_after
from normviz.schedules.refined_schedule import refinement_weights, without_zeros
from normviz.validation import check_integer, check_real

__all__ = [
    "last_iterate_bound",
    "last_iterate_conversion",
    "optimize_schedule_bound",
    "theory_learning_rates",
]

Array = NDArray[np.float64]

LOWEST_STEP = 1e-8
"""Lower bound of a step in the numeric minimisation (the public code's), in units of D / max G."""


def conversion_factors(weights: Tensor) -> Tensor:
    """c_t = w_{t+1:T} / w_{1:T} for t = 1..T; the last one is 0."""
    scaled = weights / weights.max()
    return sums_after(scaled) / scaled.sum()


def last_iterate_conversion(z: Tensor, weights: Values) -> Tensor:
    """The iterates x of Theorem 1 from a learner's iterates z: updates shrunk by w_{t+1:T}/w_{1:T}.

    Args:
        z: (T, …), floating; z_t is ``z[t-1]``. Not changed.
        weights: w_1, …, w_T >= 0, one of them > 0.

    Returns:
        x (T, …) in z's dtype, differentiable in z. Half types are added up in float32.

    Raises:
        ValueError: ``weights`` is empty, not 1-D, all zero, negative or not finite; z has no axis, is not floating or
            has another length than ``weights``.

    Example:
        >>> last_iterate_conversion(torch.tensor([0.0, 1.0, 2.0, 3.0]), [1.0, 1.0, 1.0, 1.0]).tolist()
        [0.0, 0.75, 1.25, 1.5]

    Reference: Defazio et al., arXiv 2310.07831, Theorem 1.
    """
    w = as_weights(weights)
    if z.ndim == 0 or not (z.is_floating_point() or z.is_complex()):
        raise ValueError(
            f"z must be floating and have at least 1 axis, got {z.dtype} of shape {tuple(z.shape)}."
        )
    if len(w) != len(z):
        raise ValueError(
            f"weights must have one entry per iterate z, got {len(w)} weights and {len(z)} iterates."
        )
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    c = conversion_factors(w)[:-1].to(z.device, wide.dtype).reshape(-1, *[1] * (z.ndim - 1))  # (T-1, 1, …)
    steps = torch.cat([wide[:1], c * (wide[1:] - wide[:-1])])
    return steps.cumsum(0).to(z.dtype)


def theory_learning_rates(
    norms_or_T: int | Values, D: float = 1.0, G: float | None = None, weights: Values | None = None
) -> tuple[Tensor, float]:
    """Learning rates of SGD with the smallest guarantee for the last iterate, and that guarantee.

    eta_t = eta w_t w_{t+1:T} / w_{1:T} with eta = D / sqrt(sum w_t^2 G_t^2). For T steps with G_t <= G and w = 1 this
    is linear decay D/(G sqrt(T)) (1 - t/T) with the guarantee D G / sqrt(T); for a history and w_t = G_t^-2 the
    guarantee is D / sqrt(sum G_t^-2). The last learning rate is 0.

    Args:
        norms_or_T: the number of steps T >= 2, or a history of norms G_1, …, G_T (l2). Not changed.
        D: distance from the first point to a minimiser, > 0. Default 1.
        G: bound of the norms, > 0, only with a number of steps. Default 1.
        weights: replaces w: T numbers >= 0, one of them > 0; their scale does not matter.

    Returns:
        (learning rates (T,), float64; guarantee).

    Raises:
        ValueError: T < 2; norms not 1-D, fewer than two, negative, not finite or all zero; D or G <= 0; G with a
            history; weights not 1-D, all zero, negative or not finite, or of another length; only zero norms where the
            weights are positive.

    Zero norms among the history are replaced as in :func:`refinement_weights`, with a UserWarning.

    Example:
        >>> lrs, guarantee = theory_learning_rates(4, D=2.0, G=1.0)
        >>> lrs.tolist(), guarantee
        ([0.75, 0.5, 0.25, 0.0], 1.0)

    Reference: Defazio et al., arXiv 2310.07831, Theorem 1 with SGD, and its corollaries.
    """
    check_real("D", D, 0, low_open=True, high_open=True)
    if G is not None:
        check_real("G", G, 0, low_open=True, high_open=True)
    if isinstance(norms_or_T, int | float | np.integer):
        T = check_integer("norms_or_T", norms_or_T, 2)
        norms = torch.full((T,), 1.0 if G is None else float(G), dtype=torch.float64)
        w = torch.ones_like(norms)
    elif G is not None:
        raise ValueError(
            f"G must be None for a history of norms, which replaces it, got {G!r}; scale the norms instead."
        )
    else:
        norms = as_norms(norms_or_T)
        if weights is None:
            norms = without_zeros(norms, stacklevel=3)
            w = refinement_weights(norms)
    if weights is not None:
        w = as_weights(weights)
        if len(w) != len(norms):
            raise ValueError(
                f"weights must have one entry per norm, got {len(w)} weights and {len(norms)} norms."
            )
    w = w / w.max()
    products = w * (norms / norms.max())
    largest = float(products.max())
    if not largest > 0:
        raise ValueError("norms must have an entry > 0 where weights has one, got only zeros there.")
    length = float(norms.max()) * largest * float((products / largest).square().sum().sqrt())
    lrs = (D / length) * w * conversion_factors(w)
    return lrs, D * length / float(w.sum())


def last_iterate_bound(lrs: Values, norms: Values, D: float = 1.0) -> float:
    """B(lambda): a bound of f(x_T) - f* for subgradient descent with any steps lambda_1, …, lambda_T. O(T).

    Args:
        lrs: the steps lambda, >= 0. Not changed.
        norms: G_1, …, G_T, at least two, >= 0. Not changed.
        D: distance from the first point to a minimiser, > 0. Default 1.

    Returns:
        The bound; infinite if the last step is 0. In the units of D times G.

    Raises:
        ValueError: ``lrs`` or ``norms`` not 1-D, negative or not finite, fewer than two norms, different lengths;
            D <= 0.

    Example:
        >>> last_iterate_bound([0.5, 0.5], [1.0, 1.0])
        1.0

    Reference: Defazio et al., arXiv 2310.07831, the bound for arbitrary step sizes (simplified, see the module).
    """
    G = as_norms(norms)
    steps = as_values("lrs", lrs)
    if len(steps) != len(G):
        raise ValueError(f"lrs must have one entry per norm, got {len(steps)} steps and {len(G)} norms.")
    check_real("D", D, 0, low_open=True, high_open=True)
    if float(steps[-1]) == 0:
        return math.inf
    unit = float(G.max()) or 1.0
    return D * unit * _bound((steps * (unit / D)).numpy(), (G / unit).square().numpy())[0]


def _bound(steps: Array, a: Array) -> tuple[float, Array]:
    """B and its gradient for D = 1, from steps > 0 at the end and squared norms a."""
    tails = steps[::-1].cumsum()[::-1]  # S_k
    ratios = steps[:-1] / tails[1:]  # lambda_k / S_{k+1}
    value = 0.5 / tails[0] + 0.5 * (ratios * steps[:-1] * a[:-1]).sum() + 0.5 * steps[-1] * a[-1]
    gradient = np.full_like(steps, -0.5 / tails[0] ** 2)
    gradient[:-1] += ratios * a[:-1]
    gradient[1:] -= 0.5 * (ratios**2 * a[:-1]).cumsum()
    gradient[-1] += 0.5 * a[-1]
    return float(value), gradient


def optimize_schedule_bound(
    norms: Values, D: float = 1.0, max_iter: int | None = None
) -> tuple[Tensor, float]:
    """The steps with the smallest bound B, and that bound.

    By default in closed form (see the module). With ``max_iter`` by the public code's numeric minimisation: L-BFGS-B
    with 20 corrections from D/(max G sqrt(T)) everywhere, gradient tolerance 1e-10, steps >= 1e-8 D / max G. It needs
    about T iterations for constant norms, and far more than 10,000 for 1,000 noisy ones.

    Args:
        norms: G_1, …, G_T, at least two, >= 0, one of them > 0. Not changed.
        D: distance from the first point to a minimiser, > 0. Default 1.
        max_iter: None (default): the exact minimum. Otherwise at most so many iterations, >= 1.

    Returns:
        (steps (T,), float64; their bound). The last step is positive. The bound is larger than what
        :func:`theory_learning_rates` guarantees (twice as large for constant norms and large T): it is proved another
        way, and its best steps are near linear decay but not equal to it.

    Raises:
        ValueError: ``norms`` not 1-D, fewer than two, negative, not finite or all zero; D <= 0; max_iter < 1.

    Zero norms are replaced as in :func:`refinement_weights`, with a UserWarning.

    Example:
        >>> lrs, bound = optimize_schedule_bound([1.0] * 50)
        >>> round(bound, 3)
        0.281

    Reference: Defazio et al., arXiv 2310.07831; the closed form is derived in the module's docstring.
    """
    check_real("D", D, 0, low_open=True, high_open=True)
    if max_iter is not None:
        check_integer("max_iter", max_iter, 1)
    G = without_zeros(as_norms(norms), stacklevel=3)
    unit = float(G.max())
    a = (G / unit).square().numpy()
    steps = _exact_minimum(a) if max_iter is None else _numeric_minimum(a, max_iter)
    return torch.from_numpy(steps * (D / unit)), D * unit * _bound(steps, a)[0]


def _exact_minimum(a: Array) -> Array:
    """The minimiser of B for D = 1, from the last step to the first one and back."""
    smallest = math.ulp(0.0)
    f = max(float(a[-1]), smallest)
    parts, kept = [], []  # lambda_k / S_k and S_{k+1} / S_k for k = T-1, …, 1
    for a_k in np.maximum(a[-2::-1], smallest).tolist():
        r = math.sqrt(a_k / (a_k + f))
        kept.append(r)
        parts.append(f / ((a_k + f) * (1 + r)))
        f = 2 * f * r / (1 + r)
    tails = np.concatenate([[1.0], np.cumprod(kept[::-1])]) / math.sqrt(f)  # S_1, …, S_T
    steps: Array = tails * np.concatenate([parts[::-1], [1.0]])
    return steps


def _numeric_minimum(a: Array, max_iter: int) -> Array:
    """L-BFGS-B on B for D = 1, from equal steps."""
    from scipy.optimize import minimize

    options = {"maxcor": 20, "gtol": 1e-10, "ftol": 0.0, "maxiter": max_iter, "maxfun": 3 * max_iter + 20}
    start = np.full(len(a), len(a) ** -0.5)
    bounds = [(LOWEST_STEP, None)] * len(a)
    steps: Array = minimize(
        _bound, start, args=(a,), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    ).x
    return steps
