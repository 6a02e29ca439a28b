r"""Conditioning modules of LaVi: what one text token reads from the visual tokens, as a vector of width r.

Yue, Guo, Tang, Zhao, Zhu, Huang, Liu 2025, "LaVi: Efficient Large Vision-Language Models via Internal Feature
Modulation", arXiv 2506.16691. The paper names three modules, like an MLP-Mixer, like a ConvMixer, and by
cross-attention; the last is its default. No code is public and the formulas inside the modules could not be read, so
**the inside of the modules is a reconstruction** from the motifs that the paper names. ``PooledConditioner`` is no part
of the paper: it is the control that gives every text token the same vector.

Text tokens u [B, T, d], visual tokens V [B, M, dv]. Every text token is treated by itself: a module that mixed text
positions would let a token see later ones, and no cache of keys and values would be valid.

Everything that does not depend on the text is computed by ``project``, once per image; ``condition`` needs only its
result. ``forward`` is the two after another.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.adapters._values import at_least_float32, check_floating
from normviz.validation import check_integer

__all__ = [
    "AttentionConditioner",
    "ConvConditioner",
    "MLPConditioner",
    "PooledConditioner",
    "VisionConditioner",
]


class VisionConditioner(nn.Module):
    """What the conditioning modules of LaVi (arXiv 2506.16691) share: widths and the checks of visual tokens.

    Args:
        dim: d, width of the text tokens.
        cond_dim: r, width of the result.
        vision_dim: dv, width of the visual tokens. None (default): ``dim``.

    Raises:
        ValueError: a width below 1.
    """

    mask_per_token = False
    """Whether a mask [B, T, M], one row for each text token, is understood."""

    def __init__(self, dim: int, cond_dim: int, vision_dim: int | None = None) -> None:
        super().__init__()
        self.dim = check_integer("dim", dim, 1)
        self.cond_dim = check_integer("cond_dim", cond_dim, 1)
        self.vision_dim = self.dim if vision_dim is None else check_integer("vision_dim", vision_dim, 1)

    def project(self, vision: Tensor, vision_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """All that depends on the visual tokens alone; every tensor has B as its first axis."""
        raise NotImplementedError

    def condition(self, u: Tensor, projected: tuple[Tensor, ...]) -> Tensor:
        """F [B, T, r] for text tokens u [B, T, d] and the result of :meth:`project`."""
        raise NotImplementedError

    def forward(self, u: Tensor, vision: Tensor, vision_mask: Tensor | None = None) -> Tensor:
        """F [B, T, r].

        Args:
            u: text tokens [B, T, d].
            vision: visual tokens [B, M, dv].
            vision_mask: bool, True where a visual token is valid: [B, M], or [B, T, M] where the module takes one mask
                for each text token. None: all are valid.

        Raises:
            ValueError: shapes that do not fit, a mask that is not bool.
            TypeError: ``u`` or ``vision`` not floating.
        """
        check_floating("u", u)
        if u.ndim != 3 or u.shape[-1] != self.dim:
            raise ValueError(f"u must have shape (B, T, {self.dim}), got {tuple(u.shape)}.")
        self.check(vision, vision_mask, u.shape[0], u.shape[1])
        return self.condition(u, self.project(vision, vision_mask))

    def check(
        self,
        vision: Tensor,
        vision_mask: Tensor | None,
        batch: int | None = None,
        length: int | None = None,
    ) -> None:
        """Raise unless visual tokens and mask have the right shapes, and fit B and T where these are given.

        Raises:
            ValueError: they do not; the message names ``vision`` or ``vision_mask``.
            TypeError: ``vision`` is not floating.
        """
        check_floating("vision", vision)
        if vision.ndim != 3 or vision.shape[-1] != self.vision_dim:
            raise ValueError(f"vision must have shape (B, M, {self.vision_dim}), got {tuple(vision.shape)}.")
        if batch is not None and vision.shape[0] != batch:
            raise ValueError(f"vision must have the text's batch size {batch}, got {vision.shape[0]}.")
        if vision_mask is None:
            return
        if vision_mask.dtype != torch.bool:
            raise ValueError(f"vision_mask must be bool, True = valid, got {vision_mask.dtype}.")
        b, m = vision.shape[:2]
        given = tuple(vision_mask.shape)
        per_token = len(given) == 3 and (given[0], given[2]) == (b, m) and length in (None, given[1])
        if given != (b, m) and not (self.mask_per_token and per_token):
            shapes = f"({b}, {m})" + (f" or ({b}, {length or 'T'}, {m})" if self.mask_per_token else "")
            raise ValueError(f"vision_mask must have shape {shapes}, got {given}.")

    def extra_repr(self) -> str:
        """Widths."""
        return f"{self.dim}, {self.cond_dim}, vision_dim={self.vision_dim}"


class AttentionConditioner(VisionConditioner):
    r"""The default module of LaVi (arXiv 2506.16691): every text token attends to the visual tokens.

        q_i = Wq u_i,  k_j = Wk V_j,  v_j = Wv V_j                        all of width r, with bias
        F_i = concat over heads of  sum_j softmax_j(q_i . k_j / sqrt(r / h)) v_j

    No positional code, no residual, no output projection (the head of the norm follows). Reconstruction, see the
    module's docstring. The softmax is taken in float32 at least.

    Args:
        dim: d.
        cond_dim: r.
        vision_dim: dv. None (default): ``dim``.
        num_heads: h. Default 4.

    Attributes:
        q_proj, k_proj, v_proj: nn.Linear.

    Shape:
        u [B, T, d], vision [B, M, dv], vision_mask bool [B, M] or [B, T, M] -> [B, T, r]. A text token with no valid
        visual token gets zeros. Whatever a masked visual token holds has no influence.

    Raises:
        ValueError: ``cond_dim`` not divisible by ``num_heads``; shapes that do not fit.

    Example:
        >>> read = AttentionConditioner(8, 4, vision_dim=6, num_heads=2)
        >>> read(torch.randn(2, 3, 8), torch.randn(2, 9, 6)).shape
        torch.Size([2, 3, 4])
    """

    mask_per_token = True

    def __init__(self, dim: int, cond_dim: int, vision_dim: int | None = None, num_heads: int = 4) -> None:
        super().__init__(dim, cond_dim, vision_dim)
        self.num_heads = check_integer("num_heads", num_heads, 1)
        if self.cond_dim % self.num_heads:
            raise ValueError(f"num_heads must divide cond_dim = {self.cond_dim}, got {self.num_heads}.")
        self.q_proj = nn.Linear(self.dim, self.cond_dim)
        self.k_proj = nn.Linear(self.vision_dim, self.cond_dim)
        self.v_proj = nn.Linear(self.vision_dim, self.cond_dim)

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.num_heads, x.shape[-1] // self.num_heads).transpose(
            1, 2
        )  # [B, h, n, r/h]

    def project(self, vision: Tensor, vision_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Keys and values [B, h, M, r/h], and the mask [B, 1, 1 or T, M] if there is one."""
        if vision_mask is not None:
            seen = vision_mask if vision_mask.ndim == 2 else vision_mask.any(1)
            vision = vision.masked_fill(~seen.unsqueeze(-1), 0)
        keys, values = self._heads(self.k_proj(vision)), self._heads(self.v_proj(vision))
        if vision_mask is None:
            return keys, values
        return keys, values, vision_mask[:, None, None] if vision_mask.ndim == 2 else vision_mask[:, None]

    def _weights(self, u: Tensor, projected: tuple[Tensor, ...]) -> Tensor:
        q = self._heads(self.q_proj(u))
        scores = q @ projected[0].mT / math.sqrt(self.cond_dim / self.num_heads)  # [B, h, T, M]
        scores = scores.to(at_least_float32(scores))
        if len(projected) == 2:
            return scores.softmax(-1)
        # A finite value: a row of -inf alone would be NaN, and its gradient too, whatever is done afterwards.
        masked = ~projected[2]
        return scores.masked_fill(masked, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(masked, 0)

    def weights(self, u: Tensor, vision: Tensor, vision_mask: Tensor | None = None) -> Tensor:
        """The attention map [B, h, T, M] that :meth:`forward` uses: how much of each visual token a text token reads.

        Raises:
            ValueError, TypeError: as in :meth:`forward`.
        """
        self.check(vision, vision_mask, u.shape[0], u.shape[1])
        return self._weights(u, self.project(vision, vision_mask))

    def condition(self, u: Tensor, projected: tuple[Tensor, ...]) -> Tensor:
        """F [B, T, r]."""
        values = projected[1]
        read = self._weights(u, projected).to(values.dtype) @ values  # [B, h, T, r/h]
        return read.transpose(1, 2).flatten(2)

    def extra_repr(self) -> str:
        """Widths and heads."""
        return f"{super().extra_repr()}, num_heads={self.num_heads}"


class MLPConditioner(VisionConditioner):
    r"""The module of LaVi (arXiv 2506.16691) that is like an MLP-Mixer, for a fixed number M of visual tokens.

    For one text token, X = [Wt u_i; Wv V_1; ...; Wv V_M] of shape (M + 1) x r, and

        X <- X + W2 GELU(W1 LN(X) + b1) + b2      along the rows, for every channel
        X <- X + C2 GELU(C1 LN(X) + c1) + c2      along the channels, for every row
        F_i = X_0

    Only row 0 is read, so only that row of W2 and of the second part is computed, and W1[:, 1:] LN(Wv V) once for all
    text tokens. Reconstruction, see the module's docstring.

    Args:
        dim: d.
        cond_dim: r.
        vision_dim: dv. None (default): ``dim``.
        num_visual_tokens: M, >= 1.
        token_hidden: hidden units of the part along the rows. None (default): r.
        channel_hidden: hidden units of the part along the channels. None (default): 2 r.

    Attributes:
        text_proj, vision_proj: Wt, Wv.
        norm1, token_in, token_out: LN, W1 and b1 as nn.Linear(M + 1, token_hidden), W2 and b2 the other way round.
        norm2, channel_in, channel_out: LN, C1 and c1, C2 and c2.

    Shape:
        u [B, T, d], vision [B, M, dv], vision_mask bool [B, M] -> [B, T, r]. A masked visual token has a row of zeros
        in place of Wv V_j; an all-True mask changes nothing.

    Raises:
        ValueError: an argument below 1; another number of visual tokens than M; shapes that do not fit.

    Example:
        >>> read = MLPConditioner(8, 4, num_visual_tokens=9)
        >>> read(torch.randn(2, 3, 8), torch.randn(2, 9, 8)).shape
        torch.Size([2, 3, 4])
    """

    def __init__(
        self,
        dim: int,
        cond_dim: int,
        vision_dim: int | None = None,
        *,
        num_visual_tokens: int,
        token_hidden: int | None = None,
        channel_hidden: int | None = None,
    ) -> None:
        super().__init__(dim, cond_dim, vision_dim)
        self.num_visual_tokens = check_integer("num_visual_tokens", num_visual_tokens, 1)
        r = self.cond_dim
        hidden = r if token_hidden is None else check_integer("token_hidden", token_hidden, 1)
        wide = 2 * r if channel_hidden is None else check_integer("channel_hidden", channel_hidden, 1)
        self.text_proj = nn.Linear(self.dim, r)
        self.vision_proj = nn.Linear(self.vision_dim, r)
        self.norm1 = nn.LayerNorm(r)
        self.token_in = nn.Linear(self.num_visual_tokens + 1, hidden)
        self.token_out = nn.Linear(hidden, self.num_visual_tokens + 1)
        self.norm2 = nn.LayerNorm(r)
        self.channel_in = nn.Linear(r, wide)
        self.channel_out = nn.Linear(wide, r)

    def check(
        self,
        vision: Tensor,
        vision_mask: Tensor | None,
        batch: int | None = None,
        length: int | None = None,
    ) -> None:
        """Also that the number of visual tokens is the module's."""
        super().check(vision, vision_mask, batch, length)
        if vision.shape[1] != self.num_visual_tokens:
            raise ValueError(
                f"vision must have num_visual_tokens = {self.num_visual_tokens} tokens, got {vision.shape[1]}."
            )

    def project(self, vision: Tensor, vision_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """W1[:, 1:] LN(Wv V) + b1, [B, token_hidden, r]."""
        rows = self.vision_proj(vision)  # [B, M, r]
        if vision_mask is not None:
            rows = rows.masked_fill(~vision_mask.unsqueeze(-1), 0)
        mixed = F.linear(self.norm1(rows).mT, self.token_in.weight[:, 1:], self.token_in.bias)
        return (mixed.mT,)

    def condition(self, u: Tensor, projected: tuple[Tensor, ...]) -> Tensor:
        """F [B, T, r]."""
        x = self.text_proj(u)  # [B, T, r]
        of_text = self.token_in.weight[:, :1] * self.norm1(x).unsqueeze(2)  # [B, T, token_hidden, r]
        hidden = F.gelu(of_text + projected[0].unsqueeze(1))
        mixed = F.linear(hidden.mT, self.token_out.weight[:1], self.token_out.bias[:1]).squeeze(-1)
        x = x + mixed  # [B, T, r]
        out: Tensor = x + self.channel_out(F.gelu(self.channel_in(self.norm2(x))))
        return out

    def extra_repr(self) -> str:
        """Widths and the number of visual tokens."""
        return f"{super().extra_repr()}, num_visual_tokens={self.num_visual_tokens}"


class ConvConditioner(VisionConditioner):
    r"""The module of LaVi (arXiv 2506.16691) that is like a ConvMixer.

    For one text token, X = [Wt u_i; Wv V_1; ...; Wv V_M] of shape (M + 1) x r, and

        Y = X + GELU(depthwise convolution of X along the rows, zeros outside)
        Z = GELU(W Y + b)         for every row
        F_i = mean of the M + 1 rows of Z

    Rows further than kernel_size // 2 from row 0 do not depend on the text and are computed once. The module selects by
    token only weakly. Reconstruction, see the module's docstring.

    Args:
        dim: d.
        cond_dim: r.
        vision_dim: dv. None (default): ``dim``.
        kernel_size: rows of the convolution, odd. Default 7.

    Attributes:
        text_proj, vision_proj: Wt, Wv.
        depthwise: nn.Conv1d with r groups.
        pointwise: W, b as nn.Linear.

    Shape:
        u [B, T, d], vision [B, M, dv], vision_mask bool [B, M] -> [B, T, r]. A masked visual token has a row of zeros
        in place of Wv V_j and is left out of the mean; an all-True mask changes nothing.

    Raises:
        ValueError: ``kernel_size`` even or below 1; shapes that do not fit.

    Example:
        >>> read = ConvConditioner(8, 4, kernel_size=3)
        >>> read(torch.randn(2, 3, 8), torch.randn(2, 9, 8)).shape
        torch.Size([2, 3, 4])
    """

    def __init__(
        self, dim: int, cond_dim: int, vision_dim: int | None = None, *, kernel_size: int = 7
    ) -> None:
        super().__init__(dim, cond_dim, vision_dim)
        self.kernel_size = check_integer("kernel_size", kernel_size, 1)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}.")
        r = self.cond_dim
        self.text_proj = nn.Linear(self.dim, r)
        self.vision_proj = nn.Linear(self.vision_dim, r)
        self.depthwise = nn.Conv1d(r, r, self.kernel_size, padding=self.kernel_size // 2, groups=r)
        self.pointwise = nn.Linear(r, r)

    def project(self, vision: Tensor, vision_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """The rows near row 0 and their convolution, without the text; the sum of the others; the number of rows.

        With n = min(M, kernel_size // 2): rows [B, n + 1, r], convolution [B, n + 1, r], sum [B, 1, r], number
        [B, 1, 1], and, if there is a mask, which of the near rows count [B, 1, n + 1, 1].
        """
        near = 1 + min(vision.shape[1], self.kernel_size // 2)
        rows = self.vision_proj(vision)
        counted = vision.new_ones(vision.shape[:2], dtype=torch.bool) if vision_mask is None else vision_mask
        if vision_mask is not None:
            rows = rows.masked_fill(~vision_mask.unsqueeze(-1), 0)
        rows = F.pad(rows, (0, 0, 1, 0))  # [B, M + 1, r], row 0 empty
        convolved = self.depthwise(rows.mT).mT
        far = self._mixed(rows[:, near:], convolved[:, near:])
        far = far.masked_fill(~counted[:, near - 1 :].unsqueeze(-1), 0).sum(1, keepdim=True)
        number = 1 + counted.sum(1).to(far.dtype)[:, None, None]
        found = (rows[:, :near], convolved[:, :near], far, number)
        if vision_mask is None:
            return found
        return *found, F.pad(vision_mask[:, : near - 1], (1, 0), value=True)[:, None, :, None]

    def _mixed(self, rows: Tensor, convolved: Tensor) -> Tensor:
        return F.gelu(self.pointwise(rows + F.gelu(convolved)))

    def condition(self, u: Tensor, projected: tuple[Tensor, ...]) -> Tensor:
        """F [B, T, r]."""
        rows, convolved, far, number, *counted = projected
        x = self.text_proj(u).unsqueeze(2)  # [B, T, 1, r]
        n = rows.shape[1] - 1
        middle = self.kernel_size // 2
        # Row j of the convolution meets row 0 with the weight that is j places before the middle.
        taps = self.depthwise.weight[:, 0, middle - n : middle + 1].flip(-1).mT  # [n + 1, r]
        near = self._mixed(rows.unsqueeze(1) + F.pad(x, (0, 0, 0, n)), convolved.unsqueeze(1) + taps * x)
        if counted:
            near = near.masked_fill(~counted[0], 0)
        return (near.sum(2) + far) / number

    def extra_repr(self) -> str:
        """Widths and the kernel."""
        return f"{super().extra_repr()}, kernel_size={self.kernel_size}"


class PooledConditioner(VisionConditioner):
    r"""The control, which LaVi (arXiv 2506.16691) is not: F = Wv mean_j V_j + b, the same for all text tokens.

    As in adaptive layer norm, one vector stands for the whole image. The mean is over the valid visual tokens.

    Args:
        dim: d.
        cond_dim: r.
        vision_dim: dv. None (default): ``dim``.

    Attributes:
        vision_proj: Wv, b.

    Shape:
        u [B, T, d], vision [B, M, dv], vision_mask bool [B, M] -> [B, T, r].

    Raises:
        ValueError: a width below 1; shapes that do not fit.

    Example:
        >>> read = PooledConditioner(8, 4)
        >>> read(torch.randn(2, 3, 8), torch.randn(2, 9, 8)).shape
        torch.Size([2, 3, 4])
    """

    def __init__(self, dim: int, cond_dim: int, vision_dim: int | None = None) -> None:
        super().__init__(dim, cond_dim, vision_dim)
        self.vision_proj = nn.Linear(self.vision_dim, self.cond_dim)

    def project(self, vision: Tensor, vision_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """F as [B, 1, r]."""
        if vision_mask is None:
            number = vision.new_full((vision.shape[0], 1, 1), max(vision.shape[1], 1))
        else:
            vision = vision.masked_fill(~vision_mask.unsqueeze(-1), 0)
            number = vision_mask.sum(1).clamp(min=1).to(vision.dtype)[:, None, None]
        return (self.vision_proj(vision.sum(1, keepdim=True) / number),)

    def condition(self, u: Tensor, projected: tuple[Tensor, ...]) -> Tensor:
        """F [B, T, r]."""
        return projected[0].expand(-1, u.shape[1], -1)
