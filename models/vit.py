"""A small vision transformer over image patches, down to single pixels (digits as 64 one-pixel tokens).

Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, arXiv 2010.11929, at the size of the 8 x 8 digits: by
default the class is read from the mean of all tokens, with ``pool="cls"`` from a class token as in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normviz.models import _checks
from normviz.models._layers import Activation, NormFactory, build, gpt2_std, linear, masked_call
from normviz.models.transformer import (
    AttentionFactory,
    FeedForward,
    MLPFactory,
    SelfAttention,
    TransformerBlock,
)

__all__ = ["ViT"]


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(value, int):
        return _checks.size(name, value), value
    pair = _checks.sizes(name, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be an integer or a pair (height, width), got {value!r}.")
    return pair[0], pair[1]


class ViT(nn.Module):
    """Linear patch embedding plus learned positions, transformer blocks, final norm, pooling, linear ``head``.

    Images (B, in_channels, H, W) -> logits (B, num_classes). Norm layers are ``blocks.<i>.norm1``,
    ``blocks.<i>.norm2`` and, in pre-norm, ``norm_out``. Tokens are the patches row by row, after the class token
    if there is one.

    Args:
        image_size: H = W, or (H, W); 8 by default (the digits).
        patch_size: side p of a patch, or (height, width); 2 by default; must divide the image size.
        in_channels: channels of the image (1 by default).
        num_classes: number of logits (10 by default).
        dim: width C of the tokens (64 by default).
        num_layers: number of blocks (2 by default).
        num_heads: attention heads (4 by default); must divide ``dim``.
        mlp_ratio: inner width of the feed-forward part over ``dim`` (4 by default, as in the paper).
        norm: width -> norm layer on (B, N, C); ``nn.LayerNorm`` by default, None for no norm.
        norm_first: pre-norm with a final norm (True, default) or post-norm.
        attention: (dim, num_heads) -> attention module (B, N, C) -> (B, N, C); by default
            :class:`normviz.models.SelfAttention`, whose ``kernel`` exchanges softmax for another attention.
        mlp: dim -> feed-forward module; by default :class:`normviz.models.FeedForward`.
        activation: of the default feed-forward part ("gelu").
        pool: "mean" over all tokens (default) or "cls".
        dropout: drop rate on embeddings and branches, in [0, 1); 0 by default.
        position_std: standard deviation of the initial positions; 0.5 by default, the order of the embedded patches of
            standardised images, so that places are told apart from the start (the paper's 0.02 trains far later
            at this size).
        init_std: the same for attention and feed-forward weights; None (default) means 0.02 sqrt(768 / dim), GPT-2's
            and the paper's 0.02 scaled to this width. The patch embedding and the head start from N(0, 1/fan_in).

    Raises:
        ValueError: a size below 1, patches that do not tile the image, ``dim`` not divisible by ``num_heads``, a
            negative std or ratio, unknown ``pool``, dropout outside [0, 1), a factory that is not callable; in
            forward: an image of another size.

    Example:
        >>> import torch
        >>> ViT(patch_size=1, dim=32, num_heads=2)(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 8,
        patch_size: int | tuple[int, int] = 2,
        in_channels: int = 1,
        num_classes: int = 10,
        *,
        dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        norm: NormFactory | None = nn.LayerNorm,
        norm_first: bool = True,
        attention: AttentionFactory | None = None,
        mlp: MLPFactory | None = None,
        activation: Activation = "gelu",
        pool: str = "mean",
        dropout: float = 0.0,
        position_std: float = 0.5,
        init_std: float | None = None,
    ) -> None:
        super().__init__()
        self.image_size = _pair("image_size", image_size)
        self.patch_size = _pair("patch_size", patch_size)
        self.in_channels = _checks.size("in_channels", in_channels)
        if any(side % patch for side, patch in zip(self.image_size, self.patch_size, strict=True)):
            raise ValueError(
                f"patch_size must divide image_size, got patch_size={patch_size} and image_size={image_size}."
            )
        self.grid = (self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1])
        _checks.size("num_classes", num_classes)
        _checks.size("dim", dim)
        _checks.size("num_layers", num_layers)
        _checks.size("num_heads", num_heads)
        if dim % num_heads:
            raise ValueError(f"dim must be divisible by num_heads, got dim={dim} and num_heads={num_heads}.")
        hidden = max(1, round(_checks.real("mlp_ratio", mlp_ratio) * dim))
        std = _checks.real("init_std", gpt2_std(dim) if init_std is None else init_std)
        _checks.real("position_std", position_std)
        _checks.probability("dropout", dropout)
        _checks.factory("attention", attention)
        _checks.factory("mlp", mlp)
        self.pool = _checks.choice("pool", pool, ("mean", "cls"))

        num_tokens = self.grid[0] * self.grid[1] + (pool == "cls")
        patch_dim = in_channels * self.patch_size[0] * self.patch_size[1]
        # Everything outside the blocks is drawn first, so that no factory can shift it.
        self.patch_embedding = linear(patch_dim, dim, init="lecun")
        self.position_embedding = nn.Parameter(torch.randn(num_tokens, dim) * position_std)
        self.class_token = nn.Parameter(torch.zeros(dim)) if pool == "cls" else None
        self.head = linear(dim, num_classes, init="lecun")
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

        def default_attention(dim: int, num_heads: int) -> nn.Module:
            return SelfAttention(dim, num_heads, std=std)

        def default_mlp(dim: int) -> nn.Module:
            return FeedForward(dim, hidden, activation=activation, std=std)

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

    def patches(self, x: Tensor) -> Tensor:
        """Cut images (B, c, H, W) into flat patches (B, rows * columns, c * p * p), row by row."""
        if x.shape[-3:] != (self.in_channels, *self.image_size):
            raise ValueError(
                f"x must have shape (B, {self.in_channels}, {self.image_size[0]}, {self.image_size[1]}), "
                f"got {tuple(x.shape)}."
            )
        (rows, columns), (height, width) = self.grid, self.patch_size
        x = x.reshape(-1, self.in_channels, rows, height, columns, width)
        return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, rows * columns, c * p * p)

    def tokens(self, x: Tensor) -> Tensor:
        """The residual stream after the last block and the final norm, (B, N, C)."""
        y: Tensor = self.patch_embedding(self.patches(x))  # (B, N, C)
        if self.class_token is not None:
            y = torch.cat((self.class_token.expand(y.shape[0], 1, -1), y), dim=1)  # (B, 1 + N, C)
        y = self.dropout(y + self.position_embedding)
        for block in self.blocks:
            y = block(y)
        return masked_call(self.norm_out, y, None)

    def features(self, x: Tensor) -> Tensor:
        """The input of the head: the mean token or the class token, (B, C)."""
        y = self.tokens(x)
        return y[:, 0] if self.pool == "cls" else y.mean(1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to logits (B, num_classes)."""
        out: Tensor = self.head(self.features(x))
        return out

    def extra_repr(self) -> str:
        """Grid of patches and pooling."""
        return f"grid={self.grid[0]}x{self.grid[1]}, pool={self.pool!r}"
