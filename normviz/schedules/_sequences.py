"""Histories, weights and steps as they come in: 1-D lists, arrays or tensors, checked and turned into float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Values", "as_norms", "as_values", "as_weights", "interpolate", "sums_after"]

Values = Sequence[float] | NDArray[Any] | Tensor
"""What a history of norms, a weight sequence or a sequence of steps may be given as."""


def as_values(name: str, values: Values, at_least: int = 1, *, finite: bool = True) -> Tensor:
    """A new 1-D float64 tensor on the CPU with the numbers of ``values``.

    Args:
        name: of the argument, for the messages.
        values: a list of numbers or 0-dim tensors, an array or a tensor, all >= 0.
        at_least: smallest length.
        finite: refuse infinite and NaN entries.

    Raises:
        ValueError: no numbers, not 1-D, too short, a negative entry, or one that is not finite.
    """
    try:
        if isinstance(values, Tensor):
            result = values.detach().to("cpu", torch.float64, copy=True)
        elif isinstance(values, np.ndarray):
            result = torch.from_numpy(values.astype(np.float64))
        else:
            result = torch.tensor([_as_number(value) for value in values], dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a 1-D sequence of numbers, got {values!r}.") from error
    if result.ndim != 1:
        raise ValueError(f"{name} must have 1 axis, got shape {tuple(result.shape)}.")
    if len(result) < at_least:
        raise ValueError(f"{name} must have at least {at_least} entries, got {len(result)}.")
    if finite and not bool(torch.isfinite(result).all()):
        raise ValueError(f"{name} must be finite, got {result[~torch.isfinite(result)][0]:g}.")
    if bool((result < 0).any()):
        raise ValueError(f"{name} must be >= 0, got {result[result < 0][0]:g}.")
    return result


def _as_number(value: Any) -> Any:
    """One entry of a list; a nested list stays one, so that the 2-D shape is seen."""
    return [_as_number(v) for v in value] if isinstance(value, list | tuple) else float(value)


def as_norms(norms: Values, *, finite: bool = True) -> Tensor:
    """A history of at least two gradient norms >= 0.

    Raises:
        ValueError: as :func:`as_values`.
    """
    return as_values("norms", norms, 2, finite=finite)


def as_weights(weights: Values) -> Tensor:
    """Weights w_t >= 0, one of them > 0.

    Raises:
        ValueError: as :func:`as_values`, or all are zero.
    """
    result = as_values("weights", weights)
    if not bool((result > 0).any()):
        raise ValueError("weights must have an entry > 0, got only zeros.")
    return result


def sums_after(values: Tensor) -> Tensor:
    """``sums_after(v)[t] = v[t+1] + … + v[T-1]``, 0 at the end.

    Added up from the end: total minus prefix would leave the rounding of the total in small last sums.
    """
    from_here = values.flip(0).cumsum(0).flip(0)
    return torch.cat([from_here[1:], from_here.new_zeros(1)])


def interpolate(values: Tensor, length: int) -> Tensor:
    """``values`` at ``length`` points, linear in relative time u = (t-1)/(T-1); the same values for an equal length."""
    if length == len(values):
        return values
    old, new = np.linspace(0, 1, len(values)), np.linspace(0, 1, length)
    return torch.from_numpy(np.interp(new, old, values.numpy()))
