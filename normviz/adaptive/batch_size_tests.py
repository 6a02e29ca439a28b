r"""Is the batch large enough? Tests of a minibatch gradient's noise, each with a batch size that would pass.

Lau, Liu, Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods", arXiv 2402.11215 (2024), after
Byrd et al. (2012) and Bollapragada et al. (2018). g_i are the gradients of the b samples of a batch, g their mean, V
their elementwise variance (divisor b - 1). A batch passes if s <= b, otherwise ceil(s) is suggested:

    norm              s = ||V||_1 / (eta^2 ||g||^2)                                       norm_test
    inner product     s = Var_i(<g_i, g>) / (theta^2 ||g||^4)                             inner_product_test
    orthogonality     s = ||Var_i(r_i)||_1 / (nu^2 ||g||^2)                               orthogonality_test
                      r_i = g_i - (<g_i, g> / ||g||^2) g
    augmented         the larger of the last two                                          augmented_inner_product_test
    coordinate-wise   s = max_j V_j / (eta^2 g_j^2)                                       coordinatewise_norm_test

||V||_1 = Var_i(<g_i, g>)/||g||^2 + ||Var_i(r_i)||_1, so the norm test splits into the next two.

The public code computes the inner products of each parameter tensor on its own and adds up their variances, which drops
the covariances between tensors. That is ``blockwise=True``; the default follows the equations. The norm test is the
same both ways.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from normviz.adaptive.gradient_moments import GradientMoments, Gradients, sample_tensors
from normviz.validation import check_real

__all__ = [
    "BatchTestResult",
    "Ratio",
    "augmented_inner_product_test",
    "augmented_ratio",
    "check_quantile",
    "check_tolerance",
    "coordinatewise_norm_test",
    "coordinatewise_ratio",
    "inner_product_ratio",
    "inner_product_test",
    "norm_ratio",
    "norm_test",
    "orthogonality_ratio",
    "orthogonality_test",
]


class BatchTestResult(NamedTuple):
    """What a batch-size test found.

    Attributes:
        batch_size: the batch's size b if it passed, else ceil(suggestion). In the history of
            :class:`normviz.adaptive.AdaptiveBatchSize`: the size after its rule and its cap.
        suggestion: s, the (real) batch size at which the test would just pass; may be infinite in that history.
        passed: s <= b.
        variance: numerator of s, before it is divided by b: ||V||_1 (norm, coordinate-wise), Var_i(<g_i, g>) (inner
            product) or ||Var_i(r_i)||_1 (orthogonality); augmented: of the one with the larger suggestion.
        grad_norm_sq: ||g||^2.

    Reference: Lau et al., arXiv 2402.11215; equations in :mod:`normviz.adaptive.batch_size_tests`.
    """

    batch_size: int
    suggestion: float
    passed: bool
    variance: float
    grad_norm_sq: float


class Ratio(NamedTuple):
    """s of a test, which may be infinite, with the batch's size, the numerator of s and ||g||^2."""

    size: int
    suggestion: float
    variance: float
    grad_norm_sq: float


# ------------------------------------------------------------------------------------------- the five tests


def norm_test(grads: Gradients | GradientMoments, eta: float = 0.1) -> BatchTestResult:
    """Whether the variance of g is at most eta^2 times its squared norm: ||V||_1 / b <= eta^2 ||g||^2.

    Args:
        grads: (B, *shape) per parameter, as a dict or a sequence, or their moments. B >= 2.
        eta: allowed ratio of noise and gradient, > 0 (below 1 in the theory). Default 0.1 (public code).

    Returns:
        The result, statistics in float64 for float64 gradients, else at least float32.

    Raises:
        ValueError: eta <= 0; no tensors, different B, B < 2, gradients that are not finite; g = 0 with V > 0, for which
            no batch size passes.

    Example:
        >>> result = norm_test([torch.tensor([[1.0], [3.0]])], eta=0.5)
        >>> result.suggestion, result.passed, result.batch_size
        (2.0, True, 2)

    Reference: Lau et al., arXiv 2402.11215, norm test.
    """
    check_tolerance("eta", eta)
    return _verdict(norm_ratio(grads, eta))


