"""Checks of a learning-rate scheduler: it resumes, and its rates are the optimizer's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from normviz.testing._values import assert_same, require, seeded

__all__ = ["Scheduled", "assert_rates_reach_the_optimizer"]


class Scheduled:
    """A scheduler with its optimizer and the parameters: what is stepped, saved and resumed together.

    Args:
        make: builds model, optimizer and scheduler, and returns the scheduler.
    """

    def __init__(self, make: Callable[[], LRScheduler]) -> None:
        self.scheduler = make()
        self.optimizer = self.scheduler.optimizer

    @property
    def params(self) -> list[Tensor]:
        """All parameters of the optimizer."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def step(self, i: int) -> list[Any]:
        """One step of the optimizer with random gradients, then of the scheduler; rates and parameters after it."""
        with seeded(100 + i):
            for p in self.params:
                p.grad = torch.randn_like(p)
        self.optimizer.step()
        self.scheduler.step()
        return [list(self.scheduler.get_last_lr()), [p.detach().clone() for p in self.params]]

    def state_dict(self) -> dict[str, Any]:
        """States of scheduler and optimizer, and the parameters."""
        return {
            "scheduler": self.scheduler.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "params": [p.detach().clone() for p in self.params],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        with torch.no_grad():
            for p, value in zip(self.params, state["params"], strict=True):
                p.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])


def assert_rates_reach_the_optimizer(make: Callable[[], LRScheduler], steps: int = 4) -> None:
    """After every step the groups have the rates of ``get_last_lr()``, finite and >= 0, and some rate has changed.

    Args:
        make: builds model, optimizer and scheduler.
        steps: how many.

    Raises:
        AssertionError: rates differ, are not numbers >= 0, or never change.
    """
    with seeded(0):
        scheduled = Scheduled(make)
    history = [[float(group["lr"]) for group in scheduled.optimizer.param_groups]]
    for i in range(steps):
        scheduled.step(i)
        rates = [float(group["lr"]) for group in scheduled.optimizer.param_groups]
        assert_same(rates, [float(lr) for lr in scheduled.scheduler.get_last_lr()], f"rates after step {i}: ")
        require(all(0 <= lr < float("inf") for lr in rates), f"rates {rates} are not finite numbers >= 0.")
        history.append(rates)
    require(any(rates != history[0] for rates in history), f"the rates {history[0]} never change.")
