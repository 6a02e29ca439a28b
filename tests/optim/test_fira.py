"""GaLore and Fira against NumPy float64 loops written from the paper's equations, their limits and their errors.

The loops call torch.linalg.svd: after a refresh a trajectory depends on the signs of the singular vectors.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from normviz import optim
from normviz.optim import fira, galore
from normviz.optim.fira import (
    FiraAdamW,
    FiraRMSProp,
    GaLoreAdamW,
    GaLoreRMSProp,
    LowRankProjector,
    NormGrowthLimiter,
    fira_param_groups,
    norm_scaling_factor,
)

SHAPES = [(8, 5), (5, 8), (6, 6)]
TYPES = ["std", "reverse_std", "left", "right", "full"]
ADAMS = [GaLoreAdamW, FiraAdamW]
CLASSES = [GaLoreAdamW, FiraAdamW, GaLoreRMSProp, FiraRMSProp]


def gradients(shape: tuple[int, ...], steps: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(steps)]


def run(
    make: Callable[..., torch.optim.Optimizer],
    W: Tensor,
    grads: list[Tensor],
    group: dict[str, Any],
    **options: Any,
) -> list[Tensor]:
    """Weights after every step on one parameter."""
    p = nn.Parameter(W.clone())
    optimizer = make([{"params": [p], **group}], **options)
    path = []
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
        path.append(p.detach().clone())
    return path


class Reference:
    """One matrix in NumPy: projection, Adam or RMSProp direction, residual, limiter."""

    def __init__(self, W: Tensor, rank: int, T: int, alpha: float, proj_type: str) -> None:
        self.w = W.numpy().copy()
        rows, cols = self.w.shape
        self.alpha, self.T, self.rank = alpha, T, rank
        wide = rows < cols
        self.left, self.right = {
            "std": (wide, not wide),
            "reverse_std": (not wide, wide),
            "left": (True, False),
            "right": (False, True),
            "full": (True, True),
        }[proj_type]
        self.t = 0
        self.averages: dict[str, Any] = {}
        self.norm = 0.0
        self.quotients: list[float] = []

    def average(self, name: str, keep: float, add: np.ndarray) -> np.ndarray:
        self.averages[name] = keep * self.averages.get(name, 0.0) + add
        return self.averages[name]

    def low_rank(self, grad: np.ndarray) -> np.ndarray:
        if self.t % self.T == 0:
            u, _, vh = (x.numpy() for x in torch.linalg.svd(torch.from_numpy(grad), full_matrices=False))
            rows, cols = grad.shape
            self.P = u[:, : self.rank] if self.left else np.eye(rows)
            self.Q = vh[: self.rank].T if self.right else np.eye(cols)
        self.t += 1
        return self.P.T @ grad @ self.Q

    def adam(self, low: np.ndarray, betas: tuple[float, float], eps: float) -> np.ndarray:
        m = self.average("m", betas[0], (1 - betas[0]) * low)
        v = self.average("v", betas[1], (1 - betas[1]) * low**2)
        return m / (np.sqrt(v) + eps)

    def rmsprop(
        self, low: np.ndarray, beta: float, eps: float, momentum: float, centered: bool
    ) -> np.ndarray:
        v = self.average("v", beta, (1 - beta) * low**2)
        if centered:
            a = self.average("a", beta, (1 - beta) * low)
            v = np.maximum(v - a**2, 0)
        n = low / (np.sqrt(v) + eps)
        return self.average("buf", momentum, n) if momentum > 0 else n

    def back(self, low: np.ndarray, alpha: float) -> np.ndarray:
        return alpha * (self.P @ low @ self.Q.T)

    def residual(
        self, grad: np.ndarray, low: np.ndarray, n: np.ndarray, gamma: float | None, official: bool
    ) -> np.ndarray:
        phi = np.empty_like(grad)
        rows, cols = grad.shape
        if self.left and self.right:
            phi[:] = np.linalg.norm(n) / (np.linalg.norm(low) + 1e-8)
        elif self.left:
            for j in range(cols):
                phi[:, j] = np.linalg.norm(n[:, j]) / (np.linalg.norm(low[:, j]) + 1e-8)
        else:
            for i in range(rows):
                phi[i, :] = np.linalg.norm(n[i, :]) / (np.linalg.norm(low[i, :]) + 1e-8)
        S = phi * (grad - self.back(low, self.alpha if official else 1.0))
        s = np.linalg.norm(S)
        q = max(s / (self.norm + 1e-8), gamma) / gamma if gamma and self.norm > 0 else 1.0
        self.quotients.append(q)
        self.norm = s / q
        return S / q


def numpy_adam(
    W: Tensor,
    grads: list[Tensor],
    *,
    fira: bool,
    rank: int,
    T: int,
    alpha: float,
    proj_type: str,
    lr: float,
    betas: tuple[float, float],
    eps: float = 1e-6,
    wd: float = 0.0,
    gamma: float | None = 1.01,
    official: bool = True,
) -> tuple[list[np.ndarray], Reference]:
    ref, path = Reference(W, rank, T, alpha, proj_type), []
    for g in (g.numpy() for g in grads):
        low = ref.low_rank(g)
        n = ref.adam(low, betas, eps)
        eta = lr * np.sqrt(1 - betas[1] ** ref.t) / (1 - betas[0] ** ref.t)
        D = ref.back(n, alpha)
        if fira:
            D = D + ref.residual(g, low, n, gamma, official)
        ref.w = ref.w - eta * D
        ref.w = ref.w - lr * wd * ref.w
        path.append(ref.w)
    return path, ref


# ------------------------------------------------------------------------------------------- the algorithms


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("proj_type", TYPES)
@pytest.mark.parametrize("make", ADAMS)
def test_adam_versions_equal_numpy_loop(
    make: type[FiraAdamW], proj_type: str, shape: tuple[int, int]
) -> None:
    W, *grads = gradients(shape, 21)
    grads[10] = 20 * grads[10]
    group: dict[str, Any] = {"rank": 3, "update_proj_gap": 3, "alpha": 0.25, "proj_type": proj_type}
    ours = run(make, W, grads, group, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    expected, ref = numpy_adam(
        W,
        grads,
        fira=make is FiraAdamW,
        rank=3,
        T=3,
        alpha=0.25,
        proj_type=proj_type,
        lr=0.01,
        betas=(0.9, 0.99),
        wd=0.1,
    )
    for mine, theirs in zip(ours, expected, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-8, rtol=0)
    if make is FiraAdamW:
        assert max(ref.quotients) > 1.2


@pytest.mark.parametrize("gamma", [None, 1.5])
def test_orthogonal_residual_and_other_limits_equal_numpy_loop(gamma: float | None) -> None:
    W, *grads = gradients((7, 4), 12)
    group: dict[str, Any] = {"rank": 2, "update_proj_gap": 5, "alpha": 0.5}
    ours = run(FiraAdamW, W, grads, group, lr=0.01, gamma=gamma, residual="orthogonal")
    expected, _ = numpy_adam(
        W,
        grads,
        fira=True,
        rank=2,
        T=5,
        alpha=0.5,
        proj_type="std",
        lr=0.01,
        betas=(0.9, 0.999),
        gamma=gamma,
        official=False,
    )
    np.testing.assert_allclose(ours[-1].numpy(), expected[-1], atol=1e-9)
    official = run(FiraAdamW, W, grads, group, lr=0.01, gamma=gamma)[-1]
    assert float((official - ours[-1]).abs().max()) > 1e-4


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("proj_type", ["std", "full"])
@pytest.mark.parametrize("make", [GaLoreRMSProp, FiraRMSProp])
def test_rmsprop_versions_equal_numpy_loop(
    make: type[FiraRMSProp], proj_type: str, momentum: float, centered: bool
) -> None:
    W, *grads = gradients((5, 8), 12)
    # The first centred variance is (b - b^2) R^2 > 0; eps of this size keeps small entries comparable.
    group: dict[str, Any] = {"rank": 3, "update_proj_gap": 4, "alpha": 0.5, "proj_type": proj_type}
    ours = run(make, W, grads, group, lr=0.01, beta=0.8, eps=1e-3, momentum=momentum, centered=centered)
    ref = Reference(W, 3, 4, 0.5, proj_type)
    for mine, g in zip(ours, (g.numpy() for g in grads), strict=True):
        low = ref.low_rank(g)
        n = ref.rmsprop(low, 0.8, 1e-3, momentum, centered)
        D = ref.back(n, 0.5)
        if make is FiraRMSProp:
            D = D + ref.residual(g, low, n, 1.01, True)
        ref.w = ref.w - 0.01 * D
        np.testing.assert_allclose(mine.numpy(), ref.w, atol=1e-9)


@pytest.mark.parametrize("make", ADAMS)
@pytest.mark.parametrize("correct", [True, False])
def test_plain_group_is_hugging_face_adam(make: type[FiraAdamW], correct: bool) -> None:
    W, *grads = gradients((3, 4), 10)
    ours = run(
        make, W, grads, {}, lr=0.02, betas=(0.8, 0.9), eps=0.1, weight_decay=0.3, correct_bias=correct
    )[-1]
    w, m, v = W.numpy().copy(), 0.0, 0.0
    for t, g in enumerate((g.numpy() for g in grads), start=1):
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        eta = 0.02 * np.sqrt(1 - 0.9**t) / (1 - 0.8**t) if correct else 0.02
        w = (w - eta * m / (np.sqrt(v) + 0.1)) * (1 - 0.02 * 0.3)
    np.testing.assert_allclose(ours.numpy(), w, atol=1e-12)


def test_plain_rmsprop_equals_torchs() -> None:
    W, *grads = gradients((3, 4), 10)
    for options in ({}, {"momentum": 0.7}, {"centered": True, "momentum": 0.7}):
        ours = run(FiraRMSProp, W, grads, {}, lr=0.02, beta=0.8, eps=1e-3, **options)[-1]
        p = nn.Parameter(W.clone())
        theirs = torch.optim.RMSprop([p], lr=0.02, alpha=0.8, eps=1e-3, **options)
        for g in grads:
            p.grad = g
            theirs.step()
        torch.testing.assert_close(ours, p.detach(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("group", [{}, {"rank": 3, "update_proj_gap": 500}])
def test_centred_variance_never_turns_negative(group: dict[str, Any]) -> None:
    # A constant gradient has variance 0: rounding leaves v - a^2 slightly negative in about half of the entries.
    W, G = (x.float() for x in gradients((8, 6), 2))
    moved = run(FiraRMSProp, W, [G] * 200, group, centered=True)[-1]
    assert torch.isfinite(moved).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("proj_type", TYPES)
def test_projector_gives_the_truncated_svd(shape: tuple[int, int], proj_type: str) -> None:
    G = gradients(shape, 1)[0]
    projector = LowRankProjector(rank=3, alpha=0.5, proj_type=proj_type)
    R = projector.project(G, 0)
    u, s, vh = np.linalg.svd(G.numpy(), full_matrices=False)
    truncated = (u[:, :3] * s[:3]) @ vh[:3]
    np.testing.assert_allclose(projector.project_back(R, alpha=1.0).numpy(), truncated, atol=1e-12)
    np.testing.assert_allclose(projector.project_back(R).numpy(), 0.5 * truncated, atol=1e-12)
    np.testing.assert_allclose(torch.linalg.svdvals(R).numpy()[:3], s[:3], atol=1e-12)
    np.testing.assert_allclose(torch.linalg.matrix_norm(R).item(), np.sqrt((s[:3] ** 2).sum()), atol=1e-12)


def test_reverse_side_is_kept_when_the_low_rank_shape_is_ambiguous() -> None:
    # m < n and r = m: R (m, r) is square, the released code then multiplies on the wrong side.
    G = gradients((3, 7), 1)[0]
    projector = LowRankProjector(rank=3, proj_type="reverse_std")
    R = projector.project(G, 0)
    assert R.shape == (3, 3)
    torch.testing.assert_close(projector.project_back(R), G, atol=1e-12, rtol=0)


@pytest.mark.parametrize("make", ADAMS)
@pytest.mark.parametrize("proj_type", ["std", "left"])
def test_step_on_the_transpose_is_the_transpose(
    monkeypatch: pytest.MonkeyPatch, make: type[FiraAdamW], proj_type: str
) -> None:
    svd = torch.linalg.svd

    def signed(X: Tensor, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Signs that a transposition does not change."""
        U, S, Vh = svd(X, full_matrices=full_matrices)
        signs = (U.sum(0) * Vh.sum(1)).sign() * (U.sum(0) + Vh.sum(1)).sign()
        return U * signs, S, signs[:, None] * Vh

    monkeypatch.setattr(torch.linalg, "svd", signed)
    W, *grads = gradients((8, 5), 10)
    group: dict[str, Any] = {"rank": 2, "update_proj_gap": 3, "alpha": 0.5}
    other = "right" if proj_type == "left" else proj_type
    straight = run(make, W, grads, {**group, "proj_type": proj_type})
    turned = run(make, W.T, [g.T for g in grads], {**group, "proj_type": other})
    for a, b in zip(straight, turned, strict=True):
        torch.testing.assert_close(a, b.T, atol=1e-11, rtol=0)


