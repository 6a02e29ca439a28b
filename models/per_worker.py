"""Statistics over the share of each worker, as data-parallel training has them, in one process."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normviz.models import _checks

__all__ = ["PerWorker"]


class PerWorker(nn.Module):
    """A layer that takes its statistics over consecutive groups of examples in training, as workers would.

    Layers that look at each example alone give the same with and without it.

    Args:
        layer: any layer whose input has the examples on its first axis.
        size: examples per worker; the last worker may have fewer.

    Raises:
        ValueError: ``size`` below 1.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> PerWorker(nn.BatchNorm1d(3), 4)(torch.randn(10, 3)).shape
        torch.Size([10, 3])
    """

    def __init__(self, layer: nn.Module, size: int) -> None:
        _checks.size("size", size)
        super().__init__()
        self.layer = layer
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to each worker's examples; in eval mode there is only one worker."""
        if not self.training or len(x) <= self.size:
            out: Tensor = self.layer(x)
            return out
        return torch.cat([self.layer(part) for part in torch.split(x, self.size)])

    def extra_repr(self) -> str:
        """Examples per worker."""
        return f"size={self.size}"
