r"""Linear attention from features: bidirectional, and causal in chunks.

With phi_q [B, h, N, m], phi_k [B, h, M, m], v [B, h, M, dv]:

    bidirectional   o_i = phi_q(q_i) KV / (phi_q(q_i) mean_j phi_k(k_j) + eps),   KV = (1/M) sum_j phi_k(k_j) v_j^T
    causal          o_t = (phi_q(q_t) S_t / t) / (phi_q(q_t) s_t / t + eps),      S_t, s_t the sums over j <= t

eps is added to the mean, so rows sum to slightly less than 1 where features are small; dividing by t makes the last
causal row the bidirectional one. Rotated features enter the numerator only: the denominator stays non-negative.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from normviz.validation import check_integer, check_real

__all__ = ["State", "bidirectional_form", "causal_form", "check_heads", "check_options", "no_autocast"]

State = tuple[Tensor, Tensor, int]  # S [B, h, m, dv], s [B, h, m], number of tokens


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Context without autocast on x's device, where matrix products of features would drop to half precision."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def check_heads(q: Tensor, k: Tensor, v: Tensor | None, causal: bool) -> None:
    """Raise ValueError unless q [B, h, N, d], k [B, h, M, d], v [B, h, M, dv] fit, with N = M if causal."""
    tensors = {"q": q, "k": k} if v is None else {"q": q, "k": k, "v": v}
    for name, tensor in tensors.items():
        if tensor.ndim != 4:
            raise ValueError(f"{name} must have shape (B, heads, N, d), got {tuple(tensor.shape)}.")
        if tensor.shape[2] == 0:
            raise ValueError(f"{name} must hold at least one token, got shape {tuple(tensor.shape)}.")
    B, h, N, d = q.shape
    M = k.shape[2]
    if k.shape != (B, h, M, d):
        raise ValueError(f"k must have shape ({B}, {h}, M, {d}) like q, got {tuple(k.shape)}.")
    if v is not None and v.shape[:3] != (B, h, M):
        raise ValueError(f"v must have shape ({B}, {h}, {M}, dv) like k, got {tuple(v.shape)}.")
    if causal and N != M:
        raise ValueError(f"causal attention needs as many keys as queries ({N}), got {M}.")


def check_options(chunk_size: int, eps: float) -> None:
    """Raise ValueError unless chunk_size >= 1 and eps is finite and >= 0."""
    check_integer("chunk_size", chunk_size, 1)
    check_real("eps", eps, 0, math.inf, high_open=True)


def bidirectional_form(
    phi_q: Tensor, phi_k: Tensor, v: Tensor, eps: float, rotated: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Every query sees every key, O(N m dv). ``rotated``: the features of the numerator, if others."""
    rotated_q, rotated_k = (phi_q, phi_k) if rotated is None else rotated
    KV = rotated_k.mT @ v / v.shape[-2]  # (B, h, m, dv)
    z = phi_q @ phi_k.mean(-2, keepdim=True).mT + eps  # (B, h, N, 1)
    return (rotated_q @ KV) / z


def causal_form(
    phi_q: Tensor,
    phi_k: Tensor,
    v: Tensor,
    eps: float,
    chunk_size: int,
    rotated: tuple[Tensor, Tensor] | None = None,
    state: State | None = None,
) -> tuple[Tensor, State]:
    """Every query sees the keys up to its own, and those summed up in ``state``; O(N C m + N m dv).

    Within a chunk of C tokens by the masked C x C matrix, across chunks by the sums S: C = 1 is the recurrent form,
    C >= N the parallel one.
    """
    rotated_q, rotated_k = (phi_q, phi_k) if rotated is None else rotated
    B, h, N, m = phi_q.shape
    dv = v.shape[-1]
    if state is None:
        state = (phi_q.new_zeros(B, h, m, dv), phi_q.new_zeros(B, h, m), 0)
    S, s, seen = _checked_state(state, (B, h, m, dv), phi_q.dtype)

    sums = s[:, :, None] + phi_k.cumsum(-2)  # (B, h, N, m)
    t = torch.arange(seen + 1, seen + N + 1, device=v.device, dtype=v.dtype)[:, None]  # (N, 1)
    z = (phi_q * sums).sum(-1, keepdim=True) / t + eps  # (B, h, N, 1)

    C = min(chunk_size, N)
    q_chunks, k_chunks, v_chunks = (_chunked(x, C) for x in (rotated_q, rotated_k, v))  # (B, h, n, C, .)
    gained = k_chunks.mT @ v_chunks  # (B, h, n, m, dv)
    S_after = S[:, :, None] + gained.cumsum(2)
    S_before = torch.cat((S[:, :, None], S_after[:, :, :-1]), dim=2)
    inside = (q_chunks @ k_chunks.mT).tril() @ v_chunks  # (B, h, n, C, dv)
    numerator = (inside + q_chunks @ S_before).flatten(2, 3)[:, :, :N]  # (B, h, N, dv)
    return numerator / t / z, (S_after[:, :, -1], sums[:, :, -1], seen + N)


def _chunked(x: Tensor, C: int) -> Tensor:
    """(B, h, N, c) -> (B, h, n, C, c), zeros after the end."""
    missing = -x.shape[2] % C
    padded = F.pad(x, (0, 0, 0, missing))
    return padded.reshape(*x.shape[:2], -1, C, x.shape[3])


def _checked_state(state: State, shape: tuple[int, ...], dtype: torch.dtype) -> State:
    S, s, seen = state
    if S.shape != shape or s.shape != shape[:3]:
        raise ValueError(
            f"state must hold S {shape} and s {shape[:3]}, got {tuple(S.shape)} and {tuple(s.shape)}."
        )
    if not isinstance(seen, int) or seen < 0:
        raise ValueError(f"state must count the tokens seen by an integer >= 0, got {seen!r}.")
    return S.to(dtype), s.to(dtype), seen