def test_galore_moves_in_r_directions_per_basis_and_fira_in_all() -> None:
    W, *grads = gradients((8, 6), 5)
    group = {"rank": 2, "update_proj_gap": 2}
    low = run(GaLoreAdamW, W, grads, group)
    full = run(FiraAdamW, W, grads, group)

    def rank(X: Tensor) -> int:
        return int(torch.linalg.matrix_rank(X, rtol=1e-8))

    assert [rank(w - W) for w in low] == [2, 2, 4, 4]
    assert [rank(w - W) for w in full] == [6, 6, 6, 6]


def test_residuals_agree_for_alpha_one() -> None:
    W, *grads = gradients((6, 4), 9)
    group = {"rank": 2, "update_proj_gap": 4, "alpha": 1.0}
    official, orthogonal = (
        run(FiraAdamW, W, grads, group, residual=residual)[-1] for residual in ("official", "orthogonal")
    )
    torch.testing.assert_close(official, orthogonal, atol=1e-12, rtol=0)


def test_full_rank_fira_is_galore() -> None:
    W, *grads = gradients((6, 4), 9)
    group = {"rank": 4, "update_proj_gap": 3, "alpha": 1.0}
    with_residual = run(FiraAdamW, W, grads, group)[-1]
    torch.testing.assert_close(with_residual, run(GaLoreAdamW, W, grads, group)[-1], atol=1e-10, rtol=0)


