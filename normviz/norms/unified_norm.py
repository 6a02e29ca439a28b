r"""Unified Normalization (UN): an offline norm for transformers that survives fluctuation and outliers.

Qiming Yang, Kai Zhang, Chaoxiang Lan, Zhi Yang, Zheyang Li, Wenming Tan, Jun Xiao, Shiliang Pu, "Unified
Normalization for Accelerating and Stabilizing Transformers", ACM Multimedia 2022, arXiv:2208.01313. Official code:
hikvision-research/Unified-Normalization (``unified_normalization.py``, class UN1d), which is followed in every step.

An offline norm uses statistics of past batches, so at inference it is one multiply-add per channel. In transformers
those statistics fluctuate and contain outliers. UN divides by the quadratic mean (no mean is subtracted anywhere),
smoothed by the *geometric* mean over the last M_f batches, and falls back to the plain batch statistic on steps whose
window looks abnormal.

Notation: rows x (R, C); ``psi2`` = mean of x^2 over the real rows; ``M_f``, ``M_b`` window sizes; ``gamma``
(``weight``), ``beta`` (``bias``); ``momentum`` m weighs the OLD value; ``eps`` stands inside every root; t counts
training forwards from 1. Forward (:meth:`_UnifiedNorm._statistics`) and backward (:class:`UnifiedNormFunction`)::

    V     = unbiased variance of all M_f C entries of sqrt(buffer_x2), before this batch is inserted: one scalar
    slot    buffer_x2[t mod M_f] <- psi2;     AM, GM over the window, per channel
    filter  when enabled and t >= warmup_iters: if AM - GM > M_f V in ANY channel, the whole step is skipped:
            buffer_x2[t mod M_f] <- running_var, skip_counter += 1.   A window M_f = 1 always skips, uncounted.
    plain = t <= M_f or t < warmup_iters or skipped
    s2    = psi2 if plain else GM;     z = x / sqrt(s2 + eps);     y = gamma z + beta
    r     = 1 if t <= max(compensation_start, warmup_iters) or skipped,
            else sqrt(s2 + eps) / sqrt(running_var + eps) clipped to [1/compensation_clip, compensation_clip];
            it compensates the gradient and does not enter y
    state   running_var <- m running_var + (1-m) s2

    u     = gamma dy r;     dgamma = sum dy r z;     dbeta = sum dy;     q = mean over ALL rows, padded too, of u z
    slot    buffer_gz[t mod M_b] <- ema_gz if skipped else q
    qbar  = q if (t <= M_b or t < warmup_iters or skipped) else mean(buffer_gz)
    state   ema_gz <- m ema_gz + (1-m) qbar
    dx    = (u - k z) / sqrt(s2 + eps),     k = q if skipped else the updated ema_gz

So window 1 is uncentred batch norm with its exact gradient; any other window has an approximate gradient from step 1.

The threshold: n non-negative values v satisfy Var(sqrt v) <= AM - GM <= n Var(sqrt v) with the biased variance, so
n Var of the previous window bounds the gap of a window with that spread. V, however, pools all channels: when they
have similar power it is tiny and most steps are filtered, when they differ much it rarely triggers.
``threshold_scope="channel"`` (ours) takes the biased variance of each channel's own entries. It cures the second, not
the first: a window of equal batches has no spread under either rule (i.i.d. normal data, 64 rows, 6 channels, 31
steps after warm-up, 10 seeds: the layer rule skipped 12 to 30 of them, the channel rule 28 to 31).
"""

from __future__ import annotations

import math
import warnings
from numbers import Integral
from typing import Any, Self

import torch
from torch import Tensor, nn

