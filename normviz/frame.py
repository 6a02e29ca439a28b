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
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = [
    "ArrayAt",
    "Event",
    "EventKind",
    "Frame",
    "FrameLog",
    "Log",
    "LogView",
    "Value",
    "frames_to_table",
    "schema",
    "table_to_frames",
]

Value = float | npt.NDArray[np.float32]
"""A named value of a frame: a Python float or a float32 array."""

EventKind = Literal["note", "diverged"]
"""What an event is: a remark for the reader, or the end of a member whose numbers are no longer finite."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One snapshot of one member (arm and seed) of an experiment.

    Args:
        step: position on the experiment's progress axis (:mod:`normviz.progress`) when the snapshot was taken, for most
            experiments the optimizer steps done (0 = before the first).
        arm: the variant shown, e.g. ``"PowerNorm"``; the same name has the same colour on every chart.
        seed: the member's seed.
        values: scalars (anything ``float()`` takes) and arrays (anything ``np.asarray`` takes, stored as float32).
        event: a sentence for the reader when something happened, e.g. ``"diverged at step 41: loss is inf"``.
        kind: what the event is; ``"diverged"`` ends the member.

    Raises:
        ValueError: negative step, empty arm, or a value that is no number.
    """

    step: int
    arm: str
    seed: int
    values: Mapping[str, Value] = field(default_factory=dict)
    event: str | None = None
    kind: EventKind = "note"

    def __post_init__(self) -> None:
        if self.step < 0:
            raise ValueError(f"step must be >= 0, got {self.step}.")
        if not self.arm:
            raise ValueError("arm must be a non-empty name.")
        object.__setattr__(self, "values", {name: _plain(name, v) for name, v in self.values.items()})

    @classmethod
    def diverged(
        cls, step: int, arm: str, seed: int, why: str, *, lost: Iterable[str] = ("loss",), unit: str = "step"
    ) -> Frame:
        """The last frame of a member whose numbers are no longer finite.

        Args:
            step: where it happened; also ``arm`` and ``seed``.
            arm: see ``step``.
            seed: see ``step``.
            why: end of the sentence for the reader, e.g. ``"the training loss is inf"``.
            lost: scalars that are infinite from here on.
            unit: of the progress axis, in the singular.
        """
        return cls(
            step, arm, seed, dict.fromkeys(lost, math.inf), f"diverged at {unit} {step}: {why}", "diverged"
        )


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
    kind: EventKind = "note"


class _Column(NamedTuple):
    step: list[int]
    arm: list[int]  # position in the log's list of arms
    seed: list[int]
    value: list[float]


class Log(ABC):
    """What charts and claims read: quantities over time and arrays at a moment, of arms and seeds."""

    @property
    @abstractmethod
    def arms(self) -> list[str]:
        """Arms in order of first appearance."""

    @property
    @abstractmethod
    def members(self) -> dict[tuple[str, int], int]:
        """The furthest step of each member (arm and seed)."""

    @property
    @abstractmethod
    def events(self) -> list[Event]:
        """All events in order of arrival."""

    @property
    @abstractmethod
    def scalar_names(self) -> list[str]:
        """Names of the scalar values seen so far."""

    @property
    @abstractmethod
    def array_names(self) -> list[str]:
        """Names of the array values seen so far."""

    @abstractmethod
    def scalars(self, name: str) -> pd.DataFrame:
        """A scalar over time.

        Returns:
            A frame with the columns ``step``, ``arm``, ``seed``, ``value`` in order of arrival; empty if nothing has
            that name yet. Shared between callers: copy before changing it.
        """

    @abstractmethod
    def array_history(self, name: str) -> list[ArrayAt]:
        """Every array with that name in order of arrival."""

    @abstractmethod
    def view(self, rename: Mapping[str, str] | None = None) -> LogView:
        """The log as it is now; frames that arrive later are not in it.

        Args:
            rename: new names of the arms that are kept, by their names here; None: all arms as they are.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Frames so far."""

    @property
    def seeds(self) -> list[int]:
        """Seeds in ascending order."""
        return sorted({seed for _, seed in self.members})

    @property
    def last_step(self) -> int:
        """The furthest step any member has reached."""
        return max(self.members.values(), default=0)

    @property
    def progress_step(self) -> float:
        """Mean over the members of the furthest step each has reached; a diverged member counts as if at the front."""
        members, diverged, last = self.members, self.diverged, self.last_step
        return sum(last if m in diverged else step for m, step in members.items()) / max(len(members), 1)

    @property
    def diverged(self) -> set[tuple[str, int]]:
        """Members (arm and seed) that have diverged."""
        return {(event.arm, event.seed) for event in self.events if event.kind == "diverged"}

    def arrays(self, name: str, step: int | None = None) -> list[ArrayAt]:
        """The newest array of each member at or before ``step`` (default: the newest of all).

        A member whose first such array comes later than ``step`` is left out.
        """
        newest: dict[tuple[str, int], ArrayAt] = {}
        for entry in self.array_history(name):
            if step is None or entry.step <= step:
                newest[entry.arm, entry.seed] = entry
        return list(newest.values())

    def final(self, name: str, *, window: int = 1) -> pd.DataFrame:
        """Mean of the last ``window`` values of a scalar for each arm and seed (columns ``arm, seed, value``).

        The rows are in the order of the log's arms and, within an arm, of the seeds, whichever ended first.
        """
        table = self.scalars(name)
        tail = table.groupby(["arm", "seed"], sort=False).tail(window)
        means = tail.groupby(["arm", "seed"], sort=False)["value"].mean().reset_index()
        place = {arm: i for i, arm in enumerate(self.arms)}
        order = sorted(range(len(means)), key=lambda i: (place[means["arm"][i]], means["seed"][i]))
        return means.iloc[order].reset_index(drop=True)

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