@pytest.mark.parametrize("make", CLASSES)
def test_identity_basis_of_full_rank_is_the_plain_rule(
    monkeypatch: pytest.MonkeyPatch, make: type[FiraAdamW]
) -> None:
    def identity(X: Tensor, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        m, n = X.shape
        k = min(m, n)
        return torch.eye(m, k, dtype=X.dtype), torch.ones(k, dtype=X.dtype), torch.eye(k, n, dtype=X.dtype)

    monkeypatch.setattr(torch.linalg, "svd", identity)
    W, *grads = gradients((6, 4), 9)
    projected = run(make, W, grads, {"rank": 4, "update_proj_gap": 2})[-1]
    torch.testing.assert_close(projected, run(make, W, grads, {})[-1], atol=1e-12, rtol=0)


# --------------------------------------------------------------------------------------- scaling and limiter


def test_scaling_factor_by_hand() -> None:
    N = torch.tensor([[3.0, 0.0], [4.0, 1.0]])
    R = torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    torch.testing.assert_close(norm_scaling_factor(N, R, "left", eps=0.5), torch.tensor([[5 / 2.5, 1 / 4.5]]))
    torch.testing.assert_close(
        norm_scaling_factor(N, R, "right", eps=0.5), torch.tensor([[3 / 0.5], [17**0.5 / (20**0.5 + 0.5)]])
    )
    torch.testing.assert_close(
        norm_scaling_factor(N, R, "full", eps=0.5), torch.tensor([[26**0.5 / (20**0.5 + 0.5)]])
    )
    assert float(norm_scaling_factor(N, R, "right")[0]) == pytest.approx(3e8)
    zero = torch.zeros(2, 2)
    assert torch.equal(norm_scaling_factor(zero, zero, "full"), torch.zeros(1, 1))


@pytest.mark.parametrize("side", ["left", "right", "full"])
def test_scaling_factor_under_vmap_compile_and_half(side: str) -> None:
    N, R = (torch.stack(gradients((3, 4), 5, seed)) for seed in (0, 1))  # (5, 3, 4)
    each = torch.stack([norm_scaling_factor(n, r, side) for n, r in zip(N, R, strict=True)])
    mapped = torch.func.vmap(lambda n, r: norm_scaling_factor(n, r, side))(N, R)
    compiled = torch.compile(norm_scaling_factor, fullgraph=True, backend="aot_eager")(N, R, side)
    for other in (mapped, compiled, norm_scaling_factor(N, R, side)):
        torch.testing.assert_close(other, each, atol=1e-12, rtol=0)
    half = norm_scaling_factor(N.bfloat16(), R.bfloat16(), side)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), each, atol=0.02, rtol=0.02)
    with pytest.raises(ValueError, match="side"):
        norm_scaling_factor(N, R, "top")


