"""The Beta density that BNPO divides by: its fit to the mean rewards and the second moment it minimises.

Xiao, Zhang, Cao, "BNPO: Beta Normalization Policy Optimization", arXiv 2506.02864, 2025.

p_1, ..., p_Q are the mean rewards of Q questions, modelled as Beta(a, b) variables and fitted by moments; the
normaliser is the Beta(alpha, beta) density f with alpha = max(1 + a/3, 1), beta = max(1 + b/3, 1).

The theorem: if p ~ Beta(a, b), R | p ~ Bernoulli(p), A = (R - p) / f(p) and |grad log pi|^2 is uncorrelated with A^2,
the gradient's second moment is E|grad log pi|^2 V(alpha, beta). log V is convex where it is finite and its derivative
in alpha vanishes where alpha = a + 3 - 2 alpha, so alpha = 1 + a/3, beta = 1 + b/3 is the only minimum. The second
moment is the variance only where the mean gradient is small beside the noise: the theorem does not normalise by it.

Densities are computed in float64 (float32 on MPS), because log f is a difference of large numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normviz.validation import check_real
from normviz.weighting._values import at_least_float32, readable

__all__ = ["beta_moments", "bnpo_parameters", "gradient_second_moment", "inverse_density"]


def beta_moments(p: Tensor, eps: float = 1e-12) -> tuple[Tensor, Tensor]:
    """Fit Beta(a, b) to the mean rewards by moments: kappa = m (1 - m) / v - 1, a = kappa m, b = kappa (1 - m).

    m is the mean and v the unbiased variance over the Q questions. a and b are not clamped: v > m (1 - m), possible
    with the unbiased variance, makes them negative.

    Args:
        p: mean rewards [Q] in [0, 1].
        eps: v <= eps counts as "all equal" (1e-12, ours) and gives a = b = 0. Q = 1 gives (0, -1), as m = 0, v = 1
            of the official code do.

    Returns:
        (a, b), 0-dim, in p's dtype (float32 for half types).

    Raises:
        ValueError: p is not 1-D or empty, or has values outside [0, 1]; eps < 0.

    Example:
        >>> a, b = beta_moments(torch.tensor([0.25, 0.5, 0.75]))
        >>> round(float(a), 4), round(float(b), 4)
        (1.5, 1.5)
    """
    check_real("eps", eps, 0.0)
    check_probabilities(p)
    dtype = at_least_float32(p).dtype
    a, b = moments(in_double(p.detach()), eps)
    return a.to(dtype), b.to(dtype)


def bnpo_parameters(p: Tensor) -> tuple[Tensor, Tensor]:
    """The variance-minimal normaliser: alpha = max(1 + a/3, 1), beta = max(1 + b/3, 1) with (a, b) fitted to p.

    If all p are equal alpha = beta = 1: the limiting density is a spike whose common factor would only rescale the
    learning rate (ours; the official code gives NaN or raises).

    Args:
        p: mean rewards [Q] in [0, 1].

    Returns:
        (alpha, beta), 0-dim, in p's dtype (float32 for half types).

    Raises:
        ValueError: p is not 1-D or empty, or has values outside [0, 1].
    """
    a, b = beta_moments(p)
    return normaliser(a), normaliser(b)


def moments(p: Tensor, eps: float = 1e-12) -> tuple[Tensor, Tensor]:
    """(a, b) of a double-precision p, see beta_moments."""
    if p.shape[0] == 1:
        return torch.zeros_like(p[0]), -torch.ones_like(p[0])
    m, v = p.mean(), p.var(correction=1)
    equal = v <= eps
    kappa = torch.where(equal, 0.0, m * (1 - m) / torch.where(equal, 1.0, v) - 1)
    return kappa * m, kappa * (1 - m)


def normaliser(fitted: Tensor) -> Tensor:
    """1 + a/3, at least 1: keeps the density bounded and unimodal."""
    return (1 + fitted / 3).clamp(min=1.0)


def log_beta(x: Tensor, y: Tensor) -> Tensor:
    """log B(x, y)."""
    return torch.lgamma(x) + torch.lgamma(y) - torch.lgamma(x + y)


def in_double(x: Tensor) -> Tensor:
    """``x`` in float64, except on MPS, which has none."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def inverse_density(
    p: Tensor, alpha: float | None, beta: float | None, max_weight: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(weight [Q], a, b, alpha, beta) in p's dtype, with weight = min(1/f(p), max_weight)."""
    x = in_double(p)
    a, b = moments(x)
    shape_1 = normaliser(a) if alpha is None else torch.full_like(a, alpha)
    shape_2 = normaliser(b) if beta is None else torch.full_like(b, beta)
    log_f = torch.xlogy(shape_1 - 1, x) + torch.xlogy(shape_2 - 1, 1 - x) - log_beta(shape_1, shape_2)  # [Q]
    weight = torch.exp(-log_f).clamp(max=max_weight)
    return weight.to(p.dtype), a.to(p.dtype), b.to(p.dtype), shape_1.to(p.dtype), shape_2.to(p.dtype)


