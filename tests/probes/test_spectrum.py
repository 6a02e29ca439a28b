"""The measures of an update's spectrum against hand-made matrices and NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from normviz.optim import newton_schulz
from normviz.probes import (
    col_norm_cv,
    condition_number,
    cosine,
    effective_rank,
    numerical_rank,
    rms,
    row_norm_cv,
    singular_values,
    stable_rank,
    update_spectrum,
)

SHAPES = [(5, 9), (9, 5), (6, 6), (1, 4), (4, 1)]
FLOATS = [
    "condition_number",
    "stable_rank",
    "effective_rank",
    "row_norm_cv",
    "col_norm_cv",
    "rms",
    "cosine_to_gradient",
]


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop_reference(U: np.ndarray, G: np.ndarray | None) -> dict[str, Any]:
    """Every definition written out, entry by entry; the singular values from the eigenvalues of the Gram matrix."""
    m, n = U.shape
    gram = U @ U.T if m <= n else U.T @ U
    s = np.sqrt(np.maximum(np.sort(np.linalg.eigvalsh(gram))[::-1], 0))
    energy = [x * x for x in s]
    p = [e / sum(energy) for e in energy]
    rows = [math.sqrt(sum(U[i, j] ** 2 for j in range(n))) for i in range(m)]
    columns = [math.sqrt(sum(U[i, j] ** 2 for i in range(m))) for j in range(n)]

    def spread(norms: list[float]) -> float:
        mean = sum(norms) / len(norms)
        return math.sqrt(sum((x - mean) ** 2 for x in norms) / len(norms)) / mean

    total = sum(U[i, j] ** 2 for i in range(m) for j in range(n))
    return {
        "singular_values": s / math.sqrt(sum(energy) / len(s)),
        "condition_number": s[0] / s[-1],
        "stable_rank": total / s[0] ** 2,
        "effective_rank": math.exp(-sum(x * math.log(x) for x in p)),
        "row_norm_cv": spread(rows),
        "col_norm_cv": spread(columns),
        "rms": math.sqrt(total / (m * n)),
        "cosine_to_gradient": 0.0
        if G is None
        else (U * G).sum() / math.sqrt(total) / math.sqrt((G**2).sum()),
    }


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_gradient", [True, False])
def test_every_measure_equals_its_definition(shape: tuple[int, int], with_gradient: bool) -> None:
    U = gaussian(*shape)
    G = gaussian(*shape, seed=1) if with_gradient else None
    got: dict[str, Any] = {**update_spectrum(U, G)}
    expected = loop_reference(U.numpy(), None if G is None else G.numpy())
    assert list(got) == ["singular_values", *FLOATS]
    for name, value in got.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-8, atol=1e-12, err_msg=name)


def test_types() -> None:
    got = update_spectrum(gaussian(3, 5).to(torch.bfloat16).requires_grad_())
    assert isinstance(got["singular_values"], np.ndarray)
    assert got["singular_values"].dtype == np.float64
    assert got["singular_values"].shape == (3,)
    assert all(type(value) is float for name, value in got.items() if name != "singular_values")


def test_arrays_are_taken_too() -> None:
    U, G = gaussian(3, 5), gaussian(3, 5, seed=1)
    assert update_spectrum(U.numpy(), G.numpy())["stable_rank"] == update_spectrum(U, G)["stable_rank"]


def test_diagonal_by_hand() -> None:
    got = update_spectrum(torch.diag(torch.tensor([4.0, 2.0])), torch.eye(2))
    np.testing.assert_allclose(got["singular_values"], np.array([4, 2]) / math.sqrt(10))
    assert got["condition_number"] == pytest.approx(2)
    assert got["stable_rank"] == pytest.approx(20 / 16)
    assert got["effective_rank"] == pytest.approx(math.exp(-0.8 * math.log(0.8) - 0.2 * math.log(0.2)))
    assert got["row_norm_cv"] == pytest.approx(1 / 3)
    assert got["col_norm_cv"] == pytest.approx(1 / 3)
    assert got["rms"] == pytest.approx(math.sqrt(5))
    assert got["cosine_to_gradient"] == pytest.approx(6 / math.sqrt(20) / math.sqrt(2))


def test_zero_update() -> None:
    got = update_spectrum(torch.zeros(3, 5), gaussian(3, 5))
    assert got["singular_values"].tolist() == [0.0] * 3
    assert math.isnan(got["condition_number"])
    assert [got[name] for name in FLOATS[1:]] == [0.0] * 6  # type: ignore[literal-required]
    assert update_spectrum(gaussian(3, 5), torch.zeros(3, 5))["cosine_to_gradient"] == 0.0


def test_rank_deficient_condition_counts_only_what_is_there() -> None:
    a, b = torch.linalg.qr(gaussian(6, 2))[0], torch.linalg.qr(gaussian(8, 2, seed=1))[0]
    got = update_spectrum(a @ torch.diag(torch.tensor([3.0, 1.5], dtype=torch.float64)) @ b.mT)
    assert got["condition_number"] == pytest.approx(2)
    assert got["stable_rank"] == pytest.approx(1.25)
    assert (got["singular_values"][2:] < 1e-12).all()


def test_tiny_and_huge_updates_are_measured_alike() -> None:
    U = gaussian(4, 6)
    expected = update_spectrum(U)
    for factor in (1e-120, 1e120):
        got = update_spectrum(factor * U)
        for name in ("condition_number", "stable_rank", "effective_rank", "row_norm_cv", "col_norm_cv"):
            assert got[name] == pytest.approx(expected[name], rel=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_diverged_update_gives_nan_instead_of_raising(bad: float) -> None:
    U = gaussian(3, 4)
    U[1, 2] = bad
    got = update_spectrum(U)
    assert np.isnan(got["singular_values"]).all()
    assert all(math.isnan(got[name]) for name in FLOATS[:3])  # type: ignore[literal-required]


def test_measures_batch_over_leading_axes() -> None:
    X, Y = gaussian(2, 3, 4, 6), gaussian(2, 3, 4, 6, seed=1)
    X[0, 1] = 0
    X[1, 2, 0, 0] = math.nan
    s = singular_values(X)
    assert s.shape == (2, 3, 4)
    batched = {
        "condition_number": condition_number(s),
        "stable_rank": stable_rank(s),
        "effective_rank": effective_rank(s),
        "row_norm_cv": row_norm_cv(X),
        "col_norm_cv": col_norm_cv(X),
        "rms": rms(X),
        "cosine_to_gradient": cosine(X, Y),
    }
    for i in range(2):
        for j in range(3):
            one = update_spectrum(X[i, j], Y[i, j])
            for name, values in batched.items():
                np.testing.assert_allclose(float(values[i, j]), one[name], rtol=1e-9)  # type: ignore[literal-required]


def test_rank_by_hand() -> None:
    s = torch.tensor(
        [[4.0, 2.0, 1e-13], [1.0, 1e-11, 0.0], [0.0, 0.0, 0.0], [math.nan] * 3], dtype=torch.float64
    )
    assert numerical_rank(s)[:3].tolist() == [2, 2, 0]
    assert numerical_rank(s)[3].isnan()
    assert numerical_rank(singular_values(torch.outer(gaussian(5), gaussian(7)))) == 1


@settings(max_examples=25, deadline=None)
@given(m=st.integers(1, 7), n=st.integers(1, 7), seed=st.integers(0, 999), factor=st.floats(1e-3, 1e3))
def test_properties(m: int, n: int, seed: int, factor: float) -> None:
    U = gaussian(m, n, seed=seed)
    got, scaled, turned = update_spectrum(U), update_spectrum(factor * U), update_spectrum(U.mT)
    r = min(m, n)
    assert 1 - 1e-9 <= got["stable_rank"] <= got["effective_rank"] * (1 + 1e-9) <= r * (1 + 1e-8)
    assert got["condition_number"] >= 1
    assert scaled["rms"] == pytest.approx(factor * got["rms"], rel=1e-9)
    for name in ("stable_rank", "effective_rank", "row_norm_cv", "col_norm_cv"):
        assert scaled[name] == pytest.approx(got[name], rel=1e-6, abs=1e-9)
    assert turned["row_norm_cv"] == pytest.approx(got["col_norm_cv"], abs=1e-12)
    Q = torch.linalg.qr(gaussian(m, m, seed=seed + 1))[0]
    np.testing.assert_allclose(update_spectrum(Q @ U)["singular_values"], got["singular_values"], atol=1e-9)


@pytest.mark.parametrize(
    ("U", "G", "word"),
    [
        (torch.ones(3), None, "U"),
        (torch.ones(2, 3, 4), None, "U"),
        (torch.ones(0, 4), None, "U"),
        (torch.ones(2, 2, dtype=torch.complex64), None, "U"),
        (torch.ones(2, 3), torch.ones(3, 2), "G"),
    ],
)
def test_refuses(U: Tensor, G: Tensor | None, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        update_spectrum(U, G)


def test_the_picture_of_normuon_on_tall_and_wide_matrices() -> None:
    """Rows of wide orthogonal matrices are equal already; tall ones are where NorMuon acts."""
    cv = {}
    for shape in ((64, 256), (256, 64)):
        G = gaussian(shape[0], 1, seed=3).exp() * gaussian(*shape)
        O = newton_schulz(G)
        cv[shape] = update_spectrum(O)["row_norm_cv"]
        assert update_spectrum(O)["stable_rank"] > 4 * update_spectrum(G)["stable_rank"]
        assert update_spectrum(O)["condition_number"] < 2 < update_spectrum(G)["condition_number"]
    assert cv[64, 256] < 0.3 < cv[256, 64]
