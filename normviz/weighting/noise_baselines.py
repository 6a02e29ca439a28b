"""What learning with noisy labels is compared with: small-loss selection, GCE, L2RW, Meta-Weight-Net.

- Small-loss filtering (the selection step of Co-teaching, Han et al. 2018, arXiv 1804.06872): drop the highest losses.
- GCE (Zhang, Sabuncu 2018, arXiv 1805.07836): (1 - p_y^q) / q, between cross-entropy (q -> 0) and 1 - p_y (q = 1).
- L2RW (Ren et al. 2018, arXiv 1803.09050): weights from the agreement of gradients with those of a clean batch.
- MW-Net (Shu et al. 2019, arXiv 1902.07379): a network from a sample's loss to its weight, meta-trained on clean data
  (the training loop is ``MetaWeightTrainer``, meta_weight_training.py).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from normviz.validation import check_choice, check_integer, check_real
from normviz.weighting._forward_pass import ForwardPass
from normviz.weighting._values import at_least_float32
from normviz.weighting.storm_meta_gradient import sample_cross_entropy

__all__ = ["GCELoss", "MetaWeightNet", "SmallLossFilter", "l2rw_weights"]


class SmallLossFilter(nn.Module):
    """Weights that drop the floor(rho n) highest losses of a batch: 0 for them, n / (n - floor(rho n)) for the others.

    Args:
        rho: share to drop, in [0, 1); usually the noise rate, which this method must know.

    Raises:
        ValueError: rho outside [0, 1); in forward: losses not [n].

    Example:
        >>> SmallLossFilter(0.5)(torch.tensor([1.0, 4.0, 2.0, 3.0]))
        tensor([2., 0., 2., 0.])

    Reference: the selection step of co-teaching, Han et al., arXiv 1804.06872; a baseline of STORM, arXiv
        2412.12955.
    """

    def __init__(self, rho: float) -> None:
        super().__init__()
        self.rho = check_real("rho", rho, 0.0, 1.0, high_open=True)

    def forward(self, losses: Tensor) -> Tensor:
        """w [n] from losses [n], constant, in the losses' dtype. Of equal losses the later ones are dropped first."""
        if losses.ndim != 1:
            raise ValueError(f"losses must have shape [n], got {tuple(losses.shape)}.")
        n = losses.shape[0]
        kept = n - math.floor(self.rho * n)
        order = losses.detach().argsort(stable=True)
        value = torch.zeros_like(order, dtype=losses.dtype)
        value[:kept] = n / max(kept, 1)
        return torch.zeros_like(value).scatter(0, order, value)

    def extra_repr(self) -> str:
        """The configuration."""
        return f"rho={self.rho}"


class GCELoss(nn.Module):
    """Generalised cross-entropy (1 - p_y^q) / q, which bounds what a wrong label can cost.

    Args:
        q: in (0, 1] (0.7, paper).
        reduction: "mean" (default), "sum" or "none".

    Raises:
        ValueError: q outside (0, 1], unknown reduction.

    Example:
        >>> GCELoss(q=1.0)(torch.zeros(1, 4), torch.tensor([2]))
        tensor(0.7500)

    Reference: Zhang, Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
        arXiv 1805.07836; a baseline of STORM, arXiv 2412.12955.
    """

    def __init__(self, q: float = 0.7, reduction: str = "mean") -> None:
        super().__init__()
        self.q = check_real("q", q, 0.0, 1.0, low_open=True)
        self.reduction = check_choice("reduction", reduction, ("mean", "sum", "none"))

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """The loss of logits [n, C] for labels y [n], in at least float32: 0-dim, or [n] with reduction "none"."""
        log_p_y = -sample_cross_entropy(at_least_float32(logits), y)
        losses = -torch.expm1(self.q * log_p_y) / self.q
        if self.reduction == "none":
            return losses
        return losses.mean() if self.reduction == "mean" else losses.sum()

    def extra_repr(self) -> str:
        """The configuration."""
        return f"q={self.q}, reduction={self.reduction!r}"


def l2rw_weights(model: nn.Module, batch: tuple[Any, Tensor], clean_batch: tuple[Any, Tensor]) -> Tensor:
    """u_i = max(0, <grad l_i, grad of the clean batch's mean loss>), w = u / sum u.

    All gradients of the cross-entropy at the present parameters, in the model's present mode; both passes start from
    the present random state. Nothing of the model is changed.

    Args:
        model: maps x to logits [n, C].
        batch: (x, y) whose samples are weighted.
        clean_batch: (x, y) with labels that can be trusted.

    Returns:
        w [n], >= 0, summing to 1, or all zero if no sample agrees with the clean batch.
    """
    theta = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    clean = ForwardPass.from_here(model, sample_cross_entropy, clean_batch)
    with torch.enable_grad():
        _, g = clean.losses_and_gradient(theta, torch.ones((), device=clean_batch[1].device))
    u = ForwardPass.from_here(model, sample_cross_entropy, batch).directional(theta, g).clamp(min=0)
    total = u.sum()
    return torch.where(total > 0, u / total, 0.0)


class MetaWeightNet(nn.Module):
    """MW-Net's weight function: losses [n] (detached) -> linear(1, hidden), ReLU, linear(hidden, 1), sigmoid -> w [n].

    Args:
        hidden: width (100, paper).

    Raises:
        ValueError: hidden < 1; in forward: losses not [n].

    Reference: Shu et al., "Meta-Weight-Net: Learning an Explicit Mapping For Sample Weighting", arXiv 1902.07379.
    """

    def __init__(self, hidden: int = 100) -> None:
        super().__init__()
        self.layer1 = nn.Linear(1, check_integer("hidden", hidden, 1))
        self.layer2 = nn.Linear(hidden, 1)

    def forward(self, losses: Tensor) -> Tensor:
        """w [n] in (0, 1)."""
        if losses.ndim != 1:
            raise ValueError(f"losses must have shape [n], got {tuple(losses.shape)}.")
        w: Tensor = self.layer2(self.layer1(losses.detach()[:, None]).relu()).sigmoid().squeeze(1)
        return w