def test_limiter_by_hand() -> None:
    limiter = NormGrowthLimiter(gamma=1.5)
    S = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    first, norm = limiter(S)
    assert torch.equal(first, S)
    assert norm.shape == ()
    assert float(norm) == 5.0
    limited, norm = limiter(S, 2.0)
    assert float(norm) == pytest.approx(3.0, rel=1e-7)
    torch.testing.assert_close(limited, S * 0.6, atol=1e-7, rtol=0)
    torch.testing.assert_close(limiter(S, torch.tensor(2.0))[0], limited, atol=0, rtol=0)
    # Growth within the limit, and any decrease, pass untouched.
    for prev in (4.0, 5.0, 1e6):
        same, norm = limiter(S, prev)
        assert torch.equal(same, S)
        assert float(norm) == 5.0
    # A stored norm of 0 counts as no norm.
    assert torch.equal(limiter(S, 0.0)[0], S)
    assert torch.equal(limiter(S, torch.tensor(0.0))[0], S)


@settings(max_examples=25, deadline=None)
@given(
    gamma=st.floats(1.0, 1.5),
    scales=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=12),
)
def test_stored_norm_grows_at_most_geometrically(gamma: float, scales: list[float]) -> None:
    limiter, norm = NormGrowthLimiter(gamma), None
    S = gradients((3, 2), 1)[0]
    S = S / S.norm()
    stored = []
    for scale in scales:
        limited, norm = limiter(scale * S, norm)
        assert float(limited.norm()) == pytest.approx(float(norm), rel=1e-9)
        stored.append(float(norm))
    for k, (scale, now) in enumerate(zip(scales, stored, strict=True)):
        assert now <= gamma**k * stored[0] * (
            1 + 1e-4
        )  # the 1e-8 beside the previous norm adds up to 1e-5 a step
        if k and scale <= stored[k - 1]:
            assert now == pytest.approx(scale, rel=1e-12)


@pytest.mark.parametrize("gamma", [None, float("inf")])
def test_limiter_off(gamma: float | None) -> None:
    S = torch.ones(2, 2)
    same, norm = NormGrowthLimiter(gamma)(S, 1e-3)
    assert torch.equal(same, S)
    assert float(norm) == 2.0


def test_limiter_under_vmap_compile_and_half() -> None:
    limiter = NormGrowthLimiter(1.1)
    S = torch.stack(gradients((3, 4), 5))
    prev = torch.tensor([0.0, 1e-3, 1.0, 3.0, 100.0], dtype=torch.float64)
    each = [limiter(s, p) for s, p in zip(S, prev, strict=True)]
    mapped = torch.func.vmap(limiter)(S, prev)
    compiled = torch.compile(limiter.__call__, fullgraph=True, backend="aot_eager")
    for i, (limited, norm) in enumerate(each):
        for other, other_norm in ((mapped[0][i], mapped[1][i]), compiled(S[i], prev[i])):
            torch.testing.assert_close(other, limited, atol=1e-12, rtol=0)
            torch.testing.assert_close(other_norm, norm, atol=1e-12, rtol=0)
    half, norm = limiter(S[2].bfloat16(), 1.0)
    assert half.dtype == torch.bfloat16
    assert norm.dtype == torch.float32
    assert float(norm) == pytest.approx(1.1, rel=1e-5)
    assert repr(limiter) == "NormGrowthLimiter(gamma=1.1)"


