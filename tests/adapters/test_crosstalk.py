"""How much residuals disturb each other: the two measures, and what orthogonal frames change about them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz.adapters import (
    OrthogonalLoRALinear,
    activation_crosstalk,
    concept_basis,
    weight_crosstalk,
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def framed(n: int, r: int, method: str, count: int, out: int = 9) -> tuple[list[Tensor], list[Tensor]]:
    """Frames and residuals of ``count`` concepts."""
    frames = [concept_basis(n, r, method=method, concept=i) for i in range(count)]
    return frames, [randn(out, r, seed=10 + i) @ B.mT for i, B in enumerate(frames)]


def frobenius(M: np.ndarray) -> float:
    return math.sqrt(sum(float(x) ** 2 for x in M.ravel()))


def test_weight_crosstalk_equals_numpy() -> None:
    deltas = [randn(4, 6, seed=1), randn(5, 6, seed=2), 1e-3 * randn(4, 6, seed=3)]
    D = [d.numpy() for d in deltas]
    expected = [[frobenius(a @ b.T) / frobenius(a) / frobenius(b) for b in D] for a in D]
    result = weight_crosstalk(deltas)
    np.testing.assert_allclose(result, expected, rtol=1e-12)
    torch.testing.assert_close(result, result.mT, rtol=1e-12, atol=0)
    singular = np.linalg.svd(D[0], compute_uv=False)
    assert float(result[0, 0]) == pytest.approx(
        math.sqrt((singular**4).sum()) / (singular**2).sum(), rel=1e-12
    )
    assert weight_crosstalk([d.float() for d in deltas]).dtype == torch.float32


def test_weight_crosstalk_of_zero_and_tiny_residuals() -> None:
    D = randn(4, 6)
    result = weight_crosstalk([D, torch.zeros(4, 6).double(), 1e-200 * D])
    assert torch.equal(result[1], torch.zeros(3).double())
    assert torch.equal(result[:, 1], torch.zeros(3).double())
    assert float(result[0, 2]) == pytest.approx(float(result[0, 0]), rel=1e-12)


def test_activation_crosstalk_equals_numpy() -> None:
    deltas = [randn(4, 6, seed=i) for i in range(3)]
    inputs = [randn(5 + i, 6, seed=20 + i) for i in range(3)]
    weights = [0.5, -2.0, 3.0]
    for given, lam in ((None, [1.0] * 3), (weights, weights), (torch.tensor(weights), weights)):
        expected = []
        for i in range(3):
            others = sum(lam[j] * deltas[j].numpy() for j in range(3) if j != i)
            X = inputs[i].numpy()
            expected.append(frobenius(X @ others.T) / frobenius(X @ deltas[i].numpy().T))
        np.testing.assert_allclose(activation_crosstalk(deltas, inputs, given), expected, rtol=1e-12)


def test_activation_crosstalk_without_a_response_of_its_own() -> None:
    D, X = randn(4, 6), randn(5, 6)
    zero = torch.zeros(4, 6).double()
    assert activation_crosstalk([zero, D], [X, X]).tolist() == [math.inf, 0.0]
    assert activation_crosstalk([zero], [X]).tolist() == [math.inf]
    assert activation_crosstalk([D], [X]).tolist() == [0.0]


def test_check_5_disjoint_frames() -> None:
    frames, deltas = framed(48, 4, "disjoint", 5)
    crosstalk = weight_crosstalk(deltas)
    assert float((crosstalk - crosstalk.diagonal().diag()).abs().max()) < 1e-12
    rounded = weight_crosstalk([d.float() for d in deltas])
    assert float((rounded - rounded.diagonal().diag()).abs().max()) < 1e-6
    inside = [randn(20, 4, seed=30 + i) @ B.mT for i, B in enumerate(frames)]
    assert float(activation_crosstalk(deltas, inside).max()) < 1e-12
    isotropic = [randn(20, 48, seed=40 + i) for i in range(5)]
    assert float(activation_crosstalk(deltas, isotropic).min()) > 0.5


@pytest.mark.parametrize("method", ["orthogonal", "gaussian", "disjoint"])
def test_isotropic_inputs_leak_a_share_r_over_n(method: str) -> None:
    """A frame keeps the energy share r / n of isotropic inputs, from whichever concept they come."""
    n, r = 48, 4
    X = randn(20000, n, seed=5).numpy()
    shares = [
        ((X @ concept_basis(n, r, method=method, concept=i).numpy()) ** 2).sum() / (X**2).sum()
        for i in range(12)
    ]
    assert np.mean(shares) == pytest.approx(r / n, rel=0.1)


def test_mechanism_trained_tokens_move_into_their_own_frame() -> None:
    """Adam on A and on the token, or on A alone: only the former separates concepts that start from one token."""
    n, r, concepts = 64, 4, 3
    for seed in range(2):
        theta = nn.Linear(n, 32, bias=False, dtype=torch.float64)
        with torch.no_grad():
            theta.weight.copy_(randn(32, n, seed=seed) / math.sqrt(n))
        start = randn(n, seed=100 + seed)
        targets = [2 * randn(32, seed=200 + 10 * seed + i) for i in range(concepts)]
        damage, shares = {}, {}
        for trained in (True, False):
            deltas, tokens = [], []
            for i in range(concepts):
                layer = OrthogonalLoRALinear(theta, r, method="disjoint", concept=i, seed=seed)
                token = nn.Parameter(start + randn(n, seed=300 + 10 * seed + i), requires_grad=trained)
                optimizer = torch.optim.Adam([layer.lora_up, *([token] if trained else [])], lr=5e-3)
                for _ in range(200):
                    optimizer.zero_grad()
                    (layer(token) - targets[i]).square().mean().backward()
                    optimizer.step()
                read = layer.basis.mT @ token.detach()
                shares[trained, i] = float(read.square().sum() / token.detach().square().sum())
                deltas.append(layer.delta_weight().detach())
                tokens.append(token.detach())
            merged = theta.weight.detach() + sum(deltas)
            damage[trained] = sum(
                float((merged @ token - target).square().mean())
                for token, target in zip(tokens, targets, strict=True)
            )
        assert all(shares[True, i] > 1.5 * shares[False, i] for i in range(concepts)), shares
        assert damage[True] < 0.6 * damage[False], damage


@pytest.mark.parametrize(
    ("deltas", "inputs", "weights", "match"),
    [
        ([], [], None, "deltas"),
        ([torch.ones(3)], [torch.ones(2, 3)], None, r"deltas\[0\]"),
        ([torch.ones(2, 3), torch.ones(4, 3)], [torch.ones(2, 3)] * 2, None, "deltas must have one shape"),
        ([torch.ones(2, 3)], [], None, "inputs"),
        ([torch.ones(2, 3)], [torch.ones(2, 4)], None, r"inputs\[0\]"),
        ([torch.ones(2, 3)], [torch.ones(2, 3)], [1.0, 1.0], "weights"),
        ([torch.ones(2, 3)], [torch.ones(2, 3)], 1.0, "weights"),
        ([torch.ones(2, 3)], [torch.ones(2, 3)], [math.nan], "weights"),
        ([torch.ones(2, 3)], [torch.ones(2, 3)], torch.tensor(1.0), "weights"),
    ],
)
def test_errors(deltas: list[Tensor], inputs: list[Tensor], weights: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        activation_crosstalk(deltas, inputs, weights)


def test_errors_of_weight_crosstalk() -> None:
    with pytest.raises(ValueError, match="deltas"):
        weight_crosstalk([])
    with pytest.raises(ValueError, match=r"deltas\[1\]"):
        weight_crosstalk([torch.ones(2, 3), torch.ones(2, 4)])
    with pytest.raises(TypeError, match="floating"):
        weight_crosstalk([torch.ones(2, 3).long()])
