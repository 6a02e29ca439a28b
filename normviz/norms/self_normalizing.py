r"""Self-normalizing networks: SELU, LeCun-normal weights, alpha dropout.

Günter Klambauer, Thomas Unterthiner, Andreas Mayr, Sepp Hochreiter, "Self-Normalizing Neural Networks",
NeurIPS 2017, arXiv:1706.02515. The theory (moment map, its fixed points, SELU's parameters) is in
``normviz.norms.selu_moments``; its names are importable from here too.

No layer normalises anything here. The activation is chosen so that the map from the mean and variance of one
layer to those of the next contracts towards (0, 1), provided that the weights of a unit have zero sum and unit
square sum (in expectation: LeCun normal) and that the inputs are standardised.

Paper and official repository (bioinf-jku/SNNs) agree. Equation -> code::

    selu(x) = scale x (x > 0), scale alpha (e^x - 1) (x <= 0)     selu, SELU
    w ~ N(0, 1/fan_in), biases 0                                  lecun_normal_, init_snn_
    x' = d x + (1-d) alpha',  y = a x' + b                        AlphaDropout
    omega = sum_i w_i,  tau = sum_i w_i^2                         weight_moments

Not He initialisation (tau = 2 moves the fixed point to mean 1.78, variance 18.5) and not
``nn.init.kaiming_normal_(nonlinearity="selu")``, whose gain is 3/4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normviz.norms._placement import place
from normviz.norms.selu_moments import (
    ALPHA01,
    LAMBDA01,
    ContractionReport,
    fixed_point,
    is_contraction,
    iterate_moment_map,
    moment_map,
    moment_map_jacobian,
    selu_parameters,
)
from normviz.validation import check_integer, check_real

__all__ = [
    "ALPHA01",
    "ALPHA_PRIME",
    "LAMBDA01",
    "SELU",
    "AlphaDropout",
    "ContractionReport",
    "SelfNormalizingMLP",
    "alpha_dropout_affine",
    "fixed_point",
    "init_snn_",
    "is_contraction",
    "iterate_moment_map",
    "lecun_normal_",
    "moment_map",
    "moment_map_jacobian",
    "selu",
    "selu_parameters",
    "weight_moments",
]

ALPHA_PRIME = -LAMBDA01 * ALPHA01
"""SELU's limit at minus infinity, -1.7581: the value that alpha dropout gives to a dropped unit."""


def _check_floating(name: str, x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"{name} needs a real floating-point tensor, got {x.dtype}.")


def selu(x: Tensor, alpha: float = ALPHA01, scale: float = LAMBDA01) -> Tensor:
    r"""Scaled exponential linear unit.

    selu(x) = scale x for x > 0, scale alpha (e^x - 1) for x <= 0. Its slope is scale > 1 on the right and
    scale alpha e^x on the left (scale alpha = 1.758 just left of 0, and, as in torch, at 0 itself).

    Args:
        x: any shape, floating point.
        alpha: size of the negative branch (default: the paper's, for the fixed point (0, 1)).
        scale: the paper's lambda (same).

    Returns:
        Same shape and dtype.

    Raises:
        TypeError: x is not floating point.

    Example:
        >>> selu(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-1.1113,  0.0000,  1.0507])
    """
    _check_floating("selu", x)
    return scale * F.elu(x, alpha)  # elu(x) = x for x > 0, alpha (e^x - 1) else, in one pass over memory


class SELU(nn.Module):
    """:func:`selu` as a module.

    Args:
        alpha: size of the negative branch (default: the paper's).
        scale: the paper's lambda (default: the paper's).

    Raises:
        ValueError: alpha or scale is not a finite number.
        TypeError: forward of a tensor that is not floating point.

    Reference: Klambauer, Unterthiner, Mayr, Hochreiter, "Self-Normalizing Neural Networks", arXiv 1706.02515:
        ``scale x`` for x > 0, ``scale alpha (e^x - 1)`` else.
    """

    def __init__(self, alpha: float = ALPHA01, scale: float = LAMBDA01) -> None:
        super().__init__()
        self.alpha = check_real("alpha", alpha, low_open=True, high_open=True)
        self.scale = check_real("scale", scale, low_open=True, high_open=True)

    def forward(self, x: Tensor) -> Tensor:
        """SELU of every element."""
        return selu(x, self.alpha, self.scale)

    def extra_repr(self) -> str:
        """Both parameters."""
        return f"alpha={self.alpha:.6g}, scale={self.scale:.6g}"


