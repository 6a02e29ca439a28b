import math

import numpy as np
import pytest
import torch
from torch import nn

from normviz import residual as package
from normviz.residual.blocks import ConvBlock, MLPBlock, ResidualTower
from normviz.residual.complexity import geometric_complexity


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def by_differences(fn, x: torch.Tensor, h: float = 1e-5) -> float:
    """Central differences, sample by sample and input by input."""
    total = 0.0
    with torch.no_grad():
        for b in range(len(x)):
            for i in range(x[b].numel()):
                step = torch.zeros(x[b].numel(), dtype=x.dtype)
                step[i] = h
                step = step.reshape(x[b].shape)
                column = (fn((x[b] + step)[None]) - fn((x[b] - step)[None])) / (2 * h)
                total += float(column.square().sum())
    return total / len(x)


def mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 7), nn.Tanh(), nn.Linear(7, outputs)).double()


def test_exact_equals_central_differences() -> None:
    f, x = mlp(4, 3), randn(5, 4)
    gc = geometric_complexity(f, x)
    assert gc.shape == ()
    assert gc.item() == pytest.approx(by_differences(f, x), rel=1e-7)


def test_images_and_scalar_outputs_are_flattened_per_sample() -> None:
    images, x = ConvBlock(2, activation="tanh").double(), randn(2, 2, 3, 3)
    assert geometric_complexity(images, x).item() == pytest.approx(by_differences(images, x), rel=1e-7)
    total, z = (lambda v: mlp_total(v).squeeze(1)), randn(4, 3)
    mlp_total = mlp(3, 1)
    gradient = torch.autograd.functional.jacobian(lambda v: total(v).sum(), z)
    torch.testing.assert_close(geometric_complexity(total, z), gradient.square().sum(1).mean())


@pytest.mark.parametrize("d", [3, 100])
def test_the_identity_has_complexity_d(d: int) -> None:
    tower = ResidualTower([MLPBlock(d).double() for _ in range(3)], 0.0)
    assert geometric_complexity(tower, randn(4, d), exact=True).item() == pytest.approx(d, rel=1e-12)


def test_of_a_linear_map_is_its_squared_frobenius_norm_anywhere() -> None:
    f = nn.Linear(5, 4).double()
    for x in (randn(3, 5), 100 * randn(1, 5)):
        torch.testing.assert_close(geometric_complexity(f, x), f.weight.square().sum())


@pytest.mark.parametrize("seed", range(3))
def test_hutchinson_within_ten_percent(seed: int) -> None:
    f, x = mlp(6, 5), randn(8, 6)
    exact = geometric_complexity(f, x, exact=True)
    estimate = geometric_complexity(f, x, False, 512, torch.Generator().manual_seed(seed))
    assert estimate.item() == pytest.approx(exact.item(), rel=0.1)
    assert estimate.item() != exact.item()


def test_hutchinson_is_the_mean_over_its_probes() -> None:
    f, x = mlp(4, 3), randn(5, 4)
    estimate = geometric_complexity(f, x, exact=False, probes=3, generator=torch.Generator().manual_seed(2))
    v = torch.randn(3, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).numpy()
    total = 0.0
    for b in range(5):
        J = torch.autograd.functional.jacobian(f, x[b]).numpy()
        total += sum(np.sum((J.T @ v[p, b]) ** 2) for p in range(3))
    assert estimate.item() == pytest.approx(total / 15, rel=1e-12)


def test_exact_up_to_64_outputs() -> None:
    x = randn(2, 65)
    for outputs, is_exact in ((64, True), (65, False)):
        f = nn.Linear(65, outputs).double()
        exact = f.weight.square().sum().item()
        automatic = geometric_complexity(f, x, probes=1).item()
        assert (abs(automatic - exact) < 1e-9 * exact) == is_exact


@pytest.mark.parametrize("lam", [1.0, 0.3])
def test_complexity_of_a_tower_is_bounded(lam: float) -> None:
    d, n = 5, 4
    tower = ResidualTower([MLPBlock(d, activation="tanh").double() for _ in range(n)], lam)
    L = max(
        math.prod(torch.linalg.matrix_norm(w, 2).item() for w in (f.first.weight, f.last.weight))
        for f in tower.blocks
    )
    gc = geometric_complexity(tower, randn(6, d)).item()
    assert 0 < gc <= d * (1 + lam * L) ** (2 * n)


@pytest.mark.parametrize("exact", [True, False])
def test_differentiable_by_the_parameters(exact: bool) -> None:
    f, x = mlp(3, 2), randn(4, 3)
    generator = torch.Generator()
    weight = f[0].weight

    def value() -> torch.Tensor:
        return geometric_complexity(f, x, exact, 4, generator.manual_seed(0))

    (gradient,) = torch.autograd.grad(value(), weight)
    with torch.no_grad():
        weight[1, 2] += 1e-6
        above = value().item()
        weight[1, 2] -= 2e-6
        below = value().item()
    assert gradient[1, 2].item() == pytest.approx((above - below) / 2e-6, rel=1e-5)
    with torch.no_grad():
        assert not value().requires_grad


def test_dtype() -> None:
    f = nn.Linear(3, 2)
    assert geometric_complexity(f, torch.randn(4, 3)).dtype == torch.float32
    assert geometric_complexity(f.bfloat16(), torch.randn(4, 3).bfloat16()).dtype == torch.float32
    assert package.geometric_complexity is geometric_complexity


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f: geometric_complexity(f, torch.ones(2, 3), probes=0),
            "probes must be an integer >= 1, got 0",
        ),
        (lambda f: geometric_complexity(f, torch.ones(0, 3)), "x must hold at least one sample"),
        (lambda f: geometric_complexity(lambda x: x.sum(), torch.ones(2, 3)), "one output per sample"),
    ],
)
def test_bad_arguments(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(nn.Linear(3, 2))
