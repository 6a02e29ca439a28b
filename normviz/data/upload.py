"""A reader's own text: checked, decoded, turned into a corpus; nothing is stored.

TextUploadError (ValueError)
├── EmptyTextError       no bytes, or white space only
├── TextTooLargeError    more than ``max_bytes``
├── TextTooShortError    fewer than ``min_chars`` characters
├── BinaryTextError      a NUL byte, or too many control characters
└── TextEncodingError    not UTF-8
"""

from __future__ import annotations

from normviz.data.text import TextCorpus
from normviz.validation import check_integer

__all__ = [
    "BinaryTextError",
    "EmptyTextError",
    "TextEncodingError",
    "TextTooLargeError",
    "TextTooShortError",
    "TextUploadError",
    "load_text",
]

_CONTROL_SHARE = 0.01
"""Above this share of control characters a file is taken for binary; text has none but the stray form feed."""

_CONTROLS = frozenset(chr(code) for code in (*range(9), 11, *range(14, 32), 127))
"""ASCII control characters but tab, line feed, form feed and carriage return."""


class TextUploadError(ValueError):
    """The bytes are not a text this project can train on; the message says why."""


class EmptyTextError(TextUploadError):
    """No bytes, or white space only."""


class TextTooLargeError(TextUploadError):
    """More bytes than allowed."""


class TextTooShortError(TextUploadError):
    """Fewer characters than needed."""


class BinaryTextError(TextUploadError):
    """Bytes of another kind of file."""


class TextEncodingError(TextUploadError):
    """Text in another encoding than UTF-8."""


def load_text(
    data: bytes,
    *,
    name: str,
    max_bytes: int = 1_000_000,
    min_chars: int = 1000,
    max_vocabulary: int = 256,
    parts: int = 1,
    val_fraction: float = 0.1,
) -> TextCorpus:
    """Turn the bytes of a text file into a corpus of characters.

    A byte order mark is dropped; line ends become ``\\n``. The bytes are read in memory and not kept.

    Args:
        data: the file's bytes, UTF-8.
        name: shown in messages and as the corpus' name.
        max_bytes: largest size allowed (1,000,000 by default).
        min_chars: fewest characters allowed (1000 by default: windows must fit into the validation part).
        max_vocabulary: most different characters (256 by default, a bound on the model's size); rarer ones become
            U+FFFD.
        parts: cut the text into so many consecutive pieces of equal length, each a topic of its own (1 by default), so
            that batches can be sorted by topic.
        val_fraction: share at the end of each topic for validation (0.1 by default).

    Returns:
        The corpus.

    Raises:
        EmptyTextError: no bytes, or white space only.
        TextTooLargeError: more than ``max_bytes``.
        TextTooShortError: fewer than ``min_chars`` characters.
        BinaryTextError: a NUL byte, or more than 1 % control characters; names the position of the first.
        TextEncodingError: not UTF-8; names the position of the first bad byte.
        TypeError: ``data`` is not bytes.
        ValueError: a size or share out of range.

    Example:
        >>> load_text(b"to be or not to be " * 100, name="hamlet.txt").vocabulary
        ' benort'
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"data must be bytes, got {type(data).__name__}.")
    check_integer("max_bytes", max_bytes, low=1)
    check_integer("min_chars", min_chars, low=1)
    check_integer("parts", parts, low=1)
    text = _decode(bytes(data), name, max_bytes)
    if len(text) < max(min_chars, parts):
        raise TextTooShortError(
            f"{name} has {len(text):,} characters; at least {max(min_chars, parts):,} are needed to train and "
            "validate."
        )
    edges = [len(text) * i // parts for i in range(parts + 1)]
    titles = [name] if parts == 1 else [f"{name} {i + 1}/{parts}" for i in range(parts)]
    documents = {title: text[edges[i] : edges[i + 1]] for i, title in enumerate(titles)}
    return TextCorpus.from_documents(
        name, documents, val_fraction=val_fraction, max_vocabulary=max_vocabulary
    )


def _decode(data: bytes, name: str, max_bytes: int) -> str:
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
    if not text.strip():
        raise EmptyTextError(f"{name} holds nothing but white space.")
    controls = [i for i, char in enumerate(text) if char in _CONTROLS]
    if len(controls) > _CONTROL_SHARE * len(text):
        position = next(i for i, byte in enumerate(data) if chr(byte) in _CONTROLS)
        raise BinaryTextError(
            f"{name} is not a text file: {len(controls):,} of its {len(text):,} characters are control characters, "
            f"the first, {data[position]:#04x}, at byte position {position}."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")
