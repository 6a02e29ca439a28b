"""The run store: an SQLite index and one append-only Arrow stream of frames per run.

What is stored survives the server's sudden death (kill -9) at any moment but for the last second of frames: each batch
of frames goes to the operating system at once, and a stream that breaks off in the middle of a batch is read up to it.
Several servers may share a store; a run whose server died is marked as cancelled when the store is next read.

The folder holds ``runs.sqlite`` (write-ahead log) and ``frames/<run id>.arrows`` (:func:`normviz.frame.schema`, zstd).
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote

import pyarrow as pa

from normviz.engine.frames_file import append_frames, create_frames_file, read_frames
from normviz.engine.owner import is_alive, owner_name
from normviz.engine.resolve import find_experiment
from normviz.experiments import SLUGS, Experiment, Run, Status
from normviz.frame import Frame, FrameLog
from normviz.knobs import KnobError
from normviz.validation import check_choice, check_integer
from normviz.variables import data_folder

__all__ = ["RunStore", "StoreError", "StoredRun", "default_store_path", "read_parquet"]

FLUSH_SECONDS = 0.5
"""Frames wait at most about this long in memory before they are written."""

LONGEST_NAME = 80

_VERSION = 1
_LIVE = ("queued", "running", "paused")
_NOTE = "The server ended while this run was going; the frames measured until then are kept."
_TABLE = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, slug TEXT, package TEXT, name TEXT, knobs TEXT, device TEXT, environment TEXT,
    status TEXT, error TEXT, created REAL, started REAL, finished REAL, frames INTEGER, last_step INTEGER, owner TEXT
);
CREATE INDEX IF NOT EXISTS runs_by_experiment ON runs (slug, created);
CREATE INDEX IF NOT EXISTS runs_by_knobs ON runs (slug, knobs, status, finished);
"""


class StoreError(Exception):
    """The store cannot do what was asked; the message is a sentence for the reader."""


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


_Runs = list[StoredRun]


