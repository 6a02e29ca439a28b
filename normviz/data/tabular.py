"""The small tables that scikit-learn ships: no download, columns standardised by training statistics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from normviz.data._bundled import read_bundled
from normviz.data.supervised import SupervisedData, standardise, stratified_split
from normviz.validation import check_choice

__all__ = ["TABLES", "load_table"]


@dataclass(frozen=True)
class _Table:
    """Where a table is and what its columns are called."""

    files: tuple[str, ...]
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...] = ()


_CELL = (
    *("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points"),
    *("symmetry", "fractal dimension"),
)

_TABLES = {
    "breast_cancer": _Table(
        ("breast_cancer.csv",),
        (*(f"mean {c}" for c in _CELL), *(f"{c} error" for c in _CELL), *(f"worst {c}" for c in _CELL)),
        ("malignant", "benign"),
    ),
    "wine": _Table(
        ("wine_data.csv",),
        (
            *(
                "alcohol",
                "malic_acid",
                "ash",
                "alcalinity_of_ash",
                "magnesium",
                "total_phenols",
                "flavanoids",
            ),
            *("nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue"),
            *("od280/od315_of_diluted_wines", "proline"),
        ),
        ("class_0", "class_1", "class_2"),
    ),
    "iris": _Table(
        ("iris.csv",),
        ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"),
        ("setosa", "versicolor", "virginica"),
    ),
    "diabetes": _Table(
        ("diabetes_data_raw.csv.gz", "diabetes_target.csv.gz"),
        ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"),
    ),
}

TABLES: tuple[str, ...] = tuple(_TABLES)
"""Classes: breast_cancer (569 x 30), wine (178 x 13), iris (150 x 4). A value: diabetes (442 x 10)."""


@lru_cache(maxsize=16)
def load_table(name: str, *, test_size: float = 0.25, seed: int = 0) -> SupervisedData:
    """One of the tables of :data:`TABLES`, every column to mean 0 and standard deviation 1 on the training rows.

    Classification tables are split with equal shares of the classes, ``diabetes`` at random; its target (disease
    progression after a year) is standardised as well, ``target_mean`` and ``target_scale`` undo it.

    Args:
        name: of the table.
        test_size: number of test examples (int), or their share in (0, 1) (float, 0.25 by default).
        seed: of the split (0 by default).

    Returns:
        The data. Cached: clone before changing in place.

    Raises:
        ValueError: unknown name, or a ``test_size`` or seed that ``stratified_split`` refuses.
        FileNotFoundError: scikit-learn is not installed.

    Example:
        >>> data = load_table("wine")
        >>> data.x_train.shape, data.num_classes
        (torch.Size([134, 13]), 3)
    """
    table = _TABLES[check_choice("name", name, _TABLES)]
    target_mean, target_scale = 0.0, 1.0
    if table.class_names:
        numbers = read_bundled(table.files[0], header=True)
        features, labels = numbers[:, :-1], numbers[:, -1].astype(np.int64)
        split = stratified_split(labels, test_size, seed)
        y = torch.from_numpy(labels)
    else:
        features = read_bundled(table.files[0], delimiter=None)
        values = read_bundled(table.files[1], delimiter=None)[:, None]
        split = stratified_split(np.zeros(len(values), dtype=np.int64), test_size, seed)
        scaled, mean, scale = standardise(values, split[0], None)
        target_mean, target_scale = float(mean), float(scale)
        y = torch.from_numpy(scaled).float()
    scaled, mean, scale = standardise(features, split[0], 0)
    x = torch.from_numpy(scaled).float()
    return SupervisedData.from_split(
        name,
        x,
        y,
        split,
        mean,
        scale,
        class_names=table.class_names,
        feature_names=table.feature_names,
        target_mean=target_mean,
        target_scale=target_scale,
    )
