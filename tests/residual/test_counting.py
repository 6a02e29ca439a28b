import math
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import combinations_with_replacement, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import normviz.residual
from normviz.residual.counting import (
    ensemble_size,
    expected_norm_ratio,
    level_weights,
    log_level_weights,
    path_count,
    remainder_bound,
    residual_scale,
    tree_count,
)

Tree = tuple  # (root label, sorted tuple of subtrees)


def trees(root: int, size: int) -> list[Tree]:
    """All trees with this root and this number of nodes, children's labels smaller, siblings a multiset."""
    return [(root, forest) for forest in forests(root, size - 1)]


def forests(below: int, size: int) -> list[tuple[Tree, ...]]:
    """All multisets of trees with roots smaller than ``below`` and ``size`` nodes together."""
    kinds = [t for s in range(1, size + 1) for label in range(below) for t in trees(label, s)]
    return [
        forest
        for count in range(size + 1)
        for forest in combinations_with_replacement(kinds, count)
        if sum(map(nodes, forest)) == size
    ]


def nodes(tree: Tree) -> int:
    return 1 + sum(map(nodes, tree[1]))


def labels(tree: Tree) -> list[int]:
    return [tree[0], *(label for child in tree[1] for label in labels(child))]


# ------------------------------------------------------------------------------------------------- counts


def test_counts_of_paths() -> None:
    row = [1]
    for n in range(1, 30):
        row = [1, *(a + b for a, b in pairwise(row)), 1]
        assert [path_count(n, k) for k in range(n + 1)] == row
        assert ensemble_size(n) == sum(row)
    assert path_count(3, 5) == 0
    assert ensemble_size(1000) == 2**1000  # no float anywhere


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_tree_count_equals_enumeration(n: int) -> None:
    for k in range(1, 6 if n < 4 else 5):
        listed = [tree for root in range(n) for tree in trees(root, k)]
        assert len(set(listed)) == len(listed)
        assert tree_count(n, k) == len(listed)
        chosen = Counter(frozenset(labels(t)) for t in listed if len(set(labels(t))) == k)
        assert all(count == math.factorial(k - 1) for count in chosen.values())
        assert len(chosen) == math.comb(n, k)


def test_tree_count_closed_forms_and_the_cards_example() -> None:
    assert [tree_count(5, k) for k in range(6)] == [1, 5, 10, 30, 90, 279]
    n = 1000
    assert tree_count(n, 1) == n
    assert tree_count(n, 2) == math.comb(n, 2)
    assert tree_count(n, 3) == 2 * math.comb(n, 3) + math.comb(n, 2)
    assert tree_count(1, 2) == 0


# ------------------------------------------------------------------------------------------------- weights


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.fractions(-3, 3, max_denominator=50), st.one_of(st.none(), st.integers(0, 45)))
def test_level_weights_equal_exact_fractions(n: int, lam: Fraction, order: int | None) -> None:
    exact = [float(math.comb(n, k) * lam**k) for k in range((n if order is None else order) + 1)]
    weights = level_weights(n, float(lam), order)
    assert weights.dtype == np.float64
    np.testing.assert_allclose(weights, exact, rtol=1e-12, atol=0)


def test_the_cards_numbers() -> None:
    inverse = level_weights(1000, 1e-3)
    assert inverse[2] == pytest.approx(0.4995, rel=1e-10)
    assert inverse.sum() == pytest.approx(1.001**1000, rel=1e-10)
    assert inverse.sum() == pytest.approx(2.71692, abs=5e-6)
    coherent = level_weights(100, 0.1)
    assert coherent.argmax() == 9
    assert coherent.sum() == pytest.approx(13780.6, abs=0.05)
    # lam = 1/n: c_k -> 1/k! whatever the depth
    np.testing.assert_allclose(
        level_weights(10**6, 1e-6, 5), [1 / math.factorial(k) for k in range(6)], rtol=2e-5
    )


def test_level_weights_at_the_edges() -> None:
    assert level_weights(3, 0.0).tolist() == [1, 0, 0, 0]
    assert log_level_weights(3, 0.0).tolist() == [0, -math.inf, -math.inf, -math.inf]
    assert level_weights(2, 0.5, 4)[3:].tolist() == [0, 0]
    assert np.isfinite(level_weights(1000, 1.0)).all()
    huge = level_weights(5000, 1.0)
    assert math.isinf(huge[2500])
    assert huge[5000] == pytest.approx(1)
    np.testing.assert_allclose(
        log_level_weights(5000, 2.0)[2500], float(math.log(math.comb(5000, 2500))) + 2500 * math.log(2)
    )


