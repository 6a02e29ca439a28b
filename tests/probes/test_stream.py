"""The probe of a residual stream against the tower's own features and autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from normviz.probes import ResidualStream
from normviz.residual import build_tower


def test_stream_probe_against_the_tower() -> None:
    tower = build_tower(3, dim=5, in_dim=4, num_classes=2, method="inv", seed=1)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    probe = ResidualStream(lambda model: [*tower.blocks, tower.get_submodule("decoder")])
    values: dict[str, Any] = {}
    with probe.forward(tower, values):
        out = tower(x)
    out.square().sum().backward()
    values |= probe.gradients(tower)
    stream = tower.features(x)
    kept = [h.detach() for h in stream]
    norms = [float(h.norm(dim=1).mean()) for h in kept]
    assert values["signal_by_layer"] == pytest.approx(norms, rel=1e-5)
    moved = [float((b - a).norm(dim=1).mean()) / n for a, b, n in zip(kept, kept[1:], norms, strict=False)]
    assert values["effective_scale"] == pytest.approx(moved, rel=1e-4)
    grads = torch.autograd.grad(tower.get_submodule("decoder")(stream[-1]).square().sum(), stream)
    assert values["stream_gradient"] == pytest.approx([float(g.norm()) for g in grads], rel=1e-5)


def test_stream_probe_without_gradient_measures_the_signal_alone() -> None:
    tower = build_tower(2, dim=3, in_dim=4)
    probe = ResidualStream(lambda _: list(tower.blocks))
    values: dict[str, Any] = {}
    with torch.no_grad(), probe.forward(tower, values):
        tower(torch.ones(2, 4))
    assert probe.gradients(tower) == {}
    assert values["signal_by_layer"].shape == (2,)
    nothing: dict[str, Any] = {}
    with ResidualStream(lambda _: [nn.Identity()]).forward(tower, nothing):
        pass
    assert nothing == {}