def alpha_dropout_affine(
    p: float, fixed_mean: float = 0.0, fixed_var: float = 1.0, alpha_prime: float = ALPHA_PRIME
) -> tuple[float, float]:
    r"""The affine map a x' + b that gives alpha dropout's output the mean and variance of its input.

    With q = 1 - p, mean m* and variance v*, E[x'] = q m* + p alpha' and
    Var[x'] = q ( p (alpha' - m*)^2 + v* ), hence::

        a = sqrt( v* / (q (p (alpha' - m*)^2 + v*)) ),        b = m* - a (q m* + p alpha')

    Args:
        p: probability of DROPPING a unit, in [0, 1).
        fixed_mean: m*, mean of the activations to be kept (0 for the standard SELU).
        fixed_var: v*, their variance, > 0 (1 for the standard SELU).
        alpha_prime: alpha', the value of a dropped unit (default: -scale alpha of the standard SELU).

    Returns:
        ``(a, b)``.

    Raises:
        ValueError: p outside [0, 1), fixed_var not > 0, or a number that is not finite.

    Example:
        >>> a, b = alpha_dropout_affine(0.1)
        >>> round(a, 4), round(b, 4)
        (0.9213, 0.162)
    """
    p = check_real("p", p, 0.0, 1.0, high_open=True)
    mean = check_real("fixed_mean", fixed_mean, low_open=True, high_open=True)
    var = check_real("fixed_var", fixed_var, 0.0, low_open=True, high_open=True)
    alpha_prime = check_real("alpha_prime", alpha_prime, low_open=True, high_open=True)
    q = 1.0 - p
    a = math.sqrt(var / (q * (p * (alpha_prime - mean) ** 2 + var)))
    return a, mean - a * (q * mean + p * alpha_prime)


