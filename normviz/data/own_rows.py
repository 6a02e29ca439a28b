"""A reader's own data as rows of numbers: a table, or images pixel by pixel."""

from __future__ import annotations

from normviz.data.own_images import load_own_images
from normviz.data.own_table import load_own_table
from normviz.data.supervised import SupervisedData
from normviz.own_data import IMAGE_SIDE, OwnDataKnobs

__all__ = ["load_own_rows"]


def load_own_rows(knobs: OwnDataKnobs, *, seed: int = 0) -> SupervisedData:
    """The images or the table that the knobs name, standardised, in the split of a seed.

    Images are scaled by one mean and one deviation of all training pixels, columns of a table each by its own.

    Args:
        knobs: with ``own_images``, or ``own_table`` and ``target``; images go before a table.
        seed: of the split (0 by default).

    Returns:
        The data, one example a row of values. Cached: clone before changing in place.

    Raises:
        UploadError: they are not on this machine, or the column cannot be the target.
    """
    if knobs.own_images:
        return load_own_images(knobs.own_images, "flat", side=IMAGE_SIDE, seed=seed)
    return load_own_table(knobs.own_table, knobs.target, seed=seed)
