"""A GPT-style decoder: causal language model over characters or bytes.

Layout and initialisation follow GPT-2: learned positions, normal weights, the two projections that write into the
residual stream scaled down by 1/sqrt(2 num_layers), pre-norm with a final norm. Norm, attention and feed-forward are
exchangeable; all other weights then start from the same numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as project

from normviz.models import _checks
from normviz.models._layers import Activation, NormFactory, build, embedding, gpt2_std, linear, masked_call
from normviz.models.transformer import (
    AttentionFactory,
    FeedForward,
    MLPFactory,
    SelfAttention,
    TransformerBlock,
)

__all__ = ["GPT"]


class GPT(nn.Module):
    """Token and position embedding, causal transformer blocks, next-token logits.

    Tokens (B, T) -> logits (B, T, vocab_size). Norm layers are ``blocks.<i>.norm1``, ``blocks.<i>.norm2`` and, in
    pre-norm, ``norm_out``.

    Args:
        vocab_size: number of different tokens V.
        dim: width C of the tokens (64 by default).
        num_layers: number of blocks (2 by default).
        num_heads: attention heads (4 by default); must divide ``dim``.
        max_length: longest sequence T (64 by default), the number of learned positions.
        mlp_ratio: inner width of the feed-forward part over ``dim`` (4 by default, as in GPT-2).
        norm: width -> norm layer on (B, T, C); ``nn.LayerNorm`` by default, None for no norm. It receives
            ``pad_mask`` if its ``forward`` has such an argument.
        norm_first: pre-norm with a final norm (True, default) or post-norm.
        attention: (dim, num_heads) -> causal attention module (B, T, C) -> (B, T, C); by default
            :class:`normviz.models.SelfAttention`. For another kernel between the same projections give
            ``lambda dim, heads: SelfAttention(dim, heads, causal=True, kernel=...)``.
        mlp: dim -> feed-forward module; by default :class:`normviz.models.FeedForward`.
        activation: of the default feed-forward part ("gelu").
        dropout: drop rate on embeddings and branches, in [0, 1); 0 by default.
        tie_weights: whether the token embedding is also the output matrix (default False); then ``head`` is None and
            every parameter appears once.
        bias: whether the default attention and feed-forward parts have biases (True by default).
        init_std: standard deviation of all initial weights; None (default) means GPT-2's 0.02 scaled to this width,
            0.02 sqrt(768 / dim).

    Raises:
        ValueError: a size below 1, ``dim`` not divisible by ``num_heads``, ``mlp_ratio`` or ``init_std`` negative,
            dropout outside [0, 1), a factory that is not callable; in forward: more than ``max_length`` tokens.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> GPT(50, norm=nn.RMSNorm)(torch.zeros(2, 16, dtype=torch.long)).shape
        torch.Size([2, 16, 50])
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        max_length: int = 64,
        mlp_ratio: float = 4.0,
        norm: NormFactory | None = nn.LayerNorm,
        norm_first: bool = True,
        attention: AttentionFactory | None = None,
        mlp: MLPFactory | None = None,
        activation: Activation = "gelu",
        dropout: float = 0.0,
        tie_weights: bool = False,
        bias: bool = True,
        init_std: float | None = None,
    ) -> None:
        super().__init__()
        _checks.size("vocab_size", vocab_size)
        _checks.size("dim", dim)
        _checks.size("num_layers", num_layers)
        _checks.size("num_heads", num_heads)
        if dim % num_heads:
            raise ValueError(f"dim must be divisible by num_heads, got dim={dim} and num_heads={num_heads}.")
        self.max_length = _checks.size("max_length", max_length)
        hidden = max(1, round(_checks.real("mlp_ratio", mlp_ratio) * dim))
        std = _checks.real("init_std", gpt2_std(dim) if init_std is None else init_std)
        _checks.probability("dropout", dropout)
        _checks.factory("attention", attention)
        _checks.factory("mlp", mlp)
        into_stream = std / (2 * num_layers) ** 0.5

        # Everything outside the blocks is drawn first, so that no factory can shift it.
        self.token_embedding = embedding(vocab_size, dim, std=std)
        self.position_embedding = embedding(max_length, dim, std=std)
        self.head = None if tie_weights else linear(dim, vocab_size, bias=False, init=std)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

        def default_attention(dim: int, num_heads: int) -> nn.Module:
            return SelfAttention(dim, num_heads, causal=True, bias=bias, std=std, proj_std=into_stream)

        def default_mlp(dim: int) -> nn.Module:
            return FeedForward(dim, hidden, activation=activation, bias=bias, std=std, proj_std=into_stream)

        self.blocks = nn.ModuleList(
            TransformerBlock(
                dim,
                build("attention", attention or default_attention, dim, num_heads),
                build("mlp", mlp or default_mlp, dim),
                norm=norm,
                norm_first=norm_first,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.norm_out = build("norm", norm if norm_first else None, dim)

    def features(self, tokens: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """The input of the output matrix, (B, T, C)."""
        length = tokens.shape[-1]
        if length > self.max_length:
            raise ValueError(
                f"tokens must have at most max_length={self.max_length} positions, got {length}."
            )
        positions = torch.arange(length, device=tokens.device)
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))  # (B, T, C)
        for block in self.blocks:
            x = block(x, pad_mask)
        return masked_call(self.norm_out, x, pad_mask)

    def forward(self, tokens: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Map tokens (B, T) to logits (B, T, V); ``pad_mask`` (B, T) is True at padding."""
        x = self.features(tokens, pad_mask)
        # The shared matrix is read from the embedding, not registered twice: functional_call and stacked
        # parameters then see it once.
        out: Tensor = project(x, self.token_embedding.weight) if self.head is None else self.head(x)
        return out

    def extra_repr(self) -> str:
        """Longest sequence and weight tying."""
        return f"max_length={self.max_length}, tie_weights={self.head is None}"
