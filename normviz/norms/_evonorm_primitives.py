r"""Moments and primitive operations of the EvoNorm layers and of their search language.

Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", NeurIPS 2020, arXiv 2004.02967. The table of
primitives and the guards against division by zero follow the project's reading of the paper's search space; the
exact constants of the original search are not confirmed.

Notation → code: ``mu_I(a)`` = ``moment("mean", a, I)``, ``mu_I(a^2)`` = ``moment("mean_square", a, I)``,
``s2_I(a)`` = ``moment("variance", a, I)`` (biased), with I one of

========  =====================================================================
``bwh``   per channel, over batch and space
``whc``   per sample, over everything
``wh``    per sample and channel, over space
``whg``   per sample and group of C/groups consecutive channels, over space
========  =====================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from normviz.norms._evonorm_language import AGGREGATIONS, ARITIES

__all__ = ["PRIMITIVES", "Primitive", "guarded_div", "moment", "signed_log", "signed_sqrt"]


def moment(kind: str, a: Tensor, index: str, groups: int = 8) -> Tensor:
    """Mean, mean square or biased variance of ``a`` (N, C, H, W) over an index set, ready to broadcast."""
    if index == "whg":
        n, c, h, w = a.shape
        a = a.reshape(n, groups, c // groups, h, w)
    dims = {"bwh": (0, 2, 3), "whc": (1, 2, 3), "wh": (2, 3), "whg": (2, 3, 4)}[index]
    if kind == "mean":
        m = a.mean(dims, keepdim=True)
    elif kind == "mean_square":
        m = a.square().mean(dims, keepdim=True)
    else:
        m = a.var(dims, correction=0, keepdim=True)
    if index == "whg":
        m = m.expand(n, groups, c // groups, 1, 1).reshape(n, c, 1, 1)
    return m


def guarded_div(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """``a / b`` with the denominator pushed away from zero by ``eps``, its sign kept."""
    return a / torch.where(b >= 0, b + eps, b - eps)


def signed_log(a: Tensor, eps: float) -> Tensor:
    """``sign(a) ln(|a| + eps)``, 0 at a = 0."""
    return a.sign() * (a.abs() + eps).log()


def signed_sqrt(a: Tensor, eps: float) -> Tensor:
    """``sign(a) sqrt(|a| + eps)``, 0 at a = 0."""
    return a.sign() * (a.abs() + eps).sqrt()


class PrimitiveFn(Protocol):
    """Call signature shared by all primitives."""

    def __call__(self, *inputs: Tensor, eps: float = 1e-5, groups: int = 8) -> Tensor:
        """Apply the primitive to tensors of one shape (N, C, H, W)."""


class Primitive(NamedTuple):
    """One operation of the search language.

    Attributes:
        name: key in :data:`PRIMITIVES`.
        arity: number of inputs, 1 or 2.
        fn: ``fn(*inputs, eps=1e-5, groups=8)`` on (N, C, H, W) tensors; the result has the same shape. Batch
            aggregations use the statistics of the batch given.

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967, the search
        space.
    """

    name: str
    arity: int
    fn: PrimitiveFn


def _elementwise(f: Callable[..., Tensor]) -> PrimitiveFn:
    def fn(*inputs: Tensor, eps: float = 1e-5, groups: int = 8) -> Tensor:
        del eps, groups
        return f(*inputs)

    return fn


def _guarded(f: Callable[..., Tensor]) -> PrimitiveFn:
    def fn(*inputs: Tensor, eps: float = 1e-5, groups: int = 8) -> Tensor:
        del groups
        return f(*inputs, eps)

    return fn


def _aggregate(*inputs: Tensor, kind: str, index: str, eps: float = 1e-5, groups: int = 8) -> Tensor:
    (a,) = inputs
    m = moment(kind, a, index, groups)
    if kind != "mean":
        m = (m + eps).sqrt()
    return m.expand_as(a)  # (N, C, H, W)


_FUNCTIONS: dict[str, PrimitiveFn] = {
    "add": _elementwise(torch.add),
    "mul": _elementwise(torch.mul),
    "div": _guarded(guarded_div),
    "max": _elementwise(torch.maximum),
    "neg": _elementwise(torch.neg),
    "sigmoid": _elementwise(torch.sigmoid),
    "tanh": _elementwise(torch.tanh),
    "exp": _elementwise(torch.exp),
    "log": _guarded(signed_log),
    "abs": _elementwise(torch.abs),
    "square": _elementwise(torch.square),
    "sqrt": _guarded(signed_sqrt),
} | {name: partial(_aggregate, kind=kind, index=index) for name, (kind, index) in AGGREGATIONS.items()}

PRIMITIVES: dict[str, Primitive] = {
    name: Primitive(name, arity, _FUNCTIONS[name]) for name, arity in ARITIES.items()
}
"""The 24 operations a graph may use: 12 element-wise, 12 aggregations."""
