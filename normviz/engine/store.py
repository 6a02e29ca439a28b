"""The run store: an SQLite index and one append-only Arrow stream of frames per run.

What is stored survives the server's sudden death (kill -9) at any moment but for the last second of frames: each batch
of frames goes to the operating system at once, and a stream that breaks off in the middle of a batch is read up to it.
Several servers may share a store; a run whose server died is marked as cancelled when the store is next read.

What cannot be written waits in memory and is tried again, the end of a run too. A folder that was taken away is made
anew with all that the live runs have. A damaged batch of frames, or a damaged row of the index, is told from a whole
one and hides no other run.

The folder holds ``runs.sqlite`` (write-ahead log) and ``frames/<run id>.arrows`` (:func:`normviz.frame.schema`, zstd).
"""

from __future__ import annotations

import copy
import errno
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

from normviz.engine.frames_file import (
    FramesLostError,
    append_frames,
    create_frames_file,
    read_frames,
    whole_length,
)
from normviz.engine.index_file import VERSION, connect_to_read, connect_to_write, identity, version_of
from normviz.engine.owner import is_alive, owner_name
from normviz.engine.run_file import PLAIN_FIELDS, StoreError, cause, experiment_of, restore
from normviz.engine.stored_run import LIVE, StoredRun, stored_run
from normviz.experiments import SLUGS, Run
from normviz.frame import Frame, FrameLog
from normviz.validation import check_choice, check_integer
from normviz.variables import data_folder

__all__ = ["RunStore", "StoreError", "StoredRun", "default_store_path"]

FLUSH_SECONDS = 0.5
"""Frames wait at most about this long in memory before they are written."""

LONGEST_NAME = 80

_NOTE = "The server ended while this run was going; the frames measured until then are kept."


_Runs = list[StoredRun]
_Frames = list[Frame]


