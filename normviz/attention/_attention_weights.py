"""Explicit attention matrices of all kernels, and the entropy of their rows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from normviz.attention._feature_maps import FEATURES, computing_dtype
from normviz.attention._linear_forms import check_heads, check_options, no_autocast
from normviz.validation import check_choice, check_real

__all__ = ["attention_weights", "feature_weights", "positive_sequence_entropy"]


def attention_weights(
    q: Tensor, k: Tensor, kind: str, causal: bool = False, *, eps: float = 1e-6, **kw: Any
) -> Tensor:
    """The N x M matrix that each linear attention applies to v without ever forming it.

    (phi_q phi_k / M) / (mean_j phi_q phi_k + eps); causal: row i with i + 1 in place of M, zeros above the diagonal. No
    rotary, so ``attention_weights(q, k, kind) @ v`` is the linear form. Softmax has no eps.

    Args:
        q: [B, h, N, d].
        k: [B, h, M, d].
        kind: "softmax", "elu1", "relu", "performer", "focused", "pola", "nala_cosine" or "nala_sign".
        causal: query i sees the keys 0..i (False).
        eps: added to the mean similarity. Default 1e-6 (NaLaFormer release).
        **kw: of the kind: softmax ``scale`` (d^-0.5); performer ``projection`` | ``num_features``, ``generator``;
            focused ``scale``, ``power``; pola ``scale``, ``power_logits``, ``path`` ("same", default, or "opposite");
            nala_* ``lam``, ``tau``, ``alpha``.

    Returns:
        [B, h, N, M] in float32 (float64 for float64 inputs).

    Raises:
        ValueError: unknown kind, shapes that do not fit, an argument out of range.
        TypeError: an argument that the kind does not have.

    Example:
        >>> q, k = torch.randn(2, 1, 1, 5, 4).unbind()
        >>> a, b = attention_weights(q, k, "relu"), attention_weights(7 * q, k, "relu")
        >>> torch.allclose(a, b, atol=1e-4)  # the norm of the query is lost
        True
    """
    check_choice("kind", kind, ("softmax", *FEATURES))
    check_heads(q, k, None, causal)
    check_options(1, eps)
    dtype = computing_dtype(q, k)
    with no_autocast(q):
        q, k = q.to(dtype), k.to(dtype)
        if kind == "softmax":
            return _softmax_weights(q, k, causal, **kw)
        return feature_weights(*FEATURES[kind](q, k, **kw), causal, eps=eps)


def feature_weights(phi_q: Tensor, phi_k: Tensor, causal: bool = False, *, eps: float = 1e-6) -> Tensor:
    """The N x M matrix of a linear attention from its features: (phi_q phi_k / M) / (mean_j phi_q phi_k + eps).

    Features whose products are not negative are taken for granted, as all linear attentions of this package have them.
    In the cosine form they are cosines of at most a right angle, and what comes out below zero is rounding: it becomes
    zero.

    Args:
        phi_q: [B, h, N, D].
        phi_k: [B, h, M, D].
        causal: row i with i + 1 in place of M, zeros above the diagonal.
        eps: added to the mean similarity. Default 1e-6 (NaLaFormer release).

    Returns:
        [B, h, N, M].
    """
    A = (phi_q @ phi_k.mT).clamp_min(0)
    counts: Tensor | int = phi_k.shape[2]
    if causal:
        A = A.tril()
        counts = torch.arange(1, phi_q.shape[2] + 1, device=A.device, dtype=A.dtype)[:, None]
    return A / counts / (A.sum(-1, keepdim=True) / counts + eps)


def _softmax_weights(q: Tensor, k: Tensor, causal: bool, scale: float | None = None) -> Tensor:
    scale = q.shape[-1] ** -0.5 if scale is None else check_real("scale", scale)
    scores = scale * (q @ k.mT)
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    return scores.softmax(-1)


def positive_sequence_entropy(a: Tensor, dim: int = -1) -> Tensor:
    """Entropy in nats of a non-negative sequence, PSE(a) = -sum (a_i / s) log(a_i / s), s = sum a.

    0 log 0 = 0, and an all-zero sequence has entropy 0. Reads the values of ``a``: a probe, not for vmap or compile.

    Args:
        a: non-negative values, such as rows of attention.
        dim: of the sequence. Default the last.

    Returns:
        a's shape without ``dim``, float32 (float64 for float64 input).

    Raises:
        ValueError: a negative entry.

    Example:
        >>> positive_sequence_entropy(torch.tensor([[1.0, 1.0], [3.0, 0.0]]))
        tensor([0.6931, -0.0000])
    """
    a = a.to(computing_dtype(a))
    if bool((a < 0).any()):
        raise ValueError(f"a must not be negative, got {float(a.min())}.")
    total = a.sum(dim, keepdim=True)
    p = a / torch.where(total > 0, total, 1)
    return -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(dim)
