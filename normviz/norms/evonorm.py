r"""EvoNorm B0, B1, B2, S0, S1, S2: normalization and activation in one layer.

Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", NeurIPS 2020, arXiv 2004.02967.

A layer replaces the normalization AND the activation after it: no ReLU follows. None of the six centres its input.
For x in R^{N x C x H x W}, with per-channel gamma (``weight``, 1), beta (``bias``, 0), v1 (``v``, 1) and one
``eps`` inside every root::

    B0  y = gamma x / max( sqrt(s2_{n,h,w}(x)+eps), v1 x + sqrt(s2_{h,w}(x)+eps) )      + beta
    B1  y = gamma x / max( sqrt(s2_{n,h,w}(x)+eps), (x+1) sqrt(mu_{h,w}(x^2)+eps) )     + beta
    B2  y = gamma x / max( sqrt(s2_{n,h,w}(x)+eps), sqrt(mu_{h,w}(x^2)+eps) - x )       + beta
    S0  y = gamma x sigmoid(v1 x) / sqrt(s2_{h,w,c/g}(x)+eps)                           + beta
    S1  y = gamma x sigmoid(x)    / sqrt(s2_{h,w,c/g}(x)+eps)                           + beta
    S2  y = gamma x sigmoid(x)    / sqrt(mu_{h,w,c/g}(x^2)+eps)                         + beta

s2_I is the biased variance and mu_I the mean over the index set I: {n,h,w} per channel over the batch, {h,w} per
sample and channel, {h,w,c/g} per sample and group of C/g consecutive channels.

Equation → code: s2_{n,h,w} = ``moment("variance", x, "bwh")``; right-hand term of the maximum = ``instance_term``;
numerator of the S series = ``_numerator``; its root = ``_group_root``.

Followed where sources differ: ``eps`` is 1e-5 everywhere (timm uses 1e-3 in B0); with ``apply_act=False`` only the
affine map is left, as in timm's plain variants, and ``keep_norm=True`` gives timm's "a" variants. The running
variance follows torch's convention (``momentum`` 0.1 is the weight of the new value, unbiased in the buffer).

Not true, though often assumed: gradients flow through every statistic, so the instance term of the B series is
computed from the input in evaluation mode too; only {n,h,w} has a running value.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from normviz.norms._evonorm_primitives import moment
from normviz.norms._fused import fusible, plain
from normviz.norms._fused_evonorm import add_moments, instance_moments, quotient, quotient_gradient
from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "EvoNorm2dB0",
    "EvoNorm2dB1",
    "EvoNorm2dB2",
    "EvoNorm2dS0",
    "EvoNorm2dS1",
    "EvoNorm2dS2",
    "make_evonorm",
]

DEFAULT_GROUPS = 32


def check_images(x: Tensor, num_features: int) -> None:
    """Refuse what is not a floating (N, ``num_features``, H, W) tensor."""
    if x.dim() != 4 or x.shape[1] != num_features:
        raise ValueError(f"input must have shape (N, {num_features}, H, W), got {tuple(x.shape)}.")
    if not x.is_floating_point():
        raise TypeError(f"input must be a floating tensor, got {x.dtype}.")


def widened(x: Tensor) -> Tensor:
    """``x``, in float32 where its own type has too few bits for statistics."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def per_instance(p: Tensor) -> Tensor:
    """(N, C) -> (N, C, 1, 1)."""
    return p[:, :, None, None]


