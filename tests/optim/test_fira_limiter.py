"""Fira's scaling factor and its limiter of norm growth, by hand and as properties."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normviz.optim.fira import (
    FiraAdamW,
    GaLoreAdamW,
    NormGrowthLimiter,
    norm_scaling_factor,
)
from tests.optim.fira_reference import gradients, run


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
