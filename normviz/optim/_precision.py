"""The precision in which functions of gradient matrices compute, whatever the input and the surroundings."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from normviz.optim._matrix import at_least_float32, check_matrix

__all__ = ["full_precision", "widen"]


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
