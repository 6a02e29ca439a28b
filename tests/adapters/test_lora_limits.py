"""Certificates, fitted degrees, norms and the critical radius."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from normviz.adapters import (
    LoRAWeight,
    critical_radius,
    exp_polynomial,
    feature_rank,
    fit_degree,
    gradient_error_bound,
    lora_attention_gradients,
    norm_report,
    polynomial_relative_error,
    required_degree,
)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def problem(seed: int = 0, length: int = 60) -> tuple[Tensor, Tensor, list[Tensor]]:
    x, y = randn(length, 3, seed=seed), randn(length, 2, seed=seed + 100)
    return x, y, [0.25 * randn(2, 3, seed=seed + 200 + i) for i in range(3)]


def bound_by_loops(
    eps: float, x1: np.ndarray, c: np.ndarray, v: np.ndarray, k: np.ndarray, tau: float
) -> float:
    delta = 2 * eps / (1 - eps)
    m3 = max(abs(e) for row in v for e in row)
    n1 = max(sum(abs(e) for e in row) for row in v)
    q = max(abs(e) for row in c for e in row) * n1 + delta * m3 * n1
    columns = [sum(abs(x1[j, a]) for j in range(len(x1))) for a in range(x1.shape[1])]
    return abs(tau) * max(columns) * delta * (3 * q + 2 * m3 * n1) * max(abs(e) for row in k for e in row)


def test_bound_equals_loops_and_takes_the_largest_of_a_batch() -> None:
    x1, c, v, k = (randn(2, 7, n, seed=i) for i, n in enumerate((3, 2, 2, 2)))
    alone = [bound_by_loops(0.2, *(t[i].numpy() for t in (x1, c, v, k)), -0.7) for i in range(2)]
    assert gradient_error_bound(0.2, x1[0], c[0], v[0], k[0], -0.7) == pytest.approx(alone[0], rel=1e-13)
    assert gradient_error_bound(0.2, x1, c, v, k, -0.7) == pytest.approx(max(alone), rel=1e-13)
    assert gradient_error_bound(0.0, x1, c, v, k, 1.0) == 0.0
    assert gradient_error_bound(1.0, x1, c, v, k, 1.0) == math.inf


@pytest.mark.parametrize("poly", ["taylor", "chebyshev"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_check_4_gradient_error_is_below_the_certificate(poly: str, seed: int) -> None:
    x, y, w = problem(seed)
    adapted = [LoRAWeight(W, 0.2 * randn(1, 3, seed=9), 0.2 * randn(2, 1, seed=10)) for W in w]
    exact = lora_attention_gradients(x, x, x, y, *adapted)
    k, v = (x @ weight.effective().mT for weight in adapted[1:])
    certified = 0
    for degree in range(1, 10):
        found = lora_attention_gradients(x, x, x, y, *adapted, method="lowrank", degree=degree, poly=poly)
        if found.eps >= 1:
            continue
        certified += 1
        error = float(((found.dQ - exact.dQ).mT @ x).abs().max())
        bound = gradient_error_bound(found.eps, x, exact.output - y, v, k, 1 / math.sqrt(2))
        assert error <= bound
        # dA = s B^T G and dB = s G A^T multiply the bound by sums of |B| and |A|
        dA, dB = (mine - wanted for mine, wanted in zip(found.q, exact.q, strict=True))
        assert float(dA.abs().max()) <= bound * float(adapted[0].B.abs().sum(0).max()) + 1e-15
        assert float(dB.abs().max()) <= bound * float(adapted[0].A.abs().sum(1).max()) + 1e-15
    assert certified >= 4


def test_fit_degree_by_eps() -> None:
    q, k = randn(2, 50, 2, seed=1), randn(2, 50, 2, seed=2)
    fit = fit_degree(q, k, 0.3, 1e-3)
    radius = 0.3 * max(float(q[i].norm(dim=1).max() * k[i].norm(dim=1).max()) for i in range(2))
    assert fit.degree == required_degree(radius, 1e-3)
    assert fit.rank == feature_rank(2, fit.degree)
    assert fit.eps == pytest.approx(
        polynomial_relative_error(exp_polynomial("taylor", fit.degree, radius), radius)
    )
    assert fit.bound is None
    assert fit.gain is (fit.rank < 50)
    chebyshev = fit_degree(q, k, 0.3, 1e-3, kind="chebyshev")
    assert chebyshev.degree == required_degree(radius, 1e-3, "chebyshev") < fit.degree
    assert [fit_degree(q[:, :n], k[:, :n], 0.01, 1e-3).gain for n in (2, 10)] == [False, True]


def test_fit_degree_by_certificate() -> None:
    x, y, w = problem()
    q, k, v = (x @ W.mT for W in w)
    c = lora_attention_gradients(x, x, x, y, *w).output - y
    target = 1e-2
    fit = fit_degree(q, k, 0.7, target, certificate=(x, c, v))
    assert fit.bound <= target
    assert fit.bound == gradient_error_bound(fit.eps, x, c, v, k, 0.7)
    radius = norm_report(q, k, 0.7, 60)["radius"]
    one_less = polynomial_relative_error(exp_polynomial("taylor", fit.degree - 1, radius), radius)
    assert gradient_error_bound(one_less, x, c, v, k, 0.7) > target
    assert fit_degree(q, k, 0.7, 50.0, certificate=(x, c, v)).degree < fit.degree


def test_fit_degree_that_no_degree_meets() -> None:
    q, k = randn(50, 2, seed=1), randn(50, 2, seed=2)
    with pytest.raises(ValueError, match=r"^target must be larger"):
        fit_degree(q, k, 20.0, 1e-3)
    with pytest.raises(ValueError, match=r"^target must be larger.*degree <= 2 "):
        fit_degree(q, k, 1.0, 1e-3, max_degree=2)
    with pytest.raises(ValueError, match=r"^target must be larger"):
        fit_degree(q, k, 1.0, 1e-30, certificate=(q, q, k))


def test_check_6_norm_report() -> None:
    q, k = randn(3, 20, 4, seed=1), randn(3, 20, 4, seed=2)
    report = norm_report(q, k, 0.25, 1000)
    assert report == {
        "gamma_q": float(q.abs().max()),
        "gamma_k": float(k.abs().max()),
        "radius": pytest.approx(
            0.25 * max(float(q[i].norm(dim=1).max() * k[i].norm(dim=1).max()) for i in range(3))
        ),
        "threshold": math.sqrt(math.log(1000)),
    }
    assert all(type(value) is float for value in report.values())
    assert report["radius"] >= float((0.25 * q @ k.mT).abs().max())
    assert norm_report(5 * q, k, 0.25, 1000)["radius"] == pytest.approx(5 * report["radius"])
    assert norm_report(q, k, -0.25, 1)["radius"] == report["radius"]
    assert norm_report(q, k, -0.25, 1)["threshold"] == 0.0


@pytest.mark.parametrize(
    ("length", "dim", "kind"), [(128, 2, "taylor"), (1024, 3, "taylor"), (300, 3, "chebyshev")]
)
def test_critical_radius_is_where_the_rank_reaches_the_length(length: int, dim: int, kind: str) -> None:
    radius = critical_radius(length, dim, kind=kind)

    def rank(r: float) -> int:
        return feature_rank(dim, required_degree(r, 1e-3, kind))

    assert rank(radius) < length <= rank(radius * 1.002)


def test_critical_radius_grows_with_the_length_and_falls_with_the_dimension() -> None:
    by_length = [critical_radius(length, 3) for length in (64, 256, 1024, 4096)]
    by_dim = [critical_radius(1024, dim) for dim in (2, 3, 4)]
    assert all(a < b for a, b in pairwise(by_length))
    assert all(a > b for a, b in pairwise(by_dim))
    assert critical_radius(1, 2) == 0.0
    assert critical_radius(2, 2, eps=0.1) == pytest.approx(math.log1p(0.1), rel=2e-3), (
        "degree 0: exp(R) - 1 = eps"
    )
    assert 14 < critical_radius(100_000, 2) < 18, "where float64 ends"


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda q: gradient_error_bound(-0.1, q, q, q, q, 1.0), "eps"),
        (lambda q: gradient_error_bound(0.1, q, q[0], q, q, 1.0), "c"),
        (lambda q: gradient_error_bound(0.1, q, q, q, q, math.nan), "scale"),
        (lambda q: fit_degree(q, q, 1.0, 0.0), "target"),
        (lambda q: fit_degree(q, q, 1.0, 1.0), "target"),
        (lambda q: fit_degree(q, q, 1.0, 0.1, kind="pade"), "kind"),
        (lambda q: fit_degree(q, q, 1.0, 0.1, max_degree=-1), "max_degree"),
        (lambda q: fit_degree(q, q[:, :1], 1.0, 0.1), "k"),
        (lambda q: norm_report(q, q, 1.0, 0), "length"),
        (lambda q: norm_report(q[0], q, 1.0, 5), "q"),
        (lambda q: critical_radius(0, 2), "length"),
        (lambda q: critical_radius(5, 0), "dim"),
        (lambda q: critical_radius(5, 2, eps=1.0), "eps"),
        (lambda q: critical_radius(5, 2, kind="pade"), "kind"),
    ],
)
def test_refusals(call, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must"):
        call(torch.ones(4, 2))
