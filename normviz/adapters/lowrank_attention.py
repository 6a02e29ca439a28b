r"""Softmax attention in almost linear time, forward and backward, by a polynomial near exp.

Hu et al. 2024, arXiv 2406.03136: with ``f ~ U1 V1^T`` from monomial features of degree g
(:mod:`normviz.adapters.monomial_features`) the output is ``O~ = U1 (V1^T V)``, and the gradients are chains of the same
factors (:mod:`normviz.adapters._chained_products`). O(L m d^2) time and O(L m) memory, m = C(d + g, g). m does not
depend on L but grows fast with d: a method for heads of 2 to 4 channels and scores of a few units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normviz.adapters._chained_products import attention_gradients, softmax_factors
from normviz.adapters._values import full_precision

__all__ = ["CausalLowRankAttentionFunction", "LowRankAttentionFunction"]

Gradients = tuple[Tensor, Tensor, Tensor, None, None]


def _forward(Q: Tensor, K: Tensor, V: Tensor, tau: float, coeffs: Tensor, causal: bool) -> Tensor:
    with full_precision(V):
        out = softmax_factors(Q.double(), K.double(), tau, coeffs, causal).apply(V.double())
    return out.to(V.dtype)


def _backward(ctx: Any, c: Tensor, causal: bool) -> Gradients:
    Q, K, V, coeffs = ctx.saved_tensors
    with full_precision(V):
        q, k, v = Q.double(), K.double(), V.double()
        f = softmax_factors(q, k, ctx.tau, coeffs, causal)
        dQ, dK, dV = attention_gradients(f, q, k, v, f.apply(v), c.double(), ctx.tau)
    return dQ.to(Q.dtype), dK.to(K.dtype), dV.to(V.dtype), None, None


class LowRankAttentionFunction(torch.autograd.Function):
    r"""``apply(Q, K, V, tau, coeffs)``: attention ``O~ = U1 (V1^T V)`` without an L x L matrix.

    Hu et al. 2024, arXiv 2406.03136, sections 3 and 4. The backward is the approximation of the exact attention's
    gradient, with c the gradient of the output and ``r = rowsum(O~ * c)``:

        dQ = tau (p1 - p2) K,   dK = tau (p1 - p2)^T Q,   dV = V1 (U1^T c)
        p1 = f~ * (c V^T),   p2 = diag(r) f~

    It is not the exact gradient of the approximate forward; the two agree to O(delta), delta = 2 eps / (1 - eps).
    Factors are computed again in the backward: only Q, K, V are kept between the two, and a second differentiation sees
    them.

    Arguments of ``apply``:
        Q, K, V: [..., L, d]; V may have another number of columns. Any floating dtype; float64 inside.
        tau: score scale, a float.
        coeffs: [g + 1] of :func:`exp_polynomial`. The number of monomials is not limited here.

    Returns:
        O~ [..., L, d] in V's dtype.

    Raises:
        ValueError: a row of ``P(tau Q K^T)`` without a positive sum (checked where values can be read).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(Q: Tensor, K: Tensor, V: Tensor, tau: float, coeffs: Tensor) -> Tensor:
        """The output."""
        return _forward(Q, K, V, tau, coeffs, causal=False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        """Keep the arguments."""
        Q, K, V, ctx.tau, coeffs = inputs
        ctx.save_for_backward(Q, K, V, coeffs)

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> Gradients:
        """Gradients for Q, K, V."""
        return _backward(ctx, c, causal=False)


class CausalLowRankAttentionFunction(torch.autograd.Function):
    """:class:`LowRankAttentionFunction` under a causal mask: query i sees the keys 0..i, by running sums.

    The prefix sums make chunks of C tokens, C x C inside a chunk and sums of ``V1 x^T`` between chunks; the certificate
    2 eps / (1 - eps) is the same. (Hu et al. 2024, arXiv 2406.03136, treats attention without a mask.)
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(Q: Tensor, K: Tensor, V: Tensor, tau: float, coeffs: Tensor) -> Tensor:
        """The output."""
        return _forward(Q, K, V, tau, coeffs, causal=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        """Keep the arguments."""
        Q, K, V, ctx.tau, coeffs = inputs
        ctx.save_for_backward(Q, K, V, coeffs)

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> Gradients:
        """Gradients for Q, K, V."""
        return _backward(ctx, c, causal=True)