def inner_product_test(grads: Gradients, theta: float = 0.1, blockwise: bool = False) -> BatchTestResult:
    """Whether <g_i, g> scatters little: Var_i(<g_i, g>) / b <= theta^2 ||g||^4.

    Args:
        grads: (B, *shape) per parameter, as a dict or a sequence. B >= 2.
        theta: > 0. Default 0.1 (public code; Bollapragada et al. use 0.9).
        blockwise: add up the variances of the tensors' own inner products (the public code). Default False: the
            variance of the whole inner product.

    Returns:
        The result.

    Raises:
        ValueError: theta <= 0, and as :func:`norm_test`.

    Example:
        >>> inner_product_test([torch.tensor([[1.0], [3.0]])], theta=0.5).suggestion
        2.0

    Reference: Lau et al., arXiv 2402.11215, inner product test.
    """
    check_tolerance("theta", theta)
    return _verdict(inner_product_ratio(grads, theta, blockwise))


def orthogonality_test(grads: Gradients, nu: float = 0.1, blockwise: bool = False) -> BatchTestResult:
    """Whether the parts r_i of g_i that are orthogonal to g scatter little: ||Var_i(r_i)||_1 / b <= nu^2 ||g||^2.

    Args:
        grads: (B, *shape) per parameter, as a dict or a sequence. B >= 2.
        nu: > 0. Default 0.1 (public code; Bollapragada et al. use 5.84).
        blockwise: project each tensor on its own mean (the public code). Default False. Where the mean is 0, r_i = g_i.

    Returns:
        The result.

    Raises:
        ValueError: nu <= 0, and as :func:`norm_test`.

    Example:
        >>> orthogonality_test([torch.tensor([[1.0, 1.0], [1.0, -1.0]])], nu=1.0).suggestion
        2.0

    Reference: Lau et al., arXiv 2402.11215, orthogonality test.
    """
    check_tolerance("nu", nu)
    return _verdict(orthogonality_ratio(grads, nu, blockwise))


def augmented_inner_product_test(
    grads: Gradients, theta: float = 0.1, nu: float = 0.1, blockwise: bool = False
) -> BatchTestResult:
    """The inner product test and the orthogonality test together: the larger suggestion.

    Args:
        grads: (B, *shape) per parameter, as a dict or a sequence. B >= 2.
        theta: of :func:`inner_product_test`, > 0. Default 0.1.
        nu: of :func:`orthogonality_test`, > 0. Default 0.1.
        blockwise: of both.

    Returns:
        The result; its variance is that of the test with the larger suggestion.

    Raises:
        ValueError: theta or nu <= 0, and as :func:`norm_test`.

    Example:
        >>> grads = [torch.tensor([[1.0, 1.0], [3.0, -1.0]])]
        >>> augmented_inner_product_test(grads, theta=1.0, nu=0.5).suggestion
        2.0

    Reference: Lau et al., arXiv 2402.11215, augmented inner product test.
    """
    check_tolerance("theta", theta)
    check_tolerance("nu", nu)
    return _verdict(augmented_ratio(grads, theta, nu, blockwise))


def coordinatewise_norm_test(
    grads: Gradients | GradientMoments, eta: float = 0.1, quantile: float = 1.0
) -> BatchTestResult:
    """The norm test in every coordinate: V_j / b <= eta^2 g_j^2 for all j. The test of AdAdaGrad's theory.

    It implies the norm test. A coordinate with V_j = 0 passes. In deep networks some g_j are nearly 0 and s explodes;
    ``quantile`` leaves out the largest ratios. There is no public code of this test; the paper's runs with networks use
    the norm test instead.

    Args:
        grads: (B, *shape) per parameter, as a dict or a sequence, or their moments. B >= 2.
        eta: > 0. Default 0.1.
        quantile: q in (0, 1]: s is the ceil(q d)-th smallest of the d ratios, without interpolation. Default 1, the
            exact rule; below 1 is not in the paper.

    Returns:
        The result; its variance is ||V||_1.

    Raises:
        ValueError: eta <= 0, quantile outside (0, 1]; as :func:`norm_test`, also for a coordinate g_j = 0 with V_j > 0
            that decides.

    Example:
        >>> grads = [torch.tensor([[1.0, 2.0], [3.0, 2.0]])]
        >>> coordinatewise_norm_test(grads, eta=0.5).suggestion, norm_test(grads, eta=0.5).suggestion
        (2.0, 1.0)

    Reference: Lau et al., arXiv 2402.11215, coordinate-wise norm test.
    """
    check_tolerance("eta", eta)
    check_quantile(quantile)
    return _verdict(coordinatewise_ratio(grads, eta, quantile))


