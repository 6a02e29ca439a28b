"""Spans: the ends of an axis, computed from the data, and the axes that have them.

A chart says the ends of its axes itself. Vega would otherwise take them from data that may not have come yet, and warn.
The ends are rounded outwards to few values: the specification of a live chart, which holds them, then changes seldom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import ArrayLike

__all__ = ["POWER_LABEL", "Span", "across", "up"]

PARTS = 6
"""Least number of parts that the ends are rounded to."""
NEAR_ZERO = 1 / 3
"""Share of the farther end below which the nearer end is zero: such an axis stays where it is while values fall."""
NARROW = 2.5
"""Ratio of the ends up to which a logarithmic axis has evenly spaced round ends and ticks, as a linear one."""
DECADES = 6
"""Most decades between the ends for which each has a tick."""

POWER_LABEL = "replace(format(datum.value, abs(log(datum.value)) > 3.5 * LN10 ? '.0e' : '.3~g'), '+', '')"
"""Label of a value on a logarithmic axis: 1e7, 1000, 0.001, 1e-5."""


@dataclass(frozen=True)
class Span:
    """The ends of an axis.

    Args:
        low: lower end.
        high: upper end, above the lower one.
        log: the axis is logarithmic; the ends are positive.

    Raises:
        ValueError: ends that are not finite and ascending, or not positive on a logarithmic axis.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf or (self.log and self.low <= 0):
            kind = "positive, finite and ascending" if self.log else "finite and ascending"
            raise ValueError(f"low and high must be {kind}, got {self.low!r} and {self.high!r}.")

    @classmethod
    def of(cls, *values: ArrayLike, log: bool = False, zero: bool = False) -> Span:
        """A span of round ends that holds all finite values.

        Args:
            values: numbers or arrays; what is not finite counts nothing, nor what is not positive if ``log``.
            log: a logarithmic axis.
            zero: the axis holds zero (not with ``log``).

        Returns:
            The span; [0, 1] or [0.1, 10] where there is no value.
        """
        parts = [np.asarray(v, dtype=float).ravel() for v in values]
        flat = np.concatenate(parts) if parts else np.empty(0)
        flat = flat[np.isfinite(flat)]
        if log:
            flat = flat[flat > 0]
        if not flat.size:
            return cls(0.1, 10.0, True) if log else cls(0.0, 1.0)
        low, high = float(flat.min()), float(flat.max())
        if log:
            return _log_span(low, high)
        if zero:
            low, high = min(low, 0.0), max(high, 0.0)
        if 0 < low < NEAR_ZERO * high:
            low = 0.0
        elif 0 < -high < NEAR_ZERO * -low:
            high = 0.0
        return cls(*_rounded(*_apart(low, high)))

    @classmethod
    def exactly(cls, values: ArrayLike, *, log: bool = False) -> Span:
        """From the least to the greatest value, for positions that do not grow (layers, settings)."""
        flat = np.asarray(values, dtype=float).ravel()
        flat = flat[np.isfinite(flat) & ((flat > 0) | (not log))]
        if not flat.size or flat.min() == flat.max():
            return cls.of(flat, log=log)
        return cls(float(flat.min()), float(flat.max()), log)

    @property
    def scale(self) -> alt.Scale:
        """The scale with these ends."""
        return alt.Scale(type="log" if self.log else "linear", domain=[self.low, self.high], nice=False)

    def ticks(self) -> list[float] | None:
        """Values to mark on a logarithmic axis; None on a linear one, where the size of the chart decides."""
        if not self.log:
            return None
        if self.high / self.low <= NARROW:
            step = _round_step((self.high - self.low) / 4)
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            return [float(f"{k * step:.12g}") for k in range(first, last + 1)]
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        ratio = self.high / self.low
        fine = (1, 2, 5) if ratio <= 150 else (1, 3) if ratio <= 1500 else (1,)
        every = max(1, -(-(last - first) // DECADES))
        marks = [float(f"{m}e{k}") for k in range(first, last + 1, every) for m in fine]
        return [m for m in marks if self.low * (1 - 1e-9) <= m <= self.high * (1 + 1e-9)]

    def labels(self) -> dict[str, Any]:
        """Arguments of :class:`altair.Axis` for ticks and their labels."""
        if self.log:
            return {"values": self.ticks(), "labelExpr": POWER_LABEL}
        largest = max(abs(self.low), abs(self.high))
        if largest >= 1e4:
            return {"labelExpr": "format(datum.value, '~s')"}
        return {"format": "~e" if largest < 1e-3 else "~r"}


def across(
    field: str, title: str | None, span: Span, *, scale: alt.Scale | None = None, **axis: Any
) -> alt.X:
    """A horizontal axis; ``axis`` holds further arguments of :class:`altair.Axis`."""
    count = {"expr": f"max(2, ceil(width / {40 if span.log else 60}))"}
    options = {"tickCount": count, "grid": False, **span.labels(), **axis}
    return alt.X(f"{field}:Q", title=title, scale=scale or span.scale, axis=alt.Axis(**options))


def up(field: str, title: str | None, span: Span, *, scale: alt.Scale | None = None, **axis: Any) -> alt.Y:
    """A vertical axis; ``axis`` holds further arguments of :class:`altair.Axis`."""
    count = {"expr": f"max(2, ceil(height / {22 if span.log else 36}))"}
    options = {"tickCount": count, **span.labels(), **axis}
    return alt.Y(f"{field}:Q", title=title, scale=scale or span.scale, axis=alt.Axis(**options))


def _apart(low: float, high: float) -> tuple[float, float]:
    """Ends that are apart, also for a single value (or for values that differ by rounding only)."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    room = 0.1 * max(abs(low), abs(high)) or 1.0
    return low - room, high + room


def _round_step(least: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is at least this."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))


def _rounded(low: float, high: float) -> tuple[float, float]:
    """Ends rounded outwards to multiples of a round step."""
    step = _round_step((high - low) / PARTS)
    ends = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return float(f"{ends[0]:.12g}") + 0.0, float(f"{ends[1]:.12g}") + 0.0


def _log_span(low: float, high: float) -> Span:
    if high <= low * (1 + 1e-9):
        low, high = low / 1.5, high * 1.5
    if high / low <= NARROW:
        ends = _rounded(low, high)
        if ends[0] > 0 and ends[1] / ends[0] <= NARROW:
            return Span(*ends, log=True)
    fine = (1.0, 2.0, 5.0, 10.0) if high / low <= 1e4 else (1.0, 10.0)
    down, top = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.floor(math.log10(high))
    first = max(m * down for m in fine if m * down <= low * (1 + 1e-9))
    last = min(m * top for m in fine if m * top >= high * (1 - 1e-9))
    return Span(float(f"{first:.12g}"), float(f"{last:.12g}"), True)
