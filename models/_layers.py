"""What all networks share: layers whose initialisation does not depend on the norm, activations, norm calls.

A comparison of norms needs the same starting weights in every arm. ``linear``, ``conv2d`` and ``embedding`` draw
the weight from torch's global random state, and nothing else: biases are zero and nothing is drawn for a layer
that is overwritten later (as ``nn.Linear(...)`` followed by an ``init`` would do). So a norm, a bias or an
activation that draws no random numbers leaves all following weights as they are.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from normviz.models import _checks

__all__ = [
    "ACTIVATIONS",
    "INITS",
    "Activation",
    "NormFactory",
    "build",
    "conv2d",
    "embedding",
    "gpt2_std",
    "linear",
    "make_activation",
    "masked_call",
]

NormFactory = Callable[[int], nn.Module]
"""Number of channels or features -> a norm layer."""

Activation = str | Callable[[], nn.Module]
"""A name of :data:`ACTIVATIONS` or a callable without arguments that returns a module."""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "selu": nn.SELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}

INITS = ("he", "lecun", "xavier", "uniform")
"""Weight laws: N(0, 2/fan_in), N(0, 1/fan_in), N(0, 2/(fan_in + fan_out)), U(+-1/sqrt(fan_in)) (torch's own)."""


def _draw(weight: Tensor, init: str | float) -> None:
    """Fill ``weight`` in place by a law of :data:`INITS`, or from N(0, init^2) where ``init`` is a number."""
    fan_out, receptive = weight.shape[0], math.prod(weight.shape[2:])
    fan_in = weight[0].numel()
    with torch.no_grad():
        if not isinstance(init, str):
            weight.normal_(0.0, init)
        elif init == "uniform":
            weight.uniform_(-(fan_in**-0.5), fan_in**-0.5)
        else:
            variance = {"he": 2 / fan_in, "lecun": 1 / fan_in, "xavier": 2 / (fan_in + fan_out * receptive)}
            weight.normal_(0.0, variance[init] ** 0.5)


def _skip_init(layer: type[nn.Module], *args: Any, **kwargs: Any) -> Any:
    return nn.utils.skip_init(layer, *args, device=torch.get_default_device(), **kwargs)  # type: ignore[no-untyped-call]


def gpt2_std(dim: int) -> float:
    """GPT-2's standard deviation 0.02 at its width 768, carried over to width ``dim``: 0.02 sqrt(768 / dim).

    A weight matrix then multiplies the size of its input by about 0.55 at every width; 0.02 itself at width 64 would
    multiply it by 0.16, and small models would spend their first hundreds of steps growing.
    """
    return 0.02 * math.sqrt(768 / dim)


def linear(in_features: int, out_features: int, *, bias: bool = True, init: str | float = "he") -> nn.Linear:
    """``nn.Linear`` with its weight drawn by ``init`` and a zero bias."""
    layer: nn.Linear = _skip_init(nn.Linear, in_features, out_features, bias=bias)
    _draw(layer.weight, init)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = True,
    init: str | float = "he",
) -> nn.Conv2d:
    """``nn.Conv2d`` of odd kernel, "same" padding at stride 1, weight drawn by ``init`` and a zero bias."""
    layer: nn.Conv2d = _skip_init(
        nn.Conv2d,
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
        bias=bias,
    )
    _draw(layer.weight, init)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def embedding(num: int, dim: int, *, std: float) -> nn.Embedding:
    """``nn.Embedding`` with entries N(0, std^2)."""
    layer: nn.Embedding = _skip_init(nn.Embedding, num, dim)
    _draw(layer.weight, std)
    return layer


def make_activation(activation: Activation) -> nn.Module:
    """A fresh activation module from a name or a factory; ValueError for anything else."""
    if callable(activation):
        return build("activation", activation)
    return ACTIVATIONS[_checks.choice("activation", activation, tuple(ACTIVATIONS))]()


def build(name: str, factory: Callable[..., nn.Module] | None, *args: int) -> nn.Module:
    """``factory(*args)``, or ``nn.Identity()`` without a factory.

    Raises:
        ValueError: ``factory`` is not callable or does not return an ``nn.Module``.
    """
    if _checks.factory(name, factory) is None:
        return nn.Identity()
    assert factory is not None
    module: object = factory(*args)
    if not isinstance(module, nn.Module):
        raise ValueError(f"{name}{args} must return an nn.Module, got {module!r}.")
    return module


def masked_call(module: nn.Module, x: Tensor, pad_mask: Tensor | None) -> Tensor:
    """``module(x, pad_mask=pad_mask)`` where the module's ``forward`` has that argument, else ``module(x)``.

    Looked up at every call, because a trained norm may have been folded into its neighbour and replaced.
    """
    if pad_mask is not None and "pad_mask" in inspect.signature(module.forward).parameters:
        out: Tensor = module(x, pad_mask=pad_mask)
    else:
        out = module(x)
    return out