from normviz.norms._fused import blend, channel_sums, fusible, scale_shift
from normviz.norms._fused import plain as plain_tensor
from normviz.norms._placement import place
from normviz.norms._rows import (
    align_padding,
    channels_hint,
    check_rows,
    computing_dtype,
    kept_for_backward,
    masked_mean,
    row_axes,
    unversioned,
)
from normviz.norms._warm_up import WarmUpNotice
from normviz.norms.block_fusion import fuse_transformer_block
from normviz.norms.fusion import fuse_into_linear
from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "UnifiedNorm1d",
    "UnifiedNorm2d",
    "UnifiedNormFunction",
    "fuse_into_linear",
    "fuse_transformer_block",
]


def _geometric_mean(window: Tensor, floor: float) -> Tensor:
    """Over axis 0 of the window (M, C), every entry taken as at least ``floor``."""
    window = window.clamp(min=floor) if floor > 0 else window
    if window.shape[0] == 1:  # exp(log(.)) would differ from the arithmetic mean by rounding
        return window[0]
    return window.log().mean(0).exp()


def _is_slot(window: Tensor, slot: Tensor) -> Tensor:
    """Which row of the window (M, C) is ``slot``, a scalar or the same for every channel (C): (M, 1) or (M, C)."""
    rows = torch.arange(window.shape[0], device=window.device)
    return rows[:, None] == slot


class UnifiedNormFunction(torch.autograd.Function):
    """``y = gamma x / sqrt(s2 + eps) + beta`` with UN's approximate backward, which moves ``ema_gz`` and ``buffer_gz``.

    The gradient is that of the forward only on skipped steps (and with window 1).

    Reference: Yang et al., "Unified Normalization for Accelerating and Stabilizing Transformers", arXiv 2208.01313;
        equations in the module's docstring.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        s2: Tensor,
        r: Tensor,  # noqa: ARG004
        skip: Tensor,  # noqa: ARG004
        plain: Tensor,  # noqa: ARG004
        slot: Tensor,  # noqa: ARG004
        ema_gz: Tensor,  # noqa: ARG004
        buffer_gz: Tensor,  # noqa: ARG004
        momentum: float,  # noqa: ARG004
        eps: float,
    ) -> Tensor:
        """Normalise x (..., C) by s2 (C,).

        For the backward: ``r`` (C), whether the step is skipped, whether qbar is the ``plain`` q, and the ``slot`` of
        buffer_gz (M_b, C) that it fills, the last three scalars or (C).
        """
        return weight * (x * torch.rsqrt(s2 + eps)) + bias

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        """Keep what the backward needs; z is computed again there."""
        x, weight, _, *saved, ctx.momentum, ctx.eps = inputs
        ctx.save_for_backward(x, weight, *saved)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for x, weight and bias; the backward state moves one step."""
        x, weight, s2, r, skip, plain, slot, ema_gz, buffer_gz = ctx.saved_tensors
        rows = row_axes(x)
        scale = torch.rsqrt(s2 + ctx.eps)
        z = x * scale
        u = weight * dy * r
        q = (u * z).mean(rows)
        k = _advance(ctx.momentum, q, skip, plain, slot, ema_gz, buffer_gz)
        return (u - k * z) * scale, (dy * r * z).sum(rows), dy.sum(rows), *(9 * (None,))


