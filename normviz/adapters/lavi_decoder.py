"""A small causal language model that sees an image, by LaVi or by one of its rivals.

Yue et al. 2025, LaVi, arXiv 2506.16691; see :mod:`normviz.adapters.lavi`. Pre-norm blocks of the GPT-2 kind:

    x += attn(norm1(x));  x += mlp(norm2(x))

    fusion "lavi"             norms of every k-th block are ViLNs; self-attention holds the text alone
    fusion "concat"           the visual tokens stand before the text in causal self-attention, as in LLaVA
    fusion "cross_attention"  before every k-th block x += tanh(g) CrossAttn(norm(x), V), g = 0 at the start
    fusion "none"             the text alone

All are built from the same language model: after the same ``torch.manual_seed`` they start from the same text weights,
and without an image they compute the same.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from normviz.adapters._values import check_floating
from normviz.adapters.lavi_injection import SUBLAYERS, inject_lavi
from normviz.adapters.vision_infused_norm import CONDITIONERS, MODULATED, ViLN, VisionCache
from normviz.validation import check_choice, check_integer

__all__ = ["FUSIONS", "LaViCache", "LaViDecoder"]

FUSIONS = ("lavi", "concat", "cross_attention", "none")
"""How the image reaches the text."""

NORMS: dict[str, type[nn.LayerNorm] | type[nn.RMSNorm]] = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}
"""Kinds of norm of the language model."""

_EPS = 1e-5

KeysValues = tuple[Tensor, Tensor]
"""Two tensors [B, h, n, d / h]."""


@dataclass(frozen=True)
class _Sight:
    """What the blocks need of an image.

    Attributes:
        blocks: what the parts of each block read: two VisionCaches (lavi), keys and values (cross-attention), None.
        prefix: visual tokens [B, M, d] before the text (concat).
        mask: bool [B, M], the valid visual tokens (concat and cross-attention; the norms keep their own); None: all.
        present: bool [B, 1, 1], whether a sample has an image (cross-attention); None: all have.
        batch: B of the image; None: there is no image.
    """

    blocks: list[Any]
    prefix: Tensor | None = None
    mask: Tensor | None = None
    present: Tensor | None = None
    batch: int | None = None

    @property
    def prefix_mask(self) -> Tensor | None:
        """The mask where the visual tokens stand in self-attention."""
        return None if self.prefix is None else self.mask


@dataclass
class LaViCache:
    """Keys and values of a text so far, and what was computed once of its image. Made by ``LaViDecoder.init_cache``.

    Attributes:
        length: text tokens in the cache.

    Reference: Yue et al. 2025 (LaVi), arXiv 2506.16691; the cache is this library's.
    """

    _sight: _Sight
    _kept: list[KeysValues | None] = field(default_factory=list)
    length: int = 0


class SelfAttention(nn.Module):
    """Multi-head self-attention whose keys and values can be kept: ``qkv``, attention of every head, ``proj``.

    Args:
        dim: d.
        num_heads: h, divides ``dim``.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, allowed: Tensor | None, kept: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        """Attend from x [B, n, d] to what is kept and to x itself.

        Args:
            x: new tokens.
            allowed: bool [n, total] or [B, 1, n, total], which key a query may see. None: causal, with nothing kept.
            kept: keys and values of earlier tokens.

        Returns:
            [B, n, d], and the keys and values of all tokens.
        """
        q, k, v = (_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, -1))
        if kept is not None:
            k, v = torch.cat([kept[0], k], 2), torch.cat([kept[1], v], 2)
        return self.proj(_attend(q, k, v, allowed, causal=allowed is None)), (k, v)


