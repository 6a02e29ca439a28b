"""Argument checks with one voice: every error names the argument, the value given and what is allowed.

Used by every layer, optimizer and function of the library. Nothing here looks at tensor values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from numbers import Integral, Real

__all__ = ["check_choice", "check_integer", "check_real", "missing_extra", "nearest"]


def missing_extra(extra: str, *packages: str) -> str:
    """What to install so that ``packages`` can be imported, in a sentence; empty if all of them are there."""
    missing = [package for package in packages if find_spec(package) is None]
    if not missing:
        return ""
    are = "is" if len(missing) == 1 else "are"
    return f"{', '.join(missing)} {are} not installed: pip install 'normviz[{extra}]'."


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Names in ``known`` that look like ``name``, best first (at most three)."""
    lowered = {k.lower(): k for k in known}
    return [lowered[hit] for hit in get_close_matches(name.lower(), list(lowered), n=3, cutoff=0.4)]


def check_choice(name: str, value: object, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is one of the strings ``allowed``.

    Raises:
        ValueError: names the argument, the value, every allowed value and the nearest one.
    """
    choices = list(allowed)
    if isinstance(value, str) and value in choices:
        return value
    hits = nearest(value, choices) if isinstance(value, str) else []
    hint = f" Did you mean {hits[0]!r}?" if hits else ""
    raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.{hint}")


def _interval(low: float, high: float, low_open: bool, high_open: bool) -> str:
    if high == math.inf:
        return f"{'>' if low_open else '>='} {low:g}"
    if low == -math.inf:
        return f"{'<' if high_open else '<='} {high:g}"
    return f"in {'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"


def check_real(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> float:
    """Return ``value`` as a float if it is a real number inside the interval (closed unless ``*_open``).

    NaN is never inside. Infinities are inside only when a closed bound is that infinity (the default).

    Raises:
        ValueError: names the argument, the value and the interval.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        above = number > low if low_open else number >= low
        below = number < high if high_open else number <= high
        if above and below:
            return number
    raise ValueError(f"{name} must be a number {_interval(low, high, low_open, high_open)}, got {value!r}.")


def check_integer(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> int:
    """Return ``value`` as an int if it is an integer (no bool) with ``low <= value <= high``.

    Raises:
        ValueError: names the argument, the value and the range.
    """
    if isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high:
        return int(value)
    raise ValueError(f"{name} must be an integer {_interval(low, high, False, False)}, got {value!r}.")
