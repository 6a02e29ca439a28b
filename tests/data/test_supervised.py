from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normviz.data import SupervisedData, stratified_split
from normviz.data.supervised import standardise


@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=60),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_split_is_a_partition_with_proportional_classes(
    labels: list[int], fraction: float, seed: int
) -> None:
    y = np.array(labels)
    train, test = stratified_split(y, fraction, seed)
    assert sorted([*train, *test]) == list(range(len(y)))
    assert len(test) == min(max(round(fraction * len(y)), 1), len(y) - 1)
    for label in set(labels):
        quota = (y == label).sum() * len(test) / len(y)
        assert abs((y[test] == label).sum() - quota) < 1


def test_split_by_count_and_seed() -> None:
    y = np.arange(100) % 7
    train, test = stratified_split(y, 33, 0)
    assert (len(train), len(test)) == (67, 33)
    assert np.array_equal(stratified_split(y, 33, 0)[1], test)
    assert not np.array_equal(stratified_split(y, 33, 1)[1], test)


@pytest.mark.parametrize("test_size", [0, 10, -1, 0.0, 1.0, 1.5, float("nan"), True])
def test_split_errors(test_size: float) -> None:
    with pytest.raises(ValueError, match="test_size"):
        stratified_split(np.zeros(10, dtype=np.int64), test_size, 0)
    with pytest.raises(ValueError, match="seed"):
        stratified_split(np.zeros(10, dtype=np.int64), 0.5, -1)


def test_standardise_uses_training_rows_and_leaves_constants() -> None:
    x = np.array([[1.0, 5.0], [3.0, 5.0], [100.0, 7.0]])
    scaled, mean, scale = standardise(x, np.array([0, 1]), 0)
    np.testing.assert_allclose(mean, [2, 5])
    np.testing.assert_allclose(scale, [1, 1])
    np.testing.assert_allclose(scaled, [[-1, 0], [1, 0], [98, 2]])


def test_container() -> None:
    x = torch.randn(10, 3)
    data = SupervisedData(
        "toy",
        x[:6],
        torch.arange(6),
        x[6:],
        torch.arange(4),
        torch.ones(3),
        torch.full((3,), 2.0),
        ("a", "b"),
    )
    assert data.num_classes == 2
    assert data.input_shape == (3,)
    assert torch.equal(data.unscale(x), 2 * x + 1)
    a, b = data.train_batches(2)(0, 0)
    assert torch.equal(a, data.x_train[b])
    moved = data.to("meta")
    assert moved.x_train.is_meta
    assert moved.mean.is_meta
    assert moved.class_names == ("a", "b")
    assert not data.x_train.is_meta