class AlphaDropout(nn.Module):
    r"""Dropout that keeps mean and variance: dropped units become alpha', then a x' + b.

    One independent draw per element, also in convolutional maps. In eval mode, or with p = 0, the identity.
    It has no parameters and no buffers.

    Args:
        p: probability of dropping a unit, in [0, 1) (paper: 0.05 to 0.10; default 0.05).
        fixed_mean: mean of the activations to be kept (default 0).
        fixed_var: their variance, > 0 (default 1).
        alpha_prime: value of a dropped unit (default: that of the standard SELU, -1.7581).
        generator: source of the draws (default: torch's global one, which also works under
            ``vmap(randomness="different")`` and ``torch.compile``).

    Raises:
        ValueError: as :func:`alpha_dropout_affine`.
        TypeError: forward of a tensor that is not floating point, in eval mode too.

    Reference: Klambauer, Unterthiner, Mayr, Hochreiter, "Self-Normalizing Neural Networks", arXiv 1706.02515: ``a
        (d x + (1-d) alpha') + b``.
    """

    def __init__(
        self,
        p: float = 0.05,
        *,
        fixed_mean: float = 0.0,
        fixed_var: float = 1.0,
        alpha_prime: float = ALPHA_PRIME,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.a, self.b = alpha_dropout_affine(p, fixed_mean, fixed_var, alpha_prime)
        self.p = float(p)
        self.fixed_mean = float(fixed_mean)
        self.fixed_var = float(fixed_var)
        self.alpha_prime = float(alpha_prime)
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        """Drop, then restore mean and variance (training); the identity otherwise."""
        _check_floating("AlphaDropout", x)
        if not self.training or self.p == 0.0:
            return x
        # float32 draws whatever x is: float16 has too few values in [0, 1) for a small p.
        draw = torch.rand(x.shape, dtype=torch.float32, device=x.device, generator=self.generator)
        return self.a * torch.where(draw >= self.p, x, self.alpha_prime) + self.b

    def extra_repr(self) -> str:
        """Rate, target moments and the dropped value."""
        return (
            f"p={self.p}, fixed_mean={self.fixed_mean}, fixed_var={self.fixed_var}, "
            f"alpha_prime={self.alpha_prime:.6g}"
        )


@torch.no_grad()
def lecun_normal_(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fill a weight in place with N(0, 1/fan_in); fan_in = number of weights of one output unit.

    Args:
        tensor: (out, in) or (out, in/groups, *kernel).
        generator: source of the draws (default: torch's global one).

    Returns:
        The same tensor.

    Raises:
        ValueError: fewer than two dimensions.
    """
    if tensor.ndim < 2:
        raise ValueError(
            f"tensor must have at least 2 dimensions to have a fan-in, got shape {tuple(tensor.shape)}."
        )
    if tensor.numel() == 0:
        return tensor
    return tensor.normal_(0.0, 1.0 / math.sqrt(tensor[0].numel()), generator=generator)


@torch.no_grad()
def init_snn_(module: nn.Module, generator: torch.Generator | None = None) -> nn.Module:
    """LeCun-normal weights and zero biases for every Linear and Conv1d/2d/3d inside a module.

    Transposed convolutions and all other modules are left as they are.

    Args:
        module: changed in place.
        generator: source of the draws (default: torch's global one).

    Returns:
        The same module.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            lecun_normal_(layer.weight, generator)
            if layer.bias is not None:
                layer.bias.zero_()
    return module


def weight_moments(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Sum and sum of squares of the weights of every output unit: the moment map's omega and tau.

    Args:
        layer: Linear or Conv1d/2d/3d.

    Returns:
        ``(omega, tau)``, both (out,), detached.

    Raises:
        TypeError: another module.

    Example:
        >>> omega, tau = weight_moments(init_snn_(nn.Linear(4096, 3)))
        >>> bool((tau - 1).abs().max() < 0.2)
        True
    """
    if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        raise TypeError(f"layer must be a Linear or Conv1d/2d/3d, got {type(layer).__name__}.")
    rows = layer.weight.detach().flatten(1)  # (out, fan_in)
    return rows.sum(1), rows.square().sum(1)


class SelfNormalizingMLP(nn.Module):
    """The paper's network: ``depth`` blocks Linear, SELU, alpha dropout, then one plain Linear.

    All weights LeCun normal, all biases 0. Standardise the inputs: the theory starts at (0, 1).

    Args:
        in_features: size of the input's last axis.
        hidden: width of every hidden layer.
        out_features: size of the output's last axis.
        depth: number of hidden blocks, >= 1.
        dropout: rate of alpha dropout in every block, in [0, 1) (paper: 0.05 to 0.10; default 0.05).
        alpha: SELU's alpha (default: the paper's).
        scale: SELU's lambda (default: the paper's).
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: a size below 1, depth below 1, dropout outside [0, 1).

    Reference: Klambauer, Unterthiner, Mayr, Hochreiter, "Self-Normalizing Neural Networks", arXiv 1706.02515;
        equations in the module's docstring.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        depth: int,
        dropout: float = 0.05,
        *,
        alpha: float = ALPHA01,
        scale: float = LAMBDA01,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_integer("in_features", in_features, 1)
        check_integer("hidden", hidden, 1)
        check_integer("out_features", out_features, 1)
        check_integer("depth", depth, 1)
        check_real("dropout", dropout, 0.0, 1.0, high_open=True)
        self.blocks = nn.Sequential()
        for index in range(depth):
            self.blocks.append(
                nn.Sequential(
                    nn.Linear(in_features if index == 0 else hidden, hidden),
                    SELU(alpha, scale),
                    AlphaDropout(dropout, alpha_prime=-scale * alpha),
                )
            )
        self.head = nn.Linear(hidden, out_features)
        init_snn_(self)
        place(self, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        out: Tensor = self.head(self.blocks(x))
        return out
