r"""Mean and variance of per-sample gradients, from samples, micro-batches or several devices.

Lau, Liu, Kolar, arXiv 2402.11215 (2024); the batch-size tests in :mod:`normviz.adaptive.batch_size_tests` need only
these moments for two of their kinds. All variances are unbiased (divisor b - 1) and elementwise.

    samples g_i                g = mean g_i,  V = sum (g_i - g)^2 / (b - 1)              GradientMoments.of
    K micro-batches of m       V_hat = m Var_k(G_k), unbiased for V                      variance_from_microbatches
    shards (n_k, G_k, V_k)     N = sum n_k,  g = sum n_k G_k / N,                        combine_moments
                               V = (sum (n_k - 1) V_k + sum n_k (G_k - g)^2) / (N - 1)
    the same, public code      g = mean G_k,  V = mean V_k + mean G_k^2 - g^2            combine_moments(exact=False)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normviz.validation import check_integer

__all__ = ["GradientMoments", "Gradients", "combine_moments", "sample_tensors", "variance_from_microbatches"]

Gradients = Mapping[str, Tensor] | Sequence[Tensor]
"""Per-sample gradients: one tensor (B, *shape) per parameter."""


def sample_tensors(grads: Gradients, name: str = "grads") -> list[Tensor]:
    """The tensors of ``grads`` in at least float32, all with the same number of rows.

    Raises:
        ValueError: no tensors, one without an axis, or different numbers of rows.
    """
    tensors = list(grads.values() if isinstance(grads, Mapping) else grads)
    if not tensors:
        raise ValueError(f"{name} must hold at least one tensor, got none.")
    shapes = [tuple(g.shape) for g in tensors]
    if any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"{name} must have the same first axis (the samples) everywhere, got {shapes}.")
    return [_wide(g.detach()) for g in tensors]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class GradientMoments:
    """How many gradients, their mean and their unbiased variance: what devices exchange instead of gradients.

    Args:
        count: number of samples, >= 1.
        mean: one tensor per parameter, of its shape.
        var: likewise, elementwise variance with divisor count - 1. With count 1 there is none and its values are
            ignored.

    Raises:
        ValueError: ``count`` < 1, no tensors, or ``mean`` and ``var`` of different shapes.

    Example:
        >>> moments = GradientMoments.of([torch.tensor([[1.0, 0.0], [3.0, 0.0]])])
        >>> moments.count, moments.mean[0].tolist(), moments.var[0].tolist()
        (2, [2.0, 0.0], [2.0, 0.0])

    Reference: Lau et al., arXiv 2402.11215 (norm test under data parallelism).
    """

    count: int
    mean: list[Tensor]
    var: list[Tensor]

    def __post_init__(self) -> None:
        check_integer("count", self.count, 1)
        means, variances = ([tuple(t.shape) for t in tensors] for tensors in (self.mean, self.var))
        if not means or means != variances:
            raise ValueError(
                f"mean and var must hold equal shapes, at least one, got {means} and {variances}."
            )

    @classmethod
    def of(cls, grads: Gradients) -> GradientMoments:
        """The moments of per-sample gradients (B, *shape), in float64 for float64 and at least float32 otherwise.

        Raises:
            ValueError: no tensors, or different B.
        """
        tensors = sample_tensors(grads)
        B = len(tensors[0])
        mean = [g.mean(0) for g in tensors]
        var = [g.var(0) if B > 1 else torch.full_like(g[0], math.nan) for g in tensors]
        return cls(B, mean, var)


def combine_moments(list: Sequence[GradientMoments], exact: bool = True) -> GradientMoments:
    """The moments of the union of several shards, without their samples.

    Args:
        list: moments of disjoint shards. A shard with count 1 has no variance; what its ``var`` holds is ignored.
        exact: the moments that all samples together have (default). False: the public code's formula for equal
            shards, which weighs them equally and whose variance is slightly biased.

    Returns:
        The moments of the union; its count is the sum.

    Raises:
        ValueError: an empty list, one sample in all, or shards with different shapes.

    Example:
        >>> shards = [GradientMoments.of([torch.tensor([[0.0], [2.0]])]), GradientMoments.of([torch.tensor([[4.0]])])]
        >>> combine_moments(shards).var[0].tolist()
        [4.0]

    Reference: Lau et al., arXiv 2402.11215 (law of total variance in the public code); the exact form is the textbook
    one for pooled variances.
    """
    shards = [*list]
    if not shards:
        raise ValueError("list must hold the moments of at least one shard, got none.")
    counts = [shard.count for shard in shards]
    N = sum(counts)
    if N < 2:
        raise ValueError("list must hold at least 2 samples in all: the variance of one is undefined.")
    shapes = [[tuple(t.shape) for t in shard.mean] for shard in shards]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"list must hold moments of equal shapes, got {shapes}.")
    weights = [n / N for n in counts] if exact else [1 / len(shards)] * len(shards)
    mean, var = [], []
    for i in range(len(shapes[0])):
        means = torch.stack([_wide(shard.mean[i]) for shard in shards])  # (K, *shape)
        axes = [1] * (means.ndim - 1)
        w = means.new_tensor(weights).reshape(-1, *axes)
        g = (w * means).sum(0)
        between = (w * (means - g).square()).sum(0)
        factors = [(n - 1) / N if exact else 1 / len(shards) for n in counts]
        within = torch.zeros_like(g)
        for shard, factor in zip(shards, factors, strict=True):
            if shard.count > 1:
                within = within + factor * _wide(shard.var[i])
        mean.append(g)
        var.append((within + between) * (N / (N - 1) if exact else 1.0))
    return GradientMoments(N, mean, var)


def variance_from_microbatches(mean_grads: Gradients, micro_batch_size: int) -> GradientMoments:
    """Moments of single samples from the mean gradients of K micro-batches: V_hat = m Var_k(G_k).

    The mean of m samples has a variance m times smaller than one sample, so V_hat is unbiased for the per-sample
    variance; with few micro-batches it scatters much.

    Args:
        mean_grads: (K, *shape) per parameter, K >= 2: the mean gradient of each micro-batch.
        micro_batch_size: m >= 1, the samples of each.

    Returns:
        Moments with count K m.

    Raises:
        ValueError: K < 2, no tensors, different K, micro_batch_size < 1.

    Example:
        >>> moments = variance_from_microbatches([torch.tensor([[0.0], [2.0]])], micro_batch_size=8)
        >>> moments.count, moments.var[0].tolist()
        (16, [16.0])

    Reference: Lau et al., arXiv 2402.11215 (gradient accumulation).
    """
    check_integer("micro_batch_size", micro_batch_size, 1)
    means = sample_tensors(mean_grads, "mean_grads")
    K = len(means[0])
    if K < 2:
        raise ValueError(f"mean_grads must hold at least 2 micro-batches, got {K}.")
    return GradientMoments(
        K * micro_batch_size, [G.mean(0) for G in means], [micro_batch_size * G.var(0) for G in means]
    )
