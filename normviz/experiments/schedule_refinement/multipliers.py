"""The schedules that are compared, as schedulers of torch and of :mod:`normviz.schedules`, and their multipliers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from normviz.experiments.schedule_refinement.knobs import Knobs
from normviz.schedules import InverseSqrtLR, InverseTimeLR, LinearDecayLR, RefinedScheduleLR

__all__ = ["MOMENTUM", "base_rate", "build_optimizer", "build_scheduler", "multipliers"]

BASE_RATES = {
    ("text", "adam"): 5e-3,
    ("text", "sgd"): 0.5,
    ("digits", "adam"): 2e-3,
    ("digits", "sgd"): 0.05,
    ("absolute", "adam"): 0.05,
    ("logistic", "adam"): 0.05,
}
"""Middle learning rates; SGD on a convex task has the theory's D / (G sqrt(T)) instead."""

MOMENTUM = 0.9
"""Of SGD on networks; the theory of the convex tasks has none."""


def base_rate(knobs: Knobs, D: float = 1.0, G: float = 1.0) -> float:
    """The middle learning rate of the grid."""
    theory: float = D / (G * knobs.steps**0.5)
    return knobs.rate_scale * BASE_RATES.get((knobs.task, knobs.optimizer), theory)


def build_optimizer(knobs: Knobs, weights: Sequence[Tensor], rates: Sequence[float]) -> Optimizer:
    """One optimizer with a parameter group for each network and its learning rate."""
    groups = [{"params": [w], "lr": rate} for w, rate in zip(weights, rates, strict=True)]
    if knobs.optimizer == "adam":
        return Adam(groups)
    return SGD(groups, lr=rates[0], momentum=0.0 if knobs.convex() else MOMENTUM)


def build_scheduler(
    kind: str, optimizer: Optimizer, knobs: Knobs, norms: Sequence[float] = (), offset: float = 0.0
) -> LRScheduler:
    """The scheduler of a kind over the run's steps.

    Args:
        kind: key of the schedule in the knobs.
        optimizer: whose groups it scales.
        knobs: the setting.
        norms: gradient norms of the first run; only "refined" reads them.
        offset: b of 1/sqrt(t) and 1/t, in steps.
    """
    if kind == "refined":
        return RefinedScheduleLR(
            optimizer, norms=norms, norm_type=knobs.norm_type(), tau=knobs.tau, total_steps=knobs.steps
        )
    if kind == "linear":
        return LinearDecayLR(optimizer, knobs.steps)
    if kind == "cosine":
        return CosineAnnealingLR(optimizer, T_max=knobs.steps)
    if kind == "inverse_sqrt":
        return InverseSqrtLR(optimizer, offset)
    if kind == "inverse_time":
        return InverseTimeLR(optimizer, offset)
    return LambdaLR(optimizer, lambda step: 1.0)  # noqa: ARG005


def multipliers(
    kind: str, knobs: Knobs, norms: Sequence[float] = (), offset: float = 0.0
) -> NDArray[np.float64]:
    """What the scheduler multiplies the learning rate of steps 1, …, T by."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = build_scheduler(kind, optimizer, knobs, norms, offset)
    found = []
    for _ in range(knobs.steps):
        found.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    return np.array(found)
