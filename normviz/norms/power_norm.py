r"""Power Normalization: PN-V and PN.

S. Shen, Z. Yao, A. Gholami, M. W. Mahoney, K. Keutzer, "PowerNorm: Rethinking Batch Normalization in Transformers",
ICML 2020, arXiv 2003.07845. Official code: sIncerass/powernorm (``fairseq/modules/norms/mask_powernorm.py``).

Batch statistics of text fluctuate far more from batch to batch than those of images, the mean most of all. PN drops
the mean and divides by the quadratic mean; in training it divides by a *running* quadratic mean; and since the exact
gradient through a running statistic would need all past batches, it has an approximate backward with a running state
of its own. At inference it is one multiply-add per channel and can be folded into a Linear.

Notation: rows x (n, C) are the real tokens of the batch; per channel ``psi_B^2 = mean x^2`` (batch), ``phi``
(``running_phi``), ``gamma`` (``weight``), ``beta`` (``bias``), ``u = gamma dy``, ``alpha_fwd``, ``alpha_bkw``;
``eps`` stands inside every root.

    x <- x / sqrt(mean over the token's own channel group of x^2 + eps)              GroupScaling, always first
    PN-V: z = x / sqrt(psi_B^2 + eps), exact gradient                                PowerNormV
    PN, step t:  D = psi_B^2 while t <= warmup_iters, then phi; z = x / sqrt(D + eps), y = gamma z + beta
        phi <- phi (t-1)/t + psi_B^2 / t   while t < warmup_iters                    PowerNorm
        phi <- alpha_fwd phi + (1 - alpha_fwd) psi_B^2     always
        u~ = u - (1 - alpha_bkw) ema_gz z;   ema_gz <- ema_gz + mean over all rows of u~ z
        dx = u~ / sqrt(psi_B^2 + eps) ("official") or u~ / sqrt(D + eps) ("paper")   PowerNormFunction.backward

Algorithm 2 of the paper keeps nu = (1 - alpha_bkw) ema_gz instead, with nu <- nu (1 - (1 - alpha_bkw) mean z^2)
+ (1 - alpha_bkw) mean(u z): the same recursion. So the two modes differ only in the root that dx is divided by, and
not at all during warm-up. During warm-up the forward is that of PN-V but the backward is approximate already, so a
numerical gradient check fails by design. As in the official code the mean of u~ z runs over padded rows too.

Ours: a channel whose new ``running_phi`` or ``ema_gz`` would not be finite keeps its old value (the official state is
poisoned for good), and the forward state advances only while gradients are enabled.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normviz.norms._fused import blend, channel_sums, fusible, group_scale, group_scale_gradient, scale_shift
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
from normviz.norms.fusion import fuse_into_linear
from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "GroupScaling",
    "PowerNorm",
    "PowerNormFunction",
    "PowerNormV",
    "fuse_into_linear",
    "statistics_gap",
]


def _write_finite(buffer: Tensor, new: Tensor) -> None:
    """Store ``new`` in ``buffer`` where it is finite there; elsewhere the old value stays."""
    stored = new.to(buffer.dtype)
    finite = stored - stored == 0  # inf and NaN give NaN; a third of the operations of isfinite
    buffer.copy_(torch.where(finite, stored, buffer))


class GroupScaling(nn.Module):
    """Divide each token by the quadratic mean of its own channel groups ("layer scale" of the official code).

    ``x / sqrt(mean_{channels of the group} x^2 + eps)`` on the last axis, groups of C / groups consecutive channels,
    no parameters, no state. float16 and bfloat16 are computed in float32 and cast back.

    Args:
        groups: number of groups. Default 1 (class default of the official code; its transformers use one group per
            attention head).
        eps: inside the root. Default 1e-5 (official code).

    Raises:
        ValueError: ``groups`` < 1, ``eps`` < 0; in forward: C not divisible by ``groups``.
        TypeError: forward on integers.

    Reference: Shen, Yao, Gholami, Mahoney, Keutzer, "PowerNorm: Rethinking Batch Normalization in Transformers",
        arXiv 2003.07845, group scaling of the official code: ``x / sqrt(mean of x^2 over the group + eps)``.
    """

    def __init__(self, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = check_integer("groups", groups, 1)
        self.eps = check_real("eps", eps, 0, high_open=True)

    def forward(self, x: Tensor) -> Tensor:
        """Scale x (..., C); same shape and dtype out."""
        kind = computing_dtype("x", x)
        channels = x.shape[-1] if x.ndim else 0
        if channels == 0 or channels % self.groups:
            raise ValueError(
                f"x must have a last axis divisible by groups = {self.groups}, got shape {tuple(x.shape)}."
            )
        grouped = x.to(kind).reshape(*x.shape[:-1], self.groups, channels // self.groups)  # (..., G, C/G)
        if plain_tensor(grouped):
            scaled: Tensor = _FusedGroupScaling.apply(grouped, self.eps)  # type: ignore[no-untyped-call]
        else:
            scaled = self.formula(grouped, self.eps)
        return scaled.flatten(-2).to(x.dtype)

    @staticmethod
    def formula(x: Tensor, eps: float) -> Tensor:
        """x / sqrt(mean x^2 + eps) along the last axis."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)

    def extra_repr(self) -> str:
        """Constructor arguments."""
        return f"groups={self.groups}, eps={self.eps}"