class FrameLog(Log):
    """All frames of a run in columns; appended by one thread while others read.

    Several quantities that belong together are read from a :meth:`view`, in which nothing arrives any more.

    Args:
        frames: frames to start with.
    """

    def __init__(self, frames: Iterable[Frame] = ()) -> None:
        self._lock = threading.RLock()
        self._scalars: dict[str, _Column] = {}
        self._arrays: dict[str, list[ArrayAt]] = {}
        self._events: list[Event] = []
        self._members: dict[tuple[str, int], int] = {}
        self._arms: dict[str, int] = {}
        self._frames: list[Frame] = []
        self._cache: dict[str, pd.DataFrame] = {}
        self.extend(frames)

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
                    self._events.append(Event(frame.step, *member, frame.event, frame.kind))
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
                        self._arrays.setdefault(name, []).append(ArrayAt(frame.step, *member, value))

    def __len__(self) -> int:
        return len(self._frames)

    def __repr__(self) -> str:
        return f"FrameLog({len(self)} frames, {len(self.arms)} arms, last step {self.last_step})"

    def view(self, rename: Mapping[str, str] | None = None) -> LogView:
        """The log as it is now; see :meth:`Log.view`."""
        return LogView(self, rename)

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
    def members(self) -> dict[tuple[str, int], int]:
        """The furthest step of each member (arm and seed)."""
        with self._lock:
            return dict(self._members)

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
        """A scalar over time; see :meth:`Log.scalars`."""
        import pandas as pd

        with self._lock:
            column = self._scalars.get(name)
            cached = self._cache.get(name)
            if cached is not None and len(cached) == (len(column.step) if column else 0):
                return cached
            data: dict[str, object] = {
                "step": np.array(column.step if column else [], dtype=np.int64),
                "arm": np.array(list(self._arms), dtype=object)[column.arm if column else []],
                "seed": np.array(column.seed if column else [], dtype=np.int64),
                "value": np.array(column.value if column else [], dtype=np.float64),
            }
            table = self._cache[name] = pd.DataFrame(data)
            return table

    def array_history(self, name: str) -> list[ArrayAt]:
        """Every array with that name in order of arrival."""
        with self._lock:
            return list(self._arrays.get(name, ()))

    def lengths(self) -> _Lengths:
        """How much of each quantity is there now."""
        with self._lock:
            return _Lengths(
                len(self._frames),
                {name: len(column.step) for name, column in self._scalars.items()},
                {name: len(entries) for name, entries in self._arrays.items()},
                len(self._events),
                dict(self._members),
            )

    def to_table(self) -> pa.Table:
        """The whole log as an Arrow table in the long form of :func:`schema`."""
        return frames_to_table(self.frames)

    @classmethod
    def from_table(cls, table: pa.Table) -> FrameLog:
        """The log whose :meth:`to_table` (or whose concatenated :func:`frames_to_table` parts) this is."""
        return cls(table_to_frames(table))


class _Lengths(NamedTuple):
    frames: int
    scalars: dict[str, int]
    arrays: dict[str, int]
    events: int
    members: dict[tuple[str, int], int]


