"""Bytes of an optimizer's state, counted by hand."""

from __future__ import annotations

import torch
from torch import nn

from normviz.optim import NorMuon, SinkGD
from normviz.probes import optimizer_state_bytes


def test_state_bytes() -> None:
    def after_one_step(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
        return optimizer

    def params() -> list[nn.Parameter]:
        return [nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(5))]

    matrix, vector = 24 * 4, 5 * 4
    adam = after_one_step(torch.optim.AdamW(params()))
    assert (
        optimizer_state_bytes(adam) == 2 * (matrix + vector) + 2 * 4
    )  # two moments, two float32 step counters
    weights = params()
    sink = after_one_step(SinkGD(weights))
    assert optimizer_state_bytes(sink) == 2 * vector + 4
    assert optimizer_state_bytes(sink, [weights[0]]) == 0
    normuon = after_one_step(NorMuon(weights))
    assert optimizer_state_bytes(normuon, [weights[0]]) == matrix + 6 * 4  # m numbers more than Muon
    assert optimizer_state_bytes(torch.optim.SGD(params(), lr=0.1)) == 0


def test_state_bytes_count_what_views_keep_alive() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    big = torch.zeros(100)
    optimizer.state[p] = {"basis": [big[:2], big[2:4]], "inner": {"x": torch.zeros(3)}, "step": 7}
    assert optimizer_state_bytes(optimizer) == 400 + 12
