"""When tensor values may be read: checks on values exist in eager mode only."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["at_least_float32", "readable"]


def readable(*tensors: Tensor) -> bool:
    """Whether Python may look at the tensors' values: not while compiling, inside torch.func transforms or on meta."""
    if torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None:
        return False
    return not any(t.is_meta for t in tensors)


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` as float32, or float64 if it is float64 (half types, integers and bools are promoted)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
