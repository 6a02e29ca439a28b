"""The day of the year as a fixed code of sines and cosines, as LOAN's network adds it to its features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from normviz.norms._placement import place
from normviz.norms._rows import values_readable
from normviz.validation import check_integer, check_real

__all__ = ["DayOfYearEncoding", "leap_day_of_year"]

_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
"""Days of the months of a leap year."""


def leap_day_of_year(month: int, day: int) -> int:
    """Number of a date in a leap year, so that a date has the same number in every year: 1 March is always 61.

    As LOAN's data loader counts the day of the target date (arXiv 2212.08208, official code
    ``FireCube_dataloader.py``).

    Args:
        month: 1 to 12.
        day: of the month, from 1; 29 February exists.

    Returns:
        1 (1 January) to 366 (31 December).

    Raises:
        ValueError: no such month, or the month has no such day.

    Example:
        >>> leap_day_of_year(3, 1), leap_day_of_year(12, 31)
        (61, 366)
    """
    m = check_integer("month", month, 1, 12)
    return sum(_MONTHS[: m - 1]) + check_integer("day", day, 1, _MONTHS[m - 1])


class DayOfYearEncoding(nn.Module):
    """A row of sines and cosines for each day, times a learned gain per column.

    Shams Eddin, Roscher, Gall, arXiv 2212.08208, the time encoding of the LOAN network; constants as in the official
    code. With the row p = day - 1 and even columns i = 0, 2, 4, ...::

        pe[p, i] = sin(p / base^(2 i / d)),    pe[p, i + 1] = cos(p / base^(2 (i + 1) / d)),    t = pe[day - 1] (1 + w)

    This is not the usual encoding of Transformers (arXiv 1706.03762). The base is 10, not 10000. The exponent takes the
    raw column index, so it runs from 0 to 2, and frequencies from 1 to about 1/100 radian per day. The cosine column
    has its own, slightly lower frequency than the sine column before it. The code is absolute, not cyclic: 31 December
    is as far from 1 January as other distant days (15.49 for d = 256; 2 January: 3.70).

    Buffer ``pe`` (n_days, d), in state_dict, computed in float64 and stored in the default dtype. Parameter ``scale``
    (d,) = w, zero at the start; None with ``learn_scale=False``.

    Args:
        d_model: width d, even. Default 256 (official: the width of the pooled dynamic vector).
        n_days: rows. Default 366 (official: days of a leap year).
        base: greater than 0. Default 10 (official).
        learn_scale: learn w. Default True (official).
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: an argument out of range, an odd ``d_model``; ``day`` not (N,), or with a value outside
            1..n_days. Where values cannot be looked at (compiled, under vmap, on the device meta) such a day
            gives a row of NaN; it never wraps around to another day.
        TypeError: ``day`` no tensor, or not of an integer dtype.

    Example:
        >>> import torch
        >>> DayOfYearEncoding(8)(torch.tensor([1, 366])).shape
        torch.Size([2, 8])
    """

    pe: Tensor
    scale: Tensor | None

    def __init__(
        self,
        d_model: int = 256,
        n_days: int = 366,
        base: float = 10.0,
        learn_scale: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_model = check_integer("d_model", d_model, 2)
        if self.d_model % 2:
            raise ValueError(f"d_model must be even, got {d_model}.")
        self.n_days = check_integer("n_days", n_days, 1)
        self.base = check_real("base", base, 0, math.inf, low_open=True, high_open=True)
        self.register_buffer("pe", self._table())
        if learn_scale:
            self.scale = nn.Parameter(torch.zeros(self.d_model))
        else:
            self.register_parameter("scale", None)
        place(self, device, dtype)

    def _table(self) -> Tensor:
        column = torch.arange(self.d_model, dtype=torch.float64)
        row = torch.arange(self.n_days, dtype=torch.float64)[:, None]
        angle = row / self.base ** (2 * column / self.d_model)  # (n_days, d)
        table = torch.where(column % 2 == 0, angle.sin(), angle.cos())
        return table.to(torch.get_default_dtype())

    def forward(self, day: Tensor) -> Tensor:
        """The code of each day.

        Args:
            day: (N,), 1 to n_days, any integer dtype.

        Returns:
            (N, d_model).
        """
        if not isinstance(day, Tensor):
            raise TypeError(f"day must be a tensor of integers, got {type(day).__name__}.")
        if day.dtype == torch.bool or day.is_floating_point() or day.is_complex():
            raise TypeError(f"day must be a tensor of integers, got {day.dtype}.")
        if day.ndim != 1:
            raise ValueError(f"day must have shape (N,), got {tuple(day.shape)}.")
        number = day.to(torch.long)
        known = (number >= 1) & (number <= self.n_days)
        if values_readable(known) and not bool(known.all()):
            raise ValueError(f"day must be in [1, {self.n_days}], got {int(number[~known][0])}.")
        row = self.pe[number.clamp(1, self.n_days) - 1]  # (N, d)
        row = torch.where(known[:, None], row, torch.nan)
        return row if self.scale is None else row * (1 + self.scale)

    def extra_repr(self) -> str:
        """Constructor arguments."""
        return f"{self.d_model}, n_days={self.n_days}, base={self.base}, learn_scale={self.scale is not None}"
