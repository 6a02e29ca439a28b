"""The Dirichlet split and the even one."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from normviz.federated import data, dirichlet_partition, iid_partition

LABELS = np.random.default_rng(0).integers(10, size=1500)


def shares(parts):
    """(clients, classes), what part of a class each client has."""
    counts = np.array([np.bincount(LABELS[part], minlength=10) for part in parts])
    return counts / counts.sum(0)


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1e6])
@pytest.mark.parametrize("balance", [True, False])
def test_check_11_parts_are_disjoint_and_complete(alpha, balance):
    parts = dirichlet_partition(LABELS, 10, alpha, min_size=1 if alpha < 0.1 else 10, balance=balance, seed=3)
    assert len(parts) == 10
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(1500))
    assert all(isinstance(part, np.ndarray) and np.issubdtype(part.dtype, np.integer) for part in parts)


def test_check_11_a_large_alpha_is_nearly_uniform_a_small_one_skewed():
    uniform = shares(dirichlet_partition(LABELS, 10, 1e6, balance=False))
    assert abs(uniform - 0.1).max() < 0.02
    for seed in range(5):
        skewed = shares(dirichlet_partition(LABELS, 10, 0.05, min_size=0, seed=seed))
        assert skewed.max(0).mean() > 0.5, "a client has most of a class"
        assert (skewed == 0).mean() > 0.4


@pytest.mark.parametrize("min_size", [10, 60])
def test_check_11_every_client_has_the_least_size(min_size):
    for seed in range(5):
        sizes = [len(p) for p in dirichlet_partition(LABELS, 10, 0.5, min_size, seed=seed)]
        assert min(sizes) >= min_size


def gets_more_when_full(balance, seed):
    """Whether some client got samples of a class although it held its share after the classes before it."""
    parts = dirichlet_partition(LABELS, 10, 0.3, min_size=1, balance=balance, seed=seed)
    counts = np.array([np.bincount(LABELS[part], minlength=10) for part in parts])  # (clients, classes)
    before = counts.cumsum(1) - counts
    return bool((counts[before >= 150] > 0).any())


def test_a_full_client_gets_nothing_more_with_balance():
    assert not any(gets_more_when_full(True, seed) for seed in range(8))
    assert all(gets_more_when_full(False, seed) for seed in range(8))


def test_a_split_is_a_function_of_the_seed():
    first, again, other = (dirichlet_partition(LABELS, 5, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert all(
        np.array_equal(a, b)
        for a, b in zip(iid_partition(LABELS, 5, 1), iid_partition(LABELS, 5, 1), strict=True)
    )


def test_the_even_split():
    parts = iid_partition(LABELS[:23], 5, seed=2)
    assert sorted(len(part) for part in parts) == [4, 4, 5, 5, 5]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(23))


def test_too_many_clients_are_refused_at_once():
    with pytest.raises(ValueError, match="n_clients must be at most 150"):
        dirichlet_partition(LABELS, 151)
    with pytest.raises(ValueError, match="n_clients must be at most 3"):
        iid_partition([0, 1, 2], 4)


def test_a_least_size_that_is_never_reached_ends():
    with pytest.raises(ValueError, match="min_size must be reachable: in 1000 draws"):
        dirichlet_partition(np.zeros(100, dtype=int), 10, alpha=0.01, min_size=10)
    with pytest.raises(ValueError, match="min_size"):
        dirichlet_partition(LABELS, 10, alpha=1e-300, min_size=10), "proportions that all underflow"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"n_clients": 0}, "n_clients"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": float("inf")}, "alpha"),
        ({"min_size": -1}, "min_size"),
        ({"seed": -1}, "seed"),
        ({"labels": [[0, 1]]}, "labels"),
        ({"labels": [0.5, 1.5]}, "labels"),
    ],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=name):
        dirichlet_partition(**{"labels": LABELS, "n_clients": 3, **arguments})


def test_examples():
    assert doctest.testmod(data).failed == 0
