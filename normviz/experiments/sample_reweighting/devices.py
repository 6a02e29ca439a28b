"""What a batch that is spread over devices must give, and what goes wrong if each looks only at its own samples."""

from __future__ import annotations

import torch
from torch import Tensor

from normviz.frame import Value
from normviz.weighting import sample_weights, split_device_losses
from normviz.weighting.loss_weights import Strategy

__all__ = ["device_values"]


def device_values(losses: Tensor, strategy: str | Strategy, r: float, devices: int) -> dict[str, Value]:
    """Two numbers about a batch of losses (M,) in consecutive slices, one for each device.

    Returns:
        ``device_gap``: |mean of the devices' losses L_k - loss of the whole batch| over the latter;
        ``local_weight_error``: half the summed distance of the weights that each device would give from its own
        minimum and maximum (and that averaging gradients then divides by W) from the weights of the whole batch: the
        share of weight that would go to the wrong samples.
    """
    W = min(devices, len(losses))
    L = split_device_losses(losses, 1, strategy, r)[0]
    apart = split_device_losses(losses, W, strategy, r).mean()
    local = torch.cat([sample_weights(part, strategy, r) for part in torch.tensor_split(losses, W)]) / W
    error = 0.5 * (local - sample_weights(losses, strategy, r)).abs().sum()
    return {"device_gap": float((apart - L).abs() / L), "local_weight_error": float(error)}