@dataclass(eq=False)
class _Writer:
    """What is known of a run that is being written: frames that wait for the disk, and what is on it already.

    Attributes:
        run: the run; its log has at least the frames that were appended.
        path: the file of frames.
        pending: frames that wait for the disk.
        frames, last_step: how many frames are on the disk, and the furthest step of these.
        end: where they end in the file.
        lost: what is on the disk is not what was written, and is written anew.
        ended: the run as it has ended; None while it goes on.
        flushed: when frames were last written.
        error: why the last write in the background failed.
        lock: held by who changes ``pending`` or the file.
    """

    run: Run
    path: Path
    pending: list[Frame] = field(default_factory=list)
    frames: int = 0
    last_step: int = 0
    end: int = 0
    lost: bool = False
    ended: Run | None = None
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
        self._opened: tuple[int, int] | None = None
        self._writable = False
        self._writers: dict[str, _Writer] = {}
        self._orphans: dict[str, dict[str, Any]] = {}
        self._positions: WeakKeyDictionary[Run, int] = WeakKeyDictionary()
        self._dirty = threading.Event()
        self._flusher: threading.Thread | None = None

    # -- writing -----------------------------------------------------------------------------------------------------

    def create(self, run: Run) -> None:
        """Begin to store a run that has started.

        Raises:
            StoreError: the folder is not writable, the disk is full, or the run is there already.
        """
        writer = _Writer(run, self._frames_path(run.id))
        with self._index(write=True) as index:
            if index.execute("SELECT 1 FROM runs WHERE id = ?", (run.id,)).fetchone():
                raise StoreError(f"A run {run.id} is stored already.")
            try:
                writer.path.parent.mkdir(exist_ok=True)
                writer.end = create_frames_file(writer.path)
                self._insert(index, run, writer)
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
        writer = _Writer(run, self._frames_path(run.id), frames=stored.frames, last_step=stored.last_step)
        change = (
            "UPDATE runs SET knobs = ?, status = ?, error = ?, started = ?, finished = NULL, owner = ? "
            "WHERE id = ? AND status = 'done'"
        )
        values = (run.knobs.key(), run.status, run.error, run.started, self._owner, run.id)
        with self._index(write=True) as index:
            try:
                writer.end, size = whole_length(writer.path), writer.path.stat().st_size
            except OSError as error:
                raise StoreError(f"The frames of run {run.id} are no longer there.") from error
            writer.lost = writer.end < size
            if index.execute(change, values).rowcount == 0:
                raise StoreError(f"The run {run.id} is not stored as done.")
            self._track(run.id, writer)

    def append(self, run_id: str, frames: Sequence[Frame]) -> None:
        """Add frames to a run that is being stored; they reach the disk within a second.

        Raises:
            StoreError: the run is not being stored, or frames could not be written. These stay in memory, and each
                later call tries again.
        """
        writer = self._writer(run_id)
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
            StoreError: the run is not being stored, or the disk does not take it. Then it stays in memory, is read from
                there as ended, and is tried again until the disk takes it.
        """
        writer = self._writer(run.id)
        with writer.lock:
            writer.ended = copy.copy(run)
        try:
            self._flush(run.id, writer)
        except StoreError:
            self._dirty.set()
            raise

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
        if self._row(run_id).status in LIVE:
            raise StoreError(f"The run {run_id} is still running: cancel it first.")
        with self._index(write=True) as index:
            self._writers.pop(run_id, None)
            try:
                # First, because on a full disk the index can be written only after that.
                self._frames_path(run_id).unlink(missing_ok=True)
            except OSError as error:
                raise self._cannot_write(error) from error
            index.execute("DELETE FROM runs WHERE id = ?", (run_id,))
            self._orphans.pop(run_id, None)

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

        A run that is done but whose frames cannot all be read counts as cancelled; its ``error`` says how many there
        are.

        Raises:
            StoreError: there is no such run, its experiment or its knobs are no longer what they were, or its frames or
                its row in the index cannot be read.
        """
        stored = self._row(run_id)
        if stored.damaged:
            raise StoreError(f"The run {run_id} cannot be read. {stored.error}")
        record = {"experiment": stored.slug, **{name: getattr(stored, name) for name in PLAIN_FIELDS}}
        experiment = experiment_of(stored.slug if stored.slug in SLUGS else stored.package, run_id)
        frames, position = self._read_frames(run_id)
        run = restore(record, experiment, FrameLog(frames))
        run.visitor = stored.visitor
        self._positions[run] = position
        if len(frames) < stored.frames and not run.live:
            lack = f"Only {len(frames)} of {stored.frames} frames can be read: the file of frames is damaged."
            run.error = f"{run.error} {lack}" if run.error else lack
            run.status = "cancelled" if run.status == "done" else run.status
        return run

    def update(self, run: Run) -> None:
        """Bring a run up to now that :meth:`load` returned and that another process goes on with.

        For one thread at a time for each run.

        Raises:
            StoreError: the run is no longer there, or cannot be read.
        """
        stored, position = self._row(run.id), self._positions.get(run, 0)
        if stored.frames > len(run.log) or stored.status not in LIVE:
            frames, self._positions[run] = self._read_frames(run.id, position)
            run.log.extend(frames if position else frames[len(run.log) :])
        run.started, run.finished = stored.started, stored.finished
        run.error, run.status = stored.error, stored.status

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
            raise StoreError(f"{target} cannot be written: {cause(error)}.") from error

    # -- frames ------------------------------------------------------------------------------------------------------

    def _frames_path(self, run_id: str) -> Path:
        return self.path / "frames" / f"{run_id}.arrows"

    def _track(self, run_id: str, writer: _Writer) -> None:
        """From now on frames of a run are written; the caller holds the index."""
        self._writers[run_id] = writer
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush_late, name="store-flusher", daemon=True)
            self._flusher.start()

    def _writer(self, run_id: str) -> _Writer:
        """What is known of a run that is being stored and has not ended."""
        writer = self._writers.get(run_id)
        if writer is None or writer.ended is not None:
            raise StoreError(f"The run {run_id} is not being stored.")
        return writer

    def _flush(self, run_id: str, writer: _Writer) -> None:
        """Write the frames that wait, how many there are now, and how the run has ended if it has."""
        with writer.lock:
            writer.flushed = time.monotonic()
            if not writer.pending and writer.ended is None:
                return
            try:
                self._write_frames(writer)
            except OSError as error:
                raise self._cannot_write(error) from error
        with self._index(write=True) as index:
            if self._writers.get(run_id) is not writer:  # another thread has written its end
                return
            ended = writer.ended
            change = {"frames": writer.frames, "last_step": writer.last_step}
            if ended is not None:
                change |= _end_of(ended)
            names = ", ".join(f"{name} = ?" for name in change)
            found = index.execute(f"UPDATE runs SET {names} WHERE id = ?", (*change.values(), run_id))
            if found.rowcount == 0:  # the folder was taken away, and this is a new index
                self._insert(index, ended or writer.run, writer)
            if ended is not None:
                del self._writers[run_id]

    def _write_frames(self, writer: _Writer) -> None:
        """Write the frames that wait, and those before them if they are gone; the caller holds the writer's lock."""
        frames = list(writer.pending)
        if not writer.lost:
            try:
                writer.end = append_frames(writer.path, frames, writer.end)
            except (FileNotFoundError, FramesLostError):
                writer.lost = True
        if writer.lost:
            before = writer.run.log.frames[: writer.frames]
            part = writer.path.with_name(f"{writer.path.name}.part")
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                writer.end = append_frames(part, [*before, *frames], create_frames_file(part))
                part.replace(writer.path)
            finally:
                part.unlink(missing_ok=True)
            writer.frames, writer.lost = len(before), False
        del writer.pending[: len(frames)]
        writer.frames += len(frames)
        writer.last_step = max((writer.last_step, *(frame.step for frame in frames)))

    def _insert(self, index: sqlite3.Connection, run: Run, writer: _Writer) -> None:
        """Make the row of a run."""
        row = {
            "id": run.id,
            "slug": run.experiment.slug,
            "package": run.experiment.package,
            "name": run.name,
            "knobs": run.knobs.key(),
            "device": run.device,
            "environment": json.dumps(run.environment),
            "created": run.created,
            "frames": writer.frames,
            "last_step": writer.last_step,
            "owner": self._owner,
            "visitor": run.visitor,
            **_end_of(run),
        }
        places = ", ".join("?" * len(row))
        index.execute(f"INSERT INTO runs ({', '.join(row)}) VALUES ({places})", tuple(row.values()))

    def _flush_late(self) -> None:
        """Thread: write frames after which no others came soon enough, and what the disk did not take at first."""
        while True:
            self._dirty.wait()
            time.sleep(FLUSH_SECONDS)
            self._dirty.clear()
            for run_id, writer in self._open_writers():
                try:
                    self._flush(run_id, writer)
                except StoreError as error:  # raised by the run's next append
                    writer.error = error
                    if writer.ended is not None:  # there will be none
                        self._dirty.set()

    def _open_writers(self) -> Sequence[tuple[str, _Writer]]:
        with self._lock:
            return list(self._writers.items())

    def _read_frames(self, run_id: str, start: int = 0) -> tuple[_Frames, int]:
        """The frames of a run from a position in its file on, and the position behind them, 0 if it is not known."""
        writer = self._writers.get(run_id)
        with writer.lock if writer is not None else nullcontext():
            try:
                frames, end = read_frames(self._frames_path(run_id), start)
            except OSError as error:
                raise StoreError(f"The frames of run {run_id} cannot be read: {cause(error)}.") from error
            except ValueError as error:
                raise StoreError(f"The frames of run {run_id} have another form: {error}") from error
            return (frames, end) if writer is None else (frames + writer.pending, 0)

    # -- index -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _index(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """The open index, held by this thread alone; what SQLite raises becomes a StoreError."""
        with self._lock:
            try:
                if self._connection is not None and identity(self._file) != self._opened:
                    self._connection.close()  # the folder was taken away: what is there now is another file
                    self._connection = None
                if self._connection is None or (write and not self._writable):
                    self._open(write)
                assert self._connection is not None
                yield self._connection
            except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: a damaged name of a column
                raise (self._cannot_write(error) if write else self._cannot_read(error)) from error

    def _open(self, write: bool) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        try:
            if self.path.exists() and not self.path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            self.path.mkdir(parents=True, exist_ok=True)
            self._connection, self._writable = connect_to_write(self._file), True
        except (OSError, sqlite3.OperationalError) as error:
            if write:
                raise self._cannot_write(error) from error
            self._connection, self._writable = connect_to_read(self._file), False
        self._opened = identity(self._file)
        if version_of(self._connection) > VERSION:
            self._connection.close()
            self._connection = None
            raise StoreError(f"The runs in {self.path} were written by a newer version of normviz.")

    def _select(self, clause: str, *values: object) -> _Runs:
        if not self._file.exists():
            return []
        with self._index() as index:
            self._mark_orphans(index)
            rows = [stored_run(row) for row in index.execute(f"SELECT * FROM runs {clause}", values)]
            return [self._as_ended(row) for row in rows]

    def _as_ended(self, row: StoredRun) -> StoredRun:
        """A run with an end that the disk has not taken."""
        writer = self._writers.get(row.id)
        if writer is not None and writer.ended is not None:
            frames = writer.frames + len(writer.pending)
            return replace(row, **_end_of(writer.ended), frames=frames, last_step=writer.ended.log.last_step)
        return replace(row, **self._orphans[row.id]) if row.id in self._orphans else row

    def _row(self, run_id: str) -> StoredRun:
        rows = self._select("WHERE id = ?", run_id)
        if not rows:
            raise StoreError(f"There is no stored run {run_id!r}.")
        return rows[0]

    def _mark_orphans(self, index: sqlite3.Connection) -> None:
        """Mark the runs of servers that are dead as cancelled: in the index if it can be written, else in memory."""
        live = f"SELECT id, owner FROM runs WHERE status IN {LIVE} AND owner IS NOT ?"
        for run_id, owner in index.execute(live, (self._owner,)).fetchall():
            if run_id not in self._orphans:
                path = self._frames_path(run_id)
                touched, frames = 0.0, _Frames()
                try:
                    touched = path.stat().st_mtime
                    if is_alive(owner, touched):
                        continue
                    frames, _ = read_frames(path)
                except (OSError, ValueError):  # loading the run will say what is wrong with its frames
                    pass
                self._orphans[run_id] = {
                    "status": "cancelled",
                    "error": _NOTE,
                    "finished": touched or None,
                    "frames": len(frames),
                    "last_step": max((frame.step for frame in frames), default=0),
                }
            change = self._orphans[run_id]
            names = ", ".join(f"{name} = ?" for name in change)
            with suppress(sqlite3.OperationalError):  # a full or read-only disk is no reason not to read
                if self._writable:
                    index.execute(f"UPDATE runs SET {names} WHERE id = ?", (*change.values(), run_id))
                    del self._orphans[run_id]

    def _cannot_write(self, error: Exception) -> StoreError:
        return StoreError(f"{self.path} cannot be written ({cause(error)}).")

    def _cannot_read(self, error: Exception) -> StoreError:
        return StoreError(f"The runs in {self.path} cannot be read ({cause(error)}).")


def _end_of(run: Run) -> Mapping[str, Any]:
    """What of a run changes when it ends."""
    return {"status": run.status, "error": run.error, "started": run.started, "finished": run.finished}


def default_store_path() -> Path:
    """The user's data folder for normviz; the environment variable ``NORMVIZ_DATA`` names another one.

    Raises:
        VariableError: the variable is no folder's name.
    """
    return data_folder()