def test_no_limit_and_infinite_limit_agree_and_differ_from_the_default() -> None:
    W, *grads = gradients((6, 4), 8)
    off, infinite, default = (
        run(FiraAdamW, W, grads, {"rank": 2, "gamma": gamma})[-1] for gamma in (None, float("inf"), 1.01)
    )
    assert torch.equal(off, infinite)
    assert not torch.equal(off, default)


def test_stored_norm_is_that_of_the_limited_residual() -> None:
    p = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    grads = gradients((6, 4), 8)
    grads[4] = 20 * grads[4]
    galore_path = run(GaLoreAdamW, p.detach(), grads, {"rank": 2}, lr=1.0, correct_bias=False)
    optimizer = FiraAdamW([{"params": [p], "rank": 2}], lr=1.0, correct_bias=False)
    before, inside_before, norms = p.detach().clone(), torch.zeros_like(p), []
    for g, inside in zip(grads, galore_path, strict=True):
        p.grad = g
        optimizer.step()
        # Without feedback from the weights GaLore makes the same low-rank step, so the difference is S.
        S = (before - p.detach()) - (inside_before - inside)
        norms.append(float(optimizer.state[p]["limiter_norm"]))
        assert float(S.norm()) == pytest.approx(norms[-1], rel=1e-9)
        before, inside_before = p.detach().clone(), inside
    assert all(later <= 1.01 * earlier * (1 + 1e-6) for earlier, later in pairwise(norms))


@pytest.mark.parametrize("zeros", [[0], [0, 1], [3]])
def test_zero_gradient_does_not_freeze_the_residual(zeros: list[int]) -> None:
    W, *grads = gradients((6, 4), 6)
    for t in zeros:
        grads[t] = torch.zeros_like(W)
    p = nn.Parameter(W.clone())
    optimizer = FiraAdamW([{"params": [p], "rank": 2, "update_proj_gap": 2}], lr=0.1)
    for t, g in enumerate(grads):
        before, p.grad = p.detach().clone(), g
        optimizer.step()
        norm = float(optimizer.state[p]["limiter_norm"])
        assert torch.isfinite(p).all()
        if t in zeros:
            assert norm == 0.0
            if t == 0:
                assert torch.equal(p, before)
        elif t - 1 in zeros:
            assert norm > 0.1  # treated as the first step: the released rule would store about 1e-8


def test_dead_column_is_bounded_by_the_limiter() -> None:
    W, *grads = gradients((3, 6), 8)
    p = nn.Parameter(W.clone())
    optimizer = FiraAdamW([{"params": [p], "rank": 1, "update_proj_gap": 100}], lr=0.1)
    norms = []
    for t, g in enumerate(grads):
        if t >= 3:  # column 0 leaves the subspace, but not the residual
            u = optimizer.state[p]["basis"]
            g[:, :1] = g[:, :1] - u @ (u.T @ g[:, :1])
        p.grad = g
        optimizer.step()
        norms.append(float(optimizer.state[p]["limiter_norm"]))
    assert torch.isfinite(p).all()
    assert norms[-1] <= 1.01**7 * norms[0] * (1 + 1e-6)


# ------------------------------------------------------------------------------------ state, batches, types


