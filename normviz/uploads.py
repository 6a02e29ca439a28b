"""A reader's own text: checked, kept under a key made of its content, found again by that key.

No PyTorch: the server checks and keeps an upload, the worker reads it. Nothing is kept that was refused. Tables are
in :mod:`normviz.own_tables`, images in :mod:`normviz.own_images`.

UploadError (ValueError)
└── TextUploadError
    ├── EmptyTextError       no bytes, or nothing that can be seen
    ├── TextTooLargeError    more than ``max_bytes``
    ├── TextTooShortError    fewer than ``min_characters`` characters
    ├── BinaryTextError      a NUL byte, or too many control characters
    └── TextEncodingError    not UTF-8
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normviz.variables import data_folder

__all__ = [
    "BUILT_IN",
    "MAX_BYTES",
    "MIN_CHARACTERS",
    "BinaryTextError",
    "EmptyTextError",
    "TextEncodingError",
    "TextTooLargeError",
    "TextTooShortError",
    "TextUploadError",
    "UploadError",
    "check_text",
    "data_folder",
    "decode_utf8",
    "keep_text",
    "kept_key",
    "kept_path",
    "own_fields",
    "read_bounded",
    "read_text",
    "write_kept",
]

BUILT_IN = "python-docs"
"""Key of the text that is always there: the documentation inside Python itself."""

MAX_BYTES = 1_000_000
MIN_CHARACTERS = 2_000
"""Bounds of an upload: the shortest text still has validation windows, the longest trains as fast as the built-in."""


_CONTROL_SHARE = 0.01
"""Above this share of control characters a file is taken for binary; text has none but the stray form feed."""

_CONTROLS = frozenset(chr(code) for code in (*range(9), 11, *range(14, 32), 127))
"""ASCII control characters but tab, line feed, form feed and carriage return."""


_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Characters that show nothing: Unicode's property ``Default_Ignorable_Code_Point``, and the blank of Braille."""


class UploadError(ValueError):
    """A file from a reader cannot be used, or is not on this machine; the message says why."""


class TextUploadError(UploadError):
    """The bytes are not a text this project can train on; the message says why."""


class EmptyTextError(TextUploadError):
    """No bytes, or nothing that can be seen."""


class TextTooLargeError(TextUploadError):
    """More bytes than allowed."""


class TextTooShortError(TextUploadError):
    """Fewer characters than needed."""


class BinaryTextError(TextUploadError):
    """Bytes of another kind of file."""


class TextEncodingError(TextUploadError):
    """Text in another encoding than UTF-8."""


def check_text(
    data: bytes, name: str, *, max_bytes: int = MAX_BYTES, min_characters: int = MIN_CHARACTERS
) -> str:
    """Decode an uploaded text.

    Args:
        data: the file's bytes.
        name: the file's name, for messages.
        max_bytes: the most bytes that are accepted.
        min_characters: the fewest characters that can be trained on.

    Returns:
        The text with a byte-order mark dropped and line ends made ``\\\\n``.

    Raises:
        EmptyTextError: no bytes, or only white space and characters that show nothing.
        TextTooLargeError: more than ``max_bytes``.
        TextTooShortError: fewer than ``min_characters`` characters, without those that show nothing.
        BinaryTextError: a NUL byte, or more than 1 % control characters; names the position of the first.
        TextEncodingError: not UTF-8; names the position of the first bad byte.
    """
    text = decode_utf8(data, name, max_bytes=max_bytes)
    if not text.strip():
        raise EmptyTextError(f"{name} holds nothing but white space.")
    controls = [i for i, char in enumerate(text) if char in _CONTROLS]
    if len(controls) > _CONTROL_SHARE * len(text):
        position = next(i for i, byte in enumerate(data) if chr(byte) in _CONTROLS)
        raise BinaryTextError(
            f"{name} is not a text file: {len(controls):,} of its {len(text):,} characters are control characters, "
            f"the first, {data[position]:#04x}, at byte position {position}."
        )
    if not (seen := _UNSEEN.sub("", text)).strip():
        raise EmptyTextError(f"{name} holds nothing that can be seen.")
    if len(seen) < min_characters:
        unseen = f" that can be seen and {len(text) - len(seen):,} others" if len(seen) < len(text) else ""
        raise TextTooShortError(
            f"{name} has {len(seen):,} characters{unseen}; "
            f"at least {min_characters:,} are needed to train and validate."
        )
    return text


