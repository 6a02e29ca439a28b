from __future__ import annotations

import numpy as np
import pytest
import sklearn.datasets
import torch

from normviz.data import TABLES, load_table
from normviz.data._bundled import read_bundled


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "iris"])
def test_classification_tables_are_scikit_learns(name: str) -> None:
    data, bunch = load_table(name), getattr(sklearn.datasets, f"load_{name}")()
    assert data.feature_names == tuple(bunch.feature_names)
    assert data.class_names == tuple(bunch.target_names)
    ours = torch.cat((data.unscale(data.x_train), data.unscale(data.x_test))).numpy()
    labels = torch.cat((data.y_train, data.y_test)).numpy()
    order, reference = np.lexsort(ours.T), np.lexsort(bunch.data.T.astype(np.float32))
    np.testing.assert_allclose(ours[order].sum(0), bunch.data[reference].sum(0), rtol=1e-4)
    for label in range(data.num_classes):
        mine, theirs = ours[labels == label], bunch.data[bunch.target == label]
        np.testing.assert_allclose(np.sort(mine, 0), np.sort(theirs, 0), rtol=1e-4, atol=1e-4)


def test_diabetes_is_scikit_learns() -> None:
    data, bunch = load_table("diabetes"), sklearn.datasets.load_diabetes(scaled=False)
    assert data.feature_names == tuple(bunch.feature_names)
    assert data.num_classes == 0
    assert data.y_train.shape[1:] == (1,)
    assert data.y_train.mean().item() == pytest.approx(0, abs=1e-5)
    assert data.y_train.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    values = torch.cat((data.y_train, data.y_test))[:, 0] * data.target_scale + data.target_mean
    np.testing.assert_allclose(np.sort(values.numpy()), np.sort(bunch.target), rtol=1e-4)
    inputs = torch.cat((data.unscale(data.x_train), data.unscale(data.x_test))).numpy()
    rows = {
        tuple(np.round(row, 2)) for row in np.column_stack((inputs, values.numpy())).astype(float).tolist()
    }
    expected = {tuple(np.round(row, 2)) for row in np.column_stack((bunch.data, bunch.target)).tolist()}
    assert len(rows & expected) > 0.98 * len(expected)


@pytest.mark.parametrize("name", TABLES)
def test_standardised_by_training_statistics(name: str) -> None:
    data = load_table(name, seed=1)
    features = data.input_shape[0]
    torch.testing.assert_close(data.x_train.mean(0), torch.zeros(features), rtol=0, atol=1e-4)
    torch.testing.assert_close(data.x_train.std(0, correction=0), torch.ones(features), rtol=0, atol=1e-4)
    assert not torch.allclose(data.x_test.mean(0), torch.zeros(features), atol=1e-3)
    assert len(data.x_test) == round(0.25 * (len(data.x_train) + len(data.x_test)))


def test_seed_and_errors() -> None:
    assert not torch.equal(load_table("wine", seed=1).x_test, load_table("wine", seed=2).x_test)
    with pytest.raises(ValueError, match=r"'wine'.*Did you mean 'iris'"):
        load_table("irises")
    with pytest.raises(ValueError, match="test_size"):
        load_table("wine", test_size=178)
    with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
        read_bundled("absent.csv")