class LogView(Log):
    """A log as it was when the view was made, with all arms or with some of them under other names.

    Reading it needs no lock: a log only ever grows at its end.

    Args:
        log: the log that goes on growing.
        rename: new names of the arms that are kept, by their names in the log; None: all arms as they are.

    Raises:
        ValueError: two arms get one name.
    """

    def __init__(self, log: FrameLog, rename: Mapping[str, str] | None = None) -> None:
        if rename is not None and len(set(rename.values())) < len(rename):
            raise ValueError(f"rename must give different names, got {', '.join(rename.values())}.")
        self._log, self._rename = log, rename
        self._lengths = log.lengths()
        self._tables: dict[str, pd.DataFrame] = {}

    def __len__(self) -> int:
        return self._lengths.frames

    def view(self, rename: Mapping[str, str] | None = None) -> LogView:
        """This view with some of its arms under other names; see :meth:`Log.view`."""
        if rename is None:
            return self
        before = self._rename
        names = rename if before is None else {old: rename[n] for old, n in before.items() if n in rename}
        other = LogView(self._log, names)
        other._lengths = self._lengths
        return other

    def _name(self, arm: str) -> str | None:
        return arm if self._rename is None else self._rename.get(arm)

    @property
    def arms(self) -> list[str]:
        """Arms: in order of first appearance, or of the renaming."""
        there = dict.fromkeys(arm for arm, _ in self._lengths.members)
        if self._rename is None:
            return list(there)
        return [new for old, new in self._rename.items() if old in there]

    @property
    def members(self) -> dict[tuple[str, int], int]:
        """The furthest step of each member (arm and seed)."""
        named = ((self._name(arm), seed, step) for (arm, seed), step in self._lengths.members.items())
        return {(arm, seed): step for arm, seed, step in named if arm is not None}

    @property
    def events(self) -> list[Event]:
        """All events in order of arrival."""
        return [
            event._replace(arm=name)
            for event in self._log.events[: self._lengths.events]
            if (name := self._name(event.arm)) is not None
        ]

    @property
    def scalar_names(self) -> list[str]:
        """Names of the scalar values."""
        return list(self._lengths.scalars)

    @property
    def array_names(self) -> list[str]:
        """Names of the array values."""
        return list(self._lengths.arrays)

    def scalars(self, name: str) -> pd.DataFrame:
        """A scalar over time; see :meth:`Log.scalars`."""
        if name not in self._tables:
            table = self._log.scalars(name).iloc[: self._lengths.scalars.get(name, 0)]
            if self._rename is not None:
                renamed = table["arm"].map(self._rename)
                table = table.assign(arm=renamed)[renamed.notna()].reset_index(drop=True)
            self._tables[name] = table
        return self._tables[name]

    def array_history(self, name: str) -> list[ArrayAt]:
        """Every array with that name in order of arrival."""
        entries = self._log.array_history(name)[: self._lengths.arrays.get(name, 0)]
        if self._rename is None:
            return entries
        return [e._replace(arm=new) for e in entries if (new := self._name(e.arm)) is not None]


def schema() -> pa.Schema:
    """The long form: a row is a scalar (``scalar``), an array (``array, shape``) or an event (``text, kind``)."""
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
            ("kind", pa.string()),
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
            rows.append((*key, "", None, None, None, f.event, None if f.event is None else f.kind))
        before = key
        for name, value in f.values.items():
            if isinstance(value, float):
                rows.append((*key, name, value, None, None, None, None))
            else:
                rows.append((*key, name, None, value.ravel(), list(value.shape), None, None))
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema())
    return pa.table(
        [pa.array(c, type=f.type) for c, f in zip(columns, schema(), strict=True)], schema=schema()
    )


def table_to_frames(table: pa.Table) -> list[Frame]:
    """Decode :func:`frames_to_table`: adjacent rows of the same step, arm and seed become one frame.

    Tables from before events had a kind are read: an event that says that a member diverged is of that kind.

    Raises:
        ValueError: the table has another schema.
    """
    import pyarrow as pa

    if table.schema.names == schema().names[:-1]:
        texts = table.column("text").to_pylist()
        kinds = [None if t is None else "diverged" if t.startswith("diverged") else "note" for t in texts]
        table = table.append_column(schema().field("kind"), pa.array(kinds, pa.string()))
    if table.schema.names != schema().names:
        raise ValueError(f"frames table must have the columns {schema().names}, got {table.schema.names}.")
    frames: list[Frame] = []
    key: tuple[int, str, int] | None = None
    values: dict[str, Value] = {}
    event: str | None = None
    event_kind: EventKind = "note"

    def flush() -> None:
        if key is not None:
            frames.append(Frame(*key, values, event, event_kind))

    names = ("step", "arm", "seed", "name", "scalar", "shape", "text", "kind")
    columns = [table.column(n).to_pylist() for n in names]
    arrays = table.column("array").combine_chunks()
    for row, (step, arm, seed, name, scalar, shape, text, kind) in enumerate(zip(*columns, strict=True)):
        if (step, arm, seed) != key or (name and name in values) or not name:
            flush()
            key, values, event, event_kind = (step, arm, seed), {}, None, "note"
        if text is not None:
            event, event_kind = text, kind or "note"
        elif shape is not None:
            values[name] = arrays[row].values.to_numpy(zero_copy_only=False).reshape(shape)
        elif name:
            values[name] = math.nan if scalar is None else scalar
    flush()
    return frames