def decode_utf8(data: bytes, name: str, *, max_bytes: int) -> str:
    """The text of a file, without its byte-order mark and with line ends made ``\\n``.

    Raises:
        EmptyTextError: no bytes.
        TextTooLargeError: more than ``max_bytes``.
        BinaryTextError: a NUL byte.
        TextEncodingError: not UTF-8; names the position of the first bad byte.
    """
    if not data:
        raise EmptyTextError(f"{name} is empty.")
    if len(data) > max_bytes:
        raise TextTooLargeError(f"{name} has {len(data):,} bytes; at most {max_bytes:,} are allowed.")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TextEncodingError(
            f"{name} is not UTF-8: byte {data[0]:#04x} at position 0 starts a UTF-16 text. Save it as UTF-8."
        )
    nul = data.find(0)
    if nul >= 0:
        raise BinaryTextError(f"{name} is not a text file: it has a NUL byte at position {nul}.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mark = len(data) - len(error.object)  # "utf-8-sig" counts from behind the byte order mark
        raise TextEncodingError(
            f"{name} is not UTF-8: byte {error.object[error.start]:#04x} at position {mark + error.start} "
            f"({error.reason})."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def keep_text(data: bytes, name: str, folder: Path | None = None) -> str:
    """Check a text and keep it; the same text always has the same key.

    Returns:
        The key, ``"text-"`` and 12 hexadecimal digits.

    Raises:
        TextUploadError: see :func:`check_text`; nothing is kept then. Also when it cannot be written.
    """
    text = check_text(data, name)
    key = kept_key("text", text.encode())
    write_kept(f"{key}.txt", text.encode(), name, TextUploadError, folder)
    return key


def read_bounded(path: Path, most: int, refusal: type[UploadError]) -> bytes:
    """The bytes of a file; ``refusal`` is raised, before it is read, where there are more than ``most``.

    Raises:
        OSError: it cannot be read.
    """
    if (size := path.stat().st_size) > most:
        raise refusal(f"{path.name} has {size:,} bytes; at most {most:,} are allowed.")
    return path.read_bytes()


def kept_key(kind: str, content: bytes) -> str:
    """The key of what is kept: its kind, and 12 hexadecimal digits made of its content."""
    return f"{kind}-{hashlib.sha256(content).hexdigest()[:12]}"


def kept_path(name: str, folder: Path | None = None) -> Path:
    """Where a kept file lies.

    Args:
        name: of the file, made of its key: never the reader's own.
        folder: of the data; None: :func:`data_folder`.
    """
    return (folder or data_folder()) / "uploads" / name


def write_kept(
    kept: str, content: bytes, name: str, refusal: type[UploadError], folder: Path | None = None
) -> None:
    """Write a file that is there whole or not at all.

    Args:
        kept: what it is called, as for :func:`kept_path`.
        content: of it.
        name: of the reader's file, for messages.
        refusal: raised where it cannot be written: the folder is not writable, or the disk is full.
        folder: as for :func:`kept_path`.
    """
    target = kept_path(kept, folder)
    part = target.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise refusal(f"{name} could not be kept: {error.strerror or error}.") from None


def own_fields(values: Any, *names: str) -> Any:
    """What a validator makes of given values so that the fields of a reader's own data and the choice ``data`` agree.

    Where one of the fields is given and ``data`` is not, ``data`` is "own"; where it is another, the fields are empty.

    Args:
        values: by field, as a validator before the others gets them.
        names: the fields of own data.
    """
    if not isinstance(values, Mapping):
        return values
    if "data" not in values and any(values.get(name) for name in names):
        return {**values, "data": "own"}
    if values.get("data") != "own":
        return {name: value for name, value in values.items() if name not in names}
    return values


def read_text(key: str, folder: Path | None = None) -> str:
    """The kept text with that key.

    Raises:
        TextUploadError: the key is malformed, or the text is not (or no longer) here.
    """
    if not re.fullmatch(r"text-[0-9a-f]{12}", key):
        raise TextUploadError(f"corpus must be {BUILT_IN!r} or the key of an uploaded text, got {key!r}.")
    try:
        return kept_path(f"{key}.txt", folder).read_text(encoding="utf-8")
    except OSError:
        raise TextUploadError(f"The uploaded text {key!r} is not on this machine: upload it again.") from None