class GatedCrossAttention(nn.Module):
    """``x + tanh(gate) CrossAttn(norm(x), V)``: sight by extra layers, the rival that changes the architecture.

    The scalar gate is 0 at the start: the layer is then the identity.

    Args:
        dim: d.
        num_heads: h, divides ``dim``.
        norm: the norm on x.
    """

    def __init__(self, dim: int, num_heads: int, norm: nn.Module) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = norm
        self.q_proj = nn.Linear(dim, dim)
        self.kv_proj = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.gate = nn.Parameter(torch.zeros(()))

    def project(self, vision: Tensor) -> KeysValues:
        """Keys and values of the visual tokens [B, M, d]."""
        k, v = (_heads(part, self.num_heads) for part in self.kv_proj(vision).chunk(2, -1))
        return k, v

    def forward(self, x: Tensor, seen: KeysValues, sight: _Sight) -> Tensor:
        """[B, n, d]; samples without an image stay as they are."""
        allowed = None
        if sight.mask is not None and sight.present is not None:
            # A sample without any visual token attends to all of them, and what it reads is then dropped.
            allowed = (sight.mask[:, None] | ~sight.present)[:, None]  # [B, 1, 1, M]
        read: Tensor = self.proj(_attend(_heads(self.q_proj(self.norm(x)), self.num_heads), *seen, allowed))
        if sight.present is not None:
            read = read.masked_fill(~sight.present, 0)
        return x + torch.tanh(self.gate) * read


class Block(nn.Module):
    """``x += attn(norm1(x)); x += mlp(norm2(x))``, with cross-attention before it where there is one.

    Args:
        dim: d.
        num_heads: h.
        hidden: width of the feed-forward part.
        norm: "layer" or "rms".
    """

    def __init__(self, dim: int, num_heads: int, hidden: int, norm: str) -> None:
        super().__init__()
        self.norm1: nn.Module = NORMS[norm](dim, eps=_EPS)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2: nn.Module = NORMS[norm](dim, eps=_EPS)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.cross: GatedCrossAttention | None = None

    def look(self, vision: Tensor, vision_mask: Tensor | None) -> Any:
        """What this block needs of the visual tokens [B, M, d]; None: nothing."""
        if self.cross is not None:
            return self.cross.project(vision)
        return tuple(
            norm.precompute(vision, vision_mask) if isinstance(norm, ViLN) else VisionCache()
            for norm in (self.norm1, self.norm2)
        )

    def forward(
        self, x: Tensor, allowed: Tensor | None, kept: KeysValues | None, seen: Any, sight: _Sight
    ) -> tuple[Tensor, KeysValues]:
        """[B, n, d], and the keys and values of all tokens so far."""
        if self.cross is not None and seen is not None:
            x = self.cross(x, seen, sight)
        first, second = (None, None) if self.cross is not None or seen is None else seen
        out, kept = self.attn(_normed(self.norm1, x, first), allowed, kept)
        x = x + out
        return x + self.mlp(_normed(self.norm2, x, second)), kept


