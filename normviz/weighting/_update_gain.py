"""How an optimizer's step moves with the gradient: the diagonal gain A in d theta' / d g = -A.

The preconditioner and what momentum remembers are held constant; only the current gradient's share is differentiated:

=======================  =====================================================================================
SGD                      A = lr
SGD with momentum        A = lr (1 - dampening), lr at the first step (the buffer starts as the gradient)
Nesterov                 A = lr (1 + momentum)
Adam, AdamW              A = lr (1 - beta1) / (1 - beta1^t) / (sqrt(vhat) + eps), vhat after the step
=======================  =====================================================================================

Across a step d theta' / d theta = K - A H with H the loss's Hessian and K = 1 - lambda A for weight decay that is
added to the gradient, 1 - lr lambda for decoupled decay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

__all__ = ["UpdateGain", "check_optimizer", "fresh_momenta", "update_gains"]

SUPPORTED = (SGD, Adam, AdamW)


class UpdateGain(NamedTuple):
    """A and K of one parameter, each a number or a tensor of the parameter's shape."""

    gain: Tensor | float
    keep: Tensor | float


def check_optimizer(optimizer: Optimizer) -> None:
    """Raise TypeError for another optimizer than SGD, Adam and AdamW, ValueError for amsgrad or maximize."""
    if type(optimizer) not in SUPPORTED:
        names = ", ".join(cls.__name__ for cls in SUPPORTED)
        raise TypeError(
            f"optimizer must be one of torch.optim's {names} itself (no subclass), got {type(optimizer)}."
        )
    for group in optimizer.param_groups:
        for flag in ("amsgrad", "maximize"):
            if group.get(flag):
                raise ValueError(f"optimizer must have {flag}=False in every group, got {flag}=True.")


def fresh_momenta(optimizer: Optimizer, names: Mapping[Tensor, str]) -> frozenset[str]:
    """Names of the parameters that have no momentum buffer yet: to be asked before the step."""
    return frozenset(
        name
        for p, name in names.items()
        if p not in optimizer.state or optimizer.state[p].get("momentum_buffer") is None
    )


def update_gains(
    optimizer: Optimizer, names: Mapping[Tensor, str], fresh: frozenset[str]
) -> dict[str, UpdateGain]:
    """Gains of the step that was just taken, by the names of the parameters (``names``: parameter -> name).

    A parameter without a gradient was not moved: A = 0, K = 1.
    """
    gains: dict[str, UpdateGain] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p not in names:
                continue
            name = names[p]
            if p.grad is None:
                gains[name] = UpdateGain(0.0, 1.0)
            elif isinstance(optimizer, SGD):
                gains[name] = _sgd(group, name in fresh)
            else:
                gains[name] = _adam(group, optimizer.state[p])
    return gains


def _sgd(group: Mapping[str, Any], fresh: bool) -> UpdateGain:
    share = 1.0 if fresh or not group["momentum"] else 1.0 - group["dampening"]
    if group["nesterov"]:
        share = 1.0 + group["momentum"] * share
    gain = float(group["lr"]) * share
    return UpdateGain(gain, 1.0 - group["weight_decay"] * gain)


def _adam(group: Mapping[str, Any], state: Mapping[str, Any]) -> UpdateGain:
    beta1, beta2 = (float(beta) for beta in group["betas"])
    lr, t, decay = float(group["lr"]), float(state["step"]), group["weight_decay"]
    root = torch.sqrt(state["exp_avg_sq"]) / math.sqrt(1 - beta2**t)
    gain = lr * (1 - beta1) / (1 - beta1**t) / (root + group["eps"])
    return UpdateGain(gain, 1.0 - lr * decay if group["decoupled_weight_decay"] else 1.0 - decay * gain)
