"""Norm-aware linear attention as a function: bidirectional, and causal with a state."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from normviz.attention._feature_maps import NormAwareFeatureMap, computing_dtype
from normviz.attention._linear_forms import (
    State,
    bidirectional_form,
    causal_form,
    check_heads,
    check_options,
    no_autocast,
)
from normviz.attention._rotary import apply_rotary

__all__ = ["norm_aware_linear_attention"]


@overload
def norm_aware_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = ...,
    feature_map: NormAwareFeatureMap | None = ...,
    rotary: tuple[Tensor, Tensor] | None = ...,
    chunk_size: int = ...,
    eps: float = ...,
    state: State | None = ...,
    return_state: Literal[False] = ...,
) -> Tensor: ...


@overload
def norm_aware_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = ...,
    feature_map: NormAwareFeatureMap | None = ...,
    rotary: tuple[Tensor, Tensor] | None = ...,
    chunk_size: int = ...,
    eps: float = ...,
    state: State | None = ...,
    return_state: Literal[True],
) -> tuple[Tensor, State]: ...


def norm_aware_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    feature_map: NormAwareFeatureMap | None = None,
    rotary: tuple[Tensor, Tensor] | None = None,
    chunk_size: int = 64,
    eps: float = 1e-6,
    state: State | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, State]:
    """Linear attention with norm-aware features, bidirectional or causal; computed in float32 (float64 stays).

    Without rotary, the output is a weighted mean of v with non-negative weights of sum S / (S + eps), S the mean
    similarity. With rotary the numerator uses the rotated features and the denominator the plain ones: weights may then
    be negative and need not sum to 1.

    Args:
        q: [B, h, N, d]. A zero row gives output 0.
        k: [B, h, M, d].
        v: [B, h, M, dv].
        causal: query i sees the keys 0..i (False). chunk_size = 1 is the recurrent form, >= N the parallel one.
        feature_map: None is ``NormAwareFeatureMap()``.
        rotary: (sin, cos), each [N, d] (then N = M); None for none. When a causal sequence is continued, the rows of
            its own positions.
        chunk_size: C of the causal form; cost O(N C d + N d dv). Default 64.
        eps: added to the mean similarity. Default 1e-6 (official code).
        state: causal only; (S [B, h, 2d, dv], s [B, h, 2d], t) of the tokens before: sums of phi_k v^T (rotated) and of
            phi_k (plain), and their number. None: no token before.
        return_state: causal only; return the new state as well (False).

    Returns:
        [B, h, N, dv] in v's dtype; with return_state (output, state).

    Raises:
        ValueError: shapes of q, k, v, rotary or state that do not fit, chunk_size < 1, eps < 0, N != M with causal or
            rotary, state or return_state without causal.

    Example:
        >>> import torch
        >>> q, k, v = torch.randn(3, 1, 2, 10, 4).unbind()
        >>> whole = norm_aware_linear_attention(q, k, v, causal=True)
        >>> first, state = norm_aware_linear_attention(
        ...     q[:, :, :9], k[:, :, :9], v[:, :, :9], causal=True, return_state=True
        ... )
        >>> last = norm_aware_linear_attention(q[:, :, 9:], k[:, :, 9:], v[:, :, 9:], causal=True, state=state)
        >>> torch.allclose(torch.cat((first, last), dim=2), whole, atol=1e-4)
        True
    """
    check_heads(q, k, v, causal)
    check_options(chunk_size, eps)
    if not causal and (state is not None or return_state):
        raise ValueError("state and return_state need causal=True, got causal=False.")
    if rotary is not None and q.shape[2] != k.shape[2]:
        raise ValueError(f"rotary needs as many keys as queries ({q.shape[2]}), got {k.shape[2]}.")
    phi = NormAwareFeatureMap() if feature_map is None else feature_map
    dtype = computing_dtype(q, k, v)
    with no_autocast(v):
        phi_q, phi_k = phi.query(q.to(dtype)), phi.key(k.to(dtype))
        rotated = None
        if rotary is not None:
            rotated = apply_rotary(phi_q, *rotary), apply_rotary(phi_k, *rotary)
        if not causal:
            return bidirectional_form(phi_q, phi_k, v.to(dtype), eps, rotated).to(v.dtype)
        out, state = causal_form(phi_q, phi_k, v.to(dtype), eps, chunk_size, rotated, state)
        return (out.to(v.dtype), state) if return_state else out.to(v.dtype)
