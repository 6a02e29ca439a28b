"""SOAP against a NumPy float64 loop written from the paper's algorithms, and its limits and invariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from normviz.optim import SOAP, Conda, create_optimizer, split_matrix_params
from normviz.optim.soap import renewed_basis


def gradients(shape: tuple[int, ...], steps: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(steps)]


def run(W: Tensor, grads: list[Tensor], **options: Any) -> list[np.ndarray]:
    """Weights after every step of SOAP on one parameter."""
    p = nn.Parameter(W.clone())
    optimizer = SOAP([p], **options)
    path = []
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
        path.append(p.detach().numpy().copy())
    return path


def numpy_soap(
    W: Tensor,
    grads: list[Tensor],
    *,
    lr: float,
    b1: float,
    b2: float,
    b3: float,
    eps: float,
    wd: float,
    f: int,
    sides: str = "LR",
) -> list[np.ndarray]:
    """One entry, one column and one step after the other; the bases are renewed at the end of a step."""
    w = W.numpy().copy()
    rows, cols = w.shape
    first, *others = (g.numpy() for g in grads)
    P = {"L": (1 - b3) * first @ first.T, "R": (1 - b3) * first.T @ first}
    Q = {"L": np.eye(rows), "R": np.eye(cols)}
    for side in sides:
        values, vectors = np.linalg.eigh(P[side])
        Q[side] = vectors[:, np.argsort(-values)]
    momentum, second = np.zeros_like(w), np.zeros_like(w)
    path = [w.copy()]
    for t, grad in enumerate(others, start=1):
        w = w * (1 - lr * wd)
        momentum = b1 * momentum + (1 - b1) * grad
        rotated, turned = Q["L"].T @ grad @ Q["R"], Q["L"].T @ momentum @ Q["R"]
        second = b2 * second + (1 - b2) * rotated**2
        step = turned / (np.sqrt(second) + eps)
        w = w - lr * np.sqrt(1 - b2**t) / (1 - b1**t) * (Q["L"] @ step @ Q["R"].T)
        P["L"] = b3 * P["L"] + (1 - b3) * grad @ grad.T
        P["R"] = b3 * P["R"] + (1 - b3) * grad.T @ grad
        if t % f == 0:
            for side in sides:
                estimates = [Q[side][:, i] @ P[side] @ Q[side][:, i] for i in range(len(Q[side]))]
                order = sorted(range(len(estimates)), key=lambda i: -estimates[i])
                columns: list[np.ndarray] = []
                for i in order:  # Gram-Schmidt, twice for the rounding
                    column = P[side] @ Q[side][:, i]
                    for _ in range(2):
                        column = column - sum((c @ column) * c for c in columns)
                    columns.append(column / np.linalg.norm(column))
                Q[side] = np.stack(columns, axis=1)
                second = second[order] if side == "L" else second[:, order]
        path.append(w.copy())
    return path


@pytest.mark.parametrize(
    ("shape", "sides", "longest"), [((6, 6), "LR", 9), ((7, 4), "R", 5), ((4, 7), "L", 5)]
)
@pytest.mark.parametrize(("beta3", "f"), [(None, 3), (0.8, 1)])
def test_equals_numpy_loop(
    shape: tuple[int, int], sides: str, longest: int, beta3: float | None, f: int
) -> None:
    W, *grads = gradients(shape, 25)
    ours = run(
        W,
        grads,
        lr=0.02,
        betas=(0.9, 0.95),
        shampoo_beta=beta3,
        weight_decay=0.1,
        precondition_frequency=f,
        max_precond_dim=longest,
    )
    expected = numpy_soap(
        W, grads, lr=0.02, b1=0.9, b2=0.95, b3=beta3 or 0.95, eps=1e-8, wd=0.1, f=f, sides=sides
    )
    for mine, theirs in zip(ours, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-9, rtol=0)


def test_gradients_in_a_rotated_frame_give_the_rotated_path() -> None:
    W, *grads = gradients((5, 5), 22)
    U, V = (torch.linalg.qr(g)[0] for g in gradients((5, 5), 2, seed=7))
    plain = run(W, grads, precondition_frequency=2)
    turned = run(U @ W @ V.T, [U @ g @ V.T for g in grads], precondition_frequency=2)
    for a, b in zip(plain, turned, strict=True):
        np.testing.assert_allclose(U.numpy() @ a @ V.numpy().T, b, atol=1e-9)


def test_without_preconditioners_it_is_adam_with_one_gradient_missed() -> None:
    W, *grads = gradients((5, 4), 12)
    ours = run(W, grads, lr=0.01, betas=(0.9, 0.99), max_precond_dim=1, weight_decay=0.0)[-1]
    p = nn.Parameter(W.clone())
    adam = Conda([p], lr=0.01, betas=(0.9, 0.99))  # a plain group: Adam with eps before the bias correction
    for g in grads[1:]:
        p.grad = g.clone()
        adam.step()
    np.testing.assert_allclose(ours, p.detach().numpy(), atol=1e-12)


def test_power_iterations_find_the_eigenvectors_in_their_order() -> None:
    A = gradients((6, 6), 1)[0]
    P = (A @ A.T).unsqueeze(0)
    Q = torch.eye(6, dtype=torch.float64).unsqueeze(0)
    for _ in range(400):
        Q, _ = renewed_basis(P, Q)
    values, vectors = np.linalg.eigh(P[0].numpy())
    overlaps = np.abs(vectors[:, ::-1].T @ Q[0].numpy())
    np.testing.assert_allclose(overlaps, np.eye(6), atol=1e-6)
    estimates = torch.diag(Q[0].T @ P[0] @ Q[0]).numpy()
    np.testing.assert_allclose(estimates, values[::-1], rtol=1e-8)


def test_bases_stay_orthogonal_and_are_renewed_every_f_steps() -> None:
    p = nn.Parameter(gradients((6, 4), 1)[0])
    optimizer = SOAP([p], precondition_frequency=3)
    changed, before = [], None
    for t, g in enumerate(gradients((6, 4), 9, seed=1)):
        p.grad = g
        optimizer.step()
        state = optimizer.state[p]
        for side, size in (("left", 6), ("right", 4)):
            Q = state[f"{side}_basis"]
            torch.testing.assert_close(Q.T @ Q, torch.eye(size, dtype=torch.float64), atol=1e-12, rtol=0)
        if before is not None and not torch.equal(state["left_basis"], before):
            changed.append(t)
        before = state["left_basis"].clone()
    # Due after the steps 3 and 6 that move the matrix, so used in the calls 4 and 7; call 0 only makes the first.
    assert changed == [4, 7]


def test_a_scheduler_counts_from_the_second_step() -> None:
    W, *grads = gradients((4, 3), 4)
    p = nn.Parameter(W.clone())
    optimizer = SOAP([p], lr=0.1)
    scheduler = LambdaLR(optimizer, lambda t: float(t != 2))
    moved = []
    for g in grads:
        before = p.detach().clone()
        p.grad = g
        optimizer.step()
        scheduler.step()
        moved.append(not torch.equal(p, before))
    assert moved == [False, True, False, True][: len(moved)]


def test_groups_and_kernels_of_a_network() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = create_optimizer("SOAP", model, precondition_frequency=2)
    for _ in range(4):
        model(torch.randn(5, 2, 3, 3)).square().mean().backward()
        optimizer.step()
    assert tuple(optimizer.state[model[0].weight]["right"].shape) == (18, 18)
    assert "left" not in optimizer.state[model[0].bias]
    flags = [group["use_soap"] for group in split_matrix_params(model)]
    assert flags == [True, False]


def test_a_first_gradient_that_is_not_finite_leaves_no_state() -> None:
    p = nn.Parameter(torch.ones(2, 3))
    optimizer = SOAP([p])
    p.grad = torch.full((2, 3), float("nan"))
    with pytest.raises(RuntimeError, match=r"parameter 0 of shape \(2, 3\)"):
        optimizer.step()
    assert not optimizer.state[p]
    with pytest.raises(ValueError, match="use_soap"):
        SOAP([{"params": [nn.Parameter(torch.ones(2))], "use_soap": True}])
