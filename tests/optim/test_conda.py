"""Conda against a NumPy float64 loop written from the paper's equations, and its limits, invariances and errors."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from normviz.optim import Conda as ExportedConda
from normviz.optim.conda import Conda, OrthogonalProjector, conda_param_groups

SHAPES = [(7, 4), (4, 7), (5, 5), (1, 6), (6, 1)]
TYPES = ["std", "reverse_std", "left", "right", "full"]


def gradients(shape: tuple[int, ...], steps: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(steps)]


def run(W: Tensor, grads: list[Tensor], group: dict[str, Any] | None = None, **options: Any) -> list[Tensor]:
    """Weights after every step of Conda on one parameter."""
    p = nn.Parameter(W.clone())
    optimizer = Conda([{"params": [p], **(group or {})}], **options)
    path = []
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
        path.append(p.detach().clone())
    return path


def numpy_conda(
    W: Tensor,
    grads: list[Tensor],
    *,
    T: int,
    proj_type: str = "std",
    scale: float = 0.25,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    wd: float = 0.0,
    correct_bias: bool = True,
) -> list[np.ndarray]:
    w = W.numpy().copy()
    rows, cols = w.shape
    momentum = np.zeros_like(w)
    second: np.ndarray | float = 0.0
    left, right = {
        "std": (rows < cols, rows >= cols),
        "reverse_std": (rows >= cols, rows < cols),
        "left": (True, False),
        "right": (False, True),
        "full": (True, True),
    }[proj_type]
    path = []
    for t, grad in enumerate(g.numpy() for g in grads):
        momentum = betas[0] * momentum + (1 - betas[0]) * grad
        if t % T == 0:
            u, _, vh = np.linalg.svd(momentum, full_matrices=False)
            P = u if left else np.eye(rows)
            Q = vh.T if right else np.eye(cols)
        rotated = P.T @ grad @ Q
        second = betas[1] * second + (1 - betas[1]) * rotated**2
        eta = lr
        if correct_bias:
            eta *= np.sqrt(1 - betas[1] ** (t + 1)) / (1 - betas[0] ** (t + 1))
        w = w - eta * scale * (P @ ((P.T @ momentum @ Q) / (np.sqrt(second) + eps)) @ Q.T)
        w = w - lr * wd * w
        path.append(w)
    return path


def numpy_hf_adam(
    W: Tensor, grads: list[Tensor], lr: float, b1: float, b2: float, eps: float, wd: float, correct: bool
) -> np.ndarray:
    w, m, v = W.numpy().copy(), 0.0, 0.0
    for t, g in enumerate((g.numpy() for g in grads), start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        eta = lr * np.sqrt(1 - b2**t) / (1 - b1**t) if correct else lr
        w = w - eta * m / (np.sqrt(v) + eps)
        w = w - lr * wd * w
    return w


# ------------------------------------------------------------------------------------------- the algorithm


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("proj_type", TYPES)
def test_equals_numpy_loop(shape: tuple[int, int], proj_type: str) -> None:
    W, *grads = gradients(shape, 21)
    options: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-4 if proj_type == "full" else 1e-8}
    ours = run(W, grads, {"update_proj_gap": 3, "proj_type": proj_type}, weight_decay=0.1, **options)
    reference = numpy_conda(W, grads, T=3, proj_type=proj_type, wd=0.1, **options)
    for mine, expected in zip(ours, reference, strict=True):
        np.testing.assert_allclose(mine.numpy(), expected, atol=1e-8, rtol=0)


def test_without_bias_correction_equals_numpy_loop() -> None:
    W, *grads = gradients((4, 6), 8)
    group = {"update_proj_gap": 4, "scale": 0.7}
    ours = run(W, grads, group, lr=0.02, correct_bias=False)[-1]
    expected = numpy_conda(W, grads, T=4, scale=0.7, lr=0.02, correct_bias=False)[-1]
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6)])
def test_basis_is_orthogonal_on_the_short_side_and_loses_nothing(shape: tuple[int, int]) -> None:
    G = gradients(shape, 1)[0].float()
    projector = OrthogonalProjector(scale=1.0)
    projector.refresh(G, 0)
    B = projector.basis
    assert isinstance(B, Tensor)
    assert B.shape == (min(shape), min(shape))
    torch.testing.assert_close(B @ B.T, torch.eye(min(shape)), atol=1e-6, rtol=0)
    X = gradients(shape, 1, seed=5)[0].float()
    Xp = projector.project(X)
    assert Xp.shape == X.shape
    torch.testing.assert_close(Xp.norm(), X.norm(), rtol=1e-6, atol=0)
    torch.testing.assert_close(projector.project_back(Xp), X, atol=1e-5, rtol=0)


def test_refreshes_exactly_at_multiples_of_the_gap() -> None:
    p = nn.Parameter(gradients((4, 3), 1)[0])
    optimizer = Conda([{"params": [p], "update_proj_gap": 3}])
    projector = OrthogonalProjector(update_proj_gap=3)
    changed, refreshed, before = [], [], None
    for t, g in enumerate(gradients((4, 3), 8, seed=1)):
        p.grad = g
        optimizer.step()
        basis = optimizer.state[p]["basis"].clone()
        if before is None or not torch.equal(basis, before):
            changed.append(t)
        before = basis
        if projector.refresh(optimizer.state[p]["exp_avg"], t):
            refreshed.append(t)
        torch.testing.assert_close(projector.basis, basis, atol=0, rtol=0)
    assert changed == refreshed == [0, 3, 6]
    assert projector.last_refresh == 6


def test_projector_refreshes_off_schedule_when_it_has_no_basis() -> None:
    projector = OrthogonalProjector(update_proj_gap=10)
    assert projector.refresh(torch.eye(2), 7)
    assert not projector.refresh(torch.eye(2), 8)


@pytest.mark.parametrize("shape", [(3, 6), (6, 3)])
def test_first_direction_is_the_rotated_sign(shape: tuple[int, int]) -> None:
    W, G = gradients(shape, 2)
    moved = run(W, [G], {"update_proj_gap": 5, "scale": 0.3}, lr=0.1, eps=0.0)[0]
    U, _, Vh = np.linalg.svd(G.numpy(), full_matrices=False)
    D = U @ np.sign(U.T @ G.numpy()) if shape[0] < shape[1] else np.sign(G.numpy() @ Vh.T) @ Vh
    np.testing.assert_allclose((W - moved).numpy() / 0.1, 0.3 * D, atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(m=st.integers(1, 9), n=st.integers(1, 9), scale=st.floats(0.1, 2.0), seed=st.integers(0, 99))
def test_first_direction_has_norm_scale_root_mn(m: int, n: int, scale: float, seed: int) -> None:
    W, G = gradients((m, n), 2, seed)
    moved = run(W, [G], {"update_proj_gap": 5, "scale": scale}, lr=1.0, eps=0.0)[0]
    assert float((W - moved).norm()) == pytest.approx(scale * np.sqrt(m * n), rel=1e-9)


def test_identity_basis_gives_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(X: Tensor, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        m, n = X.shape
        k = min(m, n)
        return torch.eye(m, k, dtype=X.dtype), torch.ones(k, dtype=X.dtype), torch.eye(k, n, dtype=X.dtype)

    W, *grads = gradients((5, 4), 10)
    monkeypatch.setattr(torch.linalg, "svd", identity)
    projected = run(W, grads, {"update_proj_gap": 2, "scale": 1.0}, weight_decay=0.1)
    plain = run(W, grads, weight_decay=0.1)
    for a, b in zip(projected, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("proj_type", ["std", "reverse_std"])
def test_signs_of_singular_vectors_do_not_matter(monkeypatch: pytest.MonkeyPatch, proj_type: str) -> None:
    W, *grads = gradients((5, 7), 8)
    group = {"update_proj_gap": 2, "proj_type": proj_type}
    expected = run(W, grads, group)
    svd, generator = torch.linalg.svd, torch.Generator().manual_seed(3)
    flipped = []

    def flip(X: Tensor, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        U, S, Vh = svd(X, full_matrices=full_matrices)
        signs = torch.randint(0, 2, S.shape, generator=generator).to(X.dtype) * 2 - 1
        flipped.append(int((signs < 0).sum()))
        return U * signs, S, signs[:, None] * Vh

    monkeypatch.setattr(torch.linalg, "svd", flip)
    for a, b in zip(run(W, grads, group), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    assert sum(flipped) > 0


@pytest.mark.parametrize("proj_type", ["std", "reverse_std", "left"])
def test_step_on_the_transpose_is_the_transpose(proj_type: str) -> None:
    W, *grads = gradients((6, 4), 8)
    other = {"std": "std", "reverse_std": "reverse_std", "left": "right"}[proj_type]
    straight = run(W, grads, {"update_proj_gap": 3, "proj_type": proj_type})
    turned = run(W.T, [g.T for g in grads], {"update_proj_gap": 3, "proj_type": other})
    for a, b in zip(straight, turned, strict=True):
        torch.testing.assert_close(a, b.T, atol=1e-10, rtol=0)


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("group", [{}, {"update_proj_gap": None, "scale": 0.25}])
def test_plain_group_is_hugging_face_adam(group: dict[str, Any], correct: bool) -> None:
    W, *grads = gradients((3, 4), 12)
    # An eps as large as the gradients shows on which side of the bias correction it stands.
    options: dict[str, Any] = {"lr": 0.02, "betas": (0.8, 0.9), "eps": 0.1, "weight_decay": 0.3}
    ours = run(W, grads, group, correct_bias=correct, **options)[-1]
    expected = numpy_hf_adam(W, grads, 0.02, 0.8, 0.9, 0.1, 0.3, correct)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)


def test_gap_of_one_differs_from_one_basis_for_all() -> None:
    W, *grads = gradients((4, 6), 6)
    every, once = (run(W, grads, {"update_proj_gap": T}, lr=0.01) for T in (1, 1000))
    torch.testing.assert_close(every[0], once[0], atol=0, rtol=0)
    assert float((every[-1] - once[-1]).abs().max()) > 1e-4


def test_first_update_is_better_conditioned_than_adams() -> None:
    for seed in range(5):
        W, G = gradients((64, 256), 2, seed)
        conda = W - run(W, [G], {"update_proj_gap": 5}, lr=1.0)[0]
        adam = W - run(W, [G], lr=1.0)[0]
        assert torch.linalg.cond(conda) < torch.linalg.cond(adam)


# ------------------------------------------------------------------------------------ state, batches, types


def mixed_optimizer() -> tuple[list[nn.Parameter], Conda]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 6), (4, 6), (6, 4), (5, 5), (4,), (3, 2)]
    params = [nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
    groups = [
        {"params": params[:2], "update_proj_gap": 3},
        {"params": params[2:4], "update_proj_gap": 3, "proj_type": "full"},
        {"params": params[4:]},
    ]
    return params, Conda(groups, lr=0.01, weight_decay=0.1)


def advance(params: list[nn.Parameter], optimizer: Conda, steps: range) -> None:
    for t in steps:
        generator = torch.Generator().manual_seed(100 + t)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()


@pytest.mark.parametrize("cut", [3, 4, 6])
def test_state_dict_resumes_bit_for_bit_across_refreshes(cut: int) -> None:
    params, optimizer = mixed_optimizer()
    advance(params, optimizer, range(cut))
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    resumed, second = mixed_optimizer()
    with torch.no_grad():
        for p, q in zip(resumed, params, strict=True):
            p.copy_(q)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    advance(params, optimizer, range(cut, 9))
    advance(resumed, second, range(cut, 9))
    for p, q in zip(resumed, params, strict=True):
        assert torch.equal(p, q)


def test_state_holds_plain_tensors_and_numbers_under_the_documented_keys() -> None:
    params, optimizer = mixed_optimizer()
    advance(params, optimizer, range(2))
    moments = {"step", "exp_avg", "exp_avg_sq"}
    assert set(optimizer.state[params[0]]) == moments | {"basis"}
    assert set(optimizer.state[params[3]]) == moments | {"basis_left", "basis_right"}
    assert set(optimizer.state[params[5]]) == moments
    assert optimizer.state[params[0]]["basis"].shape == (4, 4)
    assert optimizer.state[params[0]]["exp_avg_sq"].shape == (4, 6)
    assert optimizer.state[params[2]]["exp_avg_sq"].shape == (4, 4)
    for state in optimizer.state.values():
        assert state["step"] == 2
        assert all(isinstance(value, Tensor | int) for value in state.values())


def test_deepcopy_continues_alone() -> None:
    params, optimizer = mixed_optimizer()
    advance(params, optimizer, range(2))
    copied_params, copied = copy.deepcopy((params, optimizer))
    advance(params, optimizer, range(2, 5))
    advance(copied_params, copied, range(2, 5))
    for p, q in zip(params, copied_params, strict=True):
        assert torch.equal(p, q)


def test_batch_equals_each_alone_with_its_own_counter() -> None:
    grads = [gradients((4, 6), 7, seed) for seed in range(3)]
    skipped = {(1, 0), (1, 1), (2, 4)}  # (parameter, step) without a gradient
    params = [nn.Parameter(torch.zeros(4, 6, dtype=torch.float64)) for _ in range(3)]
    together = Conda([{"params": params, "update_proj_gap": 3}], lr=0.01)
    for t in range(7):
        for i, p in enumerate(params):
            p.grad = None if (i, t) in skipped else grads[i][t]
        together.step()
    for i, p in enumerate(params):
        seen = [g for t, g in enumerate(grads[i]) if (i, t) not in skipped]
        alone = run(torch.zeros(4, 6, dtype=torch.float64), seen, {"update_proj_gap": 3}, lr=0.01)[-1]
        torch.testing.assert_close(p.detach(), alone, atol=1e-12, rtol=0)
        assert together.state[p]["step"] == len(seen)


def test_convolution_kernel_is_read_as_out_by_rest() -> None:
    W, *grads = gradients((4, 2, 3, 3), 5)
    kernel = run(W, grads, {"update_proj_gap": 2})[-1]
    matrix = run(W.flatten(1), [g.flatten(1) for g in grads], {"update_proj_gap": 2})[-1]
    torch.testing.assert_close(kernel.flatten(1), matrix, atol=1e-12, rtol=0)
    p = nn.Parameter(W.clone().to(memory_format=torch.channels_last))
    optimizer = Conda([{"params": [p], "update_proj_gap": 2}])
    for g in grads:
        p.grad = g.clone().to(memory_format=torch.channels_last)
        optimizer.step()
    torch.testing.assert_close(p.detach(), kernel, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("group", [{"update_proj_gap": 3}, {}])
def test_half_parameters_follow_float32(dtype: torch.dtype, group: dict[str, Any]) -> None:
    W, *grads = ((0.25 * g).to(dtype) for g in gradients((4, 6), 6))
    half = run(W, grads, group, lr=0.02, betas=(0.9, 0.9))[-1]
    full = run(W.float(), [g.float() for g in grads], group, lr=0.02, betas=(0.9, 0.9))[-1]
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), full, atol=0.02, rtol=0.02)


def test_half_state_resumes_bit_for_bit() -> None:
    W, *grads = (g.bfloat16() for g in gradients((4, 6), 7))
    p = nn.Parameter(W.clone())
    optimizer = Conda([{"params": [p], "update_proj_gap": 5}], lr=0.1)
    for t, g in enumerate(grads):
        if t == 3:
            saved = copy.deepcopy(optimizer.state_dict())
            q = nn.Parameter(p.detach().clone())
        p.grad = g
        optimizer.step()
    second = Conda([{"params": [q], "update_proj_gap": 5}], lr=0.1)
    second.load_state_dict(saved)
    for g in grads[3:]:
        q.grad = g
        second.step()
    assert torch.equal(p, q)


def test_autocast_changes_nothing() -> None:
    W, *grads = (g.float() for g in gradients((4, 6), 4))
    outside = run(W, grads, {"update_proj_gap": 2})[-1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run(W, grads, {"update_proj_gap": 2})[-1]
    assert torch.equal(outside, inside)


def test_closure_runs_with_gradients_and_scheduler_sets_the_rate() -> None:
    p = nn.Parameter(torch.ones(3, 2))
    optimizer = Conda([{"params": [p], "update_proj_gap": 2, "scale": 1.0}], lr=0.1, eps=0.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.0)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (p * torch.tensor([[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]])).sum()
        loss.backward()
        return float(loss.detach())

    with torch.no_grad():
        assert optimizer.step(closure) == pytest.approx(29.0)
    moved = p.detach().clone()
    assert float((moved - 1).norm()) == pytest.approx(0.1 * np.sqrt(6), rel=1e-5)
    scheduler.step()
    optimizer.step(closure)
    assert torch.equal(p, moved)


# ------------------------------------------------------------------------------------------- edge and error


def test_zero_first_gradient_is_a_zero_update() -> None:
    W, G = gradients((4, 3), 2)
    path = run(W, [torch.zeros_like(W), G], {"update_proj_gap": 5})
    assert torch.equal(path[0], W)
    assert torch.isfinite(path[1]).all()
    assert not torch.equal(path[1], W)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_non_finite_momentum_at_a_refresh_raises_before_anything_changes(poison: float) -> None:
    good, bad = (nn.Parameter(g) for g in gradients((4, 2, 3), 2))
    optimizer = Conda([{"params": [good, bad], "update_proj_gap": 2}])
    for _ in range(2):
        good.grad, bad.grad = torch.ones_like(good), torch.ones_like(bad)
        optimizer.step()
    before = copy.deepcopy(([good, bad], optimizer.state_dict()["state"]))
    bad.grad[0, 0, 0] = poison
    with pytest.raises(RuntimeError, match=r"parameter 1 of shape \(4, 2, 3\)"):
        optimizer.step()
    assert torch.equal(good, before[0][0])
    assert torch.equal(bad, before[0][1])
    for i, state in before[1].items():
        for key, value in state.items():
            assert torch.equal(
                torch.as_tensor(optimizer.state_dict()["state"][i][key]), torch.as_tensor(value)
            )


def test_non_finite_matrix_in_the_projector_raises() -> None:
    with pytest.raises(RuntimeError, match="nan or inf"):
        OrthogonalProjector().refresh(torch.tensor([[1.0, float("nan")]]), 0)


def test_missing_gradient_changes_neither_weight_nor_counter() -> None:
    params, optimizer = mixed_optimizer()
    advance(params, optimizer, range(1))
    before = params[0].detach().clone()
    params[0].grad = None
    optimizer.step()
    assert torch.equal(params[0], before)
    assert optimizer.state[params[0]]["step"] == 1
    assert optimizer.state[params[1]]["step"] == 2


@pytest.mark.parametrize("group", [{}, {"update_proj_gap": 2}])
def test_sparse_and_complex_gradients_are_refused(group: dict[str, Any]) -> None:
    p = nn.Parameter(torch.ones(3, 2))
    p.grad = torch.eye(3, 2).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        Conda([{"params": [p], **group}]).step()
    z = nn.Parameter(torch.ones(3, 2, dtype=torch.complex64))
    z.grad = torch.ones_like(z)
    with pytest.raises(RuntimeError, match="complex"):
        Conda([{"params": [z], **group}]).step()
    assert torch.equal(p, torch.ones(3, 2))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"lr": -0.1}, "lr"),
        ({"betas": (1.0, 0.9)}, "betas"),
        ({"betas": (0.9, -0.1)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"eps": -1e-8}, "eps"),
        ({"weight_decay": -1.0}, "weight_decay"),
    ],
)
@pytest.mark.parametrize("group", [{}, {"update_proj_gap": 2}])
def test_bad_options_raise(options: dict[str, Any], name: str, group: dict[str, Any]) -> None:
    p = nn.Parameter(torch.ones(3, 2))
    with pytest.raises(ValueError, match=name):
        Conda([{"params": [p], **group}], **options)
    with pytest.raises(ValueError, match=name):
        Conda([{"params": [p], **group, **options}])


BAD_GROUPS = [
    ({"update_proj_gap": 0}, "update_proj_gap"),
    ({"update_proj_gap": 2.5}, "update_proj_gap"),
    ({"update_proj_gap": True}, "update_proj_gap"),
    ({"update_proj_gap": 2, "scale": 0.0}, "scale"),
    ({"update_proj_gap": 2, "scale": float("nan")}, "scale"),
    ({"update_proj_gap": 2, "proj_type": "short"}, "proj_type"),
]


@pytest.mark.parametrize(("group", "name"), BAD_GROUPS)
def test_bad_projections_raise_everywhere(group: dict[str, Any], name: str) -> None:
    p, q = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    with pytest.raises(ValueError, match=name):
        Conda([{"params": [p], **group}])
    optimizer = Conda([q])
    with pytest.raises(ValueError, match=name):
        optimizer.add_param_group({"params": [p], **group})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match=name):
        OrthogonalProjector(**group)
    with pytest.raises(ValueError, match=name):
        conda_param_groups(nn.Linear(2, 2), **group)


def test_projected_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 axes"):
        Conda([{"params": [nn.Parameter(torch.ones(3))], "update_proj_gap": 2}])
    optimizer = Conda([nn.Parameter(torch.ones(3))])
    with pytest.raises(ValueError, match=r"got one of shape \(4,\)"):
        optimizer.add_param_group({"params": nn.Parameter(torch.ones(4)), "update_proj_gap": 2})


def test_projector_contract() -> None:
    projector = OrthogonalProjector()
    assert (projector.update_proj_gap, projector.scale, projector.proj_type) == (2000, 0.25, "std")
    assert projector.basis is None
    with pytest.raises(RuntimeError, match="no basis"):
        projector.project(torch.eye(2))
    with pytest.raises(RuntimeError, match="no basis"):
        projector.project_back(torch.eye(2))
    with pytest.raises(ValueError, match="2 axes"):
        projector.refresh(torch.ones(2, 2, 2), 0)
    with pytest.raises(ValueError, match="step"):
        projector.refresh(torch.eye(2), -1)


@pytest.mark.parametrize("proj_type", TYPES)
def test_projector_state_round_trip(proj_type: str) -> None:
    M, X = gradients((5, 3), 2)
    first = OrthogonalProjector(proj_type=proj_type)
    second = OrthogonalProjector(proj_type=proj_type)
    second.load_state_dict(first.state_dict())  # an empty state too
    first.refresh(M, 4)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert second.last_refresh == 4
    assert not second.refresh(X, 5)
    N = first.project(X)
    torch.testing.assert_close(second.project(X), N, atol=0, rtol=0)
    torch.testing.assert_close(second.project_back(N), first.project_back(N), atol=0, rtol=0)


def test_projector_scale_and_half_type() -> None:
    M = gradients((4, 3), 1)[0].bfloat16()
    projector = OrthogonalProjector(scale=0.5)
    projector.refresh(M, 0)
    assert isinstance(projector.basis, Tensor)
    assert projector.basis.dtype == torch.bfloat16
    back = projector.project_back(projector.project(M))
    torch.testing.assert_close(back, 0.5 * M, atol=0.05, rtol=0.05)


# ------------------------------------------------------------------------------------------------- builder


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.attn_out = nn.Linear(4, 4, bias=False)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10, bias=False)


def test_builder_takes_attention_and_mlp_weights() -> None:
    model = Block()
    model.mlp[2].weight.requires_grad_(False)
    projected, plain = conda_param_groups(model)
    assert projected["params"] == [model.attn_out.weight, model.mlp[0].weight]
    assert {k: v for k, v in projected.items() if k != "params"} == {
        "update_proj_gap": 2000,
        "scale": 0.25,
        "proj_type": "std",
    }
    assert set(plain) == {"params"}
    names = {name for name, p in model.named_parameters() if any(p is q for q in plain["params"])}
    assert names == {"embed.weight", "mlp.0.bias", "mlp.2.bias", "norm.weight", "norm.bias", "head.weight"}
    optimizer = Conda([projected, plain])
    assert "scale" not in plain
    assert "lr" not in projected
    assert optimizer.param_groups[0]["scale"] == 0.25


def test_builder_without_targets_leaves_the_last_linear_out() -> None:
    model = Block()
    projected, plain = conda_param_groups(model, targets=None, update_proj_gap=7, scale=0.5, proj_type="left")
    assert projected["params"] == [model.attn_out.weight, model.mlp[0].weight, model.mlp[2].weight]
    assert (projected["update_proj_gap"], projected["scale"], projected["proj_type"]) == (7, 0.5, "left")
    assert any(p is model.head.weight for p in plain["params"])


def test_builder_takes_shared_weights_once_and_drops_an_empty_group() -> None:
    model = Block()
    model.mlp[2].weight = nn.Parameter(torch.ones(4, 8))
    model.mlp.append(nn.Linear(8, 4, bias=False))
    model.mlp[3].weight = model.mlp[2].weight
    projected, _ = conda_param_groups(model, targets=("mlp",))
    assert projected["params"] == [model.mlp[0].weight, model.mlp[2].weight]
    groups = conda_param_groups(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    assert len(groups) == 1
    assert len(groups[0]["params"]) == 4
    assert "update_proj_gap" not in groups[0]


def test_builder_refuses_a_single_string() -> None:
    with pytest.raises(ValueError, match="targets"):
        conda_param_groups(Block(), targets="mlp")


def test_topic_package_exports_the_names() -> None:
    assert ExportedConda is Conda
