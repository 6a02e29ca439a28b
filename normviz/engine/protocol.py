"""Messages between the server and a worker: a length, a JSON header, and optionally frames as an Arrow stream.

Plain data in both directions: reading a message can run no code, unlike unpickling one. On the wire a message is two
little-endian 32-bit lengths, the UTF-8 JSON header and the payload (empty if there are no frames).
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import ipc

from normviz.frame import Frame, frames_to_table, table_to_frames

__all__ = ["ProtocolError", "decode_frames", "encode_frames", "read_message", "write_message"]

_LENGTHS = struct.Struct("<II")
_LONGEST_HEADER = 1 << 24
_LONGEST_PAYLOAD = 1 << 31


class ProtocolError(Exception):
    """What came through the pipe is no message."""


def write_message(stream: BinaryIO, header: dict[str, Any], payload: bytes = b"") -> None:
    """Write one message and flush; a caller that shares the stream between threads holds a lock.

    Raises:
        OSError: the other side is gone.
    """
    head = json.dumps(header).encode()
    stream.write(_LENGTHS.pack(len(head), len(payload)) + head)
    stream.write(payload)
    stream.flush()


def read_message(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next message, or None when the other side has closed the stream, even in the middle of a message.

    Raises:
        ProtocolError: the bytes are no message.
    """
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    head_length, payload_length = _LENGTHS.unpack(lengths)
    if head_length > _LONGEST_HEADER or payload_length > _LONGEST_PAYLOAD:
        raise ProtocolError(f"lengths {head_length}, {payload_length} are too great for a message.")
    head = stream.read(head_length)
    payload = stream.read(payload_length)
    if len(head) < head_length or len(payload) < payload_length:
        return None
    try:
        header = json.loads(head)
    except ValueError as error:
        raise ProtocolError(f"the header is no JSON: {head[:80]!r}") from error
    if not isinstance(header, dict):
        raise ProtocolError(f"the header is no JSON object: {head[:80]!r}")
    return header, payload


def encode_frames(frames: list[Frame]) -> bytes:
    """Frames as a complete Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    table = frames_to_table(frames)
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    payload: bytes = sink.getvalue().to_pybytes()
    return payload


def decode_frames(payload: bytes) -> list[Frame]:
    """The frames of :func:`encode_frames`.

    Raises:
        ProtocolError: the payload is no stream of frames.
    """
    try:
        return table_to_frames(ipc.open_stream(pa.py_buffer(payload)).read_all())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ProtocolError(f"the payload holds no frames: {error}") from error
