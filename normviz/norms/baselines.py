"""Batch, RMS and group norm for tokens: the known norms in the one shape in which all norms here are interchangeable.

Every norm of this package is built by ``norm(num_features)`` and acts on the *last* axis of (..., C). torch's batch and
group norm want the channels second, and its batch norm knows no padding; these wrappers differ in that only.
``nn.Identity`` is the norm that does nothing, and :class:`ChannelsLast` lets any of them stand in a ConvNet, on
(N, C, H, W). Names and defaults follow torch.
"""

from __future__ import annotations

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normviz.norms._placement import place
from normviz.norms._rows import align_padding, channels_hint, check_rows, computing_dtype, masked_mean
from normviz.validation import check_integer, check_real

__all__ = ["BatchNorm", "ChannelsLast", "GroupNorm", "RMSNorm"]


class BatchNorm(_BatchNorm):
    """Batch norm over the rows of (..., C), with an optional padding mask.

    Training: mean and biased variance of the real rows, per channel, ``y = gamma (x - mean) / sqrt(var + eps) + beta``;
    running_mean and running_var (unbiased) move by ``momentum`` towards them. Eval: the running values. Without a mask
    equal to ``torch.nn.BatchNorm1d`` over the rows, with the same parameters and buffers. float16 and bfloat16 inputs
    are computed in float32 and cast back.

    Ioffe, Szegedy, "Batch Normalization", ICML 2015, arXiv 1502.03167.

    Args:
        num_features: channels C.
        eps: inside the root. Default 1e-5 (torch).
        momentum: weight of the new value. Default 0.1 (torch).
        affine: learn gamma (``weight``) and beta (``bias``). Default True.
        batch_first: how a mask lies on 3-D inputs: (B, T, C) if True (default), (T, B, C) if False.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: arguments out of range; the last axis of x is not C; mask of another shape; fewer than two real
            rows in training (their variance is 0; torch raises too).
        TypeError: x not floating point, mask not bool.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        batch_first: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_integer("num_features", num_features, 1)
        check_real("eps", eps, 0, high_open=True)
        check_real("momentum", momentum, 0, 1)
        super().__init__(num_features, eps, momentum, affine)
        self.batch_first = bool(batch_first)
        place(self, device, dtype)

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Normalise the rows of x.

        Args:
            x: (..., C) with at least one leading axis.
            pad_mask: bool, True = padding: (B, T) for 3-D x in either layout, else the shape of x without C. Padded
                rows are normalised like the others but enter no statistic. In eval only its shape and dtype matter.

        Returns:
            Same shape and dtype as x.
        """
        kind = computing_dtype("x", x)
        if x.ndim < 2 or x.shape[-1] != self.num_features:
            raise ValueError(
                f"x must have shape (..., {self.num_features}), got {tuple(x.shape)}."
                f"{channels_hint(x, self.num_features, type(self).__name__)}"
            )
        pad = align_padding(pad_mask, x, self.batch_first)
        rows = x.to(kind)
        if not self.training:
            scale, shift = self.eval_scale_shift()
            return (rows * scale.to(kind) + shift.to(kind)).to(x.dtype)
        check_rows(x, pad, at_least=2)
        mean = masked_mean(rows, pad)
        centred = rows - mean
        var = masked_mean(centred, pad, power=2)
        # A single real row gets past the check only where the mask cannot be read; its variance is 0 either way.
        self._advance(mean, var, math.prod(x.shape[:-1]) if pad is None else (~pad).sum().clamp(min=2))
        scale = torch.rsqrt(var + self.eps)
        if not self.affine:
            return (centred * scale).to(x.dtype)
        return (centred * (scale * self.weight.to(kind)) + self.bias.to(kind)).to(x.dtype)

    @torch.no_grad()
    def _advance(self, mean: Tensor, var: Tensor, rows: int | Tensor) -> None:
        self.num_batches_tracked.add_(1)
        # torch's convention for None (set by swa_utils.update_bn): the plain average over all batches
        new = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked
        self.running_mean.copy_((1 - new) * self.running_mean + new * mean)
        self.running_var.copy_((1 - new) * self.running_var + new * var * (rows / (rows - 1)))

    def eval_scale_shift(self) -> tuple[Tensor, Tensor]:
        """``gamma / sqrt(running_var + eps)`` and ``beta - running_mean * scale``, (C,) each: the layer in eval."""
        kind = computing_dtype("running_var", self.running_var)
        scale = torch.rsqrt(self.running_var.to(kind) + self.eps)
        if self.affine:
            scale = scale * self.weight
            return scale, self.bias - self.running_mean * scale
        return scale, -self.running_mean * scale

    def extra_repr(self) -> str:
        """Constructor arguments."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"batch_first={self.batch_first}"
        )


class RMSNorm(nn.Module):
    """``y = gamma x / sqrt(mean of x^2 over the channels + eps)``: layer norm without mean and bias.

    Zhang, Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019, arXiv 1910.07467. ``F.rms_norm``, in float32
    for float16 and bfloat16.

    Args:
        num_features: channels C.
        eps: inside the root. Default 1e-5 (as the other norms here; torch's default depends on the dtype).
        affine: learn gamma (``weight``). Default True.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: arguments out of range; the last axis of x is not C.
        TypeError: x not floating point.
    """

    weight: Tensor | None

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = check_integer("num_features", num_features, 1)
        self.eps = check_real("eps", eps, 0, high_open=True)
        self.affine = bool(affine)
        self.register_parameter("weight", nn.Parameter(torch.ones(num_features)) if affine else None)
        place(self, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., C); same shape and dtype out."""
        kind = computing_dtype("x", x)
        _check_channels(x, self)
        gamma = None if self.weight is None else self.weight.to(kind)
        return F.rms_norm(x.to(kind), (self.num_features,), gamma, self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        """Constructor arguments."""
        return f"{self.num_features}, eps={self.eps}, affine={self.affine}"


class GroupNorm(nn.Module):
    """Layer norm of each token within groups of consecutive channels, then gain and bias per channel.

    ``y = gamma (x - mean_g) / sqrt(var_g + eps) + beta`` with mean and biased variance of the group g of each channel.

    Wu, He, "Group Normalization", ECCV 2018, arXiv 1803.08494. On tokens there are no spatial axes: the statistics are
    of C / groups values. (So behind :class:`ChannelsLast` they are of one pixel, while ``nn.GroupNorm`` on images takes
    them over the whole image.) float16 and bfloat16 inputs are computed in float32 and cast back.

    Args:
        num_features: channels C.
        groups: number of groups; must divide C. Default 4 (ours; the paper's 32 is for hundreds of channels).
        eps: inside the root. Default 1e-5 (torch).
        affine: learn gamma (``weight``) and beta (``bias``). Default True.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: arguments out of range; ``groups`` does not divide C; the last axis of x is not C.
        TypeError: x not floating point.

    With groups of one channel the output is the bias for every input; a UserWarning says so.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        num_features: int,
        groups: int = 4,
        *,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = check_integer("num_features", num_features, 1)
        self.groups = check_integer("groups", groups, 1)
        if num_features % groups:
            raise ValueError(f"groups must divide num_features = {num_features}, got {groups}.")
        self.eps = check_real("eps", eps, 0, high_open=True)
        self.affine = bool(affine)
        self.register_parameter("weight", nn.Parameter(torch.ones(num_features)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_features)) if affine else None)
        if groups == num_features:
            warnings.warn("groups of a single channel: the output is the bias for every input.", stacklevel=2)
        place(self, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., C); same shape and dtype out."""
        kind = computing_dtype("x", x)
        _check_channels(x, self)
        size = self.num_features // self.groups
        grouped = x.to(kind).reshape(*x.shape[:-1], self.groups, size)  # (..., G, C/G)
        z = F.layer_norm(grouped, (size,), eps=self.eps).flatten(-2)
        if self.weight is None or self.bias is None:
            return z.to(x.dtype)
        return (self.weight.to(kind) * z + self.bias.to(kind)).to(x.dtype)

    def extra_repr(self) -> str:
        """Constructor arguments."""
        return f"{self.num_features}, groups={self.groups}, eps={self.eps}, affine={self.affine}"


class ChannelsLast(nn.Module):
    """Let a norm on (..., C) act on images: (N, C, *spatial) -> (N, pixels, C) -> ``norm`` -> back.

    Every pixel is a token: norms with batch statistics take them over cases and pixels (as ``nn.BatchNorm2d``), the
    others over the channels of one pixel.

    Args:
        norm: any norm of this package, or ``nn.LayerNorm(C)``.

    Raises:
        ValueError: forward on fewer than two axes.

    Example:
        >>> ChannelsLast(BatchNorm(3))(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])

    Reference: none; a change of layout, no paper.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, *spatial); same shape out."""
        if x.ndim < 2:
            raise ValueError(f"x must have shape (N, C, ...), got {tuple(x.shape)}.")
        if x.ndim == 2:
            y: Tensor = self.norm(x)
            return y
        tokens = x.flatten(2).transpose(1, 2)  # (N, pixels, C)
        y = self.norm(tokens)
        return y.transpose(1, 2).reshape(x.shape)


def _check_channels(x: Tensor, norm: RMSNorm | GroupNorm) -> None:
    if x.ndim < 1 or x.shape[-1] != norm.num_features:
        raise ValueError(
            f"x must have shape (..., {norm.num_features}), got {tuple(x.shape)}."
            f"{channels_hint(x, norm.num_features, type(norm).__name__)}"
        )