def mixed(make: type[FiraAdamW]) -> tuple[list[nn.Parameter], FiraAdamW]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 6), (4, 6), (6, 4), (5, 5), (4,), (3, 2)]
    params = [nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
    groups = [
        {"params": params[:2], "rank": 2, "update_proj_gap": 3, "alpha": 0.5},
        {"params": params[2:4], "rank": 2, "update_proj_gap": 3, "proj_type": "full"},
        {"params": params[4:]},
    ]
    extra = (
        {"momentum": 0.5, "centered": True, "eps": 1e-3}
        if "RMSProp" in make.__name__
        else {"weight_decay": 0.1}
    )
    return params, make(groups, lr=0.01, **extra)


def advance(params: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
    for t in steps:
        generator = torch.Generator().manual_seed(100 + t)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()


@pytest.mark.parametrize("cut", [3, 4])
@pytest.mark.parametrize("make", CLASSES)
def test_state_dict_resumes_bit_for_bit_across_refreshes(make: type[FiraAdamW], cut: int) -> None:
    params, optimizer = mixed(make)
    advance(params, optimizer, range(cut))
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    resumed, second = mixed(make)
    with torch.no_grad():
        for p, q in zip(resumed, params, strict=True):
            p.copy_(q)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    copied, third = copy.deepcopy((params, optimizer))
    for group, opt in ((params, optimizer), (resumed, second), (copied, third)):
        advance(group, opt, range(cut, 8))
    for p, q, r in zip(params, resumed, copied, strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p, r)


@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
@pytest.mark.parametrize("make", ADAMS)
def test_state_memory_is_the_papers_formula(make: type[FiraAdamW], shape: tuple[int, int]) -> None:
    rank = 3
    params = [nn.Parameter(g.float()) for g in gradients(shape, 2)]
    optimizer = make([{"params": params, "rank": rank, "update_proj_gap": 2}])
    for t in range(3):
        for p in params:
            p.grad = gradients(shape, 1, seed=t)[0].float()
        optimizer.step()
    numbers = 2 * rank * max(shape) + rank * min(shape) + (1 if make is FiraAdamW else 0)
    for p in params:
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(optimizer, p)
        }
        assert sum(storages.values()) == 4 * numbers
        assert optimizer.state[p]["step"] == 3


def tensors(optimizer: torch.optim.Optimizer, p: Tensor) -> list[Tensor]:
    return [value for value in optimizer.state[p].values() if isinstance(value, Tensor)]


def test_state_keys() -> None:
    keys = {
        GaLoreAdamW: {"step", "exp_avg", "exp_avg_sq"},
        FiraAdamW: {"step", "exp_avg", "exp_avg_sq"},
        GaLoreRMSProp: {"step", "square_avg", "grad_avg", "momentum_buffer"},
        FiraRMSProp: {"step", "square_avg", "grad_avg", "momentum_buffer"},
    }
    for make, plain in keys.items():
        params, optimizer = mixed(make)
        advance(params, optimizer, range(2))
        limiter = {"limiter_norm"} if make in (FiraAdamW, FiraRMSProp) else set()
        assert set(optimizer.state[params[0]]) == plain | limiter | {"basis"}
        assert set(optimizer.state[params[2]]) == plain | limiter | {"basis_left", "basis_right"}
        assert set(optimizer.state[params[4]]) == plain
        for state in optimizer.state.values():
            assert all(isinstance(value, Tensor | int) for value in state.values())


@pytest.mark.parametrize("make", CLASSES)
def test_batch_equals_each_alone_with_its_own_counter(make: type[FiraAdamW]) -> None:
    grads = [gradients((4, 6), 7, seed) for seed in range(3)]
    skipped = {(1, 0), (1, 1), (2, 4)}  # (parameter, step) without a gradient
    params = [nn.Parameter(torch.zeros(4, 6, dtype=torch.float64)) for _ in range(3)]
    group = {"rank": 2, "update_proj_gap": 3, "alpha": 0.5}
    together = make([{"params": params, **group}])
    for t in range(7):
        for i, p in enumerate(params):
            p.grad = None if (i, t) in skipped else grads[i][t]
        together.step()
    for i, p in enumerate(params):
        seen = [g for t, g in enumerate(grads[i]) if (i, t) not in skipped]
        alone = run(make, torch.zeros(4, 6, dtype=torch.float64), seen, group)[-1]
        torch.testing.assert_close(p.detach(), alone, atol=1e-12, rtol=0)
        assert together.state[p]["step"] == len(seen)


def test_kernel_is_read_as_out_by_rest_and_groups_may_differ() -> None:
    W, *grads = gradients((4, 2, 3), 5)
    group = {"rank": 2, "update_proj_gap": 2, "gamma": 1.2, "residual": "orthogonal", "alpha": 0.5}
    kernel = run(FiraAdamW, W, grads, group)[-1]
    matrix = run(FiraAdamW, W.flatten(1), [g.flatten(1) for g in grads], group)[-1]
    torch.testing.assert_close(kernel.flatten(1), matrix, atol=1e-12, rtol=0)
    default = run(FiraAdamW, W, grads, {"rank": 2, "update_proj_gap": 2, "alpha": 0.5})[-1]
    assert not torch.equal(default, kernel)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", CLASSES)
def test_half_parameters_follow_float32(make: type[FiraAdamW], dtype: torch.dtype) -> None:
    W, *grads = ((0.25 * g).to(dtype) for g in gradients((4, 6), 5))
    group = {"rank": 2, "update_proj_gap": 10, "alpha": 0.5}
    half = run(make, W, grads, group, lr=0.01)[-1]
    full = run(make, W.float(), [g.float() for g in grads], group, lr=0.01)[-1]
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), full, atol=0.03, rtol=0.03)


def test_half_state_resumes_bit_for_bit() -> None:
    W, *grads = (g.bfloat16() for g in gradients((4, 6), 7))
    p = nn.Parameter(W.clone())
    group = {"rank": 2, "update_proj_gap": 5}
    optimizer = FiraAdamW([{"params": [p], **group}], lr=0.1)
    for t, g in enumerate(grads):
        if t == 3:
            saved, q = copy.deepcopy(optimizer.state_dict()), nn.Parameter(p.detach().clone())
        p.grad = g
        optimizer.step()
    second = FiraAdamW([{"params": [q], **group}], lr=0.1)
    second.load_state_dict(saved)
    for g in grads[3:]:
        q.grad = g
        second.step()
    assert torch.equal(p, q)


