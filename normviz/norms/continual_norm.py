"""Continual Normalization: group norm, then batch norm. A baseline of continual learning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from normviz.norms._placement import place
from normviz.norms._rows import computing_dtype
from normviz.validation import check_integer, check_real

__all__ = ["ContinualNorm2d"]


class ContinualNorm2d(_BatchNorm):
    """``y = BN(GN(x))``: group norm without gain and bias, then batch norm, on images (N, C, H, W).

    The group norm takes each sample's own level and scale out, so that less of a task is left in the batch statistics.
    Parameters, buffers, and what happens in training and eval are those of ``nn.BatchNorm2d``; the group norm has no
    state and is the same in both.

    Pham, Liu, Hoi, "Continual Normalization: Rethinking Batch Normalization for Online Continual Learning", ICLR 2022,
    arXiv 2203.16102; a baseline of AdaB²N (arXiv 2310.08855), whose official runs switch ``affine`` off.

    Args:
        num_features: channels C.
        num_groups: groups of the group norm; must divide C. Default 32 (official).
        eps: inside both roots. Default 1e-5.
        momentum: weight of the new value in the running statistics, in [0, 1]. Default 0.1 (torch).
        affine: learn gain and bias of the batch norm. Default True.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: arguments out of range; x of another shape; a single value per channel in training.
        TypeError: x not floating point.

    Example:
        >>> import torch
        >>> ContinualNorm2d(8, num_groups=4)(torch.randn(2, 8, 3, 3)).shape
        torch.Size([2, 8, 3, 3])
    """

    def __init__(
        self,
        num_features: int,
        num_groups: int = 32,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_integer("num_features", num_features, 1)
        check_integer("num_groups", num_groups, 1)
        if num_features % num_groups:
            raise ValueError(f"num_groups must divide num_features = {num_features}, got {num_groups}.")
        check_real("eps", eps, 0, high_open=True)
        check_real("momentum", momentum, 0, 1)
        super().__init__(num_features, eps, momentum, affine)
        self.num_groups = num_groups
        place(self, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the input (N, C, H, W); same shape and dtype out."""
        computing_dtype("input", input)
        if input.ndim != 4 or input.shape[1] != self.num_features:
            raise ValueError(
                f"input must have shape (N, {self.num_features}, H, W), got {tuple(input.shape)}."
            )
        grouped = F.group_norm(input, self.num_groups, eps=self.eps)
        return super().forward(grouped).to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Checked in forward, before the group norm."""

    def extra_repr(self) -> str:
        """Constructor arguments."""
        return (
            f"{self.num_features}, num_groups={self.num_groups}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}"
        )
