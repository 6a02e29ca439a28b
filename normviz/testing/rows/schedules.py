"""Rows of :mod:`normviz.schedules`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from normviz import schedules
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, SchedulerContract

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
]
