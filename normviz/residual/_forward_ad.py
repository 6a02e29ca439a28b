"""Forward-mode differentiation along one direction, right also when nested.

torch's fused layer and batch norm forget a term when their forward derivative is differentiated again (pytorch/pytorch
#196700 and #196699, silent): the second derivative is wrong already. ``elementary_norms`` replaces them, and instance
norm, by elementary operations; the running statistics of those norms do not move.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["elementary_norms", "jvp"]

Out = TypeVar("Out", Tensor, tuple[Tensor, ...])


def jvp(f: Callable[..., Out], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> tuple[Out, Out]:
    """f at ``primals`` and its derivative along ``tangents``; nested ones through a norm need ``elementary_norms``."""
    _load_rules()
    return cast("tuple[Out, Out]", torch.func.jvp(f, primals, tangents))


@cache
def _load_rules() -> None:
    """Load torch's own rules, which it scripts at the first use, with a DeprecationWarning no caller can act on."""
    if os.environ.get("PYTORCH_JIT", "1") == "1" and __debug__:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from torch._decomp import decompositions_for_jvp  # noqa: F401


def _standardised(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    scaled: Tensor = centred * (centred.square().mean(axes, keepdim=True) + eps).rsqrt()
    return scaled


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Tensor:
    if weight is not None:
        x = x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    axes = range(input.ndim - len(normalized_shape), input.ndim)
    return _affine(_standardised(input, tuple(axes), eps), weight, bias, normalized_shape)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    standard = _standardised(input, (0, *range(2, input.ndim)), eps)
    return _affine(standard, weight, bias, (-1, *[1] * (input.ndim - 2)))


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    standard = _standardised(input, tuple(range(2, input.ndim)), eps)
    return _affine(standard, weight, bias, (-1, *[1] * (input.ndim - 2)))


_ELEMENTARY: Mapping[Any, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
}


class elementary_norms(  # noqa: N801 -- used as a context manager
    TorchFunctionMode
):
    """Context in which layer, batch and instance norm are computed by elementary operations."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _ELEMENTARY.get(func, func)(*args, **(kwargs or {}))