def test_autocast_changes_nothing() -> None:
    W, *grads = (g.float() for g in gradients((4, 6), 4))
    outside = run(FiraAdamW, W, grads, {"rank": 2, "update_proj_gap": 2})[-1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run(FiraAdamW, W, grads, {"rank": 2, "update_proj_gap": 2})[-1]
    assert torch.equal(outside, inside)


def test_closure_runs_with_gradients_and_scheduler_sets_the_rate() -> None:
    p = nn.Parameter(torch.ones(3, 2))
    optimizer = FiraAdamW([{"params": [p], "rank": 1}], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.0)

    def closure() -> float:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 6.0
    moved = p.detach().clone()
    assert not torch.equal(moved, torch.ones(3, 2))
    scheduler.step()
    optimizer.step(closure)
    assert torch.equal(p, moved)


def test_basis_does_not_keep_the_whole_factor_alive() -> None:
    projector = LowRankProjector(rank=2)
    for shape in ((6, 9), (9, 6)):
        projector.project(gradients(shape, 1)[0], 0)
        assert isinstance(projector.basis, Tensor)
        assert projector.basis.untyped_storage().nbytes() == 8 * 2 * 6


@pytest.mark.parametrize("proj_type", TYPES)
def test_projector_state_round_trip(proj_type: str) -> None:
    G, X = gradients((5, 3), 2)
    first = LowRankProjector(2, proj_type=proj_type)
    second = LowRankProjector(2, proj_type=proj_type)
    second.load_state_dict(first.state_dict())
    first.project(G, 200)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    R = first.project(X, 201)
    assert first.last_refresh == second.last_refresh == 200
    torch.testing.assert_close(second.project(X, 201), R, atol=0, rtol=0)
    torch.testing.assert_close(second.project_back(R), first.project_back(R), atol=0, rtol=0)
    assert not torch.equal(first.project(X, 400), R)


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"rank": 0}, "rank"),
        ({"rank": 2.0}, "rank"),
        ({"rank": True}, "rank"),
        ({"rank": 2, "update_proj_gap": 0}, "update_proj_gap"),
        ({"rank": 2, "alpha": 0.0}, "alpha"),
        ({"rank": 2, "proj_type": "both"}, "proj_type"),
    ],
)
def test_bad_projections_raise_everywhere(options: dict[str, Any], name: str) -> None:
    p, q = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    for make in CLASSES:
        with pytest.raises(ValueError, match=name):
            make([{"params": [p], **options}])
    optimizer = FiraAdamW([q])
    with pytest.raises(ValueError, match=name):
        optimizer.add_param_group({"params": [p], **options})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match=name):
        LowRankProjector(**options)
    with pytest.raises(ValueError, match=name):
        fira_param_groups(nn.Linear(2, 2), **options)


@pytest.mark.parametrize(
    ("makes", "options", "name"),
    [
        (CLASSES, {"lr": -1.0}, "lr"),
        (CLASSES, {"eps": -1.0}, "eps"),
        (ADAMS, {"weight_decay": -1.0}, "weight_decay"),
        (ADAMS, {"betas": (0.9, 1.0)}, "betas"),
        (CLASSES[2:], {"beta": 1.0}, "beta"),
        (CLASSES[2:], {"momentum": -0.1}, "momentum"),
        ([FiraAdamW, FiraRMSProp], {"gamma": 0.99}, "gamma"),
        ([FiraAdamW, FiraRMSProp], {"gamma": float("nan")}, "gamma"),
        ([FiraAdamW, FiraRMSProp], {"residual": "paper"}, "residual"),
    ],
)
def test_bad_options_raise(makes: list[type[FiraAdamW]], options: dict[str, Any], name: str) -> None:
    for make in makes:
        for group in ({}, {"rank": 2}):
            with pytest.raises(ValueError, match=name):
                make([{"params": [nn.Parameter(torch.ones(3, 4))], **group}], **options)
            with pytest.raises(ValueError, match=name):
                make([{"params": [nn.Parameter(torch.ones(3, 4))], **group, **options}])


@pytest.mark.parametrize("make", CLASSES[2:])
def test_rmsprop_takes_no_weight_decay(make: type[FiraRMSProp]) -> None:
    p = nn.Parameter(torch.ones(3, 4))
    for group in ({}, {"rank": 2}):
        with pytest.raises(ValueError, match="weight_decay"):
            make([{"params": [p], "weight_decay": 0.1, **group}])
        make([{"params": [p], "weight_decay": 0.0, **group}])
    with pytest.raises(TypeError):
        make([p], weight_decay=0.1)


def test_limiter_and_projector_refuse_bad_arguments() -> None:
    for gamma in (0.5, float("nan"), "1.01", True):
        with pytest.raises(ValueError, match="gamma"):
            NormGrowthLimiter(gamma)
    projector = LowRankProjector(2)
    with pytest.raises(RuntimeError, match="no basis"):
        projector.project_back(torch.eye(2))
    with pytest.raises(ValueError, match="2 axes"):
        projector.project(torch.ones(2, 2, 2), 0)
    with pytest.raises(ValueError, match="step"):
        projector.project(torch.eye(2), -1)
    with pytest.raises(RuntimeError, match="nan or inf"):
        projector.project(torch.full((2, 2), float("nan")), 0)


