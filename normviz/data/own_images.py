"""A reader's own images as tensors; what they must be is checked in :mod:`normviz.own_images`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from normviz.data.supervised import SupervisedData, standardise, stratified_split
from normviz.own_images import SIDES, read_images
from normviz.validation import check_choice

__all__ = ["load_own_images"]


@lru_cache(maxsize=16)
def load_own_images(
    key: str, layout: str = "image", *, side: int = 28, test_size: float = 0.25, seed: int = 0
) -> SupervisedData:
    """Kept images, standardised by the mean and deviation of all training pixels, in a stratified split.

    Args:
        key: that :func:`normviz.own_images.keep_images` gave.
        layout: shape of one example: "image" (1, side, side) (default) or "flat" (side²,).
        side: 8, 14 or 28 (default) pixels.
        test_size: number of test examples (int), or their share in (0, 1) (float, 0.25 by default). Every class has
            its share of them.
        seed: of the split (0 by default).

    Returns:
        The data; ``unscale`` gives grey values in 0..255. Cached: clone before changing in place.

    Raises:
        ImagesUploadError: no such images on this machine.
        ValueError: unknown layout or side, or a ``test_size`` or seed that ``stratified_split`` refuses.
    """
    check_choice("layout", layout, ("image", "flat"))
    if side not in SIDES:
        raise ValueError(f"side must be one of {', '.join(map(str, SIDES))}, got {side!r}.")
    images = read_images(key)
    split = stratified_split(images.labels, test_size, seed)
    pixels = images.pixels[side].reshape(len(images.labels), -1).astype(np.float64)
    scaled, mean, scale = standardise(pixels, split[0], None)
    x = torch.from_numpy(scaled).float()
    return SupervisedData.from_split(
        key,
        x if layout == "flat" else x.reshape(-1, 1, side, side),
        torch.from_numpy(images.labels),
        split,
        mean,
        scale,
        class_names=images.class_names,
    )
