"""Where a layer's parameters and buffers are made: torch's ``device`` and ``dtype`` of a constructor."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["place"]


def place(module: nn.Module, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
    """Move a layer that has just been built to ``device`` and its floating tensors to ``dtype``; None leaves them.

    The values are those of a layer that was moved after its construction: random ones are drawn as without the two.

    Raises:
        TypeError: ``dtype`` is not floating.
    """
    if device is not None or dtype is not None:
        module.to(device=device, dtype=dtype)
