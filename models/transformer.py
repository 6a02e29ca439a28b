"""The parts that :class:`normviz.models.GPT` and :class:`normviz.models.ViT` share.

Tokens are (B, N, C); heads are (B, h, N, d) with C = h d. Attribute names are those that fusion and probes look for:
``norm1``, ``attn.qkv``, ``attn.proj``, ``norm2``, ``mlp.fc1``, ``mlp.fc2``.

    pre-norm  (norm_first=True):   x <- x + attn(norm1(x));   x <- x + mlp(norm2(x))
    post-norm (norm_first=False):  x <- norm1(x + attn(x));   x <- norm2(x + mlp(x))

A norm or attention whose ``forward`` has an argument ``pad_mask`` receives the mask (B, N), True at padding.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from normviz.models import _checks
from normviz.models._layers import (
    Activation,
    NormFactory,
    build,
    gpt2_std,
    linear,
    make_activation,
    masked_call,
)

__all__ = [
    "AttentionFactory",
    "AttentionKernel",
    "FeedForward",
    "MLPFactory",
    "SelfAttention",
    "TransformerBlock",
]

AttentionFactory = Callable[[int, int], nn.Module]
"""(dim, num_heads) -> a module (B, N, C) -> (B, N, C)."""

AttentionKernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q, k, v), each (B, h, N, d) -> (B, h, N, d): what happens between the two projections."""

MLPFactory = Callable[[int], nn.Module]
"""dim -> a module (B, N, C) -> (B, N, C)."""


