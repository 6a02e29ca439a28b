"""Frames: what an experiment shows of one network at one moment, and the log that collects them.

A :class:`Frame` is one immutable snapshot of one arm and seed at one training step: named numbers and small
arrays, plain NumPy, no tensor. A :class:`FrameLog` keeps all frames of a run in columns and answers what charts
and claims ask: a quantity over time, an array at a moment. Both are free of PyTorch, because the server that only
draws them is.

On disk and between processes a log is an Arrow table in long form (:func:`schema`): one row for each named value.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["ArrayAt", "Event", "Frame", "FrameLog", "Value", "frames_to_table", "schema", "table_to_frames"]

Value = float | npt.NDArray[np.float32]
"""A named value of a frame: a Python float or a float32 array."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One snapshot of one member (arm and seed) of an experiment.

    Args:
        step: optimizer steps done when the snapshot was taken (0 = before the first).
        arm: the variant shown, e.g. ``"PowerNorm"``; the same name has the same colour on every chart.
        seed: the member's seed.
        values: scalars (anything ``float()`` takes) and arrays (anything ``np.asarray`` takes, stored as float32).
        event: a sentence for the reader when something happened, e.g. ``"diverged at step 41: loss is inf"``.

    Raises:
        ValueError: negative step, empty arm, or a value that is no number.
    """

    step: int
    arm: str
    seed: int
    values: Mapping[str, Value] = field(default_factory=dict)
    event: str | None = None

    def __post_init__(self) -> None:
        if self.step < 0:
            raise ValueError(f"step must be >= 0, got {self.step}.")
        if not self.arm:
            raise ValueError("arm must be a non-empty name.")
        object.__setattr__(self, "values", {name: _plain(name, v) for name, v in self.values.items()})


def _plain(name: str, value: object) -> Value:
    if isinstance(value, float):
        return value
    if isinstance(value, np.ndarray) and value.ndim:
        return value.astype(np.float32)
    if isinstance(value, (list, tuple)):
        return np.asarray(value, dtype=np.float32)
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"value {name!r} must be a number or an array of numbers, got {value!r}.") from None


class ArrayAt(NamedTuple):
    """An array value of one member and the step it was measured at."""

    step: int
    arm: str
    seed: int
    value: npt.NDArray[np.float32]


class Event(NamedTuple):
    """A sentence attached to one member at one step."""

    step: int
    arm: str
    seed: int
    text: str


class _Column(NamedTuple):
    step: list[int]
    arm: list[int]  # position in the log's list of arms
    seed: list[int]
    value: list[float]


class FrameLog:
    """All frames of a run in columns; appended by one thread while others read.

    Args:
        frames: frames to start with.
    """

    def __init__(self, frames: Iterable[Frame] = ()) -> None:
        self._lock = threading.RLock()
        self._scalars: dict[str, _Column] = {}
        self._arrays: dict[str, list[ArrayAt]] = defaultdict(list)
        self._events: list[Event] = []
        self._members: dict[tuple[str, int], int] = {}
        self._arms: dict[str, int] = {}
        self._frames: list[Frame] = []
        self._cache: dict[str, tuple[int, pd.DataFrame]] = {}
        self.extend(frames)

    @contextmanager
    def still(self) -> Iterator[None]:
        """Let no frame arrive while several quantities are read that belong together."""
        with self._lock:
            yield

    def append(self, frame: Frame) -> None:
        """Add one frame."""
        self.extend((frame,))

    def extend(self, frames: Iterable[Frame]) -> None:
        """Add frames in the order given."""
        with self._lock:
            for frame in frames:
                self._frames.append(frame)
                member = (frame.arm, frame.seed)
                arm = self._arms.setdefault(frame.arm, len(self._arms))
                self._members[member] = max(frame.step, self._members.get(member, 0))
                if frame.event is not None:
                    self._events.append(Event(frame.step, frame.arm, frame.seed, frame.event))
                for name, value in frame.values.items():
                    if isinstance(value, float):
                        column = self._scalars.get(name)
                        if column is None:
                            column = self._scalars[name] = _Column([], [], [], [])
                        column.step.append(frame.step)
                        column.arm.append(arm)
                        column.seed.append(frame.seed)
                        column.value.append(value)
                    else:
                        self._arrays[name].append(ArrayAt(frame.step, frame.arm, frame.seed, value))

    def __len__(self) -> int:
        return len(self._frames)

    def __repr__(self) -> str:
        return f"FrameLog({len(self)} frames, {len(self.arms)} arms, last step {self.last_step})"

    @property
    def frames(self) -> list[Frame]:
        """All frames in order of arrival."""
        with self._lock:
            return list(self._frames)

    @property
    def arms(self) -> list[str]:
        """Arms in order of first appearance."""
        with self._lock:
            return list(self._arms)

    @property
    def seeds(self) -> list[int]:
        """Seeds in ascending order."""
        with self._lock:
            return sorted({seed for _, seed in self._members})

    @property
    def last_step(self) -> int:
        """The furthest step any member has reached."""
        with self._lock:
            return max(self._members.values(), default=0)

    @property
    def progress_step(self) -> float:
        """Mean over the members of the furthest step each has reached."""
        with self._lock:
            return sum(self._members.values()) / max(len(self._members), 1)

    @property
    def events(self) -> list[Event]:
        """All events in order of arrival."""
        with self._lock:
            return list(self._events)

    @property
    def scalar_names(self) -> list[str]:
        """Names of the scalar values seen so far."""
        with self._lock:
            return list(self._scalars)

    @property
    def array_names(self) -> list[str]:
        """Names of the array values seen so far."""
        with self._lock:
            return list(self._arrays)

    def scalars(self, name: str) -> pd.DataFrame:
        """A scalar over time.

        Returns:
            A frame with the columns ``step``, ``arm``, ``seed``, ``value`` in order of arrival; empty if nothing has
            that name yet. Shared between callers: copy before changing it.
        """
        import pandas as pd

        with self._lock:
            column = self._scalars.get(name)
            length = len(column.step) if column else 0
            cached = self._cache.get(name)
            if cached is not None and cached[0] == length:
                return cached[1]
            data: dict[str, object] = {
                "step": np.array(column.step if column else [], dtype=np.int64),
                "arm": np.array(list(self._arms), dtype=object)[column.arm if column else []],
                "seed": np.array(column.seed if column else [], dtype=np.int64),
                "value": np.array(column.value if column else [], dtype=np.float64),
            }
            table = pd.DataFrame(data)
            self._cache[name] = (length, table)
            return table

    def arrays(self, name: str, step: int | None = None) -> list[ArrayAt]:
        """The newest array of each member at or before ``step`` (default: the newest of all).

        A member whose first such array comes later than ``step`` is left out.
        """
        newest: dict[tuple[str, int], ArrayAt] = {}
        with self._lock:
            for entry in self._arrays.get(name, ()):
                if step is None or entry.step <= step:
                    newest[entry.arm, entry.seed] = entry
        return list(newest.values())

    def array_history(self, name: str) -> list[ArrayAt]:
        """Every array with that name in order of arrival."""
        with self._lock:
            return list(self._arrays.get(name, ()))

    def final(self, name: str, *, window: int = 1) -> pd.DataFrame:
        """Mean of the last ``window`` values of a scalar for each arm and seed (columns ``arm, seed, value``)."""
        table = self.scalars(name)
        tail = table.groupby(["arm", "seed"], sort=False).tail(window)
        return tail.groupby(["arm", "seed"], sort=False)["value"].mean().reset_index()

    def to_dataframe(self) -> pd.DataFrame:
        """All scalars, one row per step, arm and seed and one column per name (NaN where not measured)."""
        import pandas as pd

        keys = ["step", "arm", "seed"]
        columns = [
            self.scalars(name).groupby(keys, sort=False)["value"].last().rename(name)
            for name in self.scalar_names
        ]
        if not columns:
            return pd.DataFrame(columns=keys)
        return pd.concat(columns, axis=1).reset_index().sort_values(keys, ignore_index=True)

    def to_table(self) -> pa.Table:
        """The whole log as an Arrow table in the long form of :func:`schema`."""
        return frames_to_table(self.frames)

    @classmethod
    def from_table(cls, table: pa.Table) -> FrameLog:
        """The log whose :meth:`to_table` (or whose concatenated :func:`frames_to_table` parts) this is."""
        return cls(table_to_frames(table))


def schema() -> pa.Schema:
    """The long form: a row is a scalar (``scalar`` set), an array (``array``, ``shape`` set) or an event (``text``)."""
    import pyarrow as pa

    return pa.schema(
        [
            ("step", pa.int64()),
            ("arm", pa.string()),
            ("seed", pa.int64()),
            ("name", pa.string()),
            ("scalar", pa.float64()),
            ("array", pa.list_(pa.float32())),
            ("shape", pa.list_(pa.int32())),
            ("text", pa.string()),
        ]
    )


def frames_to_table(frames: Iterable[Frame]) -> pa.Table:
    """Encode frames as an Arrow table with :func:`schema`.

    A frame with an event, one without values, and one that follows another of its moment (the same step, arm and seed)
    begin with a row of their own (name ``""``), so that the round trip returns the very frames.
    """
    import pyarrow as pa

    rows: list[tuple[object, ...]] = []
    before: tuple[int, str, int] | None = None
    for f in frames:
        key = (f.step, f.arm, f.seed)
        if f.event is not None or not f.values or key == before:
            rows.append((*key, "", None, None, None, f.event))
        before = key
        for name, value in f.values.items():
            if isinstance(value, float):
                rows.append((*key, name, value, None, None, None))
            else:
                rows.append((*key, name, None, value.ravel(), list(value.shape), None))
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema())
    return pa.table(
        [pa.array(c, type=f.type) for c, f in zip(columns, schema(), strict=True)], schema=schema()
    )


def table_to_frames(table: pa.Table) -> list[Frame]:
    """Decode :func:`frames_to_table`: adjacent rows of the same step, arm and seed become one frame.

    Raises:
        ValueError: the table has another schema.
    """
    if table.schema.names != schema().names:
        raise ValueError(f"frames table must have the columns {schema().names}, got {table.schema.names}.")
    frames: list[Frame] = []
    key: tuple[int, str, int] | None = None
    values: dict[str, Value] = {}
    event: str | None = None

    def flush() -> None:
        if key is not None:
            frames.append(Frame(*key, values, event))

    names = ("step", "arm", "seed", "name", "scalar", "shape", "text")
    columns = [table.column(n).to_pylist() for n in names]
    arrays = table.column("array").combine_chunks()
    for row, (step, arm, seed, name, scalar, shape, text) in enumerate(zip(*columns, strict=True)):
        if (step, arm, seed) != key or (name and name in values) or not name:
            flush()
            key, values, event = (step, arm, seed), {}, None
        if text is not None:
            event = text
        elif shape is not None:
            values[name] = arrays[row].values.to_numpy(zero_copy_only=False).reshape(shape)
        elif name:
            values[name] = math.nan if scalar is None else scalar
    flush()
    return frames
