r"""Truncated power series through torch modules, exact to any order.

A series a(z) = sum_k a_k z^k is one tensor of its coefficients (K + 1, ...). ``module_series(f, a)`` gives the
coefficients of f(a(z)) to the same order:

=================================  ===========================================================================
affine layers                      the linear part of every coefficient, bias at k = 0 only
t = tanh(a)                        t' = (1 - t^2) a'
GELU = a Phi(a)                    Phi' = phi(a) a',  phi' = -a phi(a) a'
ReLU                               gate of a_0: exact while no unit crosses its kink
r = v^(-1/2) (norms)               r' = -1/2 r^3 a',  v the series of the variance
any other module                   nested forward-mode AD in z, two to four times the cost per order
=================================  ===========================================================================

y' = u a' reads k y_k = sum_{j=1}^{k} j a_j u_{k-j} in coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from normviz.residual._branches import ConvBlock, MLPBlock, SkipInit, TwoLayerBranch
from normviz.residual._fixup import FixupBlock
from normviz.residual._forward_ad import elementary_norms, jvp

__all__ = ["module_series", "nested_series"]


def module_series(f: nn.Module, a: Tensor) -> Tensor:
    """Coefficients of f(a(z)).

    Args:
        f: a module, deterministic and without side effects in its forward.
        a: coefficients (K + 1, ...) of the input.

    Returns:
        (K + 1, ...) of the output.
    """
    if len(a) == 1:
        out: Tensor = f(a[0])
        return out[None]
    # A subclass may compute something else: rules hold for the exact type.
    rule = _RULES.get(type(f), nested_series)
    return rule(f, a)


def nested_series(f: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    """Coefficients of f(a(z)) as derivatives in z at 0 over k!, each by one more level of forward-mode AD.

    With x_k = a^(k)(0), d/dz of any function of (x_0, .., x_k) is its derivative along (x_1, .., x_{k+1}).
    """

    def lifted(derivatives: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
        def one_more(*x: Tensor) -> tuple[Tensor, ...]:
            values, tangents = jvp(derivatives, x[:-1], x[1:])
            return (*values, tangents[-1])

        return one_more

    derivatives: Callable[..., tuple[Tensor, ...]] = lambda x: (f(x),)  # noqa: E731
    for _ in range(len(a) - 1):
        derivatives = lifted(derivatives)
    with elementary_norms():
        values = derivatives(*(math.factorial(k) * coefficient for k, coefficient in enumerate(a)))
    return torch.stack([value / math.factorial(k) for k, value in enumerate(values)])


# ------------------------------------------------------------------------------------------------ series arithmetic


def _convolved(a: Sequence[Tensor], b: Sequence[Tensor], k: int) -> Tensor:
    """Coefficient k of a(z) b(z)."""
    total = a[0] * b[k]
    for j in range(1, k + 1):
        total = total + a[j] * b[k - j]
    return total


def _product(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    return [_convolved(a, b, k) for k in range(len(a))]


def _integrated(u: Sequence[Tensor], a: Sequence[Tensor], k: int) -> Tensor:
    """Coefficient k >= 1 of the y with y' = u a'; needs u_0..u_{k-1}."""
    total = a[1] * u[k - 1]
    for j in range(2, k + 1):
        total = total + j * a[j] * u[k - j]
    return total / k


def _shifted(a: Tensor, constant: Tensor) -> Tensor:
    """a(z) + constant."""
    return torch.cat([(a[0] + constant)[None], a[1:]])


def _tanh(a: Sequence[Tensor]) -> list[Tensor]:
    t = [torch.tanh(a[0])]
    u = [1 - t[0] * t[0]]
    for k in range(1, len(a)):
        t.append(_integrated(u, a, k))
        u.append(-_convolved(t, t, k))
    return t


def _gelu(a: Sequence[Tensor]) -> list[Tensor]:
    phi = [torch.exp(-a[0] * a[0] / 2) / math.sqrt(2 * math.pi)]
    Phi = [torch.special.ndtr(a[0])]
    u = [-a[0] * phi[0]]
    for k in range(1, len(a)):
        Phi.append(_integrated(phi, a, k))
        phi.append(_integrated(u, a, k))
        u.append(-_convolved(a, phi, k))
    return _product(a, Phi)


def _rsqrt(v: Sequence[Tensor]) -> list[Tensor]:
    r = [v[0].rsqrt()]
    squares = [r[0] * r[0]]
    u = [-squares[0] * r[0] / 2]
    for k in range(1, len(v)):
        r.append(_integrated(u, v, k))
        squares.append(_convolved(r, r, k))
        u.append(-_convolved(squares, r, k) / 2)
    return r


def _standardised(a: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """(a - mean) / sqrt(var + eps) with mean and biased variance over ``axes`` of the value (axis 0 is k)."""
    centred = (a - a.mean(axes, keepdim=True)).unbind()
    v = [square.mean([axis - 1 for axis in axes], keepdim=True) for square in _product(centred, centred)]
    return torch.stack(_product(centred, _rsqrt([v[0] + eps, *v[1:]])))


# ------------------------------------------------------------------------------------------------ rules by module


def _affine(f: nn.Module, a: Tensor) -> Tensor:
    offsets = {
        name: torch.zeros_like(tensor)
        for name in ("bias", "running_mean")
        if (tensor := getattr(f, name, None)) is not None
    }

    def linear_part(coefficient: Tensor) -> Tensor:
        out: Tensor = functional_call(f, offsets, coefficient)
        return out

    return torch.cat([f(a[0])[None], vmap(linear_part)(a[1:])])


def _identity(_f: nn.Module, a: Tensor) -> Tensor:
    return a


def _sequential(f: nn.Sequential, a: Tensor) -> Tensor:
    for layer in f:
        a = module_series(layer, a)
    return a


def _tanh_module(_f: nn.Module, a: Tensor) -> Tensor:
    return torch.stack(_tanh(a.unbind()))


def _gelu_module(f: nn.GELU, a: Tensor) -> Tensor:
    if f.approximate != "none":
        return nested_series(f, a)
    return torch.stack(_gelu(a.unbind()))


def _relu_module(_f: nn.Module, a: Tensor) -> Tensor:
    return a * (a[0] > 0)


def _two_layers(f: TwoLayerBranch, a: Tensor) -> Tensor:
    for layer in (f.first, f.norm, f.activation, f.last):
        if layer is not None:
            a = module_series(layer, a)
    return a


def _skip_init(f: SkipInit, a: Tensor) -> Tensor:
    return f.alpha * module_series(f.module, a)


def _fixup(f: FixupBlock, a: Tensor) -> Tensor:
    a = module_series(f.layers[0], _shifted(a, f.pre_bias[0]))
    for j in range(1, len(f.layers)):
        a = module_series(f.activation, _shifted(a, f.act_bias[j - 1]))
        a = module_series(f.layers[j], _shifted(a, f.pre_bias[j]))
    return _shifted(f.multiplier * a, f.out_bias)


def _rescaled(f: nn.Module, a: Tensor, channel_axis_shape: tuple[int, ...]) -> Tensor:
    """Gain and bias of a norm."""
    weight, bias = f.weight, f.bias
    if isinstance(weight, Tensor):
        a = a * weight.reshape(channel_axis_shape)
    if isinstance(bias, Tensor):
        a = _shifted(a, bias.reshape(channel_axis_shape))
    return a


def _batch_norm(f: nn.BatchNorm1d | nn.BatchNorm2d, a: Tensor) -> Tensor:
    if not f.training and f.running_mean is not None:
        return _affine(f, a)
    axes = (1, *range(3, a.ndim))  # all but k and the channel
    return _rescaled(f, _standardised(a, axes, f.eps), (-1, *[1] * (a.ndim - 3)))


def _layer_norm(f: nn.LayerNorm, a: Tensor) -> Tensor:
    axes = tuple(range(a.ndim - len(f.normalized_shape), a.ndim))
    return _rescaled(f, _standardised(a, axes, f.eps), tuple(f.normalized_shape))


def _group_norm(f: nn.GroupNorm, a: Tensor) -> Tensor:
    groups = a.reshape(*a.shape[:2], f.num_groups, -1)  # (K+1, B, G, C/G * ...)
    standard = _standardised(groups, (3,), f.eps).reshape(a.shape)
    return _rescaled(f, standard, (-1, *[1] * (a.ndim - 3)))


_RULES: Mapping[type[nn.Module], Callable[..., Tensor]] = {
    nn.Linear: _affine,
    nn.Conv1d: _affine,
    nn.Conv2d: _affine,
    nn.Identity: _identity,
    nn.Sequential: _sequential,
    nn.Tanh: _tanh_module,
    nn.GELU: _gelu_module,
    nn.ReLU: _relu_module,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    MLPBlock: _two_layers,
    ConvBlock: _two_layers,
    SkipInit: _skip_init,
    FixupBlock: _fixup,
}
