r"""Attention and its gradients as chains of products with low-rank factors; no L x L matrix.

With ``f ~ U V^T`` (U, V [..., L, m]), upstream gradient c [..., L, dv], ``r = rowsum(O * c)``, columns c_j of c and v_j
of V-values:

    p1 = f * (c v^T) = sum_j diag(c_j) f diag(v_j)        (the rank m dv factors kr(U, c), kr(V, v), column by column)
    p2 = diag(r) f
    dQ = tau (p1 - p2) K   = tau (sum_j c_j * f (v_j * K)   - r * f K)
    dK = tau (p1 - p2)^T Q = tau (sum_j v_j * f^T (c_j * Q) - f^T (r * Q))
    dV = f^T c

Every product is ``f x = U (V^T x)``: O(L m d) for each of the dv columns, and no temporary is larger than L m.

A causal mask keeps the products, with sums over the tokens up to one's own instead of all: ``(f x)_i = U_i sum_{l <= i}
V_l x_l^T``. They are taken in chunks of C tokens, a C x C triangle inside and running sums between the chunks; with
``C <= sqrt(L)`` and ``C <= 2 m`` nothing is larger than 2 L m.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from normviz.adapters.monomial_features import check_row_sums, unchecked_factors

__all__ = ["SoftmaxFactors", "attention_gradients", "softmax_factors"]


class SoftmaxFactors(NamedTuple):
    """``U V^T``, under a causal mask if asked, as an operator."""

    U: Tensor  # [..., L, m]
    V: Tensor  # [..., L, m]
    causal: bool

    def apply(self, x: Tensor) -> Tensor:
        """``f x`` for x [..., L, n]."""
        if not self.causal:
            return self.U @ (self.V.mT @ x)
        return _lower(self.U, self.V, x)

    def apply_transposed(self, x: Tensor) -> Tensor:
        """``f^T x`` for x [..., L, n]."""
        if not self.causal:
            return self.V @ (self.U.mT @ x)
        return _upper(self.V, self.U, x)


def softmax_factors(q: Tensor, k: Tensor, tau: float, coeffs: Tensor, causal: bool = False) -> SoftmaxFactors:
    """The factors for float64 q, k [..., L, d]; ValueError where a row sum is not positive and values can be read."""
    psi, phi = unchecked_factors(q, k, tau, coeffs)
    row_sums = SoftmaxFactors(psi, phi, causal).apply(torch.ones_like(phi[..., :1]))  # [..., L, 1]
    check_row_sums(row_sums)
    return SoftmaxFactors(psi / row_sums, phi, causal)


def attention_gradients(
    f: SoftmaxFactors, q: Tensor, k: Tensor, v: Tensor, out: Tensor, c: Tensor, tau: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dQ, dK, dV for float64 arguments; out [..., L, dv] is ``f v`` and c the gradient of it."""
    r = (out * c).sum(-1, keepdim=True)  # [..., L, 1]
    dq = -r * f.apply(k)
    dk = -f.apply_transposed(r * q)
    for j in range(v.shape[-1]):
        c_j, v_j = c[..., j : j + 1], v[..., j : j + 1]
        dq = dq + c_j * f.apply(v_j * k)
        dk = dk + v_j * f.apply_transposed(c_j * q)
    return tau * dq, tau * dk, f.apply_transposed(c)


def _chunks(x: Tensor, size: int) -> Tensor:
    """[..., L, n] as [..., L / size, size, n], with zero rows at the end where L does not divide."""
    padded = F.pad(x, (0, 0, 0, -x.shape[-2] % size))
    return padded.reshape(*x.shape[:-2], -1, size, x.shape[-1])


def _chunk_size(length: int, rank: int) -> int:
    return max(1, min(64, 2 * rank, math.isqrt(length)))


def _lower(left: Tensor, right: Tensor, x: Tensor) -> Tensor:
    """``tril(left right^T) x``."""
    length = left.shape[-2]
    a, b, y = (_chunks(t, _chunk_size(length, left.shape[-1])) for t in (left, right, x))
    sums = (b.mT @ y).cumsum(-3)  # [..., chunks, m, n]
    before = F.pad(sums[..., :-1, :, :], (0, 0, 0, 0, 1, 0))
    return ((a @ b.mT).tril() @ y + a @ before).flatten(-3, -2)[..., :length, :]


def _upper(left: Tensor, right: Tensor, x: Tensor) -> Tensor:
    """``triu(left right^T) x``."""
    length = left.shape[-2]
    a, b, y = (_chunks(t, _chunk_size(length, left.shape[-1])) for t in (left, right, x))
    sums = (b.mT @ y).flip(-3).cumsum(-3).flip(-3)
    after = F.pad(sums[..., 1:, :, :], (0, 0, 0, 0, 0, 1))
    return ((a @ b.mT).triu() @ y + a @ after).flatten(-3, -2)[..., :length, :]