@pytest.mark.parametrize("order", [0, 2, 5, 6, 9])
def test_remainder_bound_equals_exact_sum(order: int) -> None:
    n, lam, L = 6, Fraction(-3, 10), Fraction(5, 4)
    exact = 2 * sum(math.comb(n, k) * (-lam * L) ** k for k in range(order + 1, n + 1))
    assert remainder_bound(n, float(lam), float(L), 2.0, order) == pytest.approx(float(exact), rel=1e-12)


def test_remainder_bound_edges() -> None:
    assert remainder_bound(6, 1.0, 3.0, 1.0, 6) == 0
    assert remainder_bound(6, 1.0, 0.0, 1.0, 0) == 0
    assert remainder_bound(5000, 1.0, 1.0, 0.0, 0) == 0
    assert math.isinf(remainder_bound(5000, 1.0, 1.0, 1.0, 0))


def test_expected_norm_ratio() -> None:
    assert expected_norm_ratio(16, 0.25) == pytest.approx(1.0625**16)
    assert expected_norm_ratio(3, -2.0, 0.5) == pytest.approx(27.0)
    assert expected_norm_ratio(10**6, 1e-3, 2.0) == pytest.approx(math.exp(2), rel=1e-5)  # 1/sqrt(n)
    assert expected_norm_ratio(10**6, 1e-6, 2.0) == pytest.approx(1, rel=1e-5)  # 1/n
    assert math.isinf(expected_norm_ratio(2000, 1.0))


def test_residual_scale() -> None:
    assert residual_scale(16, "one") == 1.0
    assert residual_scale(16, "inv_sqrt") == 0.25
    assert residual_scale(16, "inv") == 1 / 16
    assert residual_scale(16, -0.3) == -0.3
    assert residual_scale(16, 0.0) == 0.0


# ------------------------------------------------------------------------------------------------- errors, imports


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: path_count(0, 0), "n must be an integer >= 1, got 0"),
        (lambda: path_count(3, -1), "k must be an integer >= 0, got -1"),
        (lambda: ensemble_size(0), "n must be"),
        (lambda: tree_count(0, 1), "n must be"),
        (lambda: tree_count(2, -1), "k must be"),
        (lambda: level_weights(0, 1.0), "n must be"),
        (lambda: level_weights(2, 1.0, -1), "order must be"),
        (lambda: level_weights(2, math.nan), "lam must be"),
        (lambda: level_weights(2, math.inf), "lam must be"),
        (lambda: remainder_bound(2, 1.0, -1.0, 1.0, 0), "lipschitz must be"),
        (lambda: remainder_bound(2, 1.0, 1.0, -1.0, 0), "x_norm must be"),
        (lambda: remainder_bound(2, 1.0, 1.0, 1.0, -1), "order must be"),
        (lambda: expected_norm_ratio(0, 1.0), "n must be"),
        (lambda: expected_norm_ratio(2, 1.0, -1.0), "sigma2 must be"),
        (lambda: residual_scale(0, "inv"), "n must be"),
        (lambda: residual_scale(2, "inverse"), "Did you mean 'inv"),
        (lambda: residual_scale(2, math.nan), "rule must be"),
    ],
)
def test_bad_arguments(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_counts_load_no_torch() -> None:
    code = (
        "import sys, normviz.residual as r\n"
        "import normviz.residual.counting\n"
        "assert r.path_count(4, 2) == 6 and r.tree_count(3, 3) == 5 and abs(r.level_weights(2, 1.0)[1] - 2) < 1e-9\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_of_the_package() -> None:
    assert normviz.residual.__all__ == sorted(normviz.residual.__all__, key=lambda s: (not s[0].isupper(), s))
    for name in normviz.residual.__all__:
        assert getattr(normviz.residual, name) is not None
    assert set(normviz.residual.__all__) <= set(dir(normviz.residual))
    with pytest.raises(AttributeError, match="no attribute 'towers'"):
        normviz.residual.towers  # noqa: B018
