"""A reader's own table as tensors; what it must be is checked in :mod:`normviz.own_tables`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from normviz.data.supervised import SupervisedData, stratified_split
from normviz.own_tables import read_table

__all__ = ["load_own_table"]


@lru_cache(maxsize=16)
def load_own_table(key: str, target: str, *, test_size: float = 0.25, seed: int = 0) -> SupervisedData:
    """A kept table, every input to mean 0 and standard deviation 1 on the training rows.

    A missing number takes no part in mean and deviation and becomes 0, the mean. An input that is the same in all
    training rows is divided by 1.

    Args:
        key: that :func:`normviz.own_tables.keep_table` gave.
        target: the column that is classified.
        test_size: number of test examples (int), or their share in (0, 1) (float, 0.25 by default). Every class has
            its share of them.
        seed: of the split (0 by default).

    Returns:
        The data. Cached: clone before changing in place.

    Raises:
        TableUploadError: no such table on this machine, or the column cannot be its target.
        ValueError: a ``test_size`` or seed that ``stratified_split`` refuses.
    """
    task = read_table(key).task(target)
    split = stratified_split(task.labels, test_size, seed)
    mean, scale = _present_moments(task.inputs[split[0]])
    scaled = np.nan_to_num((task.inputs - mean) / scale, nan=0.0)
    return SupervisedData.from_split(
        key,
        torch.from_numpy(scaled).float(),
        torch.from_numpy(task.labels),
        split,
        mean,
        scale,
        class_names=task.class_names,
        feature_names=task.input_names,
    )


def _present_moments(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and divisor of every column over the numbers that are there; 0 and 1 where none is."""
    there = ~np.isnan(rows)
    count = np.maximum(there.sum(0), 1)
    mean = np.where(there, rows, 0.0).sum(0) / count
    deviation = np.sqrt(np.where(there, (rows - mean) ** 2, 0.0).sum(0) / count)
    return mean, np.where(deviation > 0, deviation, 1.0)
