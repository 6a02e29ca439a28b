"""Normalize: put a norm before every nonlinearity of an existing network.

The first half of Normalize-and-Project (Lyle et al., "Normalization and effective learning rates in reinforcement
learning", arXiv 2407.01800); see :mod:`normviz.norms.nap` for the paper.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn

from normviz.module_roles import is_activation, is_norm, is_weight_layer
from normviz.norms.feature_norm import NORM_EPS, FeatureNorm
from normviz.validation import check_choice, check_real

__all__ = ["insert_normalization"]


def insert_normalization(
    model: nn.Module,
    norm: str = "layer",
    affine: bool = True,
    remove_bias: bool = True,
    eps: float | None = None,
) -> nn.Module:
    """A copy of the model with a norm between every Linear or Conv2d and the activation that follows it.

    Every ``nn.Sequential``, at any depth, is converted: ``Linear -> f`` becomes ``Linear -> FeatureNorm -> f`` with the
    same weights, where f is an elementwise activation module of torch (softmax and its kin are none). A norm that is
    already there is kept. An ``nn.Identity`` between the two is taken as the place for the norm.
    Convolutions are normalised over channels and pixels together. The layer before a norm loses its bias, the norm's
    offset takes its role; a layer that no activation follows (the output) stays as it is.

    Args:
        model: the network; it is not changed.
        norm: "layer" (default) or "rms" (paper: either).
        affine: the inserted norms learn scale and offset. Default True.
        remove_bias: take the bias from layers before a norm, where it would break the scale invariance of the weight
            alone. Default True.
        eps: of the inserted norms. Default None: 1e-5 for "layer", 1e-6 for "rms".

    Returns:
        The converted deep copy, on the same devices and in the same dtypes.

    Raises:
        ValueError: unknown ``norm``, ``eps`` < 0; an activation that is not directly preceded by a Linear, Conv2d or
            norm, or that is outside a Sequential; a layer norm would have a single feature; nothing to convert. The
            message has the module's qualified name.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> insert_normalization(net, affine=False)
        Sequential(
          (0): Linear(in_features=4, out_features=8, bias=False)
          (1): FeatureNorm(8, 'layer', spatial=False, eps=1e-05, affine=False)
          (2): ReLU()
          (3): Linear(in_features=8, out_features=2, bias=True)
        )
    """
    check_choice("norm", norm, NORM_EPS)
    if eps is not None:
        check_real("eps", eps, 0, high_open=True)

    def norm_after(layer: nn.Linear | nn.Conv2d, name: str) -> FeatureNorm:
        spatial = isinstance(layer, nn.Conv2d)
        features = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
        if features == 1 and norm == "layer" and not spatial:
            raise ValueError(
                f"{name} has a single feature, of which layer norm leaves nothing; use norm='rms'."
            )
        like = layer.weight
        made = FeatureNorm(
            features, norm, spatial=spatial, eps=eps, affine=affine, device=like.device, dtype=like.dtype
        )
        return made.train(layer.training)

    converted = copy.deepcopy(model)
    patterns = 0
    for name, module in list(converted.named_modules()):
        if isinstance(module, nn.Sequential):
            patterns += _convert(module, name, norm_after, remove_bias)
        else:
            for child_name, child in module.named_children():
                if is_activation(child):
                    raise ValueError(
                        f"the activation {_join(name, child_name)} must be in an nn.Sequential, "
                        f"got one in a {type(module).__name__}."
                    )
    if patterns == 0:
        raise ValueError(
            f"model ({type(model).__name__}) has no nn.Sequential with a Linear or Conv2d before an activation."
        )
    return converted


def _convert(
    sequential: nn.Sequential,
    name: str,
    norm_after: Callable[[nn.Linear | nn.Conv2d, str], nn.Module],
    remove_bias: bool,
) -> int:
    """Insert the norms of one Sequential in place; returns the number of activations found."""
    children = [(key, module) for key, module in sequential._modules.items() if module is not None]
    numbered = [key for key, _ in children] == [str(i) for i in range(len(children))]
    result: list[tuple[str, nn.Module]] = []
    found = 0
    for key, module in children:
        if is_activation(module):
            found += 1
            before = _without_trailing_identities(result)
            if before and _normalizes(before[-1][1]):
                before = _without_trailing_identities(before[:-1])
            elif before and isinstance(layer := before[-1][1], nn.Linear | nn.Conv2d):
                norm = norm_after(layer, _join(name, before[-1][0]))
                if len(before) < len(result):
                    result[len(before)] = (result[len(before)][0], norm)
                else:
                    result.append((_free_name(f"{before[-1][0]}_norm", sequential), norm))
            else:
                what = type(before[-1][1]).__name__ if before else "nothing"
                raise ValueError(
                    f"the activation {_join(name, key)} must be preceded by a Linear, Conv2d or norm, got {what}."
                )
            if remove_bias and before and isinstance(layer := before[-1][1], nn.Linear | nn.Conv2d):
                layer.bias = None
        result.append((key, module))
    sequential._modules.clear()
    for i, (key, module) in enumerate(result):
        sequential.add_module(str(i) if numbered else key, module)
    return found


def _normalizes(module: nn.Module) -> bool:
    """A norm, or a wrapper around one without weights of its own (``ChannelsLast``)."""
    inside = list(module.modules())
    return any(is_norm(m) for m in inside) and not any(is_weight_layer(m) for m in inside)


def _without_trailing_identities(layers: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """The layers up to the last one that does something."""
    end = len(layers)
    while end and isinstance(layers[end - 1][1], nn.Identity):
        end -= 1
    return layers[:end]


def _free_name(name: str, sequential: nn.Sequential) -> str:
    while name in sequential._modules:
        name += "_"
    return name


def _join(parent: str, child: str) -> str:
    return f"{parent}.{child}" if parent else child
