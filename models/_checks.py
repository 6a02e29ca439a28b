"""Argument checks of the networks: every error names the argument, the value and what is allowed.

The networks import nothing but torch, so they keep their own few lines instead of ``normviz.validation``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["choice", "factory", "probability", "real", "size", "sizes"]


def size(name: str, value: object, low: int = 1) -> int:
    """Return ``value`` if it is an int (no bool) of at least ``low``; ValueError otherwise."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= low:
        return value
    raise ValueError(f"{name} must be an integer >= {low}, got {value!r}.")


def sizes(name: str, values: Sequence[int], low: int = 1, *, may_be_empty: bool = False) -> tuple[int, ...]:
    """Return ``values`` as a tuple if all are ints of at least ``low``; ValueError otherwise."""
    if isinstance(values, Sequence) and not isinstance(values, str) and (values or may_be_empty):
        return tuple(size(f"{name}[{i}]", value, low) for i, value in enumerate(values))
    kind = "a sequence" if may_be_empty else "a non-empty sequence"
    raise ValueError(f"{name} must be {kind} of integers >= {low}, got {values!r}.")


def real(name: str, value: object, low: float = 0.0) -> float:
    """Return ``value`` if it is a finite number of at least ``low``; ValueError otherwise."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value < float("inf"):
        return float(value)
    raise ValueError(f"{name} must be a finite number >= {low:g}, got {value!r}.")


def probability(name: str, value: object) -> float:
    """Return ``value`` if it is a number in [0, 1); ValueError otherwise."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1:
        return float(value)
    raise ValueError(f"{name} must be a number in [0, 1), got {value!r}.")


def choice(name: str, value: object, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``allowed``; ValueError otherwise."""
    if isinstance(value, str) and value in allowed:
        return value
    raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def factory(name: str, value: object, *, optional: bool = True) -> Any:
    """Return ``value`` if it is callable (or None where ``optional``); ValueError otherwise."""
    if callable(value) or (value is None and optional):
        return value
    raise ValueError(f"{name} must be a callable{' or None' if optional else ''}, got {value!r}.")
