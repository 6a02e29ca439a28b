"""MNIST-1D: ten classes of signals with 40 values each, made from one template per digit by random deformations.

Greydanus and Kobak, "Scaling Down Deep Learning with MNIST-1D", 2020, arXiv 2011.14439, section 2 and table of default
settings. It keeps what tells methods apart on MNIST (a linear model 32 %, a fully connected network 68 %, a convolution
94 %, in the paper), at a fraction of the arithmetic. The templates and the settings are the paper's; the random numbers
are our own, so that the examples are like those of the authors' file and not the same.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from normviz.data.supervised import SupervisedData, standardise, stratified_split
from normviz.validation import check_choice, check_integer

__all__ = ["MNIST1D_TEMPLATES", "load_mnist1d"]

Array = NDArray[np.float64]

_DRAWN = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
"""The outline of each digit, as the authors drew it."""

_PADDING = (36, 60)
_SCALE, _SHEAR, _SHIFT = 0.4, 0.75, 48
_SMOOTH_NOISE, _SMOOTHNESS, _NOISE = 0.25, 2.0, 0.02
_LENGTH = 40

_SHAPES = {"image": (1, 1, _LENGTH), "flat": (_LENGTH,), "sequence": (_LENGTH, 1)}


def _templates() -> Array:
    """The outlines with mean 0 and standard deviation 1, moved to begin at 0, over 6: (10, 12)."""
    drawn = np.array(_DRAWN)
    whitened = (drawn - drawn.mean(1, keepdims=True)) / drawn.std(1, keepdims=True)
    templates: Array = (whitened - whitened[:, :1]) / 6
    return templates


MNIST1D_TEMPLATES: Array = _templates()
"""One signal of 12 values per class, (10, 12)."""


def _deform(
    template: Array, padding: int, scale: float, shift: int, smooth: Array, noise: Array, shear: float
) -> Array:
    """One example (40,) from a template (12,).

    Args:
        template: the class's signal.
        padding: zeros behind it; the whole is then stretched to 72 values, so that more zeros make a shorter signal.
        scale: factor on the signal.
        shift: values from the end that move to the front.
        smooth: smooth noise (72,), which stands where the signal is not.
        noise: white noise (72,).
        shear: how much lower the end is than the start.
    """
    n, length = len(template), len(template) + _PADDING[1]
    at = np.linspace(0, n + padding - 1, length)
    signal = scale * np.interp(at, np.arange(n + 1), np.append(template, 0.0))
    moved = np.roll(np.where(at < n, signal, np.nan), shift)
    whole = np.where(np.isnan(moved), smooth, moved) + noise - shear * np.linspace(-0.5, 0.5, length)
    resampled: Array = np.interp(np.linspace(0, 1, _LENGTH), np.linspace(0, 1, length), whole)
    return resampled


def _examples(count: int, seed: int) -> tuple[Array, NDArray[np.int64]]:
    """So many examples per class, (10 count, 40), and their classes."""
    from scipy.ndimage import gaussian_filter1d

    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(MNIST1D_TEMPLATES)), count)
    n, length = len(labels), MNIST1D_TEMPLATES.shape[1] + _PADDING[1]
    padding = rng.integers(_PADDING[0], _PADDING[1], n, endpoint=True)
    scale = 1 + _SCALE * rng.uniform(-0.5, 0.5, n)
    shift = rng.integers(0, _SHIFT, n)
    shear = _SHEAR * rng.uniform(-0.5, 0.5, n)
    smooth = gaussian_filter1d(_SMOOTH_NOISE * rng.standard_normal((n, length)), _SMOOTHNESS, axis=1)
    noise = _NOISE * rng.standard_normal((n, length))
    signals = [
        _deform(MNIST1D_TEMPLATES[label], int(p), f, int(k), smooth[i], noise[i], s)
        for i, (label, p, f, k, s) in enumerate(zip(labels, padding, scale, shift, shear, strict=True))
    ]
    return np.stack(signals), labels


@lru_cache(maxsize=16)
def load_mnist1d(
    layout: str = "image", *, size: int = 5000, test_size: float = 0.2, seed: int = 0
) -> SupervisedData:
    """Signals of the ten classes, generated here, standardised by the training signals' mean and deviation.

    Args:
        layout: shape of one example: "image" (1, 1, 40) for convolutions over two dimensions (default), "flat" (40,),
            "sequence" (40, 1).
        size: examples of all classes together, a multiple of 10 (5000 by default, as in the paper).
        test_size: number of test examples (int), or their share in (0, 1) (float, 0.2 by default, as in the paper).
        seed: of the examples and of the split: two seeds share no example (0 by default).

    Returns:
        The data. Cached: clone before changing in place.

    Raises:
        ValueError: unknown layout, a size that is no multiple of 10, or a ``test_size`` or seed that
            ``stratified_split`` refuses.

    Example:
        >>> data = load_mnist1d()
        >>> data.x_train.shape, data.x_test.shape, data.num_classes
        (torch.Size([4000, 1, 1, 40]), torch.Size([1000, 1, 1, 40]), 10)
    """
    shape = _SHAPES[check_choice("layout", layout, _SHAPES)]
    check_integer("seed", seed, low=0)
    if check_integer("size", size, low=10) % 10:
        raise ValueError(f"size must be a multiple of 10, got {size}.")
    signals, labels = _examples(size // 10, seed)
    split = stratified_split(labels, test_size, seed)
    scaled, mean, scale = standardise(signals, split[0], None)
    x, y = torch.from_numpy(scaled).float().reshape(-1, *shape), torch.from_numpy(labels)
    digits = tuple("0123456789")
    return SupervisedData.from_split("MNIST-1D", x, y, split, mean, scale, class_names=digits)
