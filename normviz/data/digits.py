"""The 1797 handwritten digits that scikit-learn ships: 8 x 8 pixels, values 0 to 16, ten classes.

Optical Recognition of Handwritten Digits (UCI), the test part. Read from the installed package: no download.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from normviz.data._bundled import read_bundled
from normviz.data.supervised import SupervisedData, standardise, stratified_split
from normviz.validation import check_choice

__all__ = ["load_digits"]

_SHAPES = {"image": (1, 8, 8), "flat": (64,), "pixels": (64, 1), "rows": (8, 8)}


@lru_cache(maxsize=1)
def _table() -> NDArray[np.float64]:
    return read_bundled("digits.csv.gz")


@lru_cache(maxsize=16)
def load_digits(
    layout: str = "image", *, test_size: float = 0.25, seed: int = 0, scaling: str = "global"
) -> SupervisedData:
    """The digits, standardised by training statistics, in a stratified split fixed by a seed.

    The same seed and ``test_size`` give the same split in every layout.

    Args:
        layout: shape of one example: "image" (1, 8, 8) for convolutions and patches (default), "flat" (64,) for an MLP,
            "pixels" (64, 1) or "rows" (8, 8) as a sequence, top left to bottom right, for recurrent networks.
        test_size: number of test examples (int), or their share in (0, 1) (float, 0.25 by default).
        seed: of the split (0 by default).
        scaling: "global" (default): one mean and one standard deviation for all pixels, so that the picture is kept;
            "pixel": one pair per pixel, as self-normalizing networks ask for (constant pixels become 0).

    Returns:
        The data; ``unscale`` gives pixel values in 0..16. Cached: clone before changing in place.

    Raises:
        ValueError: unknown layout or scaling, or a ``test_size`` or seed that ``stratified_split`` refuses.
        FileNotFoundError: scikit-learn is not installed.

    Example:
        >>> data = load_digits("flat")
        >>> data.x_train.shape, data.x_test.shape, data.num_classes
        (torch.Size([1348, 64]), torch.Size([449, 64]), 10)
    """
    shape = _SHAPES[check_choice("layout", layout, _SHAPES)]
    check_choice("scaling", scaling, ("global", "pixel"))
    table = _table()
    pixels, labels = table[:, :-1], table[:, -1].astype(np.int64)
    split = stratified_split(labels, test_size, seed)
    scaled, mean, scale = standardise(pixels, split[0], None if scaling == "global" else 0)
    x = torch.from_numpy(scaled).float().reshape(-1, *shape)
    y = torch.from_numpy(labels)
    if scaling == "pixel":
        mean, scale = mean.reshape(shape), scale.reshape(shape)
    return SupervisedData.from_split("digits", x, y, split, mean, scale, class_names=tuple("0123456789"))
