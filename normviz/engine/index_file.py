"""The SQLite file of the run store: its table, and how it is opened."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

__all__ = ["VERSION", "connect_to_read", "connect_to_write", "identity", "version_of"]

VERSION = 1

_COLUMNS = {
    "id": "TEXT PRIMARY KEY",
    "slug": "TEXT",
    "package": "TEXT",
    "name": "TEXT",
    "knobs": "TEXT",
    "device": "TEXT",
    "environment": "TEXT",
    "status": "TEXT",
    "error": "TEXT",
    "created": "REAL",
    "started": "REAL",
    "finished": "REAL",
    "frames": "INTEGER",
    "last_step": "INTEGER",
    "owner": "TEXT",
    "visitor": "TEXT",
}
_TABLE = (
    f"CREATE TABLE IF NOT EXISTS runs ({', '.join(f'{name} {kind}' for name, kind in _COLUMNS.items())});"
)
_INDEXES = """
CREATE INDEX IF NOT EXISTS runs_by_experiment ON runs (slug, created);
CREATE INDEX IF NOT EXISTS runs_by_knobs ON runs (slug, knobs, status, finished);
"""


def connect_to_write(file: Path) -> sqlite3.Connection:
    """Open the file, made if it is not there; a column that its table lacks is added.

    One of a newer version is left as it is.

    Raises:
        sqlite3.Error: it cannot be opened for writing.
    """
    connection = _connect(f"file:{quote(str(file))}")
    try:
        connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
        connection.executescript("BEGIN IMMEDIATE; ROLLBACK;")  # SQLite opens a read-only file without a word
        if (version := version_of(connection)) > VERSION:
            return connection
        connection.executescript(_TABLE)
        if version < VERSION:
            connection.execute(f"PRAGMA user_version = {VERSION}")
        there = {row["name"] for row in connection.execute("PRAGMA table_info(runs)")}
        for name in _COLUMNS.keys() - there:
            connection.execute(f"ALTER TABLE runs ADD COLUMN {name} {_COLUMNS[name]}")
        connection.executescript(_INDEXES)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def connect_to_read(file: Path) -> sqlite3.Connection:
    """Open without writing anything: with the write-ahead log if its shared file is there, else without.

    Raises:
        sqlite3.Error: it cannot be read.
    """
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


def version_of(connection: sqlite3.Connection) -> int:
    """The version of the table."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def identity(file: Path) -> tuple[int, int] | None:
    """What tells a file from another of the same name; None if there is none."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=5.0, check_same_thread=False, isolation_level=None)
    connection.row_factory = sqlite3.Row
    # A text that is not UTF-8 belongs to one damaged row; an error would hide all of them.
    connection.text_factory = lambda data: data.decode(errors="replace")
    return connection
