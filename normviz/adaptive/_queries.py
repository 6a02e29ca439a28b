"""What the mechanisms share: data, queries and random generators as they come in, checked before anything happens."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normviz.validation import check_real

__all__ = [
    "Array",
    "as_float64",
    "as_generator",
    "as_rows",
    "check_range",
    "data_size",
    "is_tensor",
    "query_values",
]

Array = NDArray[np.float64]

RANGE_SLACK = 1e-9
"""How far a value may lie outside its range: the rounding of a map such as (1 + x y) / 2."""


def as_generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    """``rng`` itself if it is a generator, else ``numpy.random.default_rng(rng)``.

    Raises:
        ValueError: neither a generator, nor an integer >= 0, nor None.
    """
    if rng is None or isinstance(rng, np.random.Generator):
        return np.random.default_rng(rng)
    if isinstance(rng, int | np.integer) and not isinstance(rng, bool) and rng >= 0:
        return np.random.default_rng(int(rng))
    raise ValueError(f"rng must be a numpy.random.Generator, an integer >= 0 or None, got {rng!r}.")


def is_tensor(value: Any) -> bool:
    """Whether a value is a PyTorch tensor; without loading PyTorch, which whoever made a tensor has done."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_float64(values: Any) -> Array:
    """An array, tensor or list as a float64 array."""
    if is_tensor(values):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def as_rows(name: str, data: Any) -> Any:
    """Data as the callers' queries shall see it: arrays and tensors as they are, anything else as an array.

    Raises:
        ValueError: no rows, or a scalar.
    """
    rows = data if isinstance(data, np.ndarray) or is_tensor(data) else np.asarray(data)
    if rows.ndim == 0 or data_size(rows) == 0:
        raise ValueError(f"{name} must have at least one row, got shape {tuple(rows.shape)}.")
    return rows


def data_size(rows: Any) -> int:
    """Number of rows."""
    return int(rows.shape[0])


def check_range(value_range: tuple[float, float]) -> tuple[float, float]:
    """Return (low, high) if both are finite and increasing; ValueError otherwise."""
    try:
        low, high = value_range
    except (TypeError, ValueError) as error:
        raise ValueError(f"value_range must be a pair (low, high), got {value_range!r}.") from error
    low, high = (check_real("value_range", float(end)) for end in (low, high))
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"value_range must be finite with low < high, got {value_range!r}.")
    return low, high


def query_values(values: Any, length: int, value_range: tuple[float, float] = (0.0, 1.0)) -> Array:
    """A query's values as a float64 vector of the given length, all inside the range.

    Raises:
        ValueError: another shape, NaN, or a value outside the range by more than 1e-9.
    """
    try:
        vector = as_float64(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"query must give a vector of {length} numbers ({error}).") from error
    if vector.shape != (length,):
        raise ValueError(f"query must give a vector of {length} values, got shape {vector.shape}.")
    low, high = value_range
    inside = (vector >= low - RANGE_SLACK) & (vector <= high + RANGE_SLACK)
    if not inside.all():
        raise ValueError(
            f"query must give values in the range [{low:g}, {high:g}], got {vector[~inside][0]:g}: the range is "
            "violated. Map other queries into it first, e.g. a product x y of signs to (1 + x y) / 2."
        )
    return vector
