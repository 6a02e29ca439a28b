"""Affine and orthogonal maps: their starts, what training keeps, invariances, refusals."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from normviz.adapters import (
    AffineAdapter,
    OrthogonalAdapter,
    orthogonality_distance,
    procrustes_orthogonal,
    retrieval_metrics,
)


def matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(n: int, k: int, sign: float = 1.0) -> Tensor:
    q = torch.linalg.qr(matrix(n, n))[0]
    return torch.cat((q[:, :1] * sign * torch.det(q).sign(), q[:, 1:]), 1)[:, :k]


def build(features: int, out_features: int, **options) -> OrthogonalAdapter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return OrthogonalAdapter(features, out_features, **options)


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)])
def test_starts_of_the_affine_map(shape: tuple[int, int]) -> None:
    width_out, width_in = shape
    assert torch.equal(AffineAdapter(width_in, width_out).weight, torch.eye(*shape))
    data = matrix(30, width_in, seed=1), matrix(30, width_out, seed=2)
    fitted = AffineAdapter(width_in, width_out, init="procrustes", data=data, dtype=torch.float64)
    assert torch.equal(fitted.weight.detach(), procrustes_orthogonal(*data))
    assert (
        float(orthogonality_distance(AffineAdapter(width_in, width_out, init="orthogonal").weight.detach()))
        < 1e-5
    )
    torch.manual_seed(0)
    default = AffineAdapter(width_in, width_out, init="default")
    torch.manual_seed(0)
    assert torch.equal(default.weight, torch.nn.Linear(width_in, width_out).weight)
    for adapter in (fitted, default):
        assert adapter.bias is not None
        assert not adapter.bias.any()
    assert AffineAdapter(width_in, width_out, bias=False).bias is None
    assert set(default.state_dict()) == {"weight", "bias", "in_scale"}


def test_the_affine_map_is_affine() -> None:
    adapter = AffineAdapter(3, 2, init="default", dtype=torch.float64)
    with torch.no_grad():
        adapter.bias.copy_(torch.tensor([1.0, -2.0]))
        adapter.in_scale.fill_(4.0)
    h = matrix(2, 5, 3)
    w, b = adapter.weight.detach().numpy(), adapter.bias.detach().numpy()
    expected = [[[w[o] @ row / 4 + b[o] for o in range(2)] for row in part] for part in h.numpy()]
    torch.testing.assert_close(adapter(h).detach(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("parametrization", ["matrix_exp", "cayley"])
@pytest.mark.parametrize("shape", [(6, 6), (4, 6), (6, 4)], ids=["square", "wide", "tall"])
@pytest.mark.parametrize("start", ["identity", "given"])
def test_orthogonal_after_any_step(shape: tuple[int, int], parametrization: str, start: str) -> None:
    width_out, width_in = shape
    weight = None
    if start == "given":
        tall = orthogonal(6, min(shape))
        weight = (tall if width_out >= width_in else tall.T).float()
    adapter = build(width_in, width_out, parametrization=parametrization, weight=weight)
    expected = torch.eye(width_out, width_in) if weight is None else weight
    torch.testing.assert_close(adapter.weight.detach(), expected, rtol=0, atol=1e-6)
    h, target = matrix(50, width_in).float(), matrix(50, width_out, seed=1).float()
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.3)
    before = adapter.weight.detach()
    for _ in range(25):
        optimizer.zero_grad()
        (adapter(h) - target).square().mean().backward()
        optimizer.step()
        assert float(orthogonality_distance(adapter.weight.detach())) < 1e-6
    assert float((adapter.weight.detach() - before).norm()) > 0.5


@pytest.mark.parametrize("parametrization", ["matrix_exp", "cayley"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_training_reaches_the_rotation_of_its_own_sign(parametrization: str, sign: float) -> None:
    skew = 0.6 * matrix(4, 4)
    flip = torch.diag(torch.tensor([sign, 1, 1, 1], dtype=torch.float64))
    target = flip @ torch.linalg.matrix_exp(skew - skew.T)
    assert float((target - flip).norm()) > 0.5
    adapter = OrthogonalAdapter(4, parametrization=parametrization, weight=flip)
    h = matrix(60, 4)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.03)
    for _ in range(200):
        optimizer.zero_grad()
        (adapter(h) - h @ target.T).square().mean().backward()
        optimizer.step()
    assert float(torch.det(adapter.weight.detach())) == pytest.approx(sign)
    torch.testing.assert_close(adapter.weight.detach(), target, rtol=0, atol=0.02)


def test_the_two_parametrizations_in_the_plane() -> None:
    """One angle a: exp turns by a, Cayley by 2 atan(a / 2)."""
    for parametrization, angle in (("matrix_exp", 0.8), ("cayley", 2 * torch.atan(torch.tensor(0.4)).item())):
        adapter = OrthogonalAdapter(2, parametrization=parametrization, dtype=torch.float64)
        with torch.no_grad():
            adapter.skew.fill_(0.8)
        c, s = torch.cos(torch.tensor(angle)).item(), torch.sin(torch.tensor(angle)).item()
        expected = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
        torch.testing.assert_close(adapter.weight.detach(), expected, rtol=0, atol=1e-6)


def test_check_6_rankings_are_those_of_the_new_features() -> None:
    adapter = OrthogonalAdapter(8, dtype=torch.float64)
    torch.nn.init.normal_(adapter.skew, std=2)
    adapter.in_scale.fill_(3.0)
    labels = torch.arange(60) % 5
    h = matrix(60, 8) + matrix(5, 8, seed=1)[labels]
    z = adapter(h).detach()
    assert retrieval_metrics(z, labels, z, labels, exclude_self=True) == retrieval_metrics(
        h, labels, h, labels, exclude_self=True
    )
    shifted = z + 2
    assert retrieval_metrics(shifted, labels, shifted, labels, exclude_self=True)["map"] != pytest.approx(
        retrieval_metrics(h, labels, h, labels, exclude_self=True)["map"], abs=1e-4
    ), "a bias would change them"


def test_one_angle_per_pair_and_no_bias() -> None:
    adapter = OrthogonalAdapter(5)
    assert [name for name, _ in adapter.named_parameters()] == ["skew"]
    assert adapter.skew.shape == (10,)
    assert build(6, 2).skew.shape == (9,), "2 rows in 6 dimensions: 12 numbers, 3 conditions"
    assert "parametrization='matrix_exp'" in repr(adapter)


def test_a_loaded_state_gives_the_same_map() -> None:
    adapter = OrthogonalAdapter(4, weight=orthogonal(4, 4))
    torch.nn.init.normal_(adapter.skew)
    other = OrthogonalAdapter(4, dtype=torch.float64)
    other.load_state_dict(adapter.state_dict())
    assert torch.equal(other.weight, adapter.weight)


def test_widths_that_differ_are_warned_about_once() -> None:
    with pytest.warns(UserWarning, match="smaller side") as caught:
        OrthogonalAdapter(3, 5)
    assert len(caught) == 1


def test_refusals() -> None:
    cases = [
        (lambda: AffineAdapter(0, 2), "in_features"),
        (lambda: AffineAdapter(2, 0), "out_features"),
        (lambda: AffineAdapter(2, 2, init="zeros"), "init"),
        (lambda: AffineAdapter(2, 2, init="procrustes"), "data"),
        (lambda: AffineAdapter(2, 2, init="procrustes", data=(torch.zeros(5, 3), torch.zeros(5, 2))), "data"),
        (lambda: OrthogonalAdapter(0), "features"),
        (lambda: OrthogonalAdapter(2, 0), "out_features"),
        (lambda: OrthogonalAdapter(2, parametrization="givens"), "parametrization"),
        (lambda: OrthogonalAdapter(2, weight=torch.eye(3)), "weight"),
        (lambda: OrthogonalAdapter(2, weight=2 * torch.eye(2)), "weight"),
        (lambda: OrthogonalAdapter(2, weight=torch.full((2, 2), torch.nan)), "weight"),
    ]
    for call, name in cases:
        with pytest.raises(ValueError, match=name):
            call()
