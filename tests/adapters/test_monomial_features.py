"""Monomial features and the factors made of them."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from normviz.adapters import (
    MonomialFeatureMap,
    exp_polynomial,
    feature_rank,
    lowrank_attention_factors,
    polynomial_relative_error,
    row_khatri_rao,
)
from tests.adapters.reference import polynomial_of, rows_normalised


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("dim", "degree"), [(1, 5), (2, 4), (3, 3), (4, 0), (5, 2)])
def test_check_3_number_of_features_and_their_tables(dim: int, degree: int) -> None:
    phi = MonomialFeatureMap(dim, degree)
    wanted = sorted(m for m in product(range(degree + 1), repeat=dim) if sum(m) <= degree)
    assert sorted(map(tuple, phi.exponents.tolist())) == wanted
    assert phi.rank == feature_rank(dim, degree) == len(wanted) == math.comb(dim + degree, degree)
    assert phi.degrees.tolist() == sorted(sum(m) for m in wanted)
    assert phi.exponents.sum(1).tolist() == phi.degrees.tolist()
    for m, weight in zip(phi.exponents.tolist(), phi.multinomials.tolist(), strict=True):
        assert weight == math.factorial(sum(m)) // math.prod(map(math.factorial, m))
    assert phi.multinomials.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_features_are_the_monomials(dtype: torch.dtype) -> None:
    phi = MonomialFeatureMap(3, 4)
    x = randn(2, 5, 3).to(dtype)
    features = phi(x)
    assert features.dtype == torch.float64
    assert features.shape == (2, 5, 35)
    expected = np.prod(x.double().numpy()[..., None, :] ** phi.exponents.numpy(), axis=-1)
    np.testing.assert_allclose(features.numpy(), expected, rtol=1e-13)


def test_multinomial_theorem() -> None:
    phi = MonomialFeatureMap(3, 6)
    a, b = randn(7, 3), randn(7, 3, seed=1)
    for i in range(7):
        of_degree = phi.degrees == i
        sums = (phi.multinomials * phi(a) * phi(b))[:, of_degree].sum(1)
        np.testing.assert_allclose(sums, ((a * b).sum(1) ** i).numpy(), rtol=1e-11, atol=1e-12)


def test_large_multinomials_are_finite() -> None:
    phi = MonomialFeatureMap(2, 150)
    exact = [math.comb(n, a) for n, a in zip(phi.degrees.tolist(), phi.exponents[:, 0].tolist(), strict=True)]
    np.testing.assert_allclose(phi.multinomials, np.array(exact, dtype=float), rtol=1e-13)


def test_check_3_khatri_rao_identity() -> None:
    a, u, b, v = randn(4, 3), randn(4, 2, seed=1), randn(5, 3, seed=2), randn(5, 2, seed=3)
    left = row_khatri_rao(a, u) @ row_khatri_rao(b, v).mT
    np.testing.assert_allclose(left, ((a @ b.mT) * (u @ v.mT)).numpy(), rtol=1e-12, atol=1e-13)
    batched = row_khatri_rao(randn(2, 4, 3), randn(2, 4, 2))
    assert batched.shape == (2, 4, 6)
    for i, j in product(range(3), range(2)):
        torch.testing.assert_close(batched[..., i * 2 + j], randn(2, 4, 3)[..., i] * randn(2, 4, 2)[..., j])


@pytest.mark.parametrize("kind", ["taylor", "chebyshev"])
@pytest.mark.parametrize(("dim", "degree"), [(2, 8), (3, 4), (1, 0)])
def test_check_3_factors_are_the_normalised_polynomial(kind: str, dim: int, degree: int) -> None:
    q, k = randn(2, 9, dim) / 2, randn(2, 7, dim, seed=1) / 2
    coeffs = exp_polynomial(kind, degree, 3.0)
    U, V = lowrank_attention_factors(q, k, 0.7, coeffs)
    assert U.shape == (2, 9, feature_rank(dim, degree))
    assert V.shape == (2, 7, feature_rank(dim, degree))
    for i in range(2):
        scores = 0.7 * q[i].numpy() @ k[i].numpy().T
        expected = rows_normalised(polynomial_of(scores, coeffs.numpy()))
        np.testing.assert_allclose(U[i] @ V[i].mT, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose((U @ V.mT).sum(-1), np.ones((2, 9)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["taylor", "chebyshev"])
@pytest.mark.parametrize("degree", [4, 6, 8])
def test_check_4_entrywise_certificate(kind: str, degree: int) -> None:
    q, k = randn(30, 2), randn(30, 2, seed=1)
    tau = 0.1
    radius = tau * float(q.norm(dim=1).max() * k.norm(dim=1).max())
    assert 1 < radius < 2
    coeffs = exp_polynomial(kind, degree, radius)
    eps = polynomial_relative_error(coeffs, radius)
    assert eps < 1
    U, V = lowrank_attention_factors(q, k, tau, coeffs)
    ratio = (U @ V.mT) / torch.softmax(tau * q @ k.mT, -1)
    assert float((ratio - 1).abs().max()) <= 2 * eps / (1 - eps)


def test_factors_of_half_types_are_float64() -> None:
    q, k = randn(9, 2), randn(9, 2)
    coeffs = exp_polynomial("taylor", 12, 1.0)
    exact = lowrank_attention_factors(q.bfloat16().double(), k.bfloat16().double(), 0.5, coeffs)
    for mine, wanted in zip(
        lowrank_attention_factors(q.bfloat16(), k.bfloat16(), 0.5, coeffs), exact, strict=True
    ):
        torch.testing.assert_close(mine, wanted, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: feature_rank(0, 2), "dim must"),
        (lambda: feature_rank(2, -1), "degree must"),
        (lambda: MonomialFeatureMap(2, -1), "degree must"),
        (lambda: MonomialFeatureMap(64, 4), "max_rank must be at least the 814385"),
        (lambda: MonomialFeatureMap(500, 500), "max_rank must"),
        (lambda: MonomialFeatureMap(2, 2)(torch.zeros(4, 3)), "x must"),
        (lambda: row_khatri_rao(torch.zeros(3), torch.zeros(3)), "a must"),
        (lambda: row_khatri_rao(torch.zeros(3, 2), torch.zeros(4, 2)), "b must"),
        (
            lambda: lowrank_attention_factors(torch.zeros(3, 2), torch.zeros(3, 2), math.nan, torch.ones(1)),
            "scale must",
        ),
    ],
)
def test_refusals(call, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def test_rows_without_a_positive_sum_ask_for_a_higher_degree() -> None:
    q = torch.ones(4, 2)
    with pytest.raises(ValueError, match="raise the degree"):
        lowrank_attention_factors(q, -q, 2.0, exp_polynomial("taylor", 3, 4.0))
    U, V = lowrank_attention_factors(q, -q, 2.0, exp_polynomial("taylor", 4, 4.0))
    torch.testing.assert_close(U @ V.mT, torch.full((4, 4), 0.25, dtype=torch.float64))


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^q must"):
        lowrank_attention_factors(torch.ones(3, 2).long(), torch.ones(3, 2), 1.0, torch.ones(1))
    with pytest.raises(TypeError, match=r"^x must"):
        MonomialFeatureMap(2, 1)(torch.ones(3, 2).long())
