"""The linear attentions that NaLaFormer is compared with, all in its mean-normalised form.

elu+1: Katharopoulos et al., "Transformers are RNNs", 2020, arXiv 2006.16236. Performer: Choromanski et al., 2021, arXiv
2009.14794. FLatten: Han et al., 2023, arXiv 2308.00442. PolaFormer: Meng et al., 2025, arXiv 2501.15061. Their feature
maps are in ``_feature_maps.py``, the normalisation (eps on the mean, not on the sum) in ``_linear_forms.py``.

PolaFormer and FLatten add a depthwise convolution of v, PolaFormer a linear gate and a projection as well: these belong
to the layer around the kernel and are not part of the functions here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normviz.attention._feature_maps import (
    FEATURES,
    computing_dtype,
    focused_features,
    performer_features,
    pola_features,
)
from normviz.attention._linear_forms import (
    bidirectional_form,
    causal_form,
    check_heads,
    check_options,
    no_autocast,
)
from normviz.validation import check_choice

__all__ = [
    "focused_linear_attention",
    "linear_attention",
    "performer_attention",
    "pola_linear_attention",
]


def _widened(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dtype = computing_dtype(q, k, v)
    return q.to(dtype), k.to(dtype), v.to(dtype)


def _attend(phi: tuple[Tensor, Tensor], v: Tensor, causal: bool, chunk_size: int, eps: float) -> Tensor:
    if causal:
        return causal_form(*phi, v, eps, chunk_size)[0]
    return bidirectional_form(*phi, v, eps)


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    kind: str = "elu1",
    causal: bool = False,
    chunk_size: int = 64,
    eps: float = 1e-6,
) -> Tensor:
    """Linear attention with the features elu(x) + 1 or relu(x).

    With relu, which is homogeneous, the norm of a query has no effect at all.

    Args:
        q: [B, h, N, d].
        k: [B, h, M, d].
        v: [B, h, M, dv].
        kind: "elu1" (default) or "relu".
        causal: query i sees the keys 0..i (False).
        chunk_size: of the causal form (64).
        eps: added to the mean similarity. Default 1e-6 (NaLaFormer release).

    Returns:
        [B, h, N, dv] in v's dtype.

    Raises:
        ValueError: shapes that do not fit, unknown kind, chunk_size < 1, eps < 0.
    """
    check_choice("kind", kind, ("elu1", "relu"))
    check_heads(q, k, v, causal)
    check_options(chunk_size, eps)
    with no_autocast(v):
        wide_q, wide_k, wide_v = _widened(q, k, v)
        phi = FEATURES[kind](wide_q, wide_k)
        return _attend(phi, wide_v, causal, chunk_size, eps).to(v.dtype)


def performer_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    projection: Tensor | None = None,
    num_features: int | None = None,
    generator: torch.Generator | None = None,
    causal: bool = False,
    chunk_size: int = 64,
    eps: float = 1e-6,
) -> Tensor:
    """FAVOR+: positive random features exp(W x' - |x'|^2/2) / sqrt(m) with x' = x d^(-1/4).

    Close to softmax attention for large m. Not stabilised by a maximum (eps is on the scale of the true similarities):
    the features of long vectors underflow.

    Args:
        q, k, v: as in :func:`linear_attention`.
        projection: W [m, d], shared by queries and keys; None draws a fresh one on every call.
        num_features: m of a drawn W. Default int(d ln d), at least 1 (the paper's rate). Its blocks of d rows are
            orthogonal, with the lengths of Gaussian vectors.
        generator: of the draw, on q's device; None: torch's global one.
        causal, chunk_size, eps: as in :func:`linear_attention`.

    Returns:
        [B, h, N, dv] in v's dtype.

    Raises:
        ValueError: as linear_attention; projection not [m, d], both projection and num_features, num_features < 1.
    """
    check_heads(q, k, v, causal)
    check_options(chunk_size, eps)
    with no_autocast(v):
        wide_q, wide_k, wide_v = _widened(q, k, v)
        phi = performer_features(wide_q, wide_k, projection, num_features, generator)
        return _attend(phi, wide_v, causal, chunk_size, eps).to(v.dtype)


def focused_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: Tensor | None = None,
    power: float = 3.0,
    causal: bool = False,
    chunk_size: int = 64,
    eps: float = 1e-6,
) -> Tensor:
    """FLatten: x = (relu(x) + 1e-6) / softplus(scale), each coordinate raised to ``power``, its length restored.

    Lengths are taken per token over all heads (the official code merges them). Kernel only, without the convolution.

    Args:
        q, k, v: as in :func:`linear_attention`.
        scale: learned s [h, 1, d]. None: zeros, the official start (softplus(0) = ln 2).
        power: sharpness. Default 3 (official code).
        causal, chunk_size, eps: as in :func:`linear_attention`.

    Returns:
        [B, h, N, dv] in v's dtype.

    Raises:
        ValueError: as linear_attention; scale of another shape, power not positive.
    """
    check_heads(q, k, v, causal)
    check_options(chunk_size, eps)
    with no_autocast(v):
        wide_q, wide_k, wide_v = _widened(q, k, v)
        phi = focused_features(wide_q, wide_k, scale, power)
        return _attend(phi, wide_v, causal, chunk_size, eps).to(v.dtype)


def pola_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: Tensor | None = None,
    power_logits: Tensor | None = None,
    causal: bool = False,
    chunk_size: int = 64,
    eps: float = 1e-6,
) -> Tensor:
    """PolaFormer: same-signed parts weigh the first half of v's channels, opposite-signed parts the second half.

    With x = x / softplus(scale), x+ = relu(x)^p, x- = relu(-x)^p, p = 1 + 4 sigmoid(power_logits): weights
    [q+; q-][k+; k-] and [q-; q+][k+; k-], each normalised. Kernel only.

    Args:
        q, k: as in :func:`linear_attention`.
        v: [B, h, M, dv], dv even.
        scale, power_logits: learned, [h, 1, d]. None: zeros, the official start (ln 2, power 3).
        causal, chunk_size, eps: as in :func:`linear_attention`.

    Returns:
        [B, h, N, dv] in v's dtype.

    Raises:
        ValueError: as linear_attention; dv odd, scale or power_logits of another shape.
    """
    check_heads(q, k, v, causal)
    check_options(chunk_size, eps)
    if v.shape[-1] % 2:
        raise ValueError(f"v must have an even number of channels, got {v.shape[-1]}.")
    with no_autocast(v):
        wide_q, wide_k, wide_v = _widened(q, k, v)
        halves = [
            _attend(pola_features(wide_q, wide_k, scale, power_logits, path), half, causal, chunk_size, eps)
            for path, half in zip(("same", "opposite"), wide_v.chunk(2, dim=-1), strict=True)
        ]
        return torch.cat(halves, dim=-1).to(v.dtype)
