"""Distance from orthogonality and its penalty: closed forms in NumPy, gradients, limits, Procrustes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from normviz.adapters import (
    LAMBDA_MODES,
    LambdaOrthogonalityLoss,
    orthogonality_distance,
    procrustes_orthogonal,
    singular_value_band,
)

SHAPES = {"square": (5, 5), "tall": (6, 4), "wide": (3, 5)}


def matrix(shape: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(shape: tuple[int, int], seed: int = 0) -> Tensor:
    u, _, vt = torch.linalg.svd(matrix(shape, seed), full_matrices=False)
    return u @ vt


def numpy_loss(w: np.ndarray, lam: float, mode: str, beta: float | None, relative: bool) -> float:
    """From the singular values."""
    s = np.linalg.svd(w, compute_uv=False)
    delta = math.sqrt(sum((x**2 - 1) ** 2 for x in s))
    if lam == math.inf:
        return 0.0
    if mode == "soft":
        return delta**2
    if lam == 0:
        return delta
    lam = lam * math.sqrt(min(w.shape)) if relative else lam
    beta = max(1.0, 10 / lam) if beta is None else beta
    if mode == "hinge":
        return max(0.0, delta - lam)
    if mode == "gated":
        return delta / (1 + math.exp(-beta * (delta - lam)))
    return math.log1p(math.exp(beta * (delta - lam))) / beta


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_distance_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    for seed in range(5):
        w = matrix(shape, seed)
        s = np.linalg.svd(w.numpy(), compute_uv=False)
        assert float(orthogonality_distance(w)) == pytest.approx(
            math.sqrt(((s**2 - 1) ** 2).sum()), rel=1e-12
        )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("mode", LAMBDA_MODES)
def test_losses_equal_a_numpy_derivation(mode: str, shape: tuple[int, int]) -> None:
    for seed in range(4):
        w = 0.5 * matrix(shape, seed)
        for lam in (0.0, 0.3, 1.0, 3.0, math.inf):
            for beta in (None, 2.5):
                for relative in (False, True):
                    ours = float(LambdaOrthogonalityLoss(lam, mode, beta, relative)(w))
                    assert ours == pytest.approx(numpy_loss(w.numpy(), lam, mode, beta, relative), abs=1e-10)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("mode", LAMBDA_MODES)
def test_check_1_gradients(mode: str, shape: tuple[int, int]) -> None:
    w = matrix(shape).requires_grad_()
    for lam in (0.0, 1.0, 4.0):
        loss = LambdaOrthogonalityLoss(lam, mode, beta=1.5)
        assert gradcheck(loss, (w,))
    assert gradcheck(orthogonality_distance, (w,))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradient_in_closed_form(shape: tuple[int, int]) -> None:
    w = matrix(shape).requires_grad_()
    orthogonality_distance(w).backward()
    a = w.detach().numpy()
    tall = shape[0] >= shape[1]
    e = a.T @ a - np.eye(shape[1]) if tall else a @ a.T - np.eye(shape[0])
    direction = 2 * (a @ e if tall else e @ a) / np.linalg.norm(e)
    np.testing.assert_allclose(w.grad, direction, atol=1e-12)
    w.grad = None
    LambdaOrthogonalityLoss(2.0, "gated", beta=0.7)(w).backward()
    delta = np.linalg.norm(e)
    gate = 1 / (1 + math.exp(-0.7 * (delta - 2)))
    np.testing.assert_allclose(w.grad, (gate + delta * 0.7 * gate * (1 - gate)) * direction, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_check_2_orthogonal_matrices(shape: tuple[int, int]) -> None:
    w = orthogonal(shape).float().requires_grad_()
    assert float(orthogonality_distance(w.detach())) < 1e-6
    loss = LambdaOrthogonalityLoss(1.0, "hinge")(w)
    loss.backward()
    assert loss.item() == 0
    assert w.grad is not None
    assert not w.grad.any()


@pytest.mark.parametrize("mode", LAMBDA_MODES)
@pytest.mark.parametrize("lam", [0.0, 1e-300, 1e-8, 1.0, math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_check_2_no_nan_where_the_distance_is_zero(dtype: torch.dtype, lam: float, mode: str) -> None:
    for start in (torch.eye(4, dtype=dtype), torch.eye(5, 3, dtype=dtype), torch.eye(2, 4, dtype=dtype)):
        w = start.requires_grad_()
        loss = LambdaOrthogonalityLoss(lam, mode)(w)
        loss.backward()
        assert math.isfinite(loss.item())
        assert w.grad is not None
        assert not w.grad.any()


@pytest.mark.parametrize("mode", LAMBDA_MODES)
def test_check_3_monotone_in_the_distance(mode: str) -> None:
    loss = LambdaOrthogonalityLoss(1.5, mode)
    scales = np.linspace(1, 3, 60)
    values = [float(loss(s * torch.eye(3, dtype=torch.float64))) for s in scales]
    assert all(b >= a for a, b in itertools.pairwise(values))
    assert values[-1] > values[0] + 1


def test_check_3_gated_is_free_below_and_the_distance_above() -> None:
    loss = LambdaOrthogonalityLoss(1.0, "gated")
    assert float(loss(torch.eye(3))) == 0
    far = 4 * matrix((4, 4))
    delta = float(orthogonality_distance(far))
    assert float(loss(far)) == pytest.approx(delta, rel=1e-12)
    near = orthogonal((4, 4)) * 1.05
    assert float(orthogonality_distance(near)) > 0.2
    assert float(loss(near)) < 1e-3 * float(orthogonality_distance(near))


@pytest.mark.parametrize("seed", range(3))
def test_check_4_descent_on_the_hinge_ends_at_the_threshold(seed: int) -> None:
    w = matrix((6, 6), seed).requires_grad_()
    loss = LambdaOrthogonalityLoss(0.5, "hinge")
    optimizer = torch.optim.SGD([w], lr=0.01)
    for _ in range(600):
        optimizer.zero_grad()
        loss(w).backward()
        optimizer.step()
    delta = float(orthogonality_distance(w.detach()))
    assert 0.3 < delta <= 0.52
    low, high = singular_value_band(delta)
    s = torch.linalg.svdvals(w.detach())
    assert low <= float(s.min())
    assert float(s.max()) <= high


def test_rotations_are_free() -> None:
    """Not W = I is asked for, but W^T W = I."""
    w = orthogonal((5, 5), 3)
    assert float((w - torch.eye(5)).norm()) > 1
    for mode in LAMBDA_MODES[:2]:
        assert float(LambdaOrthogonalityLoss(1.0, mode)(w)) < 1e-12


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_band_holds_and_is_reached(shape: tuple[int, int]) -> None:
    for seed in range(10):
        w = orthogonal(shape, seed) @ torch.diag(0.7 + 0.5 * torch.rand(shape[1], dtype=torch.float64))
        low, high = singular_value_band(float(orthogonality_distance(w)))
        s = torch.linalg.svdvals(w)
        assert low - 1e-12 <= float(s.min())
        assert float(s.max()) <= high + 1e-12
    assert singular_value_band(0.0) == (1.0, 1.0)
    assert singular_value_band(0.75) == (0.5, math.sqrt(1.75))
    assert singular_value_band(math.inf) == (0.0, math.inf)
    for bad in (-0.1, math.nan):
        with pytest.raises(ValueError, match="lam"):
            singular_value_band(bad)


def test_relative_thresholds_do_not_depend_on_the_width() -> None:
    loss = LambdaOrthogonalityLoss(0.5, relative=True)
    per_width = [float(loss(1.3 * torch.eye(d, dtype=torch.float64))) / math.sqrt(d) for d in (4, 400)]
    # delta / sqrt(d) = 0.69 in both, above the relative threshold; beta shrinks with it, so the gate is the same.
    assert loss.threshold(torch.eye(400)) == pytest.approx(10.0)
    assert loss.steepness(torch.eye(4)) == pytest.approx(10.0)
    gates = [1 / (1 + math.exp(-max(1, 10 / (0.5 * r)) * r * (0.69 - 0.5))) for r in (2.0, 20.0)]
    assert per_width == pytest.approx([0.69 * gate for gate in gates])


@pytest.mark.parametrize(("d_old", "d_new"), [(5, 5), (3, 6), (6, 3)])
def test_check_7_procrustes_recovers_a_rotation(d_old: int, d_new: int) -> None:
    rotation = orthogonal((d_old, d_new), 1)
    h_new = matrix((40, d_new), 2)
    if d_old < d_new:
        h_new = h_new @ rotation.T @ rotation  # what the map sees of the wider features
    ours = procrustes_orthogonal(h_new, h_new @ rotation.T)
    torch.testing.assert_close(ours, rotation, rtol=0, atol=1e-10)


def test_procrustes_is_best_among_orthogonal_maps() -> None:
    h_new, h_old = matrix((30, 4), 3), matrix((30, 4), 4)

    def error(w: Tensor) -> float:
        return float((h_new @ w.T - h_old).norm())

    best = procrustes_orthogonal(h_new, h_old)
    assert float(orthogonality_distance(best)) < 1e-12
    assert all(error(best) < error(orthogonal((4, 4), seed)) for seed in range(50))
    skew = matrix((4, 4), 5)
    for step in (1e-3, -1e-3):
        assert error(best) < error(torch.linalg.matrix_exp(step * (skew - skew.T)) @ best)


def test_dtypes_and_refusals() -> None:
    assert procrustes_orthogonal(torch.randn(9, 3).half(), torch.randn(9, 2).half()).dtype == torch.float16
    assert orthogonality_distance(torch.eye(3, dtype=torch.bfloat16)).dtype == torch.float32
    for options, name in (
        ({"lam": -1.0}, "lam"),
        ({"lam": math.nan}, "lam"),
        ({"beta": 0.0}, "beta"),
        ({"beta": -1.0}, "beta"),
        ({"mode": "hard"}, "mode"),
    ):
        with pytest.raises(ValueError, match=name):
            LambdaOrthogonalityLoss(**options)
    for shape in ((3,), (2, 3, 3)):
        with pytest.raises(ValueError, match="weight"):
            orthogonality_distance(torch.zeros(shape))
        with pytest.raises(ValueError, match="weight"):
            LambdaOrthogonalityLoss(math.inf)(torch.zeros(shape))
    for pair in ((torch.zeros(3, 2), torch.zeros(4, 2)), (torch.zeros(3), torch.zeros(3, 2))):
        with pytest.raises(ValueError, match="h_new"):
            procrustes_orthogonal(*pair)
    assert "lam=2" in repr(LambdaOrthogonalityLoss(2.0))
