"""State of GaLore and Fira: resuming, memory, batches of matrices, half precision, closures."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from normviz.optim.fira import (
    FiraAdamW,
    FiraRMSProp,
    GaLoreAdamW,
    GaLoreRMSProp,
    LowRankProjector,
)
from tests.optim.fira_reference import ADAMS, CLASSES, TYPES, advance, gradients, mixed, run


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
