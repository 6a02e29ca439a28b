"""The gradients of one batch as arrows in a plane, their lengths and their angles to the mean kept.

A sample's gradient g_i has a part along the batch's mean g and a part r_i across it. Drawn are <g_i, g>/||g||^2 and
+-||r_i||/||g||, left or right by the direction in which the r_i vary most: in two dimensions this is the picture itself
turned so that g points to the right. Distances to the tip of g are those of the whole space,

    mean_i ||g_i - g||^2 / ||g||^2 = mean_i (along_i - 1)^2 + across_i^2.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["ARROWS", "fan_of"]

ARROWS = 64
"""Most samples that are drawn."""


def fan_of(grads: Iterable[Tensor]) -> Tensor:
    """Parts along and across of the first samples of a batch, in units of ||g||.

    Args:
        grads: (B, *shape) per parameter.

    Returns:
        (min(B, ARROWS), 2).

    Raises:
        ValueError: the mean is 0.
    """
    flat = torch.cat([g.flatten(1).double() for g in grads], dim=1)  # (B, d)
    mean = flat.mean(0)
    length = float(mean.norm())
    if length == 0:
        raise ValueError("grads must have a mean that is not 0: no direction is along it.")
    shown = flat[:ARROWS] / length
    unit = mean / length
    along = shown @ unit
    rest = shown - along[:, None] * unit
    # The strongest direction across, as seen by the samples: the largest eigenvector of the products of their rests.
    side = torch.linalg.eigh(rest @ rest.T).eigenvectors[:, -1]
    side = side * torch.sign(side[side.abs().argmax()])
    return torch.stack([along, torch.where(side < 0, -1.0, 1.0) * rest.norm(dim=1)], dim=1)