@pytest.mark.parametrize("make", CLASSES)
def test_projected_vectors_sparse_and_complex_gradients_are_refused(make: type[FiraAdamW]) -> None:
    with pytest.raises(ValueError, match="at least 2 axes"):
        make([{"params": [nn.Parameter(torch.ones(3))], "rank": 1}])
    for group in ({}, {"rank": 2}):
        p = nn.Parameter(torch.ones(3, 2))
        p.grad = torch.eye(3, 2).to_sparse()
        with pytest.raises(RuntimeError, match="sparse"):
            make([{"params": [p], **group}]).step()
        assert torch.equal(p, torch.ones(3, 2))
        z = nn.Parameter(torch.ones(3, 2, dtype=torch.complex64))
        z.grad = torch.ones_like(z)
        with pytest.raises(RuntimeError, match="complex"):
            make([{"params": [z], **group}]).step()


@pytest.mark.parametrize("make", CLASSES)
def test_non_finite_gradient_at_a_refresh_raises_before_anything_changes(make: type[FiraAdamW]) -> None:
    params = [nn.Parameter(g) for g in gradients((4, 3), 2)]
    optimizer = make([{"params": params, "rank": 2, "update_proj_gap": 1}])
    before = copy.deepcopy(params)
    params[0].grad, params[1].grad = torch.ones_like(params[0]), torch.full_like(params[1], float("inf"))
    with pytest.raises(RuntimeError, match=r"parameter 1 of shape \(4, 3\)"):
        optimizer.step()
    assert torch.equal(params[0], before[0])
    assert torch.equal(params[1], before[1])
    assert not any(optimizer.state[p] for p in params)


@pytest.mark.parametrize("make", CLASSES)
def test_missing_gradient_changes_neither_weight_nor_counter(make: type[FiraAdamW]) -> None:
    params, optimizer = mixed(make)
    advance(params, optimizer, range(1))
    before = params[0].detach().clone()
    params[0].grad = None
    optimizer.step()
    assert torch.equal(params[0], before)
    assert (optimizer.state[params[0]]["step"], optimizer.state[params[1]]["step"]) == (1, 2)


@pytest.mark.parametrize("make", CLASSES)
def test_too_large_rank_is_clipped_with_one_warning_per_parameter(make: type[FiraAdamW]) -> None:
    W, *grads = gradients((5, 3), 5)
    params = [nn.Parameter(W.clone()), nn.Parameter(torch.zeros(9, 9)), nn.Parameter(W.T.clone())]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = make([{"params": params, "rank": 7, "update_proj_gap": 2}])
        for g in grads:
            params[0].grad = g
            optimizer.step()
    assert [w.category for w in caught] == [UserWarning, UserWarning]
    assert all("rank 7" in str(w.message) for w in caught)
    assert ["parameter 0" in str(caught[0].message), "parameter 2" in str(caught[1].message)] == [True, True]
    expected = run(make, W, grads, {"rank": 3, "update_proj_gap": 2})[-1]
    torch.testing.assert_close(params[0].detach(), expected, atol=1e-12, rtol=0)


def test_projector_clips_with_one_warning() -> None:
    projector = LowRankProjector(7, update_proj_gap=1)
    G = gradients((5, 3), 1)[0]
    with pytest.warns(UserWarning, match="rank 7"):
        R = projector.project(G, 0)
    assert R.shape == (5, 3)
    assert projector.project(G, 1).shape == (5, 3)  # a second warning would be an error


# ------------------------------------------------------------------------------------------------- builder


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.attn_out = nn.Linear(8, 8, bias=False)
        self.mlp = nn.Linear(8, 16)
        self.head = nn.Linear(8, 10, bias=False)


def test_builder_splits_by_module_name_and_defaults_match_the_projector() -> None:
    model = Block()
    projected, plain = fira_param_groups(model)
    assert projected["params"] == [model.attn_out.weight, model.mlp.weight]
    assert {k: v for k, v in projected.items() if k != "params"} == {
        "rank": 8,
        "update_proj_gap": 200,
        "alpha": 0.25,
        "proj_type": "std",
    }
    assert {id(p) for p in plain["params"]} == {
        id(p) for p in (model.embed.weight, model.mlp.bias, model.head.weight)
    }
    every, _ = fira_param_groups(model, targets=None, rank=2)
    assert every["params"] == [model.attn_out.weight, model.mlp.weight]
    bare = FiraAdamW([{"params": [nn.Parameter(torch.ones(3, 4))], "rank": 2}]).param_groups[0]
    assert (bare["update_proj_gap"], bare["alpha"], bare["proj_type"]) == (200, 1.0, "std")
    for make in CLASSES:
        make(fira_param_groups(model, rank=2))


def test_names_are_exported_everywhere() -> None:
    for name in fira.__all__:
        assert getattr(optim, name) is getattr(fira, name)
    assert fira.GaLoreAdamW is galore.GaLoreAdamW
