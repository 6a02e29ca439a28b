"""Rows of :mod:`normviz.schedules`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from normviz import schedules
from normviz.testing._values import Inputs, seeded
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, ObjectContract, SchedulerContract

__all__ = ["ROWS"]


def model() -> nn.Module:
    """Two scale-invariant layers and a head."""
    return nn.Sequential(nn.Linear(4, 6, bias=False), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2))


def matched(**options: Any) -> schedules.MatchedEffectiveLR:
    """Rates matched to the norms of a small network."""
    net = model()
    optimizer = torch.optim.SGD(schedules.per_tensor_groups(net, lr=0.1), momentum=0.9)
    return schedules.MatchedEffectiveLR(optimizer, net, **options)


def replay(**options: Any) -> schedules.ImplicitScheduleReplay:
    """Six recorded steps of one layer's rate."""
    optimizer = torch.optim.SGD(schedules.per_tensor_groups(model(), lr=0.1))
    recorded = [{"0.weight": 0.1 / (1 + t)} for t in range(6)]
    return schedules.ImplicitScheduleReplay(optimizer, **{"recorded": recorded, **options})


def scheduled(cls: Callable[..., LRScheduler], **own: Any) -> Callable[..., LRScheduler]:
    """``make`` of a scheduler over two groups with different learning rates."""

    def make(**options: Any) -> LRScheduler:
        groups = [{"params": [nn.Parameter(torch.randn(3))], "lr": lr} for lr in (0.1, 0.02)]
        return cls(torch.optim.SGD(groups, momentum=0.9), **{**own, **options})

    return make


def iterates(**options: Any) -> schedules.ScheduledIterates:
    """Adam inside the last-iterate conversion."""
    optimizer = torch.optim.Adam([nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))], lr=0.1)
    return schedules.ScheduledIterates(optimizer, **{"weights": [1.0, 2.0, 1.0, 0.5, 2.0, 1.0], **options})


def iterates_step(method: schedules.ScheduledIterates, i: int) -> Any:
    """One step with random gradients; the parameters after it."""
    params = [p for group in method.param_groups for p in group["params"]]
    with seeded(i):
        for p in params:
            p.grad = torch.randn_like(p)
    method.step()
    return [p.detach().clone() for p in params]


def norms() -> Inputs:
    """Gradient norms of twelve steps."""
    return (torch.rand(12) + 0.1,)


ROWS: list[Contract] = [
    SchedulerContract(
        method="normviz.schedules.MatchedEffectiveLR",
        make=matched,
        bad=[Bad({"mode": "rowwise"}), Bad({"kind": "lion"})],
    ),
    SchedulerContract(
        method="normviz.schedules.ImplicitScheduleReplay",
        make=replay,
        bad=[
            Bad({"recorded": []}),
            Bad({"recorded": [{"9.weight": 0.1}]}),
            Bad({"recorded": [{"0.weight": -0.1}]}),
        ],
    ),
    SchedulerContract(
        method="normviz.schedules.RefinedScheduleLR",
        make=scheduled(schedules.RefinedScheduleLR, norms=[4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0]),
        bad=[
            Bad({"norms": [1.0]}),
            Bad({"norms": None}),
            Bad({"multipliers": [1.0, 0.5]}),
            Bad({"norms": None, "multipliers": [1.0, -0.5]}, names="multipliers"),
            Bad({"norm_type": "l0"}),
            Bad({"tau": 1.5}),
            Bad({"total_steps": 1}),
        ],
    ),
    SchedulerContract(
        method="normviz.schedules.LinearDecayLR",
        make=scheduled(schedules.LinearDecayLR, total_steps=8, warmup_steps=2),
        bad=[Bad({"total_steps": 1}), Bad({"warmup_steps": 8})],
    ),
    SchedulerContract(
        method="normviz.schedules.WarmupPolynomialLR",
        make=scheduled(schedules.WarmupPolynomialLR, total_steps=8, warmup_fraction=0.25, power=0.8),
        bad=[Bad({"total_steps": 1}), Bad({"warmup_fraction": 1.0}), Bad({"power": 0.0})],
    ),
    SchedulerContract(
        method="normviz.schedules.InverseTimeLR",
        make=scheduled(schedules.InverseTimeLR, offset=3.0),
        bad=[Bad({"offset": 0.0})],
    ),
    SchedulerContract(
        method="normviz.schedules.InverseSqrtLR",
        make=scheduled(schedules.InverseSqrtLR, offset=3.0),
        bad=[Bad({"offset": 0.0})],
    ),
    ObjectContract(
        method="normviz.schedules.ScheduledIterates",
        make=iterates,
        step=iterates_step,
        bad=[Bad({"weights": []}), Bad({"weights": [0.0, 0.0]}), Bad({"weights": [1.0, -1.0]})],
    ),
    FunctionContract(
        method="normviz.schedules.refine_schedule",
        inputs=norms,
        tensors=False,
        bad=[Bad(inputs=lambda: (torch.zeros(3),), names="weights")],
    ),
    FunctionContract(
        method="normviz.schedules.refine_from_norms",
        inputs=norms,
        options={"norm_type": "l1"},
        tensors=False,
        bad=[
            Bad({"norm_type": "l0"}),
            Bad({"tau": -0.1}),
            Bad({"total_steps": 1}),
            Bad(inputs=lambda: (torch.ones(1),), names="norms"),
        ],
    ),
    FunctionContract(
        method="normviz.schedules.theory_learning_rates",
        inputs=norms,
        tensors=False,
        bad=[Bad({"D": 0.0}), Bad({"weights": [1.0]}), Bad({"G": 1.0})],
    ),
    FunctionContract(
        method="normviz.schedules.optimize_schedule_bound",
        inputs=norms,
        tensors=False,
        bad=[Bad({"D": 0.0}), Bad({"max_iter": 0})],
    ),
]