@dataclass(eq=False)
class _Writer:
    """What is known of a run that is being written: frames that wait for the disk, and what is on it already."""

    path: Path
    pending: list[Frame] = field(default_factory=list)
    frames: int = 0
    last_step: int = 0
    flushed: float = 0.0
    error: StoreError | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class RunStore:
    """Runs on disk. Thread-safe.

    Nothing is opened or made before it is needed, and a store that cannot be opened for writing is still read.

    Args:
        path: the folder; made when the first run is stored.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = self.path / "runs.sqlite"
        self._owner = owner_name(os.getpid())
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._writable = False
        self._writers: dict[str, _Writer] = {}
        self._dirty = threading.Event()
        self._flusher: threading.Thread | None = None

    # -- writing -----------------------------------------------------------------------------------------------------

    def create(self, run: Run) -> None:
        """Begin to store a run that has started.

        Raises:
            StoreError: the folder is not writable, the disk is full, or the run is there already.
        """
        writer = _Writer(self._frames_path(run.id))
        what = (run.id, run.experiment.slug, run.experiment.package, run.name, run.knobs.key(), run.device)
        how = (json.dumps(run.environment), run.status, run.error, run.created, run.started, run.finished)
        with self._index(write=True) as index:
            if index.execute("SELECT 1 FROM runs WHERE id = ?", (run.id,)).fetchone():
                raise StoreError(f"A run {run.id} is stored already.")
            try:
                writer.path.parent.mkdir(exist_ok=True)
                create_frames_file(writer.path)
                index.execute(
                    f"INSERT INTO runs VALUES ({', '.join('?' * 15)})", (*what, *how, 0, 0, self._owner)
                )
            except (OSError, sqlite3.Error) as error:
                with suppress(OSError):
                    writer.path.unlink()
                raise self._cannot_write(error) from error
            self._track(run.id, writer)

    def reopen(self, run: Run) -> None:
        """Begin to store what is added to a run that was stored as done: its knobs, its status, further frames.

        Raises:
            StoreError: there is no such run, it is not done (another server may be adding to it), or the store is not
                writable.
        """
        stored = self._row(run.id)
        writer = _Writer(self._frames_path(run.id), frames=stored.frames, last_step=stored.last_step)
        change = (
            "UPDATE runs SET knobs = ?, status = ?, error = ?, started = ?, finished = NULL, owner = ? "
            "WHERE id = ? AND status = 'done'"
        )
        values = (run.knobs.key(), run.status, run.error, run.started, self._owner, run.id)
        with self._index(write=True) as index:
            if not writer.path.exists():
                raise StoreError(f"The frames of run {run.id} are no longer there.")
            if index.execute(change, values).rowcount == 0:
                raise StoreError(f"The run {run.id} is not stored as done.")
            self._track(run.id, writer)

    def append(self, run_id: str, frames: Sequence[Frame]) -> None:
        """Add frames to a run that is being stored; they reach the disk within a second.

        Raises:
            StoreError: the run is not being stored, or frames could not be written. These stay in memory, and each
                later call tries again.
        """
        writer = self._writers.get(run_id)
        if writer is None:
            raise StoreError(f"The run {run_id} is not being stored.")
        with writer.lock:
            writer.pending.extend(frames)
            late = time.monotonic() - writer.flushed >= FLUSH_SECONDS
            failed, writer.error = writer.error, None
        if late:
            self._flush(run_id, writer)
        elif failed is not None:
            raise failed
        else:
            self._dirty.set()

    def finish(self, run: Run) -> None:
        """Write what is left of a run that has ended, and its status.

        Raises:
            StoreError: the run is not being stored, or the disk does not take it.
        """
        writer = self._writers.get(run.id)
        if writer is None:
            raise StoreError(f"The run {run.id} is not being stored.")
        try:
            self._flush(run.id, writer)
        finally:
            self._writers.pop(run.id, None)
            change = "UPDATE runs SET status = ?, error = ?, started = ?, finished = ? WHERE id = ?"
            with self._index(write=True) as index:
                index.execute(change, (run.status, run.error, run.started, run.finished, run.id))

    def rename(self, run_id: str, name: str) -> None:
        """Give a run a name; an empty one takes it away.

        Raises:
            ValueError: the name is longer than 80 characters or has characters that cannot be printed.
            StoreError: there is no such run, or the store is not writable.
        """
        name = name.strip()
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise ValueError(
                f"name must have at most {LONGEST_NAME} printable characters, got {name[:100]!r}."
            )
        with self._index(write=True) as index:
            if index.execute("UPDATE runs SET name = ? WHERE id = ?", (name, run_id)).rowcount == 0:
                raise StoreError(f"There is no stored run {run_id!r}.")

    def delete(self, run_id: str) -> None:
        """Remove a run that has ended and its frames.

        Raises:
            StoreError: there is no such run, it is still running, or the store is not writable.
        """
        if self._row(run_id).status in _LIVE:
            raise StoreError(f"The run {run_id} is still running: cancel it first.")
        with self._index(write=True) as index:
            index.execute("DELETE FROM runs WHERE id = ?", (run_id,))
            try:
                self._frames_path(run_id).unlink(missing_ok=True)
            except OSError as error:
                raise self._cannot_write(error) from error

    def close(self) -> None:
        """Write what is waiting and close the index; the store can be used again afterwards."""
        for run_id, writer in self._open_writers():
            with suppress(StoreError):  # said already when the frames were appended
                self._flush(run_id, writer)
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # -- reading -----------------------------------------------------------------------------------------------------

    def list(self, slug: str | None = None, limit: int = 200) -> _Runs:
        """Stored runs, the newest first.

        Args:
            slug: only runs of this experiment.
            limit: at most so many.

        Raises:
            ValueError: ``limit`` is not positive.
            StoreError: the store cannot be read.
        """
        check_integer("limit", limit, 1)
        where, values = ("WHERE slug = ?", [slug]) if slug is not None else ("", [])
        return self._select(f"{where} ORDER BY created DESC LIMIT ?", *values, limit)

    def latest(self, slug: str, knobs_key: str, device: str | None = None) -> StoredRun | None:
        """The newest run that was done with the same knobs.

        Args:
            slug: the experiment.
            knobs_key: :meth:`normviz.knobs.Knobs.key` of the knobs.
            device: only runs on this device.

        Raises:
            StoreError: the store cannot be read.
        """
        where, values = "WHERE slug = ? AND knobs = ? AND status = 'done'", [slug, knobs_key]
        if device is not None:
            where, values = f"{where} AND device = ?", [*values, device]
        return next(iter(self._select(f"{where} ORDER BY finished DESC LIMIT 1", *values)), None)

    def load(self, run_id: str) -> Run:
        """A stored run with all its frames, up to now if it is still running.

        Raises:
            StoreError: there is no such run, its experiment or its knobs are no longer what they were, or its frames
                cannot be read.
        """
        stored = self._row(run_id)
        record = {"experiment": stored.slug, **{name: getattr(stored, name) for name in _PLAIN_FIELDS}}
        experiment = _experiment(stored.slug if stored.slug in SLUGS else stored.package, run_id)
        return _restore(record, experiment, FrameLog(self._read_frames(run_id)))

    def export(self, run_id: str, path: str | Path, format: Literal["parquet", "csv"] = "parquet") -> None:
        """Write a run to a file of its own, which appears whole or not at all.

        Args:
            run_id: the run.
            path: the file to write.
            format: ``"parquet"``: everything, :func:`read_parquet` reads it back; ``"csv"``: the scalars, one row for
                each step, arm and seed.

        Raises:
            ValueError: another format.
            StoreError: the run cannot be loaded, or the file cannot be written.
        """
        check_choice("format", format, ("parquet", "csv"))
        run, target = self.load(run_id), Path(path)
        try:
            if format == "parquet":
                run.to_parquet(target)
            else:
                part = target.with_name(target.name + ".part")
                try:
                    run.to_dataframe().to_csv(part, index=False)
                    part.replace(target)
                finally:
                    part.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{target} cannot be written: {_cause(error)}.") from error

    # -- frames ------------------------------------------------------------------------------------------------------

    def _frames_path(self, run_id: str) -> Path:
        return self.path / "frames" / f"{run_id}.arrows"

    def _track(self, run_id: str, writer: _Writer) -> None:
        """From now on frames of a run are written; the caller holds the index."""
        self._writers[run_id] = writer
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush_late, name="store-flusher", daemon=True)
            self._flusher.start()

    def _flush(self, run_id: str, writer: _Writer) -> None:
        """Write the frames that wait, and how many there are now."""
        with writer.lock:
            writer.flushed = time.monotonic()
            if not (frames := list(writer.pending)):
                return
            try:
                append_frames(writer.path, frames)
            except OSError as error:
                raise self._cannot_write(error) from error
            del writer.pending[: len(frames)]
            writer.frames += len(frames)
            writer.last_step = max(writer.last_step, *(frame.step for frame in frames))
            counts = (writer.frames, writer.last_step, run_id)
        with self._index(write=True) as index:
            index.execute("UPDATE runs SET frames = ?, last_step = ? WHERE id = ?", counts)

    def _flush_late(self) -> None:
        """Thread: write frames after which no others came soon enough to take them along."""
        while True:
            self._dirty.wait()
            time.sleep(FLUSH_SECONDS)
            self._dirty.clear()
            for run_id, writer in self._open_writers():
                try:
                    self._flush(run_id, writer)
                except StoreError as error:  # raised by the run's next append
                    writer.error = error

    def _open_writers(self) -> Sequence[tuple[str, _Writer]]:
        with self._lock:
            return list(self._writers.items())

    def _read_frames(self, run_id: str) -> Sequence[Frame]:
        writer = self._writers.get(run_id)
        with writer.lock if writer is not None else nullcontext():
            try:
                frames = read_frames(self._frames_path(run_id))
            except OSError as error:
                raise StoreError(f"The frames of run {run_id} cannot be read: {_cause(error)}.") from error
            except ValueError as error:
                raise StoreError(f"The frames of run {run_id} have another form: {error}") from error
            return frames + (writer.pending if writer is not None else [])

    # -- index -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _index(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """The open index, held by this thread alone; what SQLite raises becomes a StoreError."""
        with self._lock:
            try:
                if self._connection is None or (write and not self._writable):
                    self._open(write)
                assert self._connection is not None
                yield self._connection
            except sqlite3.Error as error:
                raise (self._cannot_write(error) if write else self._cannot_read(error)) from error

    def _open(self, write: bool) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        try:
            if self.path.exists() and not self.path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            self.path.mkdir(parents=True, exist_ok=True)
            self._connection, self._writable = _connect_to_write(self._file), True
        except (OSError, sqlite3.OperationalError) as error:
            if write:
                raise self._cannot_write(error) from error
            self._connection, self._writable = _connect_to_read(self._file), False
        if self._connection.execute("PRAGMA user_version").fetchone()[0] > _VERSION:
            self._connection.close()
            self._connection = None
            raise StoreError(f"The runs in {self.path} were written by a newer version of normviz.")
        if self._writable:
            self._connection.execute(f"PRAGMA user_version = {_VERSION}")
            self._mark_orphans(self._connection)

    def _select(self, clause: str, *values: object) -> _Runs:
        if not self._file.exists():
            return []
        with self._index() as index:
            if self._writable:
                with suppress(sqlite3.OperationalError):  # a full disk is no reason not to read
                    self._mark_orphans(index)
            return [_stored(row) for row in index.execute(f"SELECT * FROM runs {clause}", values)]

    def _row(self, run_id: str) -> StoredRun:
        rows = self._select("WHERE id = ?", run_id)
        if not rows:
            raise StoreError(f"There is no stored run {run_id!r}.")
        return rows[0]

    def _mark_orphans(self, index: sqlite3.Connection) -> None:
        """Mark the runs of servers that are dead as cancelled."""
        live = f"SELECT id, owner FROM runs WHERE status IN {_LIVE} AND owner != ?"
        for run_id, owner in index.execute(live, (self._owner,)).fetchall():
            path = self._frames_path(run_id)
            try:
                touched = path.stat().st_mtime
                if is_alive(owner, touched):
                    continue
                frames = read_frames(path)
            except (OSError, ValueError):  # loading the run will say what is wrong with its frames
                touched, frames = 0.0, []
            last = max((frame.step for frame in frames), default=0)
            change = (
                "UPDATE runs SET status = 'cancelled', error = ?, finished = ?, frames = ?, last_step = ? "
            )
            index.execute(change + "WHERE id = ?", (_NOTE, touched or None, len(frames), last, run_id))

    def _cannot_write(self, error: Exception) -> StoreError:
        return StoreError(f"{self.path} cannot be written ({_cause(error)}).")

    def _cannot_read(self, error: Exception) -> StoreError:
        return StoreError(f"The runs in {self.path} cannot be read ({_cause(error)}).")


_PLAIN_FIELDS = (
    "id",
    "name",
    "knobs",
    "device",
    "environment",
    "status",
    "error",
    "created",
    "started",
    "finished",
)


def default_store_path() -> Path:
    """The user's data folder for normviz; the environment variable ``NORMVIZ_DATA`` names another one.

    Raises:
        VariableError: the variable is no folder's name.
    """
    return data_folder()


def read_parquet(path: str | Path, experiment: Experiment | None = None) -> Run:
    """Read a file that :meth:`normviz.experiments.Run.to_parquet` wrote.

    Args:
        path: the file.
        experiment: what it is a run of; default: the experiment whose slug the file holds. A file comes from anywhere,
            so the package it may name is never imported.

    Raises:
        StoreError: it cannot be read, is no such file, or its experiment or knobs are no longer what they were.
    """
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        record = json.loads((table.schema.metadata or {})[b"normviz.run"])
        log = FrameLog.from_table(table)
        experiment = experiment or _experiment(str(record["experiment"]), str(record["id"]))
        record.setdefault("device", record["environment"].get("device", "auto"))
        return _restore(record, experiment, log)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read: {_cause(error)}.") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{path} is no run that normviz wrote.") from error


def _experiment(name: str, run_id: str) -> Experiment:
    try:
        return find_experiment(name)
    except ValueError as error:
        raise StoreError(f"The run {run_id} belongs to an experiment that is not there: {error}") from error


def _restore(record: dict[str, Any], experiment: Experiment, log: FrameLog) -> Run:
    """A run from its plain values, whose knobs may be no longer valid."""
    if record["experiment"] != experiment.slug:
        raise StoreError(f"The run is one of {record['experiment']!r}, not of {experiment.slug!r}.")
    try:
        knobs = experiment.knobs.parse(record["knobs"])
    except KnobError as error:
        raise StoreError(f"The run's setting is no longer possible: {error}") from error
    values = {name: record[name] for name in _PLAIN_FIELDS if name != "knobs"}
    check_choice("status", values["status"], get_args(Status))
    return Run(experiment, knobs, log=log, **values)


def _stored(row: sqlite3.Row) -> StoredRun:
    values = {name: row[name] for name in StoredRun.__dataclass_fields__}
    return StoredRun(**values | {name: json.loads(row[name]) for name in ("knobs", "environment")})


def _connect_to_write(file: Path) -> sqlite3.Connection:
    connection = _connect(f"file:{quote(str(file))}")
    try:
        connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _TABLE)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=5.0, check_same_thread=False, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def _connect_to_read(file: Path) -> sqlite3.Connection:
    """Open without writing anything: with the write-ahead log if its shared file is there, else without."""
    for option in ("mode=ro", "immutable=1"):
        connection = _connect(f"file:{quote(str(file))}?{option}")
        try:
            connection.execute("SELECT count(*) FROM runs").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            if option == "immutable=1":
                raise
        else:
            return connection
    raise AssertionError("unreachable")


def _cause(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error).rstrip(".")
