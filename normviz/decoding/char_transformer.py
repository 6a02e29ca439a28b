"""A small causal transformer over characters or bytes with a key-value cache."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from normviz.validation import check_integer

__all__ = ["CharTransformer", "KeyValueCache"]


class KeyValueCache:
    """Keys and values of every layer for the tokens processed so far.

    Attributes:
        layers: per layer (keys, values), each (B, heads, length, head_dim).

    Reference: none, no paper: the cache of the reference model :class:`CharTransformer`.
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor]]) -> None:
        self.layers = layers

    @property
    def length(self) -> int:
        """Number of tokens held."""
        return self.layers[0][0].shape[2]

    def truncate(self, n: int) -> None:
        """Keep the first n tokens, in place.

        Raises:
            ValueError: n negative or above the length.
        """
        n = check_integer("n", n, 0, self.length)
        self.layers = [(keys[:, :, :n], values[:, :, :n]) for keys, values in self.layers]


class _Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + feed-forward(norm(x))``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batch, n, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, n, 3, self.heads, width // self.heads)
        query, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, n, head_dim)
        if past is not None:
            keys, values = torch.cat((past[0], keys), dim=2), torch.cat((past[1], values), dim=2)
        length = keys.shape[2]
        # Query i stands at position length - n + i and sees all positions up to its own.
        seen = torch.ones(n, length, dtype=torch.bool, device=x.device).tril(length - n)
        mixed = scaled_dot_product_attention(query, keys, values, attn_mask=seen)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, n, width))
        return x + self.mlp(self.norm2(x)), (keys, values)


class CharTransformer(nn.Module):
    """Pre-LN causal transformer with learned positions; satisfies :class:`normviz.decoding.CachedLM`.

    A reference model for the decoders of arXiv 2502.06833 and for speculative decoding, small enough to train on a CPU
    core: 1 layer of width 16 has about 5500 parameters for 36 characters, 2 layers of width 64 about 109 000.

    Args:
        vocab: number of tokens V.
        width: of the residual stream.
        depth: number of blocks.
        heads: attention heads; must divide ``width``.
        context: longest text, the number of learned positions.

    Shape:
        tokens (B, n) long -> logits (B, n, V), and the cache with these tokens added. The cache given stays as it was.

    Raises:
        ValueError: a size below 1, width not divisible by heads; in forward: tokens not of shape (B, n), or more
            tokens than ``context`` together with those in the cache.

    Example:
        >>> import torch
        >>> model = CharTransformer(vocab=10, width=8, depth=1, heads=2, context=16)
        >>> text = torch.tensor([[1, 2, 3]])
        >>> whole, _ = model(text)
        >>> _, cache = model(text[:, :2])
        >>> last, cache = model(text[:, 2:], cache)
        >>> torch.allclose(last[:, -1], whole[:, -1], atol=1e-5), cache.length
        (True, 3)
    """

    def __init__(self, vocab: int, width: int, depth: int, heads: int, context: int) -> None:
        super().__init__()
        self.vocab_size = check_integer("vocab", vocab, 1)
        self.width = check_integer("width", width, 1)
        self.depth = check_integer("depth", depth, 1)
        self.heads = check_integer("heads", heads, 1)
        self.context = check_integer("context", context, 1)
        if width % heads:
            raise ValueError(f"heads must divide width, got {heads} and {width}.")
        self.embedding = nn.Embedding(vocab, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab)
        # The scale of GPT-2: unit-variance embeddings would drown what the blocks add at the start.
        for table in (self.embedding, self.positions):
            nn.init.normal_(table.weight, std=0.02 * (768 / width) ** 0.5)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"vocab={self.vocab_size}, width={self.width}, depth={self.depth}, context={self.context}"

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.parameters())

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None) -> tuple[Tensor, KeyValueCache]:
        """Logits after each token, and the cache with these tokens added."""
        if tokens.ndim != 2:
            raise ValueError(f"tokens must have shape (B, n), got {tuple(tokens.shape)}.")
        start = 0 if cache is None else cache.length
        end = start + tokens.shape[1]
        if end > self.context:
            raise ValueError(f"tokens must end within the context of {self.context}, got {end} tokens.")
        x = self.embedding(tokens) + self.positions.weight[start:end]  # (B, n, width)
        layers = []
        for i, block in enumerate(self.blocks):
            x, layer = block(x, None if cache is None else cache.layers[i])
            layers.append(layer)
        return self.head(self.norm(x)), KeyValueCache(layers)
