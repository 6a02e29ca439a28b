"""A row of the index of the run store, checked: one that is damaged says so and does not hide the others."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from normviz.experiments import Status

__all__ = ["LIVE", "StoredRun", "stored_run"]

LIVE = ("queued", "running", "paused")

_LATEST = 253_402_214_400.0
"""The last day of the year 9999: later moments cannot be shown as a date."""


@dataclass(frozen=True)
class StoredRun:
    """A row of the index: everything about a run but its frames.

    Attributes:
        id: the run's id.
        slug, package: the experiment.
        name: the name the reader gave it.
        knobs: plain values, as they were when it ran.
        device, environment, status, error: as in :class:`normviz.experiments.Run`.
        created, started, finished: seconds since the epoch.
        frames: how many frames are stored.
        last_step: the furthest step stored.
        visitor: who started it, as in :class:`normviz.experiments.Run`.
        damaged: fields that could not be read and have neutral values; ``status`` is then ``"failed"``.
    """

    id: str
    slug: str
    package: str
    name: str
    knobs: dict[str, Any]
    device: str
    environment: dict[str, str]
    status: Status
    error: str | None
    created: float
    started: float | None
    finished: float | None
    frames: int
    last_step: int
    visitor: str = ""
    damaged: tuple[str, ...] = ()


def stored_run(row: sqlite3.Row) -> StoredRun:
    """The run of a row; what in it has another form than this version writes is named in ``damaged``."""
    there = set(row.keys())
    values: dict[str, Any] = {}
    damaged = []
    for name, (read, neutral) in _FIELDS.items():
        try:
            values[name] = read(row[name] if name in there else None)
        except (ValueError, RecursionError):
            values[name] = neutral
            damaged.append(name)
    if damaged:
        what = f"The entry of this run in the index is damaged ({', '.join(damaged)})."
        values |= {"status": "failed", "error": what, "damaged": tuple(damaged)}
    return StoredRun(**values)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _moment(value: object) -> float:
    if not isinstance(value, (int, float)) or not 0.0 <= value <= _LATEST:
        raise ValueError("no moment")
    return float(value)


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("no count")
    return value


def _mapping(value: object) -> dict[str, Any]:
    read = json.loads(_text(value), parse_constant=_finite, parse_float=_finite)
    if not isinstance(read, dict):
        raise ValueError("no mapping")
    return read


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("no finite number")
    return number


def _texts(value: object) -> dict[str, str]:
    return {name: _text(text) for name, text in _mapping(value).items()}


def _status(value: object) -> str:
    if value not in get_args(Status):
        raise ValueError("no status")
    return str(value)


def _optional(read: Callable[[object], Any]) -> Callable[[object], Any]:
    return lambda value: None if value is None else read(value)


_FIELDS: dict[str, tuple[Callable[[object], Any], object]] = {
    "id": (_text, ""),
    "slug": (_text, ""),
    "package": (_text, ""),
    "name": (_text, ""),
    "knobs": (_mapping, {}),
    "device": (_text, "auto"),
    "environment": (_texts, {}),
    "status": (_status, "failed"),
    "error": (_optional(_text), None),
    "created": (_moment, 0.0),
    "started": (_optional(_moment), None),
    "finished": (_optional(_moment), None),
    "frames": (_count, 0),
    "last_step": (_count, 0),
    "visitor": (lambda value: "" if value is None else _text(value), ""),
}
"""How each field is read, and what stands in its place if that fails."""
