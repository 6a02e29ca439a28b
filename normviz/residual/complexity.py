r"""Geometric complexity: how strongly a function varies around its data.

B. Dherin, M. Munn, "On residual network depth", 2025, arXiv 2510.03470, use it as their measure of capacity; from B.
Dherin, M. Munn, M. Rosca, D. Barrett, "Why neural networks find simple solutions", NeurIPS 2022, arXiv 2209.13083.

    GC(f; X) = 1/|X| sum_x |df/dx|_F^2 = 1/|X| sum_x E_v |J^T v|^2,  v ~ N(0, I_out)

The derivative is with respect to the input, not the parameters. The identity on R^d has GC = d: so has a residual tower
with lam = 0, and one whose modules have Lipschitz constant L at most d (1 + lam L)^{2n}.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.func import vjp, vmap

from normviz.validation import check_integer

__all__ = ["geometric_complexity"]

EXACT_UP_TO = 64  # output entries per sample
_CHUNK = 64  # rows of the Jacobian held at once


def geometric_complexity(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    exact: bool | None = None,
    probes: int = 8,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Batch mean of the squared Frobenius norm of d fn(x_b) / d x_b, inputs and outputs flattened per sample.

    Args:
        fn: maps (B, ...) to (B, ...), samples independent of each other (batch norm in eval mode). For the feature map
            of a tower: ``lambda x: tower.features(x)[-1]``.
        x: (B, ...), B >= 1.
        exact: True: all rows of the Jacobian, one backward per output entry. False: Hutchinson's estimate, unbiased,
            one backward per probe. None (default): exact if a sample's output has at most 64 entries.
        probes: Hutchinson vectors, >= 1. Default 8. Unused when exact.
        generator: of the probes; None: torch's global one.

    Returns:
        0-dim, in the output's dtype (float32 for half types), differentiable with respect to fn's parameters.

    Raises:
        ValueError: probes < 1, an empty batch, an output without the batch axis.

    Example:
        >>> W = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
        >>> geometric_complexity(lambda x: x @ W, torch.randn(5, 2))
        tensor(14.)
    """
    check_integer("probes", probes, 1)
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"x must hold at least one sample, got shape {tuple(x.shape)}.")
    y, pulled_back = cast("tuple[Tensor, Callable[[Tensor], tuple[Tensor]]]", vjp(fn, x))
    if y.ndim == 0 or y.shape[0] != x.shape[0]:
        raise ValueError(f"fn must return one output per sample ({x.shape[0]}), got shape {tuple(y.shape)}.")
    outputs = math.prod(y.shape[1:])
    if exact or (exact is None and outputs <= EXACT_UP_TO):
        rows = torch.eye(outputs, dtype=y.dtype, device=y.device)
        directions = rows.reshape(outputs, 1, *y.shape[1:]).expand(outputs, *y.shape)
        draws = 1
    else:
        directions = torch.randn(probes, *y.shape, dtype=y.dtype, device=y.device, generator=generator)
        draws = probes

    def squared_norm(v: Tensor) -> Tensor:
        (g,) = pulled_back(v)
        square: Tensor = g.to(torch.promote_types(g.dtype, torch.float32)).square().sum()
        return square

    total = vmap(squared_norm, chunk_size=_CHUNK)(directions).sum()
    out: Tensor = total / (draws * x.shape[0])
    return out
