"""The attention kernels of the arms as modules, with the parameters and random features that a layer would hold."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from normviz.attention import (
    NormAwareFeatureMap,
    attention_weights,
    feature_weights,
    focused_linear_attention,
    linear_attention,
    norm_aware_linear_attention,
    orthogonal_projection,
    performer_attention,
    pola_linear_attention,
)

__all__ = ["ClippedMap", "FixedPowerMap", "LinearKernel", "RecurrentKernel"]


class FixedPowerMap(NormAwareFeatureMap):
    """NaLa's cosine form without the norm: every query has the greatest power, lam (tau + 1)."""

    def power(self, q_norm: Tensor) -> Tensor:
        """The same for every norm."""
        return torch.full_like(q_norm, self.lam * (self.tau + 1))


class ClippedMap(NormAwareFeatureMap):
    """NaLa without the norm-preserving map: negative coordinates count as zero, in queries and keys."""

    def query(self, q: Tensor) -> Tensor:
        """relu(d(q))^p(|q|), of the same shape."""
        return super().query(q)[..., : q.shape[-1]]

    def key(self, k: Tensor) -> Tensor:
        """relu(k)^lam, of the same shape."""
        return super().key(k)[..., : k.shape[-1]]


def _feature_map(kind: str, lam: float, tau: float, alpha: float) -> NormAwareFeatureMap:
    if kind == "nala_fixed":
        return FixedPowerMap(lam, tau, alpha)
    if kind == "nala_clipped":
        return ClippedMap(lam, tau, alpha, "sign")  # the sign form's first half is the positive one
    return NormAwareFeatureMap(lam, tau, alpha, "sign" if kind == "nala_sign" else "cosine")


class LinearKernel(nn.Module):
    """(q, k, v) -> output, each (B, h, N, d), by one of the linear attentions; the kernel alone, no convolution.

    FLatten and PolaFormer have their learned scales and powers, which start as in their code. Performer's projection is
    drawn once from the seed of the network, without touching its stream of random numbers.

    Args:
        kind: as in :func:`normviz.attention.attention_weights`, all but "softmax"; or "nala_fixed" or "nala_clipped".
        heads: h.
        head_dim: d.
        causal: token n sees 0..n.
        lam, tau, alpha: of NaLa.
    """

    def __init__(
        self,
        kind: str,
        heads: int,
        head_dim: int,
        *,
        causal: bool = False,
        lam: float = 3.0,
        tau: float = 0.5,
        alpha: float = 20.0,
    ) -> None:
        super().__init__()
        self.kind, self.causal = kind, causal
        self.constants = {"lam": lam, "tau": tau, "alpha": alpha}
        self.feature_map = _feature_map(kind, lam, tau, alpha)
        if kind in ("focused", "pola"):
            self.scale = nn.Parameter(torch.zeros(heads, 1, head_dim))
        if kind == "pola":
            self.power_logits = nn.Parameter(torch.zeros(heads, 1, head_dim))
        if kind == "performer":
            generator = torch.Generator().manual_seed(torch.initial_seed())
            features = max(1, int(head_dim * math.log(head_dim)))
            self.register_buffer("projection", orthogonal_projection(features, head_dim, generator=generator))

    def _own(self) -> dict[str, Tensor]:
        """What the layer holds, by the argument's name."""
        return {**dict(self.named_parameters(recurse=False)), **dict(self.named_buffers(recurse=False))}

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of every head, (B, h, N, d)."""
        if self.kind in ("elu1", "relu"):
            return linear_attention(q, k, v, kind=self.kind, causal=self.causal)
        if self.kind.startswith("nala"):
            return norm_aware_linear_attention(q, k, v, feature_map=self.feature_map, causal=self.causal)
        own: dict[str, Any] = self._own()
        if self.kind == "focused":
            return focused_linear_attention(q, k, v, causal=self.causal, **own)
        if self.kind == "pola":
            return pola_linear_attention(q, k, v, causal=self.causal, **own)
        return performer_attention(q, k, v, causal=self.causal, **own)

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """The explicit map, (B, h, N, N); of PolaFormer the same-signed path."""
        if self.kind in ("nala_fixed", "nala_clipped"):
            return feature_weights(self.feature_map.query(q), self.feature_map.key(k), self.causal)
        options = self.constants if self.kind.startswith("nala") else self._own()
        return attention_weights(q, k, self.kind, self.causal, **options)

    def extra_repr(self) -> str:
        """Kind and causality."""
        return f"kind={self.kind!r}, causal={self.causal}"


class RecurrentKernel(nn.Module):
    """Causal norm-aware attention that is fed piece by piece and remembers the sums over what came before."""

    def __init__(self, feature_map: NormAwareFeatureMap) -> None:
        super().__init__()
        self.feature_map = feature_map
        self.state: tuple[Tensor, Tensor, int] | None = None

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Output of the new tokens, (B, h, n, d)."""
        output, self.state = norm_aware_linear_attention(
            q,
            k,
            v,
            causal=True,
            chunk_size=1,
            feature_map=self.feature_map,
            state=self.state,
            return_state=True,
        )
        return output
