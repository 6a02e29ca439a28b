"""A reader's own text as a corpus; the checks are those of :mod:`normviz.uploads`, nothing is stored here."""

from __future__ import annotations

from normviz.data.text import TextCorpus
from normviz.uploads import (
    BinaryTextError,
    EmptyTextError,
    TextEncodingError,
    TextTooLargeError,
    TextTooShortError,
    TextUploadError,
    check_text,
)
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
    text = check_text(bytes(data), name, max_bytes=max_bytes, min_characters=max(min_chars, parts))
    edges = [len(text) * i // parts for i in range(parts + 1)]
    titles = [name] if parts == 1 else [f"{name} {i + 1}/{parts}" for i in range(parts)]
    documents = {title: text[edges[i] : edges[i + 1]] for i, title in enumerate(titles)}
    return TextCorpus.from_documents(
        name, documents, val_fraction=val_fraction, max_vocabulary=max_vocabulary
    )
