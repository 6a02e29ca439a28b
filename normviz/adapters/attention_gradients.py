r"""Gradients of LoRA adapters through softmax attention: exact, or by chained low-rank factors.

Hu, Su, Kuo, Song, Liu 2024, "Computational Limits of Low-Rank Adaptation (LoRA) Fine-Tuning for Transformer Models",
arXiv 2406.03136. Shapes: x1, x2, x3 [L, d_in] (queries', keys', values' inputs), W [d, d_in] frozen, A [r, d_in], B
[d, r], ``Q = x1 (W_Q + s B_Q A_Q)^T`` and so on; torch's layout, the paper writes X W with W on the right.

    f = softmax(tau Q K^T) = D^-1 exp(tau Q K^T),   O = f V,   loss = 1/2 ||O - Y||_F^2
    c = O - Y                             [L, d]
    q = c V^T                             [L, L]
    p1 = f * q,  r = rowsum(f * q) = rowsum(O * c),  p2 = diag(r) f,  p = p1 - p2 = dloss/dS
    dQ = tau p K,   dK = tau p^T Q,   dV = f^T c
    G = dQ^T x1 (dK^T x2, dV^T x3),   dA = s B^T G,   dB = s G A^T

The special case of the paper (section 3) has adapters on W_Q and W_V, the general one (section 4) on W_Q, W_K, W_V. The
only L x L matrices are f and entrywise products of f with low-rank matrices; ``method="lowrank"`` replaces f by
``U1 V1^T`` (:mod:`normviz.adapters.monomial_features`) and multiplies in an order that never forms L x L: O(L m d^2)
time, O(L m) memory. That order is derived here from the definitions; the paper proves that such an algorithm exists
and publishes no code.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from normviz.adapters._chained_products import attention_gradients, softmax_factors
from normviz.adapters._values import at_least_float32, check_matrix, full_precision, read
from normviz.adapters.exp_polynomial import KINDS, polynomial_with_error, required_degree
from normviz.adapters.monomial_features import check_rank
from normviz.adapters.score_radius import score_radius, warn_if_no_gain
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["METHODS", "LoRAAttentionGradients", "LoRAWeight", "lora_attention_gradients"]

METHODS = ("exact", "lowrank")
"""How attention and its gradients are computed."""


class LoRAWeight(NamedTuple):
    """A frozen weight with its adapter: ``W + scaling B A`` (Hu et al. 2024, arXiv 2406.03136, sections 3 and 4).

    Attributes:
        W: [d, d_in].
        A: [r, d_in], or None without adapter.
        B: [d, r], or None without adapter.
        scaling: s = alpha / r. Default 1.
    """

    W: Tensor
    A: Tensor | None = None
    B: Tensor | None = None
    scaling: float = 1.0

    def effective(self) -> Tensor:
        """``W + scaling B A`` [d, d_in]; W itself without adapter.

        Raises:
            ValueError: only one of A and B is given.
        """
        if self.A is None and self.B is None:
            return self.W
        if self.A is None or self.B is None:
            raise ValueError("A and B must be given together, got one of them.")
        return self.W + self.scaling * (self.B @ self.A)


class LoRAAttentionGradients(NamedTuple):
    """What :func:`lora_attention_gradients` returns, in the inputs' dtype.

    Attributes:
        loss: 1/2 ||O - Y||_F^2, no axes.
        output: O [L, d].
        dQ, dK, dV: [L, d], gradients with respect to Q, K, V.
        q, k, v: (dA [r, d_in], dB [d, r]) of the adapter on W_Q, W_K, W_V; None where there is none.
        radius: R, a bound of the scores' sizes. This and the following are None for "exact".
        degree: of the polynomial.
        rank: number of monomials, C(d + degree, degree).
        eps: relative error of the polynomial on [-R, R]; nothing is certified if it is 1 or more.

    Reference: Hu et al. 2024, arXiv 2406.03136: section 3 for adapters on W_Q and W_V, section 4 for W_Q, W_K and
    W_V; equations in :mod:`normviz.adapters.attention_gradients`.
    """

    loss: Tensor
    output: Tensor
    dQ: Tensor  # noqa: N815
    dK: Tensor  # noqa: N815
    dV: Tensor  # noqa: N815
    q: tuple[Tensor, Tensor] | None
    k: tuple[Tensor, Tensor] | None
    v: tuple[Tensor, Tensor] | None
    radius: float | None = None
    degree: int | None = None
    rank: int | None = None
    eps: float | None = None


class _Polynomial(NamedTuple):
    coeffs: Tensor
    radius: float
    degree: int
    rank: int
    eps: float


def lora_attention_gradients(
    x1: Tensor,
    x2: Tensor,
    x3: Tensor,
    target: Tensor,
    wq: LoRAWeight | Tensor,
    wk: LoRAWeight | Tensor,
    wv: LoRAWeight | Tensor,
    *,
    scale: float | None = None,
    method: str = "exact",
    degree: int | None = None,
    poly: str = "taylor",
    eps: float = 1e-3,
    radius: float | None = None,
    max_rank: int = 20000,
) -> LoRAAttentionGradients:
    """Loss, output and all gradients of one head of softmax attention with LoRA adapters, in closed form.

    Hu et al. 2024, arXiv 2406.03136: the objective ``1/2 ||softmax(tau Q K^T) V - Y||_F^2`` and its gradients, exact
    (O(L^2)) or by chained low-rank factors (O(L m d^2)); formulas in the module's docstring. Nothing is recorded for
    autograd.

    Args:
        x1: [L, d_in] inputs of the queries.
        x2: [L, d_in] inputs of the keys.
        x3: [L, d_in] inputs of the values.
        target: Y [L, d].
        wq: a :class:`LoRAWeight`, or a plain W [d, d_in] without adapter.
        wk: the same for the keys.
        wv: the same for the values.
        scale: tau. None: 1 / sqrt(d), usual in practice; the theory takes 1 / d.
        method: "exact" (default) or "lowrank".
        degree: of the polynomial. None: :func:`required_degree` of radius and eps.
        poly: "taylor" (default) or "chebyshev".
        eps: target of the relative error, in (0, 1), used with degree None. Default 1e-3.
        radius: R >= |scores|. None: the Cauchy-Schwarz bound ``tau max ||Q_i|| max ||K_j||``. A smaller one than the
            scores have gives an eps that certifies nothing.
        max_rank: refuse more monomials than this. Default 20000.

    Returns:
        :class:`LoRAAttentionGradients`. Half types are computed in float32, "lowrank" in float64.

    Raises:
        ValueError: shapes that do not fit; unknown method or poly; degree < 0, eps outside (0, 1), radius < 0; a radius
            too large for eps; more than max_rank monomials; a polynomial whose rows do not sum to a positive number.
        TypeError: integer tensors.
        RuntimeError: radius None with "lowrank" where values cannot be read (compiled, inside vmap).

    Warns:
        UserWarning: the rank is not below L, so "lowrank" gains nothing; it still runs.

    Example:
        >>> x, y, w = torch.randn(64, 2), torch.randn(64, 2), torch.eye(2)
        >>> adapted = LoRAWeight(w, A=torch.randn(1, 2), B=torch.zeros(2, 1))
        >>> exact = lora_attention_gradients(x, x, x, y, adapted, w, adapted)
        >>> fast = lora_attention_gradients(x, x, x, y, adapted, w, adapted, method="lowrank", degree=8)
        >>> torch.allclose(exact.q[1], fast.q[1], rtol=1e-2)
        True
    """
    check_choice("method", method, METHODS)
    check_choice("poly", poly, KINDS)
    check_real("eps", eps, 0, 1, low_open=True, high_open=True)
    check_integer("max_rank", max_rank, 1)
    if degree is not None:
        check_integer("degree", degree, 0)
    if radius is not None:
        check_real("radius", radius, 0, math.inf, high_open=True)
    weights = {"wq": _as_weight("wq", wq), "wk": _as_weight("wk", wk), "wv": _as_weight("wv", wv)}
    _check_inputs({"x1": x1, "x2": x2, "x3": x3}, target, weights)
    tau = 1 / math.sqrt(target.shape[1]) if scale is None else _finite(scale)

    given = [x1, x2, x3, target, *(t for w in weights.values() for t in w[:3] if t is not None)]
    kept = given[0].dtype
    for t in given:
        kept = torch.promote_types(kept, t.dtype)
    wide = torch.float64 if method == "lowrank" else at_least_float32(*given)
    with torch.no_grad(), full_precision(x1):
        inputs = [x.to(wide) for x in (x1, x2, x3)]
        wide_weights = [_cast(w, wide) for w in weights.values()]
        Q, K, V = (x @ w.effective().mT for x, w in zip(inputs, wide_weights, strict=True))
        polynomial = None
        if method == "exact":
            output, c, dQ, dK, dV = _exact(Q, K, V, target.to(wide), tau)
        else:
            polynomial = _polynomial(Q, K, tau, degree, poly, eps, radius, max_rank)
            warn_if_no_gain(polynomial.rank, Q.shape[0])
            f = softmax_factors(Q, K, tau, polynomial.coeffs)
            output = f.apply(V)
            c = output - target.to(wide)
            dQ, dK, dV = attention_gradients(f, Q, K, V, output, c, tau)
        adapters = (
            _adapter_gradients(dQ, inputs[0], wide_weights[0], kept),
            _adapter_gradients(dK, inputs[1], wide_weights[1], kept),
            _adapter_gradients(dV, inputs[2], wide_weights[2], kept),
        )
        loss = c.square().sum() / 2
    loss, output, dQ, dK, dV = (t.to(kept) for t in (loss, output, dQ, dK, dV))
    found = LoRAAttentionGradients(loss, output, dQ, dK, dV, *adapters)
    if polynomial is None:
        return found
    return found._replace(
        radius=polynomial.radius, degree=polynomial.degree, rank=polynomial.rank, eps=polynomial.eps
    )


def _exact(
    Q: Tensor, K: Tensor, V: Tensor, Y: Tensor, tau: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    f = torch.softmax(tau * (Q @ K.mT), dim=-1)  # [L, L]
    output = f @ V
    c = output - Y
    p1 = f * (c @ V.mT)
    # rowsum(O * c) is the same number at a lower cost, but rounds differently: with L = 1 this p is exactly 0
    p = p1 - p1.sum(-1, keepdim=True) * f
    return output, c, tau * (p @ K), tau * (p.mT @ Q), f.mT @ c


def _polynomial(
    Q: Tensor,
    K: Tensor,
    tau: float,
    degree: int | None,
    poly: str,
    eps: float,
    radius: float | None,
    max_rank: int,
) -> _Polynomial:
    R = read("radius", score_radius(Q, K, tau)) if radius is None else float(radius)
    g = required_degree(R, eps, poly) if degree is None else int(degree)
    rank = check_rank(Q.shape[-1], g, max_rank)
    coeffs, error = polynomial_with_error(poly, g, R)
    return _Polynomial(coeffs, R, g, rank, error)


def _adapter_gradients(
    upstream: Tensor, x: Tensor, weight: LoRAWeight, dtype: torch.dtype
) -> tuple[Tensor, Tensor] | None:
    """(s B^T G, s G A^T) with G = upstream^T x, without forming G."""
    if weight.A is None or weight.B is None:
        return None
    dA = weight.scaling * ((upstream @ weight.B).mT @ x)
    dB = weight.scaling * (upstream.mT @ (x @ weight.A.mT))
    return dA.to(dtype), dB.to(dtype)


def _cast(weight: LoRAWeight, dtype: torch.dtype) -> LoRAWeight:
    W, A, B = (None if t is None else t.to(dtype) for t in weight[:3])
    assert W is not None
    return LoRAWeight(W, A, B, weight.scaling)


def _finite(scale: float) -> float:
    return check_real("scale", scale, -math.inf, math.inf, low_open=True, high_open=True)


def _as_weight(name: str, weight: LoRAWeight | Tensor) -> LoRAWeight:
    if isinstance(weight, Tensor):
        weight = LoRAWeight(weight)
    if (weight.A is None) != (weight.B is None):
        raise ValueError(f"{name} must have both A and B or neither.")
    check_real(f"{name}.scaling", weight.scaling, -math.inf, math.inf, low_open=True, high_open=True)
    return weight


def _check_inputs(inputs: dict[str, Tensor], target: Tensor, weights: dict[str, LoRAWeight]) -> None:
    check_matrix("x1", inputs["x1"])
    length = inputs["x1"].shape[0]
    check_matrix("target", target, rows=length)
    d = target.shape[1]
    for (name, x), (weight_name, weight) in zip(inputs.items(), weights.items(), strict=True):
        check_matrix(name, x, rows=length)
        d_in = x.shape[1]
        check_matrix(weight_name, weight.W, rows=d, columns=d_in)
        if weight.A is not None and weight.B is not None:
            check_matrix(f"{weight_name}.A", weight.A, columns=d_in)
            check_matrix(f"{weight_name}.B", weight.B, rows=d, columns=weight.A.shape[0])
