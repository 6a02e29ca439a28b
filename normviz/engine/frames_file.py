"""One file of frames: an Arrow IPC stream that only grows, and that may break off anywhere.

A file is the schema's message followed by one message for each batch of frames, compressed with zstd; the end mark that
Arrow allows to leave out is left out. Any Arrow reader takes it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pyarrow as pa
from pyarrow import ipc

from normviz.frame import Frame, frames_to_table, schema, table_to_frames

__all__ = ["append_frames", "create_frames_file", "read_frames"]

_END_OF_STREAM = 8


def create_frames_file(path: Path) -> None:
    """Make a file without frames.

    Raises:
        OSError: it cannot be written.
    """
    path.write_bytes(_header())


def append_frames(path: Path, frames: Sequence[Frame]) -> None:
    """Append a batch: all of it, or nothing if the disk is full, since half a batch would hide all that follows.

    Raises:
        OSError: the batch cannot be written.
    """
    data = _body(frames)
    with path.open("r+b", buffering=0) as file:
        start = file.seek(0, os.SEEK_END)
        try:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
        except OSError:
            file.truncate(start)
            raise


def read_frames(path: Path) -> list[Frame]:
    """The frames of a stream that may break off anywhere.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else.
    """
    data = path.read_bytes()
    frames: list[Frame] = []
    try:
        for batch in ipc.open_stream(pa.BufferReader(data)):
            frames += table_to_frames(pa.Table.from_batches([batch]))
    except (pa.ArrowInvalid, OSError):  # the server died while it wrote: what came before is whole
        pass
    return frames


@cache
def _header() -> bytes:
    header: bytes = schema().serialize().to_pybytes()
    return header


def _body(frames: Sequence[Frame]) -> bytes:
    """Frames as messages of an Arrow stream, without the schema before and the end mark behind them."""
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, schema(), options=ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(frames_to_table(frames))
    stream: bytes = sink.getvalue().to_pybytes()
    return stream[len(_header()) : -_END_OF_STREAM]
