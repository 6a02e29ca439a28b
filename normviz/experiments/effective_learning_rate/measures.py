"""What is measured on one network of the page *Effective learning rate*."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from normviz.frame import Value
from normviz.module_roles import is_activation, projected_weights
from normviz.norms import dormant_fraction, effective_learning_rate, parameter_norms

__all__ = ["GrowthLaw", "Lengths", "dormant_units", "rates_by_name"]

DORMANT = 0.025
"""A unit is dormant if its mean activity is at most this share of its layer's (Sokar et al., arXiv 2302.12902)."""


def rates_by_name(model: nn.Module, optimizer: Optimizer) -> dict[str, float]:
    """The learning rate that the next step uses for each parameter."""
    rate_of = {p: float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    return {name: rate_of[p] for name, p in model.named_parameters() if p in rate_of}


class Lengths:
    """Lengths of the hidden weight tensors and what they do to the learning rate.

    Args:
        model: the network, at its start: present lengths are the reference.
        law: "sgd" or "adam", see :func:`normviz.norms.effective_learning_rate`.
        rate: the learning rate that was set.
        scale_invariant: a norm follows every hidden weight, so that there is an effective learning rate.
    """

    def __init__(self, model: nn.Module, law: str, rate: float, *, scale_invariant: bool) -> None:
        self.model, self.law, self.rate, self.scale_invariant = model, law, rate, scale_invariant
        self.names = list(projected_weights(model))
        self.start = self._now()

    def _now(self) -> dict[str, float]:
        norms = parameter_norms(self.model)
        return {name: norms[name] for name in self.names}

    def effective_rates(self, optimizer: Optimizer) -> dict[str, float]:
        """For each hidden weight the rate at which a network of the initial lengths would move as this one does.

        Weights whose length is not finite (the network is about to be declared diverged) are left out.
        """
        rates = rates_by_name(self.model, optimizer)
        return {
            name: float(effective_learning_rate(rates[name], norm, self.law, reference=self.start[name]))
            for name, norm in self._now().items()
            if 0 < norm < math.inf
        }

    def values(self, optimizer: Optimizer) -> dict[str, Value]:
        """``length`` (all hidden weights together, 1 at the start), and for layer i ``rate/i`` and ``elr/i``.

        ``rate/i`` is the learning rate of the next step, ``elr/i`` the effective one relative to the rate that was set.
        """
        now = self._now()
        values: dict[str, Value] = {"length": math.hypot(*now.values()) / math.hypot(*self.start.values())}
        rates, effective = rates_by_name(self.model, optimizer), self.effective_rates(optimizer)
        for layer, name in enumerate(self.names, start=1):
            values[f"rate/{layer}"] = rates[name]
            if self.scale_invariant and name in effective:
                values[f"elr/{layer}"] = effective[name] / self.rate
        return values


class GrowthLaw:
    """How well two laws of a scale-invariant weight under plain SGD hold: watches every step of the optimizer.

    <grad, W> = 0 and ||W'||^2 = ||W||^2 + lr^2 ||grad||^2; :meth:`values` gives the largest departures since the last
    call: |cosine| of the two, and the error of the second relative to ||W'||^2.

    Args:
        model: the network.
        optimizer: plain SGD over it.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._weights = projected_weights(model)
        self._model, self._optimizer = model, optimizer
        self._predicted: dict[str, Tensor] = {}
        self._cosine, self._error = 0.0, 0.0
        optimizer.register_step_pre_hook(self._before)
        optimizer.register_step_post_hook(self._after)

    @torch.no_grad()
    def _before(self, *args: Any) -> None:  # noqa: ARG002
        rates = rates_by_name(self._model, self._optimizer)
        for name, weight in self._weights.items():
            assert weight.grad is not None
            squared, of_gradient = weight.square().sum(), weight.grad.square().sum()
            along = (weight * weight.grad).sum().abs() / (squared * of_gradient).sqrt()
            self._cosine = max(self._cosine, float(along.nan_to_num(0.0)))
            self._predicted[name] = squared + rates[name] ** 2 * of_gradient

    @torch.no_grad()
    def _after(self, *args: Any) -> None:  # noqa: ARG002
        for name, weight in self._weights.items():
            squared = weight.square().sum()
            self._error = max(self._error, float((squared - self._predicted[name]).abs() / squared))

    def values(self) -> dict[str, Value]:
        """``law/cosine`` and ``law/growth``; the watch starts anew."""
        values: dict[str, Value] = {"law/cosine": self._cosine, "law/growth": self._error}
        self._cosine = self._error = 0.0
        return values


@torch.no_grad()
def dormant_units(model: nn.Module, x: Tensor) -> float:
    """Share of dormant units on the inputs ``x``, mean over the hidden layers; nothing of the network changes."""
    found: list[float] = []

    def watch(module: nn.Module, args: object, output: Tensor) -> None:  # noqa: ARG001
        found.append(dormant_fraction(output, DORMANT))

    handles = [m.register_forward_hook(watch) for m in model.modules() if is_activation(m)]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return sum(found) / len(found)
