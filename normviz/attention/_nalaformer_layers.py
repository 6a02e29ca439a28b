"""The gated attention layer of NaLaFormer: norm-aware linear, and its softmax twin."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.attention._feature_maps import NormAwareFeatureMap, computing_dtype
from normviz.attention._norm_aware import norm_aware_linear_attention
from normviz.attention._rotary import apply_rotary, rope_2d, rope_at
from normviz.validation import check_integer, check_real

__all__ = ["GatedSoftmaxAttention", "LayerState", "NormAwareLinearAttention"]

LayerState = tuple[Tensor, Tensor, int, Tensor]  # S, s, t, the last kernel - 1 rows of v


class _GatedAttention(nn.Module, ABC):
    """``proj(LN(heads(q, k, v) + LePE(v)) * SiLU(g))`` with q, k, v, g from one linear layer."""

    def __init__(
        self, dim: int, num_heads: int, rotary: bool, lepe_kernel: int, causal: bool, qkv_bias: bool
    ) -> None:
        super().__init__()
        self.dim = check_integer("dim", dim, 1)
        self.num_heads = check_integer("num_heads", num_heads, 1)
        if dim % num_heads:
            raise ValueError(f"num_heads must divide dim = {dim}, got {num_heads}.")
        self.head_dim = dim // num_heads
        pairs = 2 if causal else 4
        if rotary and self.head_dim % pairs:
            raise ValueError(
                f"dim / num_heads must be a multiple of {pairs} for {'1D' if causal else '2D'} rotary, got "
                f"{self.head_dim}."
            )
        if check_integer("lepe_kernel", lepe_kernel, 0) % 2 == 0 and lepe_kernel:
            raise ValueError(f"lepe_kernel must be odd (or 0 for none), got {lepe_kernel}.")
        self.rotary = rotary
        self.qkvg = nn.Linear(dim, 4 * dim, bias=qkv_bias)
        self.lepe: nn.Conv1d | nn.Conv2d | None = None
        if lepe_kernel and causal:
            self.lepe = nn.Conv1d(dim, dim, lepe_kernel, groups=dim)
        elif lepe_kernel:
            self.lepe = nn.Conv2d(dim, dim, lepe_kernel, padding=lepe_kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.proj = nn.Linear(dim, dim)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, h, N, d]."""
        return x.reshape(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def _output(self, heads: Tensor, lepe: Tensor | None, g: Tensor) -> Tensor:
        o = heads.transpose(1, 2).flatten(2)  # (B, N, C)
        if lepe is not None:
            o = o + lepe
        out: Tensor = self.proj(self.norm(o) * F.silu(g))
        return out

    def _image_forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        if x.ndim != 4 or x.shape[1] != self.dim:
            raise ValueError(f"x must have shape (B, {self.dim}, H, W), got {tuple(x.shape)}.")
        H, W = x.shape[2:]
        q, k, v, g = self.qkvg(x.flatten(2).mT).chunk(4, dim=-1)  # (B, N, C) each
        lepe = None
        if self.lepe is not None:
            lepe = self.lepe(v.mT.reshape(x.shape)).flatten(2).mT  # (B, N, C)
        table = None
        if self.rotary:
            table = rope_2d(H, W, self.head_dim, device=x.device, dtype=computing_dtype(x))
        heads = self._attend(self._heads(q), self._heads(k), self._heads(v), table)
        return self._output(heads, lepe, g).mT.reshape(x.shape)

    @abstractmethod
    def _attend(self, q: Tensor, k: Tensor, v: Tensor, table: tuple[Tensor, Tensor] | None) -> Tensor:
        """Attention of the heads [B, h, N, d], positions by the rotary table."""

    def extra_repr(self) -> str:
        """Sizes, for ``repr``."""
        return f"{self.dim}, num_heads={self.num_heads}, rotary={self.rotary}"


class NormAwareLinearAttention(_GatedAttention):
    """NaLaFormer's attention layer, linear in the number of tokens.

    q, k, v, g = qkvg(x); o = norm-aware linear attention of q, k, v; ``proj(LN(o + LePE(v)) * SiLU(g))``. LN is over
    all channels, LePE a depthwise convolution of v as an image (causal: over the sequence, padded on the left). There
    is no 1/sqrt(d).

    Args:
        dim: C.
        num_heads: h, a divisor of C.
        direction, lam, tau, alpha: of :class:`NormAwareFeatureMap` ("cosine", 3, 0.5, 20). Weights of the official
            release need "sign".
        rotary: turn features by position: over the grid (C/h a multiple of 4), causal over the line (C/h even). True.
        lepe_kernel: odd, 0 for no LePE. Default 5 (official code).
        causal: language instead of images (False).
        qkv_bias: bias of ``qkvg``. True (official code).
        eps: added to the mean similarity. Default 1e-6 (official code).

    Attributes:
        qkvg: Linear(C, 4C), rows in the order q, k, v, g.
        lepe: depthwise Conv2d (causal: Conv1d), or None.
        norm: LayerNorm(C), eps 1e-5.
        proj: Linear(C, C).

    Raises:
        ValueError: sizes that do not divide, an even lepe_kernel, lam, tau, alpha or eps out of range, an unknown
            direction.

    Example:
        >>> layer = NormAwareLinearAttention(16, 2)
        >>> layer(torch.randn(1, 16, 3, 5)).shape
        torch.Size([1, 16, 3, 5])

    Reference: Meng et al. 2025 (NaLaFormer), arXiv 2506.21137, section 3.2 of its first version for the feature
    map; gate, LePE and norm as in the official release.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        direction: str = "cosine",
        lam: float = 3.0,
        tau: float = 0.5,
        alpha: float = 20.0,
        rotary: bool = True,
        lepe_kernel: int = 5,
        causal: bool = False,
        qkv_bias: bool = True,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(dim, num_heads, rotary, lepe_kernel, causal, qkv_bias)
        self.feature_map = NormAwareFeatureMap(lam, tau, alpha, direction)
        self.causal = causal
        self.eps = check_real("eps", eps, 0)

    def forward(
        self, x: Tensor, state: LayerState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, LayerState]:
        """Attend.

        Args:
            x: [B, C, H, W]; causal: [B, N, C].
            state: causal only; (S, s, t, tail) as returned for the tokens before: the state of
                :func:`norm_aware_linear_attention` and the last lepe_kernel - 1 rows of v [B, lepe_kernel - 1, C].
                None at the start of a sequence.
            return_state: causal only; return the state after x as well (False).

        Returns:
            x's shape; with return_state (output, state).

        Raises:
            ValueError: x or state of another shape, state or return_state without causal.
        """
        if self.causal:
            out, state = self._sequence_forward(x, state)
            return (out, state) if return_state else out
        if state is not None or return_state:
            raise ValueError("state and return_state need causal=True, got causal=False.")
        return self._image_forward(x)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, table: tuple[Tensor, Tensor] | None) -> Tensor:
        return norm_aware_linear_attention(q, k, v, feature_map=self.feature_map, rotary=table, eps=self.eps)

    def _sequence_forward(self, x: Tensor, state: LayerState | None) -> tuple[Tensor, LayerState]:
        if x.ndim != 3 or x.shape[2] != self.dim:
            raise ValueError(f"x must have shape (B, N, {self.dim}), got {tuple(x.shape)}.")
        q, k, v, g = self.qkvg(x).chunk(4, dim=-1)  # (B, N, C) each
        reach = 0 if self.lepe is None else self.lepe.kernel_size[0] - 1
        if state is None:
            sums, seen, tail = None, 0, v.new_zeros(x.shape[0], reach, self.dim)
        else:
            S, s, seen, tail = state
            sums = (S, s, seen)
            if tail.shape != (x.shape[0], reach, self.dim):
                raise ValueError(
                    f"state must hold a tail {(x.shape[0], reach, self.dim)}, got {tuple(tail.shape)}."
                )
        table = None
        if self.rotary:
            positions = torch.arange(seen, seen + x.shape[1], device=x.device, dtype=computing_dtype(x))
            table = rope_at(positions, self.head_dim)
        heads, (S, s, seen) = norm_aware_linear_attention(
            self._heads(q),
            self._heads(k),
            self._heads(v),
            causal=True,
            feature_map=self.feature_map,
            rotary=table,
            eps=self.eps,
            state=sums,
            return_state=True,
        )
        rows = torch.cat((tail.to(v.dtype), v), dim=1)  # (B, kernel - 1 + N, C)
        lepe = None if self.lepe is None else self.lepe(rows.mT).mT
        return self._output(heads, lepe, g), (S, s, seen, rows[:, rows.shape[1] - reach :])


class GatedSoftmaxAttention(_GatedAttention):
    """The softmax twin of :class:`NormAwareLinearAttention` in the late stages of the released backbones.

    Same qkvg, LePE, norm, gate and projection; softmax(q k^T / sqrt(d)) with q and k turned by the rotary table.

    Args:
        dim, num_heads, rotary, lepe_kernel, qkv_bias: as in :class:`NormAwareLinearAttention`.

    Raises:
        ValueError: sizes that do not divide, an even lepe_kernel.
    """

    def __init__(
        self, dim: int, num_heads: int, rotary: bool = True, lepe_kernel: int = 5, qkv_bias: bool = True
    ) -> None:
        super().__init__(dim, num_heads, rotary, lepe_kernel, False, qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return self._image_forward(x)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, table: tuple[Tensor, Tensor] | None) -> Tensor:
        if table is not None:
            q, k = apply_rotary(q, *table), apply_rotary(k, *table)
        # Spelled out: the fused kernel has no batching rule for vmap, and late stages have few tokens.
        out: Tensor = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1) @ v
        return out