def gradient_second_moment(
    alpha: float | Tensor, beta: float | Tensor, a: float | Tensor, b: float | Tensor
) -> Tensor:
    """V(alpha, beta) = E[(R - p)^2 / f(p)^2] = B(alpha, beta)^2 B(a + 3 - 2 alpha, b + 3 - 2 beta) / B(a, b).

    p ~ Beta(a, b), R | p ~ Bernoulli(p), f the Beta(alpha, beta) density. The gradient's second moment is
    E|grad log pi|^2 V. Minimal at alpha = 1 + a/3, beta = 1 + b/3; (pi/8)^2 at alpha = beta = 3/2 (GRPO) whatever a, b.

    Args:
        alpha, beta: of the normaliser; V = +inf outside 0 < alpha < (a + 3)/2, 0 < beta < (b + 3)/2.
        a, b: of the distribution of p, > 0.

    Returns:
        V, broadcast over the arguments, differentiable inside the domain; float64 for floats alone, else the tensors'
        dtype (at least float32).

    Raises:
        ValueError: a <= 0 or b <= 0.

    Example:
        >>> float(gradient_second_moment(1.5, 1.5, 2.0, 5.0) / (math.pi / 8) ** 2)  # doctest: +ELLIPSIS
        1.0...
    """
    arguments = (alpha, beta, a, b)
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    dtype, device = (torch.float32, tensors[0].device) if tensors else (torch.float64, None)
    for x in tensors:
        dtype = torch.promote_types(dtype, x.dtype)
    alpha, beta, a, b = (
        x.to(dtype) if isinstance(x, Tensor) else torch.tensor(x, dtype=dtype, device=device)
        for x in arguments
    )
    for name, value in (("a", a), ("b", b)):
        if readable(value) and not bool((value > 0).all()):
            raise ValueError(f"{name} must be > 0, got {value.detach()}.")
    rest_1, rest_2 = a + 3 - 2 * alpha, b + 3 - 2 * beta
    outside = (alpha <= 0) | (beta <= 0) | (rest_1 <= 0) | (rest_2 <= 0)
    # Harmless stand-ins where V is infinite, so that no NaN enters the gradient.
    x, y, u, v = (torch.where(outside, 1.0, t) for t in (alpha, beta, rest_1, rest_2))
    log_v = 2 * log_beta(x, y) + log_beta(u, v) - log_beta(a, b)
    return torch.where(outside, math.inf, log_v.exp())


def check_probabilities(p: Tensor) -> None:
    """Raise ValueError unless ``p`` is [Q] with values in [0, 1] (values in eager mode only)."""
    if p.ndim != 1 or p.shape[0] == 0 or p.is_complex():
        raise ValueError(f"p must have shape [Q] with Q >= 1, got {tuple(p.shape)}.")
    if readable(p) and not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError(
            f"p must lie in [0, 1], got values from {float(p.detach().min()):g} to {float(p.detach().max()):g}."
        )