class _FusedGroupScaling(torch.autograd.Function):
    """:meth:`GroupScaling.formula` for plain tensors on the CPU, and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        """x (..., L) to x rho, with rho = 1 / sqrt(mean x^2 + eps) along the last axis."""
        ctx.eps = eps
        ctx.save_for_backward(x)
        scaled, ctx.rho = group_scale(x, eps)
        return scaled

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """rho (dy - rho^2 x mean(dy x)); from the formula, where a graph is recorded."""
        (x,) = ctx.saved_tensors
        if not fusible(dy):
            return *torch.autograd.grad(GroupScaling.formula(x, ctx.eps), x, dy, create_graph=True), None
        return group_scale_gradient(dy, x, ctx.rho), None


class PowerNormFunction(torch.autograd.Function):
    """``y = gamma x / sqrt(D + eps) + beta`` with PN's approximate backward, which advances ``ema_gz`` in place.

    The gradients are not those of the forward: D is a running statistic (or treated like one), and the term that an
    exact gradient would subtract is replaced by its running estimate (1 - alpha_bkw) ema_gz.

    Reference: Shen, Yao, Gholami, Mahoney, Keutzer, "PowerNorm: Rethinking Batch Normalization in Transformers",
        arXiv 2003.07845, Algorithm 2 and the official code; equations in the module's docstring.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        D: Tensor,
        psi: Tensor,  # noqa: ARG004
        ema_gz: Tensor,  # noqa: ARG004
        official: bool,  # noqa: ARG004
        alpha_bkw: float,  # noqa: ARG004
        eps: float,
    ) -> Tensor:
        """Normalise x (..., C) by D (C,); dx is divided by the root of psi + eps if ``official``, else of D + eps."""
        z = x * torch.rsqrt(D + eps)
        y = z if weight is None else weight * z
        return y if bias is None else y + bias

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        """Keep what the backward needs; z is computed again there."""
        x, weight, _, D, psi, ema_gz, ctx.official, ctx.alpha_bkw, ctx.eps = inputs
        ctx.save_for_backward(x, weight, D, psi, ema_gz)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for x, weight and bias; adds mean(u~ z) to ``ema_gz``."""
        x, weight, D, psi, ema_gz = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        rows = row_axes(x)
        z = x * torch.rsqrt(D + ctx.eps)
        u = dy if weight is None else weight * dy
        ema = ema_gz.to(x.dtype)
        u = u - (1 - ctx.alpha_bkw) * ema * z
        _write_finite(unversioned(ema_gz), ema + (u * z).mean(rows))
        dx = u * torch.rsqrt((psi if ctx.official else D) + ctx.eps) if need_x else None
        dweight = (dy * z).sum(rows) if need_weight else None
        dbias = dy.sum(rows) if need_bias else None
        return dx, dweight, dbias, None, None, None, None, None, None


class _FusedPowerNorm(torch.autograd.Function):
    """:class:`PowerNormFunction` for plain tensors on the CPU: one pass for y, two for its gradients."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """The inputs are those of :class:`PowerNormFunction`, and last whether psi is a mean over all rows of x."""
        x, weight, bias, D, psi, ema_gz, ctx.official, ctx.alpha_bkw, ctx.eps, ctx.whole = inputs
        ctx.save_for_backward(x, weight, D, psi, ema_gz)
        ctx.scale = torch.rsqrt(D + ctx.eps)
        return scale_shift(
            x,
            ctx.scale if weight is None else weight * ctx.scale,
            torch.zeros_like(D) if bias is None else bias,
        )

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """As in :class:`PowerNormFunction`, whose formulas also serve second derivatives.

        z is a multiple of x and u one of dy, channel by channel, so mean(u~ z) is made of the sums of dy x and x^2.
        """
        x, weight, _, psi, ema_gz = ctx.saved_tensors
        if not fusible(dy):
            return *PowerNormFunction.backward(ctx, dy), None
        scale, rows = ctx.scale, math.prod(x.shape[:-1])
        products, dbias = channel_sums(dy, x)
        dweight = products * scale  # sum dy z
        mean_gz = (dweight if weight is None else weight * dweight).div_(rows)
        ema = ema_gz.to(x.dtype)
        pulled = (1 - ctx.alpha_bkw) * ema
        squares = psi if ctx.whole else channel_sums(x, x)[0].div_(rows)
        _write_finite(unversioned(ema_gz), ema + (mean_gz - pulled * squares * scale.square()))
        root = torch.rsqrt(psi + ctx.eps) if ctx.official else scale
        dx = blend(root if weight is None else weight * root, dy, pulled * scale * root, x)
        if weight is None:  # both are there or none
            return dx, *(9 * (None,))
        return dx, dweight, dbias, *(7 * (None,))


class _QuadraticMeanNorm(nn.Module):
    """What PowerNorm and PowerNormV share: group scaling, affine part, checks, eval."""

    weight: Tensor | None
    bias: Tensor | None
    running_phi: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float,
        groups: int,
        group_scaling: bool,
        affine: bool,
        batch_first: bool,
        check_finite: bool,
    ) -> None:
        super().__init__()
        self.num_features = check_integer("num_features", num_features, 1)
        self.eps = check_real("eps", eps, 0, high_open=True)
        self.groups = check_integer("groups", groups, 1)
        if num_features % groups:
            raise ValueError(f"groups must divide num_features = {num_features}, got {groups}.")
        self.group_scaling = bool(group_scaling)
        self.affine = bool(affine)
        self.batch_first = bool(batch_first)
        self.check_finite = bool(check_finite)
        self.scaling = GroupScaling(groups, eps) if group_scaling else nn.Identity()
        self.register_parameter("weight", nn.Parameter(torch.ones(num_features)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_features)) if affine else None)
        self.register_buffer("running_phi", torch.ones(num_features))

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Normalise the rows of x.

        Args:
            x: (N, C), or (T, B, C), or (B, T, C) with ``batch_first``.
            pad_mask: bool, True = padding, (N,) or for both 3-D layouts (B, T). Padded rows are normalised like the
                others but do not enter psi_B^2. In eval only its shape and dtype matter.

        Returns:
            Same shape and dtype as x.
        """
        kind = self._check_input(x)
        pad = align_padding(pad_mask, x, self.batch_first)
        scaled: Tensor = self.scaling(x.to(kind))
        if self.training:
            check_rows(x, pad)
            y = self._train_step(x, scaled, pad)
        else:
            scale, shift = self._scale_shift()
            y = scaled * scale.to(kind) + shift.to(kind)
        return y.to(x.dtype)

    def quadratic_mean(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """The batch statistic psi_B^2 (C,) of x after group scaling, over the real rows; no state is touched."""
        kind = self._check_input(x)
        pad = align_padding(pad_mask, x, self.batch_first)
        check_rows(x, pad)
        return masked_mean(self.scaling(x.to(kind)), pad, power=2)

    def eval_scale_shift(self) -> tuple[Tensor, Tensor]:
        """``gamma / sqrt(running_phi + eps)`` and ``beta``, (C,) each: the whole layer in eval.

        Raises:
            ValueError: with group scaling, which depends on the token.
        """
        if self.group_scaling:
            raise ValueError(
                "group_scaling must be False for a norm that is to be one multiply-add, got True."
            )
        return self._scale_shift()

    def _scale_shift(self) -> tuple[Tensor, Tensor]:
        phi = self.running_phi.to(computing_dtype("running_phi", self.running_phi))
        scale = torch.rsqrt(phi + self.eps)
        if self.weight is None or self.bias is None:
            return scale, torch.zeros_like(scale)
        return self.weight * scale, self.bias.to(scale.dtype)

    def _train_step(self, x: Tensor, scaled: Tensor, pad: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _affine(self, kind: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        if self.weight is None or self.bias is None:
            return None, None
        return self.weight.to(kind), self.bias.to(kind)

    def _check_input(self, x: Tensor) -> torch.dtype:
        kind = computing_dtype("x", x)
        if x.ndim not in (2, 3) or x.shape[-1] != self.num_features:
            raise ValueError(
                f"x must have 2 or 3 axes, the last of size num_features = {self.num_features}, "
                f"got shape {tuple(x.shape)}.{channels_hint(x, self.num_features, type(self).__name__)}"
            )
        return kind

    def _check_values(self, x: Tensor, psi: Tensor) -> None:
        if self.check_finite and not bool(torch.isfinite(x).all() & torch.isfinite(psi).all()):
            raise ValueError("x must be finite, as must the mean of its squares, got NaN or infinity.")


class PowerNormV(_QuadraticMeanNorm):
    """PN-V: normalise by the batch's quadratic mean, with the exact gradient.

    Training: ``y = gamma x / sqrt(psi_B^2 + eps) + beta`` and ``running_phi <- (1 - momentum) running_phi + momentum
    psi_B^2``; eval: running_phi in place of psi_B^2. The gradient through psi_B^2,
    ``dx = (u - z mean(u z)) / sqrt(psi_B^2 + eps)``, is left to autograd.

    Args:
        num_features: channels C.
        eps: inside the root. Default 1e-5 (official code).
        momentum: weight of the new value. Default 0.1 (torch's convention for the official alpha_fwd = 0.9).
        affine: learn gamma and beta. Default True.
        group_scaling: apply :class:`GroupScaling` first. Default False.
        groups: of the group scaling; must divide C. Default 1.
        batch_first: 3-D inputs are (B, T, C) instead of (T, B, C). Default False (official code); matters only for
            a mask.
        check_finite: raise before anything is written when a training batch is not finite. Default False. Reads
            values, so not under vmap or ``torch.compile``.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: arguments out of range; x or mask of another shape; no real row in training.
        TypeError: x not floating point, mask not bool.

    As in :class:`PowerNorm` running_phi is written only while gradients are enabled, and not in channels where it
    would not be finite.

    Reference: Shen, Yao, Gholami, Mahoney, Keutzer, "PowerNorm: Rethinking Batch Normalization in Transformers",
        arXiv 2003.07845, PN-V.
    """

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        group_scaling: bool = False,
        groups: int = 1,
        batch_first: bool = False,
        check_finite: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, groups, group_scaling, affine, batch_first, check_finite)
        self.momentum = check_real("momentum", momentum, 0, 1)
        place(self, device, dtype)

    def _train_step(self, x: Tensor, scaled: Tensor, pad: Tensor | None) -> Tensor:
        psi = masked_mean(scaled, pad, power=2)
        with torch.no_grad():
            self._check_values(x, psi)
            new = (1 - self.momentum) * self.running_phi + self.momentum * psi
        if torch.is_grad_enabled():
            with torch.no_grad():
                _write_finite(self.running_phi, new)
        z = scaled * torch.rsqrt(psi + self.eps)
        gamma, beta = self._affine(z.dtype)
        return z if gamma is None or beta is None else gamma * z + beta

    def extra_repr(self) -> str:
        """Constructor arguments."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"group_scaling={self.group_scaling}, groups={self.groups}, batch_first={self.batch_first}"
        )


class PowerNorm(WarmUpNotice, _QuadraticMeanNorm):
    """PN: normalise by a running quadratic mean, with an approximate backward. Equations in the module's docstring.

    Buffers: ``running_phi`` (C), ``ema_gz`` (C), ``iters`` (int64 scalar).

    When the state changes: ``running_phi`` and ``iters`` in a train-mode forward with gradients enabled; under
    ``no_grad`` the same denominators are used and nothing is written, so the first pass of re-entrant checkpointing
    does not count (the non-re-entrant kind runs the forward twice with gradients and advances twice). ``ema_gz``
    changes in backward: a forward without backward leaves it; two backwards through one forward, or one layer used
    twice in a graph, update it twice, the second starting from the first's result.

    After warm-up a row's training output does not depend on the other rows, and a batch of one token is fine. An
    all-zero channel gives y = beta and, in mode "official", a large finite dx = u~ / sqrt(eps).

    Args:
        num_features: channels C.
        eps: inside every root. Default 1e-5 (official code).
        alpha_fwd: weight of the old running_phi. Default 0.9 (paper, official code).
        alpha_bkw: the same for the backward state. Default 0.9 (paper, official code).
        warmup_iters: training steps that divide by the batch's own psi_B^2. Default 10000 (class default of the
            official code; its selector says 1000, its recipes use the learning-rate warm-up). Shorter runs than
            this never leave the batch-norm-like phase.
        groups: of the group scaling; must divide C. Default 1 (official class; its transformers: one per head).
        group_scaling: apply :class:`GroupScaling` first. Default True (not optional in the official code).
        affine: learn gamma and beta. Default True.
        mode: "official" (code) or "paper" (Algorithm 2). Default "official".
        batch_first: 3-D inputs are (B, T, C) instead of (T, B, C). Default False (official code); matters only for
            a mask.
        check_finite: raise before anything is written when a training batch is not finite. Default False. Reads
            values, so not under vmap or ``torch.compile``.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: arguments out of range; x or mask of another shape; no real row in training.
        TypeError: x not floating point, mask not bool.

    Warns:
        UserWarning: once, when a layer with the default warm-up is evaluated within it, after 100 steps or more.

    Example:
        >>> norm = PowerNorm(8, warmup_iters=50, groups=4, batch_first=True)
        >>> norm(torch.randn(2, 5, 8), pad_mask=torch.tensor([[False] * 5, [False] * 3 + [True] * 2])).shape
        torch.Size([2, 5, 8])

    Reference: Shen, Yao, Gholami, Mahoney, Keutzer, "PowerNorm: Rethinking Batch Normalization in Transformers",
        arXiv 2003.07845, Algorithm 2 ("paper") and the official code.
    """

    ema_gz: Tensor
    iters: Tensor
    paper_warmup = 10000

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        alpha_fwd: float = 0.9,
        alpha_bkw: float = 0.9,
        warmup_iters: int = 10000,
        groups: int = 1,
        group_scaling: bool = True,
        affine: bool = True,
        mode: str = "official",
        batch_first: bool = False,
        check_finite: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, groups, group_scaling, affine, batch_first, check_finite)
        self.alpha_fwd = check_real("alpha_fwd", alpha_fwd, 0, 1)
        self.alpha_bkw = check_real("alpha_bkw", alpha_bkw, 0, 1)
        self.warmup_iters = check_integer("warmup_iters", warmup_iters, 0)
        self.mode = check_choice("mode", mode, ("official", "paper"))
        self.register_buffer("ema_gz", torch.zeros(num_features))
        self.register_buffer("iters", torch.zeros((), dtype=torch.long))
        place(self, device, dtype)

    def _train_step(self, x: Tensor, scaled: Tensor, pad: Tensor | None) -> Tensor:
        with torch.no_grad():
            psi = masked_mean(scaled.detach(), pad, power=2)
            self._check_values(x, psi)
            phi = self.running_phi.to(psi.dtype)
            t = self.iters + 1
            D = torch.where(t <= self.warmup_iters, psi, phi)
            first = torch.where(t < self.warmup_iters, t.to(psi.dtype).reciprocal(), 0.0)
            cumulative = torch.lerp(phi, psi, first)  # phi (t-1)/t + psi/t while t < warmup_iters, then phi
            new = torch.lerp(psi, cumulative, self.alpha_fwd)
            if torch.compiler.is_compiling():
                D, psi = kept_for_backward(D, psi)
        if torch.is_grad_enabled():
            with torch.no_grad():
                _write_finite(self.running_phi, new)
                self.iters.copy_(t)
        gamma, beta = self._affine(scaled.dtype)
        inputs = (
            scaled,
            gamma,
            beta,
            D,
            psi,
            self.ema_gz,
            self.mode == "official",
            self.alpha_bkw,
            self.eps,
        )
        if plain_tensor(scaled):
            fused: Tensor = _FusedPowerNorm.apply(*inputs, pad is None)  # type: ignore[no-untyped-call]
            return fused
        y: Tensor = PowerNormFunction.apply(*inputs)  # type: ignore[no-untyped-call]
        return y

    def extra_repr(self) -> str:
        """Constructor arguments."""
        return (
            f"{self.num_features}, eps={self.eps}, alpha_fwd={self.alpha_fwd}, alpha_bkw={self.alpha_bkw}, "
            f"warmup_iters={self.warmup_iters}, groups={self.groups}, group_scaling={self.group_scaling}, "
            f"affine={self.affine}, mode={self.mode!r}, batch_first={self.batch_first}"
        )


@torch.no_grad()
def statistics_gap(norm: nn.Module, x: Tensor, pad_mask: Tensor | None = None) -> dict[str, float]:
    """How far a batch's statistics are from the running ones: ``(1/C) sum_c |batch - running|`` (paper's figure).

    Reads the state and never writes it; the same in train and eval.

    Args:
        norm: a PowerNorm or PowerNormV, or a batch norm with running statistics (torch's or ours).
        x: the norm's input: as its forward takes it for PowerNorm and PowerNormV, rows (..., C) for a batch norm.
        pad_mask: bool, True = padding, as in the norm's forward; for a torch batch norm of x's shape without C.

    Returns:
        ``{"quadratic_mean": gap}`` for PowerNorm and PowerNormV (psi_B^2 after group scaling against running_phi);
        ``{"mean": gap, "var": gap}`` for a batch norm (biased batch variance).

    Raises:
        TypeError: another kind of norm, x not floating point, mask not bool.
        ValueError: a batch norm without running statistics; x or mask of another shape; no real row.
    """
    if isinstance(norm, _QuadraticMeanNorm):
        return {"quadratic_mean": _mean_gap(norm.quadratic_mean(x, pad_mask), norm.running_phi)}
    if not isinstance(norm, _BatchNorm):
        raise TypeError(f"norm must be a PowerNorm, PowerNormV or batch norm, got {type(norm).__name__}.")
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("norm must have running statistics, got track_running_stats=False.")
    kind = computing_dtype("x", x)
    if x.ndim < 2 or x.shape[-1] != norm.num_features:
        raise ValueError(f"x must have shape (..., {norm.num_features}), got {tuple(x.shape)}.")
    pad = align_padding(pad_mask, x, getattr(norm, "batch_first", True))
    check_rows(x, pad)
    mean = masked_mean(x.to(kind), pad)
    var = masked_mean(x.to(kind) - mean, pad, power=2)
    return {"mean": _mean_gap(mean, norm.running_mean), "var": _mean_gap(var, norm.running_var)}


def _mean_gap(batch: Tensor, running: Tensor) -> float:
    return float((batch - running).abs().mean())
