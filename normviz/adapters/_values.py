"""What the adapters share: when tensor values may be read, the precision of sums, checks of tensor arguments."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["at_least_float32", "check_floating", "check_matrix", "full_precision", "read", "readable"]


def readable(*tensors: Tensor) -> bool:
    """Whether Python may look at the tensors' values: not while compiling, inside torch.func transforms or on meta."""
    if torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None:
        return False
    return not any(t.is_meta for t in tensors)


def read(name: str, value: Tensor) -> float:
    """The value of a one-element tensor called ``name``.

    Raises:
        RuntimeError: it cannot be read here (compiled, inside vmap, on meta).
    """
    if not readable(value):
        raise RuntimeError(
            f"{name} is taken from tensor values, which cannot be read here: give it as a number."
        )
    return float(value)


def at_least_float32(*tensors: Tensor) -> torch.dtype:
    """The widest of the tensors' dtypes and float32."""
    dtype = torch.float32
    for t in tensors:
        dtype = torch.promote_types(dtype, t.dtype)
    return dtype


def check_floating(name: str, x: Tensor) -> None:
    """Raise TypeError unless ``x`` (called ``name``) holds real floating-point numbers."""
    if not x.is_floating_point():
        raise TypeError(f"{name} must be a real floating tensor, got dtype {x.dtype}.")


def check_matrix(name: str, x: Tensor, rows: int | None = None, columns: int | None = None) -> None:
    """Raise unless ``x`` (called ``name``) is a floating matrix without an empty axis, of the sizes that are given.

    Raises:
        TypeError: not a floating dtype.
        ValueError: another shape.
    """
    check_floating(name, x)
    wanted = tuple("n" if size is None else size for size in (rows, columns))
    fits = x.ndim == 2 and all(
        size in (None, have) for size, have in zip((rows, columns), x.shape, strict=True)
    )
    if not fits or x.numel() == 0:
        shape = ", ".join(map(str, wanted))
        raise ValueError(f"{name} must be a matrix of shape ({shape}), got {tuple(x.shape)}.")


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """A context in which matrix products on ``x``'s device keep their dtype even inside an autocast region."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
