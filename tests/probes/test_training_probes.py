"""Probes around a training step, against NumPy on the same tensors."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from normviz.frame import Value
from normviz.models import MLP
from normviz.norms import BatchNorm, PowerNorm, UnifiedNorm1d, make_norm
from normviz.probes import (
    ActivationHistogram,
    GradientNorm,
    OutlierFiltration,
    Probe,
    StatisticsGap,
    allocated_bytes,
    compare_inference,
)


def watch(probe: Probe, model: nn.Module, x: torch.Tensor) -> dict[str, Value]:
    values: dict[str, Value] = {}
    with probe.forward(model, values):
        model(x).square().mean().backward()
    return {**values, **probe.gradients(model)}


def test_gap_of_batch_norm_is_before_the_update() -> None:
    torch.manual_seed(0)
    norm = BatchNorm(3)
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = torch.randn(50, 3) * 2
    values = watch(StatisticsGap(), nn.Sequential(norm), x)
    rows = x.numpy().astype(np.float64)
    assert values["gap/mean"] == pytest.approx(np.abs(rows.mean(0) - [1, 2, 3]).mean(), rel=1e-5)
    assert values["gap/var"] == pytest.approx(np.abs(rows.var(0) - 1).mean(), rel=1e-5)


def test_gap_of_power_norm_and_average_over_layers() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 2) * 3
    model = nn.Sequential(PowerNorm(2, group_scaling=False), PowerNorm(2, group_scaling=False))
    values = watch(StatisticsGap(), model, x)
    first = np.abs((x.numpy() ** 2).mean(0) - 1).mean()
    by_layer = np.asarray(values["gap_by_layer/quadratic_mean"])
    assert by_layer.shape == (2,)
    assert by_layer[0] == pytest.approx(first, rel=1e-5)
    assert values["gap/quadratic_mean"] == pytest.approx(by_layer.mean(), rel=1e-6)


def test_networks_without_running_statistics_have_no_gap() -> None:
    assert watch(StatisticsGap(), nn.Sequential(nn.LayerNorm(4)), torch.randn(3, 4)) == {}


def test_hooks_are_gone_afterwards() -> None:
    model = MLP(4, (5,), 2, norm=partial(make_norm, "batch"))
    for probe in (StatisticsGap(), ActivationHistogram(lambda n, m: True), OutlierFiltration()):
        watch(probe, model, torch.randn(6, 4))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_gradient_norm() -> None:
    model = nn.Linear(3, 2)
    values = watch(GradientNorm(), model, torch.randn(5, 3))
    flat = np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])
    assert values["grad_norm"] == pytest.approx(np.linalg.norm(flat), rel=1e-6)
    assert GradientNorm().gradients(nn.Linear(1, 1)) == {}


def test_histogram_rows_integrate_to_one_and_keep_moments() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
    x = torch.randn(200, 4) * 5
    probe = ActivationHistogram(lambda n, m: not isinstance(m, nn.Sequential), low=-1.0, high=1.0, bins=8)
    values = watch(probe, model, x)
    density = np.asarray(values["activations"])
    assert density.shape == (2, 8)
    np.testing.assert_allclose(density.sum(1) * 0.25, 1, rtol=1e-5)
    with torch.no_grad():
        out = model(x).numpy()
    expected, _ = np.histogram(np.clip(out, -1, 1), bins=8, range=(-1, 1), density=True)
    np.testing.assert_allclose(density[1], expected, atol=0.01)
    np.testing.assert_allclose(np.asarray(values["activation_std"])[1], out.std(), rtol=1e-4)


def test_filtration_reads_the_first_unified_norm() -> None:
    torch.manual_seed(0)
    norm = UnifiedNorm1d(3, 2, warmup_iters=2, outlier_filtration=True)
    model = nn.Sequential(norm, UnifiedNorm1d(3, 2, warmup_iters=2))
    for _ in range(5):
        watch(OutlierFiltration(), model, torch.randn(64, 3))
    before = norm.running_var.numpy().copy()
    x = torch.randn(64, 3) * torch.tensor([1.0, 1.0, 50.0])
    values = watch(OutlierFiltration(), model, x)
    psi = (x.numpy().astype(np.float64) ** 2).mean(0)
    assert values["filter/skipped"] == 1.0
    assert values["filter/gap"] > values["filter/threshold"]
    assert values["filter/batch_distance"] == pytest.approx(np.abs(psi - before).mean(), rel=1e-4)
    assert watch(OutlierFiltration(), nn.Sequential(nn.Linear(3, 3)), x) == {}


def test_allocated_bytes_counts_new_storages_only() -> None:
    x = torch.zeros(10, 4)
    assert allocated_bytes(nn.Flatten(), x) == 0
    assert allocated_bytes(nn.ReLU(), x) == 160
    linear = nn.Linear(4, 5, bias=False)
    assert allocated_bytes(linear, x) == 200


def test_compare_inference_of_a_network_with_itself() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    ratios = compare_inference(model, model, torch.randn(32, 64))
    assert ratios["fused/memory_ratio"] == 1.0
    assert ratios["fused/time_ratio"] > 0


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Probe(0), "every"),
        (lambda: ActivationHistogram(lambda n, m: True, low=1.0, high=1.0), "low"),
        (lambda: ActivationHistogram(lambda n, m: True, bins=1), "bins"),
    ],
)
def test_bad_arguments_are_named(make: object, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        make()  # type: ignore[operator]


def test_gap_of_a_norm_called_by_keyword() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(input=x)

    assert "gap/mean" in watch(StatisticsGap(), Model(), torch.randn(5, 3))
