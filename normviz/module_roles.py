"""Which part of a network plays which role: norms, activations, projected weights, dormant units.

Shared by the methods that treat a weight matrix, a norm's scale and offset, and an activation differently
(Normalize-and-Project, arXiv 2407.01800, its matched schedules and the plasticity baselines). Roles are told by
module type, never by parameter name. What a ``forward`` does by function calls alone cannot be seen.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

__all__ = [
    "affine_parameters",
    "check_finite",
    "dormant_units",
    "frobenius_norms",
    "initial_radii",
    "is_activation",
    "is_homogeneous",
    "is_norm",
    "is_weight_layer",
    "plastic_weights",
    "projected_weights",
]

_WEIGHT_LAYERS = (nn.Linear, _ConvNd, nn.Embedding, nn.EmbeddingBag)

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)
_NORM_NAME = re.compile(r"^[A-Za-z]\w*Norm(V|[123]d\w*)?$|^Norm$", re.IGNORECASE)

_HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU)
_ACTIVATIONS = (
    *_HOMOGENEOUS,
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.GLU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LogSigmoid,
    nn.Mish,
    nn.ReLU6,
    nn.SELU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)
_HOMOGENEOUS_NAMES = {kind.__name__ for kind in _HOMOGENEOUS}
_ACTIVATION_NAMES = {kind.__name__ for kind in _ACTIVATIONS}


def is_norm(module: nn.Module) -> bool:
    """Whether the module is a normalization layer: torch's, or a class whose name ends in "Norm".

    "Norm" may be followed by "1d", "2d" or "3d" and a variant ("EvoNorm2dS0"); a layer that contains a norm and more
    ("LayerNormLSTM") is none.
    """
    return isinstance(module, _NORMS) or _NORM_NAME.match(type(module).__name__) is not None


def is_activation(module: nn.Module) -> bool:
    """Whether the module is an elementwise nonlinearity of torch, or a class of the same name.

    Softmax and its kin shape an output and are none; neither is ``nn.Identity``.
    """
    return isinstance(module, _ACTIVATIONS) or type(module).__name__ in _ACTIVATION_NAMES


def is_homogeneous(activation: nn.Module) -> bool:
    """Whether ``f(c a) = c f(a)`` for every c > 0: the ReLU family with fixed, random or learnt slopes."""
    return isinstance(activation, _HOMOGENEOUS) or type(activation).__name__ in _HOMOGENEOUS_NAMES


def is_weight_layer(module: nn.Module) -> bool:
    """Whether the module is a linear layer, a convolution or an embedding."""
    return isinstance(module, _WEIGHT_LAYERS)


def affine_parameters(norm: nn.Module) -> dict[str, nn.Parameter]:
    """Scale ("weight") and offset ("bias") of a norm, as far as it has them."""
    own = norm._parameters
    return {name: p for name in ("weight", "bias") if (p := own.get(name)) is not None}


def projected_weights(model: nn.Module, project_output: bool = False) -> dict[str, nn.Parameter]:
    """Weights of all linear, convolution and embedding modules, by parameter name, without the output layer's.

    The output layer is the last such module in ``named_modules()`` order, if no norm comes after it. A tensor that two
    modules share is listed once, under its first name; so the output weight that is tied to an embedding is listed.

    Args:
        model: any module.
        project_output: list the output layer's weight too. Default False.
    """
    modules = list(model.named_modules())
    layers = [i for i, (_, module) in enumerate(modules) if is_weight_layer(module)]
    if layers and not project_output and not any(is_norm(module) for _, module in modules[layers[-1] + 1 :]):
        layers.pop()
    weights: dict[str, nn.Parameter] = {}
    listed: set[nn.Parameter] = set()
    for i in layers:
        name, module = modules[i]
        weight = module._parameters.get("weight")  # None where a parametrization computes it
        if weight is not None and weight not in listed:
            listed.add(weight)
            weights[f"{name}.weight" if name else "weight"] = weight
    return weights


def plastic_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every trainable parameter by name, except those of norm layers.

    Raises:
        ValueError: there is none.
    """
    of_norms = {p for module in model.modules() if is_norm(module) for p in module.parameters(recurse=False)}
    weights = {n: p for n, p in model.named_parameters() if p.requires_grad and p not in of_norms}
    if not weights:
        raise ValueError("model must have trainable parameters outside its norm layers, got none.")
    return weights


@torch.no_grad()
def frobenius_norms(tensors: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """``sqrt(sum of squares)`` over the tensors of each entry together; half types are summed in float32.

    Reads all norms from the device at once.
    """
    wide = [t.to(torch.promote_types(t.dtype, torch.float32)) for group in tensors.values() for t in group]
    if not wide:
        return {}
    norms = torch._foreach_norm(wide)
    values = iter(torch.stack([norm.to(norms[0].device) for norm in norms]).tolist())
    return {name: math.hypot(*(next(values) for _ in group)) for name, group in tensors.items()}


def initial_radii(tensors: Mapping[str, Sequence[Tensor]], stacklevel: int = 3) -> dict[str, float]:
    """The norms at the start, without the entries that are zero: a UserWarning names each of those.

    Raises:
        FloatingPointError: a norm is not finite.
    """
    radii = frobenius_norms(tensors)
    check_finite(radii)
    for name in [name for name, radius in radii.items() if radius == 0]:
        warnings.warn(
            f"{name} is zero and has no radius: it is left out.", UserWarning, stacklevel=stacklevel
        )
        del radii[name]
    return radii


def check_finite(norms: Mapping[str, float]) -> None:
    """Raise a FloatingPointError that names the first tensor whose norm is not finite."""
    for name, norm in norms.items():
        if not math.isfinite(norm):
            raise FloatingPointError(f"the norm of {name} is {norm}: the run has diverged.")


def dormant_units(activations: Tensor, axis: int, tau: float) -> Tensor:
    """Which units along ``axis`` are dormant: mean |a| over all other axes <= tau x its mean over the units.

    Sokar et al., "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", ICML 2023, arXiv 2302.12902.

    Returns:
        bool, (units,); True for every unit if all are zero.
    """
    units = activations.detach().movedim(axis, -1)
    size = (
        units.abs().to(torch.promote_types(units.dtype, torch.float32)).reshape(-1, units.shape[-1]).mean(0)
    )
    return size <= tau * size.mean()