class _FusedUnifiedNorm(torch.autograd.Function):
    """:class:`UnifiedNormFunction` for plain tensors on the CPU: one pass for y, two for its gradients."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """The inputs are those of :class:`UnifiedNormFunction`."""
        x, weight, bias, s2, *saved, ctx.momentum, ctx.eps = inputs
        ctx.save_for_backward(x, weight, s2, *saved)
        ctx.scale = torch.rsqrt(s2 + ctx.eps)
        return scale_shift(x, weight * ctx.scale, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """As in :class:`UnifiedNormFunction`, whose formulas also serve second derivatives.

        z and u are multiples of x and dy, channel by channel: all sums are multiples of two.
        """
        x, weight, _, r, skip, plain, slot, ema_gz, buffer_gz = ctx.saved_tensors
        if not fusible(dy):
            return UnifiedNormFunction.backward(ctx, dy)
        compensated = r * ctx.scale
        products, dbias = channel_sums(dy, x)
        dweight = products * compensated  # sum dy r z
        q = (weight * dweight).div_(math.prod(x.shape[:-1]))
        k = _advance(ctx.momentum, q, skip, plain, slot, ema_gz, buffer_gz)
        dx = blend(weight * compensated, dy, k * ctx.scale.square(), x)
        return dx, dweight, dbias, *(9 * (None,))


def _advance(
    momentum: float, q: Tensor, skip: Tensor, plain: Tensor, slot: Tensor, ema_gz: Tensor, buffer_gz: Tensor
) -> Tensor:
    """Move the backward state by one step; k (C), the part of z that the gradient loses."""
    ema, window = ema_gz.to(q.dtype), buffer_gz.to(q.dtype)
    window = torch.where(_is_slot(window, slot), torch.where(skip, ema, q), window)
    ema = torch.lerp(torch.where(plain, q, window.mean(0)), ema, momentum)
    unversioned(buffer_gz).copy_(window)
    unversioned(ema_gz).copy_(ema)
    return torch.where(skip, q, ema)


class _UnifiedNorm(WarmUpNotice):
    """What UnifiedNorm1d and UnifiedNorm2d share: parameters, state, the step on rows (..., C)."""

    paper_warmup = 4000
    running_var: Tensor
    ema_gz: Tensor
    buffer_x2: Tensor
    buffer_gz: Tensor
    iters: Tensor
    skip_counter: Tensor

    def __init__(
        self,
        num_features: int,
        window_size: int | tuple[int, int] = 4,
        warmup_iters: int = 4000,
        outlier_filtration: bool = False,
        *,
        eps: float = 1e-5,
        momentum: float = 0.9,
        compensation_start: int = 1000,
        compensation_clip: float = 5.0,
        forward_smoothing: str = "gm",
        threshold_scope: str = "layer",
        log_floor: float = 0.0,
        batch_first: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = check_integer("num_features", num_features, 1)
        self.window_size = _window_sizes(window_size)
        self.warmup_iters = check_integer("warmup_iters", warmup_iters, 0)
        self.outlier_filtration = bool(outlier_filtration)
        self.eps = check_real("eps", eps, 0.0, high_open=True)
        self.momentum = check_real("momentum", momentum, 0.0, 1.0, low_open=True, high_open=True)
        self.compensation_start = check_integer("compensation_start", compensation_start, 0)
        self.compensation_clip = check_real("compensation_clip", compensation_clip, 1.0, high_open=True)
        self.forward_smoothing = check_choice(
            "forward_smoothing", forward_smoothing, ("none", "ema", "am", "gm")
        )
        self.threshold_scope = check_choice("threshold_scope", threshold_scope, ("layer", "channel"))
        self.log_floor = check_real("log_floor", log_floor, 0.0, high_open=True)
        if self.warmup_iters < max(self.window_size):
            warnings.warn(
                f"warmup_iters = {warmup_iters} is shorter than the window {self.window_size}: while the window is "
                "not full its zeros make the geometric mean 0, and filtration, if on, skips those steps.",
                UserWarning,
                stacklevel=2,
            )
        forward_size, backward_size = self.window_size
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("ema_gz", torch.zeros(num_features))
        self.register_buffer("buffer_x2", torch.zeros(forward_size, num_features))
        self.register_buffer("buffer_gz", torch.zeros(backward_size, num_features))
        self.register_buffer("iters", torch.zeros((), dtype=torch.long))
        self.register_buffer("skip_counter", torch.zeros((), dtype=torch.long))
        self.last_stats: dict[str, Tensor] = {}
        self.batch_first = bool(batch_first)
        place(self, device, dtype)

    @classmethod
    def for_vision(cls, num_features: int, **overrides: Any) -> Self:
        """The paper's setting for images: window 4, warm-up 4000, filtration on; ``overrides`` win."""
        return cls(num_features, **({"outlier_filtration": True} | _PAPER | overrides))

    @classmethod
    def for_text(cls, num_features: int, **overrides: Any) -> Self:
        """The paper's setting for text: window 4, warm-up 4000, filtration off; ``overrides`` win."""
        return cls(num_features, **({"outlier_filtration": False} | _PAPER | overrides))

    def _normalize(self, x: Tensor, pad: Tensor | None) -> Tensor:
        """x (..., C) to y, of the same shape and dtype; ``pad`` (...) is True at padding."""
        kind = computing_dtype("x", x)
        if not self.training:
            scale, shift = self._scale_shift()
            return (x.to(kind) * scale.to(kind) + shift.to(kind)).to(x.dtype)
        check_rows(x, pad)
        rows = x.to(kind)
        with torch.no_grad():
            psi2 = masked_mean(rows, pad, power=2)
        s2, r, skip, plain, slot = self._statistics(psi2)
        weight, bias = self.weight.to(kind), self.bias.to(kind)
        function = _FusedUnifiedNorm if plain_tensor(rows) else UnifiedNormFunction
        y: Tensor = function.apply(  # type: ignore[no-untyped-call]
            rows,
            weight,
            bias,
            s2,
            r,
            skip,
            plain,
            slot,
            self.ema_gz,
            self.buffer_gz,
            self.momentum,
            self.eps,
        )
        return y.to(x.dtype)

    def _scale_shift(self) -> tuple[Tensor, Tensor]:
        var = self.running_var.to(computing_dtype("running_var", self.running_var))
        return self.weight * torch.rsqrt(var + self.eps), self.bias.to(var.dtype)

    @torch.no_grad()
    def _update(self, running_var: Tensor, window: Tensor, t: Tensor, skip_counter: Tensor) -> None:
        self.running_var.copy_(running_var)
        self.buffer_x2.copy_(window)
        self.iters.copy_(t)
        self.skip_counter.copy_(skip_counter)

    def _statistics(self, psi2: Tensor) -> tuple[Tensor, ...]:
        """(s2, r, skip, plain, slot) of this step as UnifiedNormFunction takes them.

        The forward state moves on, unless gradients are disabled.
        """
        size, size_backward = self.window_size
        t = self.iters + 1
        running, old = self.running_var.to(psi2.dtype), self.buffer_x2.to(psi2.dtype)
        threshold = size * self._spread(old.sqrt())
        slot = t % size
        is_slot = _is_slot(old, slot)
        window = torch.where(is_slot, psi2, old)
        am, gm = window.mean(0), _geometric_mean(window, self.log_floor)
        gap = am - gm
        filtered = torch.zeros_like(t, dtype=torch.bool)
        if self.outlier_filtration:
            filtered = (gap > threshold).any() & (t >= self.warmup_iters)
        skip = torch.ones_like(filtered) if size == 1 else filtered

        plain = (t <= max(size, self.warmup_iters - 1)) | skip
        smooth = {"none": psi2, "ema": running, "am": am, "gm": gm}[self.forward_smoothing]
        s2 = torch.where(plain, psi2, smooth)
        bound = self.compensation_clip
        r = ((s2 + self.eps) / (running + self.eps)).sqrt().clamp(1.0 / bound, bound)
        r = torch.where((t <= max(self.compensation_start, self.warmup_iters)) | skip, 1.0, r)

        # With "ema", s2 is the running value itself and would feed it nothing new.
        news = psi2 if self.forward_smoothing == "ema" else s2
        if torch.is_grad_enabled():
            if self.outlier_filtration:
                window = torch.where(is_slot & filtered, running, window)
            self._update(torch.lerp(news, running, self.momentum), window, t, self.skip_counter + filtered)
        self._remember(am=am, gm=gm, gap=gap, threshold=threshold, skipped=skip)
        plain_backward = plain
        if size_backward != size:
            plain_backward = (t <= max(size_backward, self.warmup_iters - 1)) | skip
            slot = t % size_backward
        if not torch.compiler.is_compiling():
            return s2, r, skip, plain_backward, slot
        decisions = [v.to(r.dtype).expand_as(r) for v in (skip, plain_backward, slot)]
        s2, r, kept_skip, kept_plain, kept_slot = kept_for_backward(s2, r, *decisions)
        return s2, r, kept_skip.bool(), kept_plain.bool(), kept_slot

    def _spread(self, roots: Tensor) -> Tensor:
        """V of the window's roots (M_f, C): a scalar, or (C) for scope "channel"."""
        if self.threshold_scope == "channel":
            return roots.var(0, correction=0)
        if roots.numel() == 1:  # undefined: no gap exceeds it, nothing is filtered
            return roots.new_full((), math.nan)
        return roots.var()

    def _remember(self, **stats: Tensor) -> None:
        """Fill ``last_stats``; not under vmap and its kin, whose tensors must not outlive the call."""
        if torch.compiler.is_compiling() or not torch._C._functorch.is_functorch_wrapped_tensor(stats["am"]):
            self.last_stats = stats

    def extra_repr(self) -> str:
        """Constructor arguments."""
        return (
            f"{self.num_features}, window_size={self.window_size}, warmup_iters={self.warmup_iters}, "
            f"outlier_filtration={self.outlier_filtration}, eps={self.eps}, momentum={self.momentum}, "
            f"forward_smoothing={self.forward_smoothing!r}, threshold_scope={self.threshold_scope!r}"
        )


