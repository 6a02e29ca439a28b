"""The attention kernels of the arms as modules, with the parameters and random features that a layer would hold."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from normviz.attention import (
    NormAwareFeatureMap,
    attention_weights,
    focused_linear_attention,
    linear_attention,
    norm_aware_linear_attention,
    performer_attention,
    pola_linear_attention,
)
from normviz.attention._feature_maps import orthogonal_projection

__all__ = ["LinearKernel", "RecurrentKernel"]


class LinearKernel(nn.Module):
    """(q, k, v) -> output, each (B, h, N, d), by one of the linear attentions; the kernel alone, no convolution.

    FLatten and PolaFormer have their learned scales and powers, which start as in their code. Performer's projection is
    drawn once from the seed of the network, without touching its stream of random numbers.

    Args:
        kind: as in :func:`normviz.attention.attention_weights`, all but "softmax".
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
        direction = "sign" if kind == "nala_sign" else "cosine"
        self.feature_map = NormAwareFeatureMap(lam, tau, alpha, direction)
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
