from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normviz.data import (
    BinaryTextError,
    EmptyTextError,
    TextEncodingError,
    TextTooLargeError,
    TextTooShortError,
    TextUploadError,
    load_text,
)
from normviz.data.text import REPLACEMENT

GOOD = ("Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.\n" * 40).encode()


def test_good_text() -> None:
    corpus = load_text(GOOD, name="notes.txt")
    assert corpus.name == "notes.txt"
    assert corpus.topics == ("notes.txt",)
    assert corpus.decode(corpus.tokens).encode() == GOOD
    assert corpus.batches(64, 4)(0, 0)[0].shape == (4, 64)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_bytes_like(kind: type) -> None:
    assert load_text(kind(GOOD), name="x").tokens.equal(load_text(GOOD, name="x").tokens)


def test_byte_order_mark_and_line_ends() -> None:
    corpus = load_text(b"\xef\xbb\xbf" + b"one\r\ntwo\rthree\n" * 100, name="x")
    assert corpus.decode(corpus.tokens) == "one\ntwo\nthree\n" * 100


def test_parts_are_topics() -> None:
    corpus = load_text(GOOD, name="x", parts=3)
    assert corpus.topics == ("x 1/3", "x 2/3", "x 3/3")
    assert corpus.decode(corpus.tokens).encode() == GOOD
    lengths = [corpus.span(k, "all")[1] - corpus.span(k, "all")[0] for k in range(3)]
    assert max(lengths) - min(lengths) <= 1


def test_vocabulary_is_bounded() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(900)) + "a" * 900
    corpus = load_text(text.encode(), name="x", max_vocabulary=50)
    assert corpus.vocab_size == 50
    assert "a" in corpus.vocabulary
    assert REPLACEMENT in corpus.vocabulary


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (b"", EmptyTextError, "f is empty"),
        (b" \n\t " * 500, EmptyTextError, "white space"),
        (b"\xef\xbb\xbf", EmptyTextError, "white space"),
        (b"a" * 5001, TextTooLargeError, r"f has 5,001 bytes; at most 5,000"),
        (b"too short", TextTooShortError, r"9 characters; at least 1,000"),
        (b"a" * 1500 + b"\0" + b"a" * 100, BinaryTextError, "NUL byte at position 1500"),
        (b"a" * 1200 + b"\x01" * 13, BinaryTextError, r"13 of its 1,213.*0x01, at byte position 1200"),
        ("é".encode() * 700 + b"\x02" * 30, BinaryTextError, r"0x02, at byte position 1400"),
        (b"a" * 1500 + b"\xe9t\xe9", TextEncodingError, r"byte 0xe9 at position 1500"),
        (b"\xef\xbb\xbf" + b"a" * 1500 + b"\xff", TextEncodingError, r"byte 0xff at position 1503"),
        (b"a" * 1500 + "é".encode()[:1], TextEncodingError, r"0xc3 at position 1500.*end of data"),
        ("text".encode("utf-16"), TextEncodingError, "UTF-16"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4, BinaryTextError, "NUL byte at position 8"),
    ],
)
def test_refusals(data: bytes, error: type[TextUploadError], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        load_text(data, name="f", max_bytes=5000)
    assert isinstance(caught.value, ValueError)


def test_few_control_characters_pass() -> None:
    corpus = load_text(b"a" * 2000 + b"\x0c\x1b[0m", name="x")
    assert "\x1b" in corpus.vocabulary


def test_limits_are_inclusive() -> None:
    assert len(load_text(b"ab" * 500, name="x", max_bytes=1000, min_chars=1000).tokens) == 1000
    with pytest.raises(TextTooLargeError):
        load_text(b"ab" * 500, name="x", max_bytes=999)
    with pytest.raises(TextTooShortError):
        load_text(b"ab" * 500, name="x", min_chars=1001)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_a_corpus_or_a_reason(data: bytes) -> None:
    with suppress(TextUploadError):
        corpus = load_text(data, name="f", min_chars=1)
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        assert corpus.decode(corpus.tokens) == text


@pytest.mark.parametrize(
    "arguments", [{"max_bytes": 0}, {"min_chars": 0}, {"parts": 0}, {"max_vocabulary": 1}]
)
def test_argument_errors(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        load_text(GOOD, name="x", **arguments)  # type: ignore[arg-type]


def test_str_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="bytes, got str"):
        load_text("text", name="x")  # type: ignore[arg-type]