def per_channel(p: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1)."""
    return p.view(1, -1, 1, 1)


class _EvoNorm2d(nn.Module):
    """Parameters, argument checks and the closing affine map that the six layers share."""

    _learns_v = False
    v: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        eps: float,
        apply_act: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.num_features = check_integer("num_features", num_features, 1)
        self.eps = check_real("eps", eps, 0)
        self.apply_act = apply_act
        self.weight = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        v = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if self._learns_v else None
        self.register_parameter("v", v)
        self._warned = False

    def reset_parameters(self) -> None:
        """Set gamma = 1, beta = 0 and v1 = 1."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        if self.v is not None:
            nn.init.ones_(self.v)

    def _affine(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        return (per_channel(self.weight) * y + per_channel(self.bias)).to(dtype)

    def _warn_if_single(self, count: int, what: str) -> None:
        if count == 1 and not self._warned and not torch.compiler.is_compiling():
            self._warned = True
            warnings.warn(
                f"{type(self).__name__}: {what} holds a single element, its variance is 0 and the root is "
                f"sqrt(eps) = {self.eps**0.5:g}; the output can be amplified by as much as its inverse.",
                UserWarning,
                stacklevel=4,
            )

    def extra_repr(self) -> str:
        """Arguments that differ between instances, for ``repr``."""
        return f"{self.num_features}, eps={self.eps:g}, apply_act={self.apply_act}"


class _FusedB(torch.autograd.Function):
    """:meth:`_EvoNorm2dB.formula` for plain tensors on the CPU; :mod:`normviz.norms._fused_evonorm` has the algebra."""

    @staticmethod
    def forward(
        ctx: Any,
        layer: _EvoNorm2dB,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        v: Tensor | None,
        running: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """y (N, C, H, W) and the variance (C,) by which it is divided."""
        means, spread = instance_moments(x)
        mean = means.mean(0)
        # The variance of all numbers is what the instances' own and that of their means add up to.
        own = spread.mean(0).add_((means - mean).square_().mean(0)) if running is None else running
        variance = own.clone()
        inner = spread if layer.centred else means.square().add_(spread)
        I = per_instance((inner + layer.eps).sqrt_())
        D = per_channel((variance + layer.eps).sqrt_())
        ctx.layer, ctx.moments = layer, (means, mean, I, D)
        ctx.save_for_backward(x, weight, bias, v, running)
        ctx.mark_non_differentiable(variance)
        return quotient(x, layer.slope(I, v), I, D, per_channel(weight), per_channel(bias)), variance

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients for x, weight, bias and v; from the formula, where a graph is recorded."""
        layer: _EvoNorm2dB = ctx.layer
        x, weight, bias, v, running = ctx.saved_tensors
        if not fusible(dy):
            y, _ = layer.formula(x, weight, bias, v, running)
            wanted = [t for t in (x, weight, bias, v) if t is not None and t.requires_grad]
            found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
            return None, *(next(found) if need else None for need in ctx.needs_input_grad[1:5]), None

        means, mean, I, D = ctx.moments
        n, _, h, w = x.shape
        dx, sums = quotient_gradient(dy.contiguous(), x, layer.slope(I, v), I, D, per_channel(weight))
        roots = sums.offset + sums.slope if layer.root_is_slope else sums.offset
        push = roots.div_(I[:, :, 0, 0]).div_(h * w)  # (N, C)
        scale, shift = push, push * means if layer.centred else torch.zeros_like(push)
        if running is None:
            pull = sums.batch.sum(0).div_(D.flatten()).div_(n * h * w)  # (C,)
            scale, shift = push + pull, shift + pull * mean
        add_moments(dx, x, per_instance(scale), per_instance(shift.neg_()))
        dv = None if v is None else sums.slope.sum(0)
        return None, dx, sums.gain.sum(0), sums.shift.sum(0), dv, None


class _EvoNorm2dB(_EvoNorm2d):
    """y = gamma x / max( sqrt(s2_{n,h,w}(x)+eps), instance term ) + beta.

    ``centred``: the instance term's moment is a variance, not a mean square. ``root_is_slope``: its root multiplies x.
    """

    centred = False
    root_is_slope = False
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        apply_act: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, apply_act, device, dtype)
        self.momentum = check_real("momentum", momentum, 0, 1)
        self.register_buffer("running_var", torch.empty(num_features, device=device, dtype=dtype))
        self.register_buffer("num_batches_tracked", torch.zeros((), device=device, dtype=torch.long))
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Set the running variance to 1 and the batch count to 0."""
        self.running_var.fill_(1)
        self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Set gamma = 1, beta = 0, v1 = 1 and forget the running variance."""
        super().reset_parameters()
        self.reset_running_stats()

    def forward(self, input: Tensor) -> Tensor:
        """Normalize and activate.

        Args:
            input: (N, C, H, W), floating.

        Returns:
            Tensor of the same shape and dtype.

        Raises:
            ValueError: ``input`` is not (N, C, H, W), or N*H*W = 1 in training (n/(n-1) is undefined).
            TypeError: ``input`` is not floating.
        """
        check_images(input, self.num_features)
        x = widened(input)
        if not self.apply_act:
            return self._affine(x, input.dtype)
        n = x.shape[0] * x.shape[2] * x.shape[3]
        if self.training and n == 1:
            raise ValueError(
                f"{type(self).__name__} needs N*H*W > 1 in training, got shape {tuple(x.shape)}."
            )
        self._check_space(x)
        running = None if self.training else self.running_var
        inputs = (x, self.weight, self.bias, self.v, running)
        short = x.is_contiguous() and x.numel() > 0 and plain(x)
        if short and self.weight.dtype == self.running_var.dtype == x.dtype:
            y, variance = _FusedB.apply(self, *inputs)  # type: ignore[no-untyped-call]
        else:
            y, variance = self.formula(*inputs)
        if self.training:
            with torch.no_grad():
                unbiased = variance.detach() * (n / (n - 1))
                self.running_var.copy_((1 - self.momentum) * self.running_var + self.momentum * unbiased)
                self.num_batches_tracked.add_(1)
        return y.to(input.dtype)  # type: ignore[no-any-return]

    def formula(
        self, x: Tensor, weight: Tensor, bias: Tensor, v: Tensor | None, running: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """y (N, C, H, W) and the variance (C,) by which it is divided: ``running``, or without one the batch's own."""
        variance = moment("variance", x, "bwh").flatten() if running is None else running
        root = per_channel(variance + self.eps).sqrt()
        y = x / torch.maximum(root, self.instance_term(x, v))  # (N, C, H, W)
        return per_channel(weight) * y + per_channel(bias), variance

    def _check_space(self, x: Tensor) -> None:
        """Warn where an instance is too small for its moment."""

    def instance_term(self, x: Tensor, v: Tensor | None) -> Tensor:
        """The right-hand term of the maximum, (N, C, H, W): a x + I with the root I of a moment."""
        raise NotImplementedError

    def slope(self, I: Tensor, v: Tensor | None) -> Tensor:
        """a, of I's shape (N, C, 1, 1)."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Arguments that differ between instances, for ``repr``."""
        return f"{super().extra_repr()}, momentum={self.momentum:g}"


class EvoNorm2dB0(_EvoNorm2dB):
    r"""EvoNorm-B0: ``y = gamma x / max(sqrt(s2_{n,h,w}(x)+eps), v1 x + sqrt(s2_{h,w}(x)+eps)) + beta``.

    Args:
        num_features: C.
        eps: inside both roots; 1e-5 (timm: 1e-3).
        momentum: weight of the new batch in ``running_var``; 0.1 (the paper's decay of 0.9).
        apply_act: False leaves only ``gamma x + beta`` and does not touch the buffers (timm).
        device: of parameters and buffers.
        dtype: of parameters and buffers.

    Shape: (N, C, H, W) -> same. State: ``weight``, ``bias``, ``v``, ``running_var``, ``num_batches_tracked``.

    Raises:
        ValueError: at construction for num_features < 1, eps < 0, momentum outside [0, 1].

    Warns:
        UserWarning: H*W = 1, once per instance (the instance variance of one element is 0).

    Example:
        >>> import torch
        >>> layer = EvoNorm2dB0(16)
        >>> layer(torch.randn(8, 16, 4, 4)).shape
        torch.Size([8, 16, 4, 4])

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967, EvoNorm-B0,
        the formula above.
    """

    _learns_v = True
    centred = True
    v: nn.Parameter

    def instance_term(self, x: Tensor, v: Tensor | None) -> Tensor:
        """v1 x + sqrt(s2_{h,w}(x)+eps)."""
        assert v is not None
        return per_channel(v) * x + (moment("variance", x, "wh") + self.eps).sqrt()  # (N, C, H, W)

    def _check_space(self, x: Tensor) -> None:
        self._warn_if_single(x.shape[2:].numel(), "a channel of one sample")

    def slope(self, I: Tensor, v: Tensor | None) -> Tensor:
        """v1."""
        assert v is not None
        return per_channel(v).expand_as(I)


class EvoNorm2dB1(_EvoNorm2dB):
    r"""EvoNorm-B1: ``y = gamma x / max(sqrt(s2_{n,h,w}(x)+eps), (x+1) sqrt(mu_{h,w}(x^2)+eps)) + beta``.

    Arguments, shapes, state (``v`` is None) and errors as in :class:`EvoNorm2dB0`.

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967, EvoNorm-B1,
        the formula above.
    """

    root_is_slope = True

    def instance_term(self, x: Tensor, v: Tensor | None) -> Tensor:  # noqa: ARG002
        """(x + 1) sqrt(mu_{h,w}(x^2)+eps)."""
        return (x + 1) * (moment("mean_square", x, "wh") + self.eps).sqrt()  # (N, C, H, W)

    def slope(self, I: Tensor, v: Tensor | None) -> Tensor:  # noqa: ARG002
        """I."""
        return I


class EvoNorm2dB2(_EvoNorm2dB):
    r"""EvoNorm-B2: ``y = gamma x / max(sqrt(s2_{n,h,w}(x)+eps), sqrt(mu_{h,w}(x^2)+eps) - x) + beta``.

    Arguments, shapes, state (``v`` is None) and errors as in :class:`EvoNorm2dB0`.

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967, EvoNorm-B2,
        the formula above.
    """

    def instance_term(self, x: Tensor, v: Tensor | None) -> Tensor:  # noqa: ARG002
        """sqrt(mu_{h,w}(x^2)+eps) - x."""
        return (moment("mean_square", x, "wh") + self.eps).sqrt() - x  # (N, C, H, W)

    def slope(self, I: Tensor, v: Tensor | None) -> Tensor:  # noqa: ARG002
        """-1."""
        return I.new_full((), -1.0).expand_as(I)


class _EvoNorm2dS(_EvoNorm2d):
    """y = gamma numerator / sqrt( moment over {h,w,c/g} + eps ) + beta."""

    _moment = "variance"

    def __init__(
        self,
        num_features: int,
        groups: int | None = None,
        group_size: int | None = None,
        eps: float = 1e-5,
        apply_act: bool = True,
        keep_norm: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, apply_act, device, dtype)
        self.groups = _resolve_groups(self.num_features, groups, group_size)
        self.keep_norm = keep_norm
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Normalize and activate.

        Args:
            input: (N, C, H, W), floating.

        Returns:
            Tensor of the same shape and dtype; a sample's output never depends on the rest of the batch.

        Raises:
            ValueError: ``input`` is not (N, C, H, W).
            TypeError: ``input`` is not floating.
        """
        check_images(input, self.num_features)
        x = widened(input)
        y = self._numerator(x) if self.apply_act else x
        gain = per_channel(self.weight)
        if self.apply_act or self.keep_norm:
            gain = gain / self._group_root(x)  # (N, C, 1, 1): dividing the gain spares a pass over y
        return (gain * y + per_channel(self.bias)).to(input.dtype)

    def _numerator(self, x: Tensor) -> Tensor:
        return silu(x)  # x sigmoid(x)

    def _group_root(self, x: Tensor) -> Tensor:
        if self._moment == "variance":
            self._warn_if_single(x.shape[1:].numel() // self.groups, "a group of one sample")
        return (moment(self._moment, x, "whg", self.groups) + self.eps).sqrt()  # (N, C, 1, 1)

    def extra_repr(self) -> str:
        """Arguments that differ between instances, for ``repr``."""
        return f"{super().extra_repr()}, groups={self.groups}, keep_norm={self.keep_norm}"


def _resolve_groups(num_features: int, groups: int | None, group_size: int | None) -> int:
    if groups is not None and group_size is not None:
        raise ValueError(
            f"give groups or group_size, not both (got groups={groups}, group_size={group_size})."
        )
    if group_size is not None:
        size = check_integer("group_size", group_size, 1)
        if num_features % size:
            raise ValueError(f"group_size must divide num_features = {num_features}, got {size}.")
        return num_features // size
    count = check_integer("groups", DEFAULT_GROUPS if groups is None else groups, 1)
    if num_features % count:
        source = " by default, timm's" if groups is None else ""
        raise ValueError(
            f"groups must divide num_features = {num_features}, got {count}{source}; "
            f"groups={fitting_groups(num_features, count)} does."
        )
    return count


def fitting_groups(num_features: int, count: int) -> int:
    """The largest divisor of num_features up to ``count`` that leaves two channels or more in a group, else 1."""
    return max((g for g in range(1, min(count, num_features // 2) + 1) if num_features % g == 0), default=1)


class EvoNorm2dS0(_EvoNorm2dS):
    r"""EvoNorm-S0: ``y = gamma x sigmoid(v1 x) / sqrt(s2_{h,w,c/g}(x)+eps) + beta``.

    Args:
        num_features: C.
        groups: number g of channel groups; None means 32 (timm). Must divide C: give it for narrow layers, the error
            names one that does.
        group_size: C/g instead of g; give only one of the two.
        eps: inside the root; 1e-5 (timm).
        apply_act: False leaves only ``gamma x + beta`` (timm).
        keep_norm: with ``apply_act=False``: ``gamma x / root + beta`` (timm's "a" variants); otherwise no effect.
        device: of the parameters.
        dtype: of the parameters.

    Shape: (N, C, H, W) -> same. State: ``weight``, ``bias``, ``v``.

    Raises:
        ValueError: at construction for num_features < 1, eps < 0, groups that do not divide C, both group arguments.

    Warns:
        UserWarning: H*W*C/g = 1, once per instance (the variance of one element is 0).

    Example:
        >>> import torch
        >>> layer = EvoNorm2dS0(16, groups=4)
        >>> layer(torch.randn(1, 16, 4, 4)).shape
        torch.Size([1, 16, 4, 4])

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967, EvoNorm-S0,
        the formula above.
    """

    _learns_v = True
    v: nn.Parameter

    def _numerator(self, x: Tensor) -> Tensor:
        return x * (per_channel(self.v) * x).sigmoid()


class EvoNorm2dS1(_EvoNorm2dS):
    r"""EvoNorm-S1: ``y = gamma x sigmoid(x) / sqrt(s2_{h,w,c/g}(x)+eps) + beta``.

    Arguments, shapes, state (``v`` is None), errors and warnings as in :class:`EvoNorm2dS0`.

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967, EvoNorm-S1,
        the formula above.
    """


class EvoNorm2dS2(_EvoNorm2dS):
    r"""EvoNorm-S2: ``y = gamma x sigmoid(x) / sqrt(mu_{h,w,c/g}(x^2)+eps) + beta``.

    Arguments, shapes, state (``v`` is None) and errors as in :class:`EvoNorm2dS0`.

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967, EvoNorm-S2,
        the formula above.
    """

    _moment = "mean_square"


_KINDS: dict[str, type[_EvoNorm2dB] | type[_EvoNorm2dS]] = {
    "B0": EvoNorm2dB0,
    "B1": EvoNorm2dB1,
    "B2": EvoNorm2dB2,
    "S0": EvoNorm2dS0,
    "S1": EvoNorm2dS1,
    "S2": EvoNorm2dS2,
}


def make_evonorm(kind: str, num_features: int, **kw: Any) -> nn.Module:
    """Build an EvoNorm layer by its name in the paper.

    Args:
        kind: "B0", "B1", "B2", "S0", "S1" or "S2".
        num_features: C.
        **kw: passed to the layer's constructor.

    Raises:
        ValueError: unknown ``kind``.

    Example:
        >>> make_evonorm("S0", 8, groups=4)
        EvoNorm2dS0(8, eps=1e-05, apply_act=True, groups=4, keep_norm=False)
    """
    return _KINDS[check_choice("kind", kind, _KINDS)](num_features, **kw)
