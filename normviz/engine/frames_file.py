"""One file of frames: an Arrow IPC stream that only grows, and that may break off or be damaged anywhere.

A file is the schema's message followed by one message for each batch of frames, compressed with zstd; the end mark that
Arrow allows to leave out is left out. Any Arrow reader takes it.

Each message carries in its metadata its length and a checksum of all its bytes. What Arrow does with damaged bytes is
not bounded (it may end the process), and a damaged number looks like any other. So a message is handed to Arrow only
after its checksum was found right, and reading stops at the first message that is not whole.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pyarrow as pa
from pyarrow import ipc

from normviz.frame import Frame, frames_to_table, schema, table_to_frames

__all__ = ["FramesLostError", "append_frames", "create_frames_file", "read_frames", "whole_length"]

_END_OF_STREAM = 8
_PREFIX = 8
"""Bytes before a message's metadata: four of ones, and the length of the metadata."""

_MARK = b"normviz.seal:"
_CHECKSUM, _LENGTH = 8, 12
_OPEN_SEAL = b"0" * (_CHECKSUM + _LENGTH)
"""What stands behind the mark while the checksum is computed."""


class FramesLostError(OSError):
    """The file has fewer bytes than were written to it."""


def create_frames_file(path: Path) -> int:
    """Make a file without frames; returns its length.

    Raises:
        OSError: it cannot be written.
    """
    return path.write_bytes(_header())


def append_frames(path: Path, frames: Sequence[Frame], end: int) -> int:
    """Append a batch: all of it, or nothing if the disk is full, since half a batch would hide all that follows.

    Args:
        path: the file.
        frames: the batch.
        end: where the last batch ends; what stands behind it is half a batch that could not be taken back.

    Returns:
        Where this batch ends.

    Raises:
        FramesLostError: the file ends before ``end``.
        OSError: the batch cannot be written.
    """
    data = _body(frames) if frames else b""
    with path.open("r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size < end:
            raise FramesLostError(f"{path.name} is shorter than what was written to it")
        if size > end:
            file.truncate(end)
            file.seek(end)
        try:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
        except OSError:
            file.truncate(end)
            raise
    return end + len(data)


def read_frames(path: Path, start: int = 0) -> tuple[list[Frame], int]:
    """The frames of the whole batches of a file, up to the first that breaks off or is damaged.

    Args:
        path: the file.
        start: read on from here, where an earlier call ended.

    Returns:
        The frames, and where they end: where a later call may start. In a file whose messages have no checksums, from
        an older version, that is its start.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else, or its beginning is damaged.
    """
    header = _header()
    with path.open("rb") as file:
        beginning = file.read(len(header))
        if beginning != header and header.startswith(beginning):
            return [], 0  # the server died while it made the file
        begin = file.seek(max(start, len(header)) if beginning == header else 0)
        data = file.read()
    if beginning == header:
        frames, length = _sealed_batches(header, data)
        return frames, begin + length
    return _other_stream(data)


def whole_length(path: Path) -> int:
    """Where the whole messages at the beginning of a file end, all with checksums; 0 if it has none.

    Raises:
        OSError: the file cannot be read.
    """
    data, end = path.read_bytes(), 0
    while length := _sealed_length(data, end):
        end += length
    return end


def _sealed_batches(header: bytes, data: bytes) -> tuple[list[Frame], int]:
    """The frames of the whole messages that ``data`` begins with, and the length of these."""
    end = 0
    while length := _sealed_length(data, end):
        end += length
    frames: list[Frame] = []
    if end:
        for batch in ipc.open_stream(pa.py_buffer(header + data[:end])):
            frames += table_to_frames(pa.Table.from_batches([batch]))
    return frames, end


def _other_stream(data: bytes) -> tuple[list[Frame], int]:
    """The frames of a stream that another version of this project, or of Arrow, has begun."""
    if header := _sealed_length(data, 0):
        frames, length = _sealed_batches(data[:header], data[header:])
        return frames, header + length
    if _MARK in data:
        raise ValueError("its beginning is damaged.")
    frames = []
    try:
        for batch in ipc.open_stream(pa.py_buffer(data)):
            batch.validate(full=True)
            frames += table_to_frames(pa.Table.from_batches([batch]))
    except (pa.ArrowException, OSError):  # the server died while it wrote: what came before is whole
        pass
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{error}.") from error
    return frames, 0


def _sealed_length(data: bytes, start: int) -> int:
    """The length of the message that begins there; 0 if it is not whole, or is no message with a checksum."""
    view = memoryview(data)[start:]
    metadata_end = _PREFIX + int.from_bytes(view[4:_PREFIX], "little")
    place = bytes(view[:metadata_end]).find(_MARK)
    if place < 0:
        return 0
    first = place + len(_MARK)
    behind = first + len(_OPEN_SEAL)
    seal = bytes(view[first:behind])
    digits = seal[_CHECKSUM:]
    if len(seal) < len(_OPEN_SEAL) or not digits.isdigit():
        return 0
    length = int(digits)
    if not max(metadata_end, behind) <= length <= len(view):
        return 0
    checksum = zlib.crc32(view[behind:length], zlib.crc32(_OPEN_SEAL, zlib.crc32(view[:first])))
    return length if seal == _seal(checksum, length) else 0


def _seal(checksum: int, length: int) -> bytes:
    return b"%0*x%0*d" % (_CHECKSUM, checksum, _LENGTH, length)


def _sealed(message: bytes) -> bytes:
    """A message with its checksum and its length behind the mark in its metadata."""
    first = message.index(_MARK) + len(_MARK)
    return message[:first] + _seal(zlib.crc32(message), len(message)) + message[first + len(_OPEN_SEAL) :]


@cache
def _header() -> bytes:
    return _sealed(schema().with_metadata({"seal": _MARK + _OPEN_SEAL}).serialize().to_pybytes())


def _body(frames: Sequence[Frame]) -> bytes:
    """Frames as messages of an Arrow stream, without the schema before and the end mark behind them."""
    messages = []
    before = schema().serialize().size
    for batch in frames_to_table(frames).to_batches():
        sink = pa.BufferOutputStream()
        with ipc.new_stream(sink, schema(), options=ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_batch(batch, pa.KeyValueMetadata({"seal": _MARK + _OPEN_SEAL}))
        messages.append(_sealed(sink.getvalue().to_pybytes()[before:-_END_OF_STREAM]))
    return b"".join(messages)