def _verdict(ratio: Ratio) -> BatchTestResult:
    """The size of the batch against s.

    Raises:
        ValueError: s is infinite.
    """
    B, s = ratio.size, ratio.suggestion
    if math.isinf(s):
        raise ValueError(
            "grads have a mean of 0 where they vary, so that no batch size passes; "
            "AdaptiveBatchSize goes to its largest size then."
        )
    return BatchTestResult(B if s <= B else math.ceil(s), s, s <= B, ratio.variance, ratio.grad_norm_sq)


def check_tolerance(name: str, value: object) -> float:
    """Return eta, theta or nu if it is a finite number > 0, else raise ValueError."""
    return check_real(name, value, 0, low_open=True, high_open=True)


def check_quantile(quantile: object) -> float:
    """Return ``quantile`` if it is in (0, 1], else raise ValueError."""
    return check_real("quantile", quantile, 0, 1, low_open=True)


# -------------------------------------------------------------------------------------------- the ratios s
# Arguments are not checked here: AdaptiveBatchSize has checked its own once.


def norm_ratio(grads: Gradients | GradientMoments, eta: float) -> Ratio:
    """s of :func:`norm_test`."""
    count, mean, var, scale = _moments(grads)
    variance, norm_sq = _total(var), _total([m.square() for m in mean])
    s = _suggestion(variance, norm_sq, eta, variance > 0)
    return Ratio(count, s, variance * scale * scale, norm_sq * scale * scale)


def coordinatewise_ratio(grads: Gradients | GradientMoments, eta: float, quantile: float) -> Ratio:
    """s of :func:`coordinatewise_norm_test`."""
    count, mean, var, scale = _moments(grads)
    variance, norm_sq = _total(var), _total([m.square() for m in mean])
    ratios = torch.cat(
        [
            torch.where(v == 0, torch.zeros_like(v), v / m.abs() / m.abs()).flatten()
            for v, m in zip(var, mean, strict=True)
        ]
    )
    rank = max(1, math.ceil(quantile * len(ratios)))
    ratio = float(ratios.kthvalue(rank).values) if len(ratios) else 0.0
    return Ratio(count, ratio / eta / eta, variance * scale * scale, norm_sq * scale * scale)


def inner_product_ratio(grads: Gradients, theta: float, blockwise: bool) -> Ratio:
    """s of :func:`inner_product_test`."""
    samples, scale = _samples(grads)
    g = [G.mean(0) for G in samples]
    norm_sq = _total([x.square() for x in g])
    projections = _projections(samples, [x / math.sqrt(norm_sq or 1.0) for x in g])  # <g_i, g> / ||g||
    along = _total([a.var(0) for a in projections] if blockwise else [_sum_of(projections).var(0)])
    s = _suggestion(along, norm_sq, theta, _vary(samples))
    return Ratio(len(samples[0]), s, along * scale * scale * norm_sq * scale * scale, norm_sq * scale * scale)


def orthogonality_ratio(grads: Gradients, nu: float, blockwise: bool) -> Ratio:
    """s of :func:`orthogonality_test`."""
    samples, scale = _samples(grads)
    g = [G.mean(0) for G in samples]
    squares = [_total([x.square()]) for x in g]
    norm_sq = math.fsum(squares)
    lengths = [math.sqrt((square if blockwise else norm_sq) or 1.0) for square in squares]
    units = [x / length for x, length in zip(g, lengths, strict=True)]
    projections = _projections(samples, units)
    if not blockwise:
        projections = [_sum_of(projections)] * len(samples)
    across = _total(
        [
            (G - a.unsqueeze(1) * u).var(0)
            for G, a, u in zip(samples, projections, units, strict=True)  # r_i of one tensor: (B, d)
        ]
    )
    s = _suggestion(across, norm_sq, nu, _vary(samples))
    return Ratio(len(samples[0]), s, across * scale * scale, norm_sq * scale * scale)


