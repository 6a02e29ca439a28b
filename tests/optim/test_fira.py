"""GaLore and Fira against NumPy float64 loops, their limits, and the builder of parameter groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz import optim
from normviz.optim import fira, galore
from normviz.optim.fira import (
    FiraAdamW,
    FiraRMSProp,
    GaLoreAdamW,
    GaLoreRMSProp,
    LowRankProjector,
    fira_param_groups,
)
from tests.optim.fira_reference import ADAMS, CLASSES, SHAPES, TYPES, Reference, gradients, numpy_adam, run

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