_PAPER: dict[str, Any] = {"window_size": 4, "warmup_iters": 4000}


def _window_sizes(window_size: object) -> tuple[int, int]:
    def whole(value: object) -> bool:
        return isinstance(value, Integral) and not isinstance(value, bool)

    sizes = window_size if isinstance(window_size, tuple) else (window_size, window_size)
    if not all(map(whole, sizes)):
        raise TypeError(f"window_size must be an int or a tuple of two ints, got {window_size!r}.")
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(f"window_size must be an int >= 1 or two of them, got {window_size!r}.")
    return int(sizes[0]), int(sizes[1])


class UnifiedNorm1d(_UnifiedNorm):
    r"""Unified Normalization of tokens or feature vectors. Equations in the module's docstring.

    Training: y = gamma x / sqrt(s2 + eps) + beta with s2 the batch's quadratic mean during warm-up, on skipped steps
    and until the window is full, then the geometric mean of the window. Eval: running_var in place of s2; a fresh
    module divides by sqrt(1 + eps).

    Buffers, all in state_dict: ``running_var`` (C), ``ema_gz`` (C), ``buffer_x2`` (M_f, C), ``buffer_gz`` (M_b, C),
    ``iters``, ``skip_counter`` (int64 scalars). ``running_var``, ``buffer_x2``, ``iters`` and ``skip_counter`` move in
    a training forward with gradients enabled (under ``no_grad`` the same numbers are used and nothing is written, so
    the first pass of re-entrant checkpointing does not count; the non-re-entrant kind counts twice). ``ema_gz`` and
    ``buffer_gz`` move in backward: one backward per forward.

    ``last_stats``, set by every training forward (but not under vmap) and empty before: ``am``, ``gm`` and ``gap`` (C)
    of the window that contains this batch, before a filtered slot is replaced; ``threshold`` M_f V, a scalar or (C)
    for scope "channel"; ``skipped``, a bool scalar. Filled when filtration is off too.

    Worth knowing: a channel that is 0 in a whole batch makes its geometric mean 0 for M_f steps, so that
    z = x / sqrt(eps); ``log_floor`` limits that. A NaN or infinity in x poisons running_var, as in torch's batch norm.
    Do not put the layer into ``torch.nn.TransformerEncoderLayer``: its fast path reads ``norm1.weight`` and ``eps``
    and would silently run a LayerNorm.

    Args:
        num_features: channels C.
        window_size: M_f = M_b, or (M_f, M_b), each >= 1. Default 4 (paper).
        warmup_iters: steps before smoothing and filtration start. Default 4000 (paper).
        outlier_filtration: skip abnormal steps. Default False (official code; its image models switch it on).
        eps: inside every root. Default 1e-5 (official code).
        momentum: weight of the OLD value in running_var and ema_gz, in (0, 1). Default 0.9 (official code; torch's
            convention would call it 0.1).
        compensation_start: r = 1 up to and including this iteration. Default 1000 (official code).
        compensation_clip: r is clipped to [1/clip, clip], clip >= 1. Default 5 (official code).
        forward_smoothing: what replaces psi2 after warm-up: "gm" (default, the paper's) or, as baselines of ours,
            "none" (psi2), "ema" (running_var before the step, as in PowerNorm; it is then fed with psi2), "am".
        threshold_scope: "layer" (default, the official rule) or "channel" (ours).
        log_floor: window entries count as at least this in every geometric mean (ours). Default 0: official.
        batch_first: 3-D inputs are (B, T, C) instead of (T, B, C). Default True; matters only for a mask.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: arguments out of range; x or mask of another shape; no real row in training.
        TypeError: window_size neither int nor tuple of two ints, x not floating point, mask not bool.

    Warns:
        UserWarning: warmup_iters shorter than the longer window; once, when a layer with the paper's warm-up is
            evaluated within it, after 40 steps or more.

    Example:
        >>> norm = UnifiedNorm1d.for_text(8, warmup_iters=30)
        >>> norm(torch.randn(2, 5, 8)).shape, norm.last_stats["gm"].shape
        (torch.Size([2, 5, 8]), torch.Size([8]))

    Reference: Yang et al., "Unified Normalization for Accelerating and Stabilizing Transformers", arXiv 2208.01313;
        equations in the module's docstring.
    """

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Normalise the rows of x.

        Args:
            x: (N, C), or (B, T, C), or (T, B, C) without ``batch_first``.
            pad_mask: bool, True = padding, (N,) or for both 3-D layouts (B, T). Padded rows are normalised like the
                others but do not enter psi2. In eval only its shape and dtype matter.

        Returns:
            Same shape and dtype as x.
        """
        if x.ndim not in (2, 3) or x.shape[-1] != self.num_features:
            raise ValueError(
                f"x must have 2 or 3 axes, the last of size num_features = {self.num_features}, "
                f"got shape {tuple(x.shape)}.{channels_hint(x, self.num_features, type(self).__name__)}"
            )
        return self._normalize(x, align_padding(pad_mask, x, self.batch_first))

    def eval_scale_shift(self) -> tuple[Tensor, Tensor]:
        """``gamma / sqrt(running_var + eps)`` and ``beta``, (C,) each: the whole layer in eval."""
        return self._scale_shift()


class UnifiedNorm2d(_UnifiedNorm):
    """Unified Normalization of images (B, C, H, W): every pixel is a row. All else as :class:`UnifiedNorm1d`.

    Example:
        >>> UnifiedNorm2d.for_vision(3)(torch.randn(2, 3, 4, 4)).shape
        torch.Size([2, 3, 4, 4])

    Reference: Yang et al., "Unified Normalization for Accelerating and Stabilizing Transformers", arXiv 2208.01313;
        equations in the module's docstring.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W); same shape and dtype out."""
        if x.ndim != 4 or x.shape[1] != self.num_features:
            raise ValueError(f"x must have shape (B, {self.num_features}, H, W), got shape {tuple(x.shape)}.")
        rows = x.movedim(1, -1)  # (B, H, W, C)
        return self._normalize(rows, None).movedim(-1, 1)  # (B, C, H, W)
