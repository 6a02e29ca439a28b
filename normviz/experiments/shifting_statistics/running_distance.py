"""How far running statistics are from those of all tasks seen so far, measured with the weights of this moment.

The truth of a layer is what batch norm would compute from all seen digits at once: one forward in training mode, by a
copy of the network, over equally many digits of every seen task. The distance of a layer is the root mean square over
its channels of (running mean - true mean) / true standard deviation.
"""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normviz.experiments.shifting_statistics.layer_statistics import input_moments
from normviz.norms import ContinualNorm2d

__all__ = ["mean_distance", "running_means", "true_moments"]


def running_means(model: nn.Module) -> list[Tensor]:
    """Running mean (C,) of every norm that has one."""
    return [layer.running_mean.double() for layer in _layers(model)]  # type: ignore[union-attr]


def true_moments(model: nn.Module, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance (C,) of what every norm with running statistics normalises, over all of x at once."""
    twin = copy.deepcopy(model).train()
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if isinstance(child, ContinualNorm2d):
                setattr(parent, name, _Grouped(child))
    moments = input_moments(twin, _BatchNorm, [x])
    return [(mean[0], var[0]) for mean, var in moments]


def mean_distance(means: list[Tensor], moments: list[tuple[Tensor, Tensor]]) -> list[float]:
    """Distance of each layer in standard deviations; see the module."""
    return [
        float(((mean - true).square() / var.clamp(min=1e-12)).mean().sqrt())
        for mean, (true, var) in zip(means, moments, strict=True)
    ]


def _layers(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


class _Grouped(nn.Module):
    """Continual norm as its two parts, so that what its batch norm sees can be measured."""

    def __init__(self, norm: ContinualNorm2d) -> None:
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine)
        plain.load_state_dict(norm.state_dict())
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.plain(F.group_norm(x, self.groups, eps=self.eps))
        return y
