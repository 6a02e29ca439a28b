"""The five matrix norms of gradient multi-normalization, each with its dual and its projection.

Scetbon, Ma, Gong, Meeds, "Gradient Multi-Normalization for Efficient LLM Training", NeurIPS 2025, arXiv 2502.06742.

P_g(X) = argmax_{g(Z) <= 1} <X, Z> is the linear minimisation oracle of steepest descent under g; <X, P_g(X)> is the
dual norm g_*(X). X is (..., m, n) in torch layout (m outputs = rows, n inputs = columns). Each norm is scaled so that
||P_g(X)||_F = sqrt(mn), the assumption behind the paper's fixed-point theorem.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from normviz.optim._precision import full_precision, widen
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["ColumnNorm", "FrobeniusNorm", "MatrixNorm", "MaxNorm", "RowNorm", "SpectralNorm"]


def row_lengths(X: Tensor) -> Tensor:
    """||X_{i,:}||_2, shape (..., m)."""
    lengths: Tensor = torch.linalg.vector_norm(X, dim=-1)
    return lengths


def frobenius(X: Tensor) -> Tensor:
    """||X||_F, shape (...)."""
    size: Tensor = torch.linalg.vector_norm(X, dim=(-2, -1))
    return size


def singular_values(X: Tensor) -> Tensor:
    """Descending singular values, shape (..., min(m, n))."""
    s: Tensor = torch.linalg.svdvals(X)
    return s


class MatrixNorm(ABC):
    """A norm g on m x n matrices, scaled so that its projection P_g has Frobenius norm sqrt(mn).

    All three methods take (..., m, n), compute in at least float32 and return the input's dtype. A subclass writes
    the three formulas for float32 or float64 matrices: ``_value``, ``_dual``, ``_project``.

    Example:
        >>> X = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
        >>> g = RowNorm()
        >>> torch.allclose((X * g.project(X)).sum(), g.dual(X))
        True

    Reference: Scetbon, Ma, Gong, Meeds, "Gradient Multi-Normalization for Efficient LLM Training", arXiv
        2502.06742; ``P_g`` and ``g_*`` in the module's docstring.
    """

    def value(self, X: Tensor) -> Tensor:
        """g(X), shape (...).

        Raises:
            ValueError: X has fewer than two axes or is not a real floating tensor.
        """
        return self._value(widen("X", X)).to(X.dtype)

    def dual(self, X: Tensor) -> Tensor:
        """g_*(X) = <X, P_g(X)>, the dual norm, shape (...).

        Raises:
            ValueError: X has fewer than two axes or is not a real floating tensor.
        """
        return self._dual(widen("X", X)).to(X.dtype)

    def project(self, X: Tensor, eps: float = 1e-8) -> Tensor:
        """P_g(X) = argmax over g(Z) <= 1 of <X, Z>, shape (..., m, n).

        Args:
            X: matrices (..., m, n).
            eps: lower clamp of the L2 norms that divide (1e-8, ours), so that zero stays zero.

        Raises:
            ValueError: eps <= 0, X has fewer than two axes or is not a real floating tensor.
        """
        check_real("eps", eps, 0.0, low_open=True)
        return self._project(widen("X", X), eps).to(X.dtype)

    @abstractmethod
    def _value(self, X: Tensor) -> Tensor: ...

    @abstractmethod
    def _dual(self, X: Tensor) -> Tensor: ...

    @abstractmethod
    def _project(self, X: Tensor, eps: float) -> Tensor: ...

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class RowNorm(MatrixNorm):
    """g(X) = max_i ||X_{i,:}||_2 / sqrt(n); P_g scales every row to sqrt(n); g_* = sqrt(n) sum_i ||X_{i,:}||_2.

    Reference: Scetbon, Ma, Gong, Meeds, "Gradient Multi-Normalization for Efficient LLM Training", arXiv
        2502.06742; dual and projection as above.
    """

    def _value(self, X: Tensor) -> Tensor:
        return row_lengths(X).amax(-1) / math.sqrt(X.shape[-1])

    def _dual(self, X: Tensor) -> Tensor:
        return row_lengths(X).sum(-1) * math.sqrt(X.shape[-1])

    def _project(self, X: Tensor, eps: float) -> Tensor:
        rows = row_lengths(X).unsqueeze(-1)  # (..., m, 1)
        return X * (math.sqrt(X.shape[-1]) / rows.clamp(min=eps))


class ColumnNorm(MatrixNorm):
    """g(X) = max_j ||X_{:,j}||_2 / sqrt(m): the row norm of the transpose.

    Reference: Scetbon, Ma, Gong, Meeds, "Gradient Multi-Normalization for Efficient LLM Training", arXiv
        2502.06742; dual and projection as above.
    """

    def _value(self, X: Tensor) -> Tensor:
        return RowNorm()._value(X.mT)

    def _dual(self, X: Tensor) -> Tensor:
        return RowNorm()._dual(X.mT)

    def _project(self, X: Tensor, eps: float) -> Tensor:
        return RowNorm()._project(X.mT, eps).mT


class SpectralNorm(MatrixNorm):
    """g(X) = s_max(X) / sqrt(max(m, n)); P_g(X) = sqrt(max(m, n)) U V^T; g_* = sqrt(max(m, n)) * nuclear norm.

    Only a full-rank X has ||P_g(X)||_F = sqrt(mn): null directions stay null.

    Args:
        method: "svd" (default) is exact and drops singular values s <= max(eps, s_max * max(m, n) * machine eps);
            "newton_schulz" iterates X <- 1.5 X - 0.5 X X^T X on the short side from X / max(||X||_F, eps).
        steps: Newton-Schulz iterations (30: carries singular values down to about 1e-5 ||X||_F to 1).

    Raises:
        ValueError: unknown method or steps < 1.

    Reference: Scetbon, Ma, Gong, Meeds, "Gradient Multi-Normalization for Efficient LLM Training", arXiv
        2502.06742; dual and projection as above.
    """

    def __init__(self, method: str = "svd", steps: int = 30) -> None:
        self.method = check_choice("method", method, ("svd", "newton_schulz"))
        self.steps = check_integer("steps", steps, 1)

    def _value(self, X: Tensor) -> Tensor:
        return singular_values(X).amax(-1) / math.sqrt(max(X.shape[-2:]))

    def _dual(self, X: Tensor) -> Tensor:
        return singular_values(X).sum(-1) * math.sqrt(max(X.shape[-2:]))

    def _project(self, X: Tensor, eps: float) -> Tensor:
        with full_precision(X):
            polar = self._newton_schulz(X, eps) if self.method == "newton_schulz" else self._svd(X, eps)
        return polar * math.sqrt(max(X.shape[-2:]))

    @staticmethod
    def _svd(X: Tensor, eps: float) -> Tensor:
        U, s, Vh = torch.linalg.svd(X, full_matrices=False)  # (..., m, k), (..., k), (..., k, n)
        floor = (s.amax(-1, keepdim=True) * (max(X.shape[-2:]) * torch.finfo(X.dtype).eps)).clamp(min=eps)
        polar: Tensor = (U * (s > floor).to(X.dtype).unsqueeze(-2)) @ Vh
        return polar

    def _newton_schulz(self, X: Tensor, eps: float) -> Tensor:
        wide = X.mT if X.shape[-2] > X.shape[-1] else X
        wide = wide / frobenius(wide)[..., None, None].clamp(min=eps)
        for _ in range(self.steps):
            wide = 1.5 * wide - 0.5 * (wide @ wide.mT) @ wide
        return wide.mT if X.shape[-2] > X.shape[-1] else wide

    def __repr__(self) -> str:
        return f"SpectralNorm(method={self.method!r}, steps={self.steps})"


class FrobeniusNorm(MatrixNorm):
    """g(X) = ||X||_F / sqrt(mn); P_g(X) = sqrt(mn) X / ||X||_F; g_* = sqrt(mn) ||X||_F.

    Reference: Scetbon, Ma, Gong, Meeds, "Gradient Multi-Normalization for Efficient LLM Training", arXiv
        2502.06742; dual and projection as above.
    """

    def _value(self, X: Tensor) -> Tensor:
        return frobenius(X) / math.sqrt(X.shape[-2] * X.shape[-1])

    def _dual(self, X: Tensor) -> Tensor:
        return frobenius(X) * math.sqrt(X.shape[-2] * X.shape[-1])

    def _project(self, X: Tensor, eps: float) -> Tensor:
        size = frobenius(X)[..., None, None]  # (..., 1, 1)
        return X * (math.sqrt(X.shape[-2] * X.shape[-1]) / size.clamp(min=eps))


class MaxNorm(MatrixNorm):
    """g(X) = max_ij |X_ij|; P_g(X) = sign(X), 0 stays 0 (``eps`` has nothing to clamp); g_* = sum_ij |X_ij|.

    Reference: Scetbon, Ma, Gong, Meeds, "Gradient Multi-Normalization for Efficient LLM Training", arXiv
        2502.06742; dual and projection as above.
    """

    def _value(self, X: Tensor) -> Tensor:
        return X.abs().amax((-2, -1))

    def _dual(self, X: Tensor) -> Tensor:
        return X.abs().sum((-2, -1))

    def _project(self, X: Tensor, eps: float) -> Tensor:  # noqa: ARG002
        # torch.sign(nan) is 0, which would hide a broken gradient.
        return torch.where(X.isnan(), X, X.sign())
