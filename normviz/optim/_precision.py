"""The precision in which functions of gradient matrices compute, whatever the input and the surroundings."""

from __future__ import annotations

import platform
import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

from normviz.optim._matrix import at_least_float32, check_matrix

__all__ = ["full_precision", "native_bfloat16", "widen"]


def widen(name: str, X: Tensor) -> Tensor:
    """``X`` (called ``name``) with at least float32's precision.

    Raises:
        ValueError: fewer than two axes, or not a real floating tensor (results are returned in the input's dtype,
            which would truncate them to integers).
    """
    check_matrix(name, X)
    if not X.is_floating_point():
        raise ValueError(f"{name} must be a real floating tensor, got dtype {X.dtype}.")
    return at_least_float32(X)


def full_precision(X: Tensor) -> AbstractContextManager[object]:
    """A context in which matrix products on ``X``'s device keep their dtype even inside an autocast region."""
    kind = X.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


@cache
def native_bfloat16() -> bool:
    """Whether this machine's processor has bfloat16 products of its own; found once in a process.

    Where it has, a product of large matrices is 3 to 8 times as fast as in float32; where it has not, it is emulated
    and 12 to 50 times slower. On x86 the processor's list of features tells (AMX, AVX512-BF16); elsewhere two products
    are timed.
    """
    if not torch._C._has_mkldnn:
        return False
    features = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16")]
    if platform.machine().lower() in ("x86_64", "amd64") and None not in features:
        return any(feature() for feature in features if feature is not None)
    return product_seconds(torch.bfloat16) < product_seconds(torch.float32)


def product_seconds(dtype: torch.dtype, size: int = 256, repeats: int = 5) -> float:
    """Least seconds of a product of two square matrices of ``dtype`` on the CPU, after one that is not counted."""
    with torch.no_grad(), full_precision(torch.empty(0)):
        A = torch.ones(size, size, dtype=dtype)
        seconds = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            torch.mm(A, A)
            seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
