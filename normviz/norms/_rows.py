"""Rows and padding: what the norms with statistics over tokens share.

A *row* is one token's channel vector. Padding masks are boolean with True = padding, and have the shape of the
input without its channel axis, as the caller sees the batch: (N,) for (N, C), (B, T) for (B, T, C) and for (T, B, C).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normviz.norms._fused import channel_sums, fusible

__all__ = [
    "align_padding",
    "channels_hint",
    "check_rows",
    "computing_dtype",
    "kept_for_backward",
    "masked_mean",
    "row_axes",
    "unversioned",
    "values_readable",
]


def computing_dtype(name: str, x: Tensor) -> torch.dtype:
    """dtype in which statistics of ``x`` are taken: its own, but float32 for float16 and bfloat16.

    Raises:
        TypeError: ``x`` is not a tensor of real floating point numbers.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        given = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a floating point tensor, got {given}.")
    return torch.promote_types(x.dtype, torch.float32)


def channels_hint(x: Tensor, num_features: int, norm: str) -> str:
    """What to do with ``x`` that has its ``num_features`` channels on axis 1, for an error's end; "" for any other."""
    if x.ndim < 3 or x.shape[1] != num_features:
        return ""
    return f" Channels are the last axis here: ChannelsLast({norm}({num_features})) takes (N, C, ...)."


def values_readable(tensor: Tensor) -> bool:
    """Whether Python may branch on the values of ``tensor``: not while compiling, under vmap or on device meta."""
    if torch.compiler.is_compiling() or tensor.is_meta:
        return False
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        if torch._C._functorch.is_batchedtensor(tensor):
            return False
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return True


def unversioned(buffer: Tensor) -> Tensor:
    """Alias of a saved buffer through which a backward may write it more than once.

    ``.data`` leaves the version counter alone, by which autograd would refuse a second backward through one forward.
    Where the backward itself runs under vmap (forward in vmap, ``loss.backward()`` outside) ``.data`` is not allowed;
    there the plain alias serves, and a second backward raises.
    """
    if not torch.compiler.is_compiling() and torch._C._functorch.is_batchedtensor(buffer):
        return buffer.detach()
    return buffer.data


def kept_for_backward(*values: Tensor) -> tuple[Tensor, ...]:
    """The same values (all of one shape), as torch.compile has to keep them for the backward.

    It may compute a value again in the backward instead of keeping it, from its inputs as they are *then*: a buffer
    that the forward has advanced in between gives another value, silently (pytorch/pytorch#197039). A concatenation is
    never computed twice, so what has passed through one is safe, provided that the forward's own result depends on
    one of the values: a concatenation that only the backward needs is moved there as a whole.
    """
    return torch.stack(values).unbind(0)


def row_axes(x: Tensor) -> tuple[int, ...]:
    """All axes of ``x`` but the channel axis."""
    return tuple(range(x.ndim - 1))


def align_padding(pad_mask: Tensor | None, x: Tensor, batch_first: bool) -> Tensor | None:
    """The mask in the layout of ``x``'s leading axes.

    Args:
        pad_mask: bool, True = padding: (N,) for x (N, C); (B, T) for x (B, T, C) or (T, B, C). None: no padding.
        x: the rows.
        batch_first: 3-D x is (B, T, C) rather than (T, B, C).

    Raises:
        TypeError: the mask is not a boolean tensor.
        ValueError: the mask has another shape.
    """
    if pad_mask is None:
        return None
    if not isinstance(pad_mask, Tensor) or pad_mask.dtype != torch.bool:
        raise TypeError(
            f"pad_mask must be a bool tensor, got {getattr(pad_mask, 'dtype', type(pad_mask).__name__)}."
        )
    turned = x.ndim == 3 and not batch_first
    shape = tuple(x.shape[:-1])
    expected = shape[::-1] if turned else shape
    if tuple(pad_mask.shape) != expected:
        raise ValueError(f"pad_mask must have shape {expected}, got {tuple(pad_mask.shape)}.")
    return pad_mask.T if turned else pad_mask


def check_rows(x: Tensor, pad: Tensor | None, at_least: int = 1) -> None:
    """Raise unless there are enough real rows to take statistics of.

    The mask's values are looked at only where they can be (see :func:`values_readable`).

    Raises:
        ValueError: ``x`` has fewer than ``at_least`` rows, or the mask leaves fewer.
    """
    need = "at least one row" if at_least == 1 else f"at least {at_least} rows"
    if math.prod(x.shape[:-1]) < at_least:
        raise ValueError(f"x must have {need} in training, got shape {tuple(x.shape)}.")
    if pad is not None and values_readable(pad) and int((~pad).sum()) < at_least:
        raise ValueError(f"pad_mask must leave {need} in training, got {int((~pad).sum())} of {pad.numel()}.")


def masked_mean(x: Tensor, pad: Tensor | None, power: int = 1) -> Tensor:
    """Mean of ``x ** power`` (..., C) over the real rows, per channel; what padded rows hold never matters."""
    real = x if pad is None else x.masked_fill(pad.unsqueeze(-1), 0)
    total = channel_sums(real, real)[0] if power == 2 and fusible(real) else real.pow(power).sum(row_axes(x))
    rows = math.prod(x.shape[:-1]) if pad is None else (~pad).sum()
    return total / rows
