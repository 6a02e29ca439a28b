"""A pytest plugin that runs the tests as on another processor: every sum and product is taken in the reverse order.

    python -m pytest -p tests.summation_order tests/optim

Vector units of different width add the same numbers in different orders, so the last bits of a result are a property
of the processor. Here the CPU's kernels of matrix products, sums, means, norms and softmax are called with the reduced
axis reversed. A test that fails only under this plugin asserts such bits: a rank, a sign or an order without a
tolerance, or equality of two different computations. Comparing one computation with itself is not disturbed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
LIBRARY = torch.library.Library("aten", "IMPL")
"""Holds the kernels as long as it lives."""


def mm(a: Tensor, b: Tensor) -> Tensor:
    return aten.mm.out(a.flip(1), b.flip(0), out=a.new_empty(a.shape[0], b.shape[1]))


def addmm(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    out = a.new_empty(a.shape[0], b.shape[1])
    return aten.addmm.out(c, a.flip(1), b.flip(0), beta=beta, alpha=alpha, out=out)


def bmm(a: Tensor, b: Tensor) -> Tensor:
    return aten.bmm.out(a.flip(2), b.flip(1), out=a.new_empty(a.shape[0], a.shape[1], b.shape[2]))


def baddbmm(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    out = a.new_empty(a.shape[0], a.shape[1], b.shape[2])
    return aten.baddbmm.out(c, a.flip(2), b.flip(1), beta=beta, alpha=alpha, out=out)


def dot(a: Tensor, b: Tensor) -> Tensor:
    return aten.sum.IntList_out((a * b).flip(0), [0], False, out=a.new_empty(()))


def total(x: Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    real = x.is_floating_point() or x.is_complex()
    out = empty_reduction(x, dim, keepdim, dtype or (x.dtype if real else torch.int64))
    return aten.sum.IntList_out(reversed_along(x, dim), dim, keepdim, dtype=dtype, out=out)


def mean(x: Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    out = empty_reduction(x, dim, keepdim, dtype or x.dtype)
    return aten.mean.out(reversed_along(x, dim), dim, keepdim, dtype=dtype, out=out)


def vector_norm(
    x: Tensor, ord: float = 2, dim: list[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    out = empty_reduction(x, dim, keepdim, dtype or x.abs().dtype)
    return aten.linalg_vector_norm.out(reversed_along(x, dim), ord, dim, keepdim, dtype=dtype, out=out)


def reversed_softmax(kernel: Callable[..., Tensor]) -> Callable[[Tensor, int, bool], Tensor]:
    def softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
        dims = [dim] if x.ndim else []
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        return kernel(x.flip(dims).contiguous(), dim, half_to_float, out=out).flip(dims)

    return softmax


def reduced_axes(x: Tensor, dim: list[int] | None) -> list[int]:
    return [d % x.ndim for d in dim or range(x.ndim)] if x.ndim else []


def reversed_along(x: Tensor, dim: list[int] | None) -> Tensor:
    return x.flip(reduced_axes(x, dim))


def empty_reduction(x: Tensor, dim: list[int] | None, keepdim: bool, dtype: torch.dtype) -> Tensor:
    axes = reduced_axes(x, dim)
    kept = [1 if i in axes else size for i, size in enumerate(x.shape) if keepdim or i not in axes]
    return x.new_empty(kept, dtype=dtype)


KERNELS: dict[str, Callable[..., Tensor]] = {
    "mm": mm,
    "addmm": addmm,
    "bmm": bmm,
    "baddbmm": baddbmm,
    "dot": dot,
    "sum.dim_IntList": total,
    "mean.dim": mean,
    "linalg_vector_norm": vector_norm,
    "_softmax": reversed_softmax(aten._softmax.out),
    "_log_softmax": reversed_softmax(aten._log_softmax.out),
}

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns that its kernel is replaced, which is the point
    for name, kernel in KERNELS.items():
        LIBRARY.impl(name, kernel, "CPU")
