"""One matrix between two given ones: the smallest model whose loss has a condition number that one can set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normviz.models import _checks

__all__ = ["BilinearMap"]


class BilinearMap(nn.Module):
    """A (p, m), B (n, q) -> A W B (p, q), with the ``weight`` W (m, n) as only parameter.

    The squared error against a given matrix has the Hessian 2 (A^T A) kron (B B^T), W read row by row. Its condition
    number is the product of those of A and B, squared.

    Args:
        m: rows of W.
        n: columns of W.
        std: standard deviation of W's entries at the start; 0 (default) starts from W = 0.

    Raises:
        ValueError: a size below 1 or ``std`` negative or not finite.

    Example:
        >>> import torch
        >>> BilinearMap(3, 2)(torch.eye(3), torch.eye(2)).shape
        torch.Size([3, 2])
    """

    def __init__(self, m: int, n: int, *, std: float = 0.0) -> None:
        _checks.size("m", m)
        _checks.size("n", n)
        std = _checks.real("std", std)
        super().__init__()
        self.weight = nn.Parameter(std * torch.randn(m, n) if std else torch.zeros(m, n))

    def forward(self, A: Tensor, B: Tensor) -> Tensor:
        """The product A W B."""
        return A @ self.weight @ B

    def extra_repr(self) -> str:
        """Sizes of W."""
        return ", ".join(map(str, self.weight.shape))
