"""How far two samples have the same order. SciPy has these too, but its import would slow the server that draws."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["kendall", "spearman"]


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Spearman's rank correlation, equal values with their mean rank; NaN if one side has no two different values."""
    x, y = (_ranks(np.asarray(v, dtype=float)) for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / scale) if scale else math.nan


def kendall(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Kendall's tau-a: pairs in the same order less the others, over all pairs; NaN for fewer than two."""
    x, y = (np.asarray(v, dtype=float) for v in (a, b))
    if len(x) < 2:
        return math.nan
    first, second = np.triu_indices(len(x), 1)
    return float(np.mean(np.sign(x[first] - x[second]) * np.sign(y[first] - y[second])))


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    less = (values[None, :] < values[:, None]).sum(1)
    same = (values[None, :] == values[:, None]).sum(1)
    ranks: npt.NDArray[np.float64] = less + (same + 1) / 2
    return ranks
