"""Meta-Weight-Net's training loop (Shu et al. 2019, arXiv 1902.07379) on STORM's machinery.

The difference to STORM: the validation batch is trusted (w^val = 1), so the meta gradient is the whole gradient, and a
sample's weight depends on its loss alone. With a clean validation batch this is MW-Net; with a noisy one it shows what
STORM's own weights on the validation batch are for.

Where MW-Net differs from its paper here: the update of theta is the very step that the meta gradient looks
through, not a second one with the weights after the meta update.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from normviz.weighting._forward_pass import call_with, copied_buffers, forked_rng
from normviz.weighting.storm import STORM
from normviz.weighting.storm_meta_gradient import sample_cross_entropy

__all__ = ["MetaWeightTrainer", "sample_losses"]


def sample_losses(model: nn.Module, x: Any, y: Tensor, num_passes: int = 1) -> Tensor:  # noqa: ARG001
    """Cross-entropies [n] in the model's present mode with the masks that the next forward pass will draw."""
    with torch.no_grad(), forked_rng(model):
        losses: Tensor = sample_cross_entropy(call_with(model, copied_buffers(model), x), y)
    return losses


class MetaWeightTrainer(STORM):
    """STORM with w^val = 1 and without the outer part: ``step(batch, trusted_batch)``.

    Args:
        model: as for STORM.
        weight_net: features -> weights [n]: :class:`MetaWeightNet` on the losses (default features).
        optimizer, meta_optimizer: as for STORM.
        options: of STORM, but for ``outer_scale``.

    Example:
        >>> model, net = nn.Linear(4, 3), MetaWeightNet()
        >>> sgd, adam = torch.optim.SGD(model.parameters(), 0.1), torch.optim.Adam(net.parameters(), 1e-3)
        >>> trainer = MetaWeightTrainer(model, net, sgd, adam)

    Reference: Shu et al., "Meta-Weight-Net: Learning an Explicit Mapping For Sample Weighting", arXiv 1902.07379.
    """

    def __init__(
        self,
        model: nn.Module,
        weight_net: nn.Module,
        optimizer: Optimizer,
        meta_optimizer: Optimizer,
        **options: Any,
    ) -> None:
        if "outer_scale" in options:
            raise ValueError("outer_scale must not be given: there is no outer part when w^val = 1.")
        options.setdefault("features", sample_losses)
        super().__init__(model, weight_net, optimizer, meta_optimizer, outer_scale=0.0, **options)

    def validation_weights(self, features: Tensor) -> Tensor:
        """1 for every sample."""
        return features.new_ones(features.shape[0])