class LaViDecoder(nn.Module):
    r"""A causal language model over tokens [B, T] with an image of M visual tokens [B, M, dv].

    Yue et al. 2025, LaVi, arXiv 2506.16691, and the ways of fusion that it is compared with; see
    :mod:`normviz.adapters.lavi_decoder`. Learned positions for text, counted from 0 whatever the fusion; visual tokens
    have none. A shared projector (Linear, GELU, Linear) maps the visual tokens to width d first. All weights start as
    in PyTorch's own layers.

    Args:
        vocab_size: V.
        dim: d.
        depth: number of blocks.
        num_heads: heads of self-attention, divides ``dim``.
        ffn_mult: width of the feed-forward part over d. Default 4 (GPT-2).
        fusion: "lavi" (default), "concat", "cross_attention" or "none" (``vision`` is then not looked at).
        modulate_every: of "lavi" and "cross_attention": every k-th block from block 0 on. Default 2.
        norm: "layer" (default) or "rms".
        vision_dim: dv; must be given unless ``fusion`` is "none".
        cond_dim: r. None (default): d // 2.
        conditioner: of "lavi": "attention" (default), "mlp", "conv" or "pooled".
        cond_heads: heads of the attention conditioner, divides r. Default 4.
        sublayers: of "lavi": "both" (default), "attn" or "ffn".
        modulate: of "lavi": "both" (default), "scale" or "shift".
        num_visual_tokens: M, for the conditioner "mlp" alone.
        max_len: longest text. Default 256.
        zero_init: of "lavi": the norms start as the language model's own. Default True.
        cond_kw: further arguments of the conditioner.

    Attributes:
        token_embedding, position_embedding, blocks, norm_out, head: the language model.
        projector: dv -> d; None for "none".

    Raises:
        ValueError: an argument out of range, unknown names; in forward: shapes that do not fit, a text longer than
            ``max_len``.
        TypeError: in forward: tokens that are not integers, vision that is not floating.

    Example:
        >>> model = LaViDecoder(11, 16, 2, num_heads=2, vision_dim=6)
        >>> tokens, image = torch.zeros(3, 5, dtype=torch.long), torch.randn(3, 9, 6)
        >>> model(tokens, image).shape
        torch.Size([3, 5, 11])
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        depth: int,
        num_heads: int,
        ffn_mult: int = 4,
        fusion: str = "lavi",
        modulate_every: int = 2,
        norm: str = "layer",
        *,
        vision_dim: int | None = None,
        cond_dim: int | None = None,
        conditioner: str = "attention",
        cond_heads: int = 4,
        sublayers: str = "both",
        modulate: str = "both",
        num_visual_tokens: int | None = None,
        max_len: int = 256,
        zero_init: bool = True,
        **cond_kw: Any,
    ) -> None:
        super().__init__()
        check_integer("vocab_size", vocab_size, 1)
        self.dim = check_integer("dim", dim, 1)
        check_integer("depth", depth, 1)
        if self.dim % check_integer("num_heads", num_heads, 1):
            raise ValueError(f"num_heads must divide dim = {dim}, got {num_heads}.")
        hidden = self.dim * check_integer("ffn_mult", ffn_mult, 1)
        self.fusion = check_choice("fusion", fusion, FUSIONS)
        check_integer("modulate_every", modulate_every, 1)
        check_choice("norm", norm, NORMS)
        check_choice("conditioner", conditioner, CONDITIONERS)
        check_choice("sublayers", sublayers, SUBLAYERS)
        check_choice("modulate", modulate, MODULATED)
        check_integer("cond_heads", cond_heads, 1)
        self.max_len = check_integer("max_len", max_len, 1)
        r = check_integer("cond_dim", self.dim // 2 if cond_dim is None else cond_dim, 1)
        if self.fusion == "lavi" and conditioner == "attention" and r % cond_heads:
            raise ValueError(
                f"cond_heads (num_heads of the conditioner) must divide cond_dim = {r}, got {cond_heads}."
            )
        if self.fusion != "none":
            if vision_dim is None:
                raise ValueError(f"vision_dim must be given for fusion={fusion!r}, got None.")
            check_integer("vision_dim", vision_dim, 1)

        # The language model is drawn first, so that it starts the same whatever the fusion.
        self.token_embedding = nn.Embedding(vocab_size, self.dim)
        self.position_embedding = nn.Embedding(self.max_len, self.dim)
        self.blocks = nn.ModuleList(Block(self.dim, num_heads, hidden, norm) for _ in range(depth))
        self.norm_out = NORMS[norm](self.dim, eps=_EPS)
        self.head = nn.Linear(self.dim, vocab_size)
        self.projector: nn.Sequential | None = None
        if self.fusion != "none" and vision_dim is not None:
            self.projector = nn.Sequential(
                nn.Linear(vision_dim, self.dim), nn.GELU(), nn.Linear(self.dim, self.dim)
            )
        if self.fusion == "lavi":
            inject_lavi(
                self,
                r,
                self.dim,
                modulate_every=modulate_every,
                sublayers=sublayers,
                conditioner=conditioner,
                num_heads=cond_heads,
                modulate=modulate,
                num_visual_tokens=num_visual_tokens,
                zero_init=zero_init,
                **cond_kw,
            )
        elif cond_kw:
            raise ValueError(f"{next(iter(cond_kw))} belongs to fusion='lavi', got fusion={fusion!r}.")
        elif self.fusion == "cross_attention":
            for block in self.blocks[::modulate_every]:
                block.cross = GatedCrossAttention(self.dim, num_heads, NORMS[norm](self.dim, eps=_EPS))

    # ------------------------------------------------------------------------------------------------ the image

    def _look(self, vision: Tensor | None, vision_mask: Tensor | None, batch: int | None) -> _Sight:
        """What the blocks need of an image."""
        blind = _Sight([None] * len(self.blocks))
        if vision is None:
            if vision_mask is not None:
                raise ValueError("vision_mask must be None where there is no vision.")
            return blind
        if self.projector is None:
            return blind
        self._check_vision(vision, vision_mask, batch)
        if vision.shape[1] == 0:
            return blind
        shown = vision
        if vision_mask is not None and vision_mask.ndim == 2:
            shown = vision.masked_fill(~vision_mask.unsqueeze(-1), 0)
        tokens = self.projector(shown)  # [B, M, d]
        if self.fusion == "concat":
            return _Sight(blind.blocks, tokens, vision_mask, batch=len(vision))
        seen = [block.look(tokens, vision_mask) for block in self.blocks if isinstance(block, Block)]
        if self.fusion == "lavi":
            return _Sight(seen, batch=len(vision))
        present = None if vision_mask is None else vision_mask.any(-1)[:, None, None]
        return _Sight(seen, mask=vision_mask, present=present, batch=len(vision))

    def _check_vision(self, vision: Tensor, vision_mask: Tensor | None, batch: int | None) -> None:
        check_floating("vision", vision)
        width = self.projector[0].in_features if self.projector is not None else 0
        if vision.ndim != 3 or vision.shape[-1] != width:
            raise ValueError(f"vision must have shape (B, M, {width}), got {tuple(vision.shape)}.")
        if batch is not None and vision.shape[0] != batch:
            raise ValueError(f"vision must have the tokens' batch size {batch}, got {vision.shape[0]}.")
        if vision_mask is None:
            return
        if vision_mask.dtype != torch.bool:
            raise ValueError(f"vision_mask must be bool, True = valid, got {vision_mask.dtype}.")
        # A mask for each text token is left to the norms, which know whether their conditioner takes one.
        if vision_mask.shape != vision.shape[:2] and not (self.fusion == "lavi" and vision_mask.ndim == 3):
            raise ValueError(
                f"vision_mask must have shape {tuple(vision.shape[:2])}, got {tuple(vision_mask.shape)}."
            )

    def init_cache(self, vision: Tensor | None = None, vision_mask: Tensor | None = None) -> LaViCache:
        """An empty text before an image, of which everything is computed here once.

        Args:
            vision: visual tokens [B, M, dv]; None: no image.
            vision_mask: bool [B, M], True = valid. Not one for each text token: the text is yet to come.

        Raises:
            ValueError, TypeError: as in :meth:`forward`.
        """
        if vision_mask is not None and vision_mask.ndim != 2:
            raise ValueError(
                f"vision_mask must have shape (B, M) for a cache, got {tuple(vision_mask.shape)}."
            )
        sight = self._look(vision, vision_mask, None)
        cache = LaViCache(sight, [None] * len(self.blocks))
        if sight.prefix is not None:
            self._run(sight.prefix, cache, causal_mask(sight.prefix, 0, sight.prefix_mask))
        return cache

    # ------------------------------------------------------------------------------------------------- the text

    def forward(
        self,
        tokens: Tensor,
        vision: Tensor | None = None,
        vision_mask: Tensor | None = None,
        cache: LaViCache | None = None,
    ) -> Tensor:
        """Logits [B, T, V] of the token after each of these.

        Args:
            tokens: [B, T] integers, T >= 1; with a cache those that come next.
            vision: visual tokens [B, M, dv]; None or M = 0: the language model alone. With a cache it was given before.
            vision_mask: bool, True = valid, [B, M]; for "lavi" with the attention conditioner also [B, T, M]. A sample
                with no valid visual token has no image.
            cache: what :meth:`init_cache` returned. The keys and values of these tokens are added to it.

        Raises:
            ValueError: shapes that do not fit; a text longer than ``max_len``; ``vision`` together with a cache.
            TypeError: tokens that are not integers, vision that is not floating.
        """
        if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise TypeError(f"tokens must be integers, got {tokens.dtype}.")
        if tokens.ndim != 2 or tokens.shape[1] == 0:
            raise ValueError(f"tokens must have shape (B, T) with T >= 1, got {tuple(tokens.shape)}.")
        batch, length = tokens.shape
        start = 0 if cache is None else cache.length
        if start + length > self.max_len:
            raise ValueError(
                f"tokens must have at most max_len = {self.max_len} positions, got {start + length}."
            )
        positions = torch.arange(start, start + length, device=tokens.device)
        x = self.token_embedding(tokens) + self.position_embedding(positions)  # [B, T, d]
        if cache is None:
            sight = self._look(vision, vision_mask, batch)
            if sight.prefix is not None:
                x = torch.cat([sight.prefix, x], 1)  # [B, M + T, d]
            allowed = None if sight.prefix_mask is None else causal_mask(x, 0, sight.prefix_mask)
            x = self._run(x, LaViCache(sight, [None] * len(self.blocks)), allowed)[:, -length:]
        else:
            if vision is not None or vision_mask is not None:
                raise ValueError("vision must be None with a cache: init_cache took it.")
            kept = cache._kept[0]
            past, size = (0, cache._sight.batch) if kept is None else (kept[0].shape[2], len(kept[0]))
            if size not in (None, batch):
                raise ValueError(f"tokens must have the cache's batch size {size}, got {batch}.")
            x = self._run(x, cache, causal_mask(x, past, cache._sight.prefix_mask))
            cache.length += length
        logits: Tensor = self.head(self.norm_out(x))
        return logits

    def _run(self, x: Tensor, cache: LaViCache, allowed: Tensor | None) -> Tensor:
        """All blocks; keys and values go to the cache."""
        for i, block in enumerate(self.blocks):
            seen = cache._sight.blocks[i]
            x, cache._kept[i] = block(x, allowed, cache._kept[i], seen, cache._sight)
        return x

    def extra_repr(self) -> str:
        """Fusion and the longest text."""
        return f"fusion={self.fusion!r}, max_len={self.max_len}"


def causal_mask(x: Tensor, past: int, visible: Tensor | None) -> Tensor:
    """Which key each of the new tokens x [B, n, d] may see, after ``past`` others.

    Args:
        x: new tokens.
        past: tokens before them.
        visible: bool [B, M]: which of the first M tokens, the visual ones, may be seen. None: all.

    Returns:
        bool [n, past + n], or [B, 1, n, past + n] with ``visible``.
    """
    n = x.shape[1]
    allowed = torch.ones(n, past + n, dtype=torch.bool, device=x.device).tril(past)
    if visible is None:
        return allowed
    valid = F.pad(visible, (0, past + n - visible.shape[1]), value=True)[:, None, None]
    # Every token may see itself: an empty row would be NaN. A masked visual token is seen by nobody else.
    itself = torch.eye(n, dtype=torch.bool, device=x.device)
    return (allowed & valid) | F.pad(itself, (past, 0))


def _normed(norm: nn.Module, x: Tensor, seen: VisionCache | None) -> Tensor:
    out: Tensor = norm(x, seen) if isinstance(norm, ViLN) else norm(x)
    return out


def _heads(x: Tensor, num_heads: int) -> Tensor:
    return x.reshape(*x.shape[:-1], num_heads, -1).transpose(1, 2)  # [B, h, n, d / h]


def _attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, causal: bool = False) -> Tensor:
    """Softmax attention of every head, heads side by side: [B, n, d]."""
    # Inside vmap and other transforms PyTorch's fused kernel has no rule.
    transformed = not torch.compiler.is_compiling() and torch._C._functorch.maybe_current_level() is not None
    with sdpa_kernel(SDPBackend.MATH) if transformed else nullcontext():
        out = F.scaled_dot_product_attention(q, k, v, allowed, is_causal=causal)
    return out.transpose(1, 2).flatten(2)
