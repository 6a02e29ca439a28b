"""A stand-in for MNIST's images, so that pages can train on them where the package that ships them is missing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from normviz.data import load_mnist_sample


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """600 images of 28 x 28 pixels: every class a bright square at its own place, on noise that is black at the rim."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(10), 60)
    pixels = np.zeros((len(labels), 28, 28), dtype=np.uint8)
    pixels[:, 2:-2, 2:-2] = rng.integers(0, 120, (len(labels), 24, 24))
    for label in range(10):
        row, column = 4 + 9 * (label // 5), 3 + 5 * (label % 5)
        pixels[labels == label, row : row + 5, column : column + 4] = 255
    monkeypatch.setattr("normviz.data.mnist_sample._table", lambda: (pixels.reshape(-1, 784), labels))
    load_mnist_sample.cache_clear()
    yield
    load_mnist_sample.cache_clear()