class SelfAttention(nn.Module):
    """Multi-head self-attention: ``qkv`` projection, attention of every head, output projection ``proj``.

    Args:
        dim: width C of the tokens.
        num_heads: h; must divide ``dim``.
        causal: whether token n sees only tokens 0..n (default False).
        bias: whether both projections have a bias (True by default).
        std: both weights start from N(0, std^2); None (default) means GPT-2's 0.02 scaled to this width,
            0.02 sqrt(768 / dim).
        proj_std: the same for ``proj`` alone; None (default) means ``std``.
        kernel: another attention in place of softmax: a callable (q, k, v) -> output on (B, h, N, d), e.g.
            ``functools.partial(norm_aware_linear_attention, causal=True)``; a module is registered as a child. It
            has to be causal by itself and gets no mask. All kernels share the same projections and their start.
        fused: use PyTorch's fused softmax attention (default False). On the CPU it is about twice as fast, but
            has no second derivative, no forward-mode derivative and no vmap rule; the unfused one has all three.

    Raises:
        ValueError: a size below 1, ``dim`` not divisible by ``num_heads``, negative std, ``kernel`` not callable;
            in forward: a padding mask together with ``kernel``.

    Example:
        >>> import torch
        >>> SelfAttention(8, 2, causal=True)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        causal: bool = False,
        bias: bool = True,
        std: float | None = None,
        proj_std: float | None = None,
        kernel: AttentionKernel | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__()
        _checks.size("dim", dim)
        _checks.size("num_heads", num_heads)
        if dim % num_heads:
            raise ValueError(f"dim must be divisible by num_heads, got dim={dim} and num_heads={num_heads}.")
        std = _checks.real("std", gpt2_std(dim) if std is None else std)
        proj_std = _checks.real("proj_std", std if proj_std is None else proj_std)
        _checks.factory("kernel", kernel)
        self.num_heads, self.causal, self.fused = num_heads, causal, fused
        self.qkv = linear(dim, 3 * dim, bias=bias, init=std)
        self.proj = linear(dim, dim, bias=bias, init=proj_std)
        self.kernel = kernel

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (B, N, C), each (B, h, N, d)."""
        qkv: Tensor = self.qkv(x)
        qkv = qkv.reshape(*x.shape[:2], 3, self.num_heads, -1)  # (B, N, 3, h, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, h, N, d)
        return q, k, v

    def _allowed(self, n: int, pad_mask: Tensor | None, device: torch.device) -> Tensor | None:
        """Which key (last axis) each query may see, (N, N) or (B, 1, N, N); None for all."""
        causal = torch.ones(n, n, dtype=torch.bool, device=device).tril() if self.causal else None
        if pad_mask is None:
            return causal
        # A padded query among padding only would have an empty row (NaN): everyone may see himself.
        real = ~pad_mask[:, None, None, :] | torch.eye(n, dtype=torch.bool, device=device)
        return real if causal is None else real & causal

    def weights(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """The softmax attention map of every head, (B, h, N, N): rows are queries and sum to one.

        Raises:
            ValueError: the layer has another ``kernel`` than softmax.
        """
        if self.kernel is not None:
            raise ValueError("weights are defined for softmax attention; this layer has its own kernel.")
        q, k, _ = self.heads(x)
        scores = q @ k.mT * q.shape[-1] ** -0.5  # (B, h, N, N)
        allowed = self._allowed(x.shape[1], pad_mask, x.device)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, float("-inf"))
        weights: Tensor = scores.softmax(-1)
        return weights

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Map x (B, N, C) to (B, N, C); ``pad_mask`` (B, N) is True at tokens that nobody else may see."""
        q, k, v = self.heads(x)
        if self.kernel is not None:
            if pad_mask is not None:
                raise ValueError("pad_mask must be None for an attention with its own kernel.")
            y = self.kernel(q, k, v)
        else:
            with nullcontext() if self.fused else sdpa_kernel(SDPBackend.MATH):
                if pad_mask is None:
                    y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
                else:
                    y = F.scaled_dot_product_attention(q, k, v, self._allowed(x.shape[1], pad_mask, x.device))
        out: Tensor = self.proj(y.transpose(1, 2).flatten(2))  # (B, N, C)
        return out

    def extra_repr(self) -> str:
        """Heads, causality, and the kernel where it is a plain function."""
        kernel = self.kernel
        own = "" if kernel is None or isinstance(kernel, nn.Module) else f", kernel={kernel!r}"
        return f"num_heads={self.num_heads}, causal={self.causal}, fused={self.fused}{own}"


class FeedForward(nn.Module):
    """Two linear layers with an activation in between: ``fc1`` (C -> hidden), ``act``, ``fc2`` (hidden -> C).

    Args:
        dim: width C of the tokens.
        hidden: inner width.
        activation: a name ("gelu" by default) or a factory without arguments.
        bias: whether both layers have a bias (True by default).
        std: both weights start from N(0, std^2); None (default) means GPT-2's 0.02 scaled to this width,
            0.02 sqrt(768 / dim).
        proj_std: the same for ``fc2`` alone; None (default) means ``std``.

    Raises:
        ValueError: a size below 1, an unknown activation, negative std.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        activation: Activation = "gelu",
        bias: bool = True,
        std: float | None = None,
        proj_std: float | None = None,
    ) -> None:
        super().__init__()
        _checks.size("dim", dim)
        _checks.size("hidden", hidden)
        std = _checks.real("std", gpt2_std(dim) if std is None else std)
        proj_std = _checks.real("proj_std", std if proj_std is None else proj_std)
        self.fc1 = linear(dim, hidden, bias=bias, init=std)
        self.act = make_activation(activation)
        self.fc2 = linear(hidden, dim, bias=bias, init=proj_std)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class TransformerBlock(nn.Module):
    """Attention and feed-forward branches around a residual stream, with a norm before or after each.

    Args:
        dim: width C of the tokens.
        attn: the attention module, (B, N, C) -> (B, N, C).
        mlp: the feed-forward module, (B, N, C) -> (B, N, C).
        norm: width -> norm layer on (B, N, C), or None for no norm.
        norm_first: pre-norm (True, default) or post-norm.
        dropout: drop rate on both branches, in [0, 1); 0 by default.

    Raises:
        ValueError: dropout outside [0, 1), ``norm`` not callable.
    """

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        mlp: nn.Module,
        *,
        norm: NormFactory | None,
        norm_first: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _checks.size("dim", dim)
        _checks.probability("dropout", dropout)
        self.norm_first = norm_first
        self.norm1 = build("norm", norm, dim)
        self.attn = attn
        self.norm2 = build("norm", norm, dim)
        self.mlp = mlp
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Map x (B, N, C) to (B, N, C); ``pad_mask`` (B, N) is True at padding."""
        if self.norm_first:
            x = x + self.dropout(masked_call(self.attn, masked_call(self.norm1, x, pad_mask), pad_mask))
            y: Tensor = self.dropout(masked_call(self.mlp, masked_call(self.norm2, x, pad_mask), pad_mask))
            return x + y
        x = masked_call(self.norm1, x + self.dropout(masked_call(self.attn, x, pad_mask)), pad_mask)
        return masked_call(self.norm2, x + self.dropout(masked_call(self.mlp, x, pad_mask)), pad_mask)

    def extra_repr(self) -> str:
        """The place of the norms."""
        return f"norm_first={self.norm_first}"