def augmented_ratio(grads: Gradients, theta: float, nu: float, blockwise: bool) -> Ratio:
    """s of :func:`augmented_inner_product_test`."""
    along, across = inner_product_ratio(grads, theta, blockwise), orthogonality_ratio(grads, nu, blockwise)
    return along if along.suggestion >= across.suggestion else across


def _suggestion(variance: float, norm_sq: float, tolerance: float, vary: bool) -> float:
    """variance / (tolerance^2 norm_sq); for a gradient of 0 infinite if the samples vary, else 0."""
    if norm_sq == 0:
        return math.inf if vary else 0.0
    return variance / norm_sq / tolerance / tolerance


# ------------------------------------------------------------------------------------------- statistics


def _moments(grads: Gradients | GradientMoments) -> tuple[int, list[Tensor], list[Tensor], float]:
    """Number of samples, mean and variance of the gradients divided by their scale, and the scale.

    Raises:
        ValueError: fewer than two samples, or what is not finite.
    """
    if not isinstance(grads, GradientMoments):
        samples, scale = _samples(grads)
        return len(samples[0]), [G.mean(0) for G in samples], [G.var(0) for G in samples], scale
    _check_count(grads.count)
    mean, var = (sample_tensors([t.unsqueeze(0) for t in tensors]) for tensors in (grads.mean, grads.var))
    scale = _scale(max(_largest(mean), math.sqrt(_largest(var))))
    return grads.count, [m / scale for m in mean], [v / scale / scale for v in var], scale


def _samples(grads: Gradients) -> tuple[list[Tensor], float]:
    """Per-sample gradients flattened to (B, d) and divided by their scale, and the scale.

    Raises:
        ValueError: no tensors, different B, B < 2, or what is not finite.
    """
    if isinstance(grads, GradientMoments):
        raise ValueError("grads must be the samples' own gradients for this test, got moments.")
    samples = [G.flatten(1) if G.ndim > 1 else G.unsqueeze(1) for G in sample_tensors(grads)]
    _check_count(len(samples[0]))
    scale = _scale(_largest(samples))
    return (samples if scale == 1 else [G / scale for G in samples]), scale


def _check_count(count: int) -> None:
    if count < 2:
        raise ValueError(
            f"grads must hold at least 2 samples, got {count}: the variance of one is undefined."
        )


def _largest(tensors: Sequence[Tensor]) -> float:
    """The largest absolute value in all tensors.

    Raises:
        ValueError: an entry is not finite.
    """
    norms = [float(torch.linalg.vector_norm(t, math.inf)) for t in tensors if t.numel()]
    if not all(math.isfinite(norm) for norm in norms):
        raise ValueError("grads must be finite, got an infinite or NaN entry.")
    return max(norms, default=0.0)


def _scale(largest: float) -> float:
    """The power of two above ``largest``, by which division is exact; 1 where squares are in no danger."""
    exponent = math.frexp(largest)[1]
    return 1.0 if abs(exponent) < 20 else math.ldexp(1.0, min(max(exponent, -1000), 1000))


def _total(tensors: Sequence[Tensor]) -> float:
    """The sum of all entries: each tensor's in its own type, together in float64."""
    return math.fsum(float(t.sum()) for t in tensors)


def _projections(samples: Sequence[Tensor], units: Sequence[Tensor]) -> list[Tensor]:
    """<g_i, u> for each sample, tensor by tensor: (B,) each."""
    with torch.autocast(samples[0].device.type, enabled=False):
        return [G @ u for G, u in zip(samples, units, strict=True)]


def _sum_of(parts: Sequence[Tensor]) -> Tensor:
    """The sum of tensors of equal shape, in the widest of their types."""
    return torch.stack([part.to(parts[0].device) for part in parts]).sum(0)


def _vary(samples: Sequence[Tensor]) -> bool:
    """Whether some sample's gradient differs from another's."""
    return any(bool((G[:1] != G).any()) for G in samples)
