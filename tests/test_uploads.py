from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from normviz import uploads
from normviz.uploads import (
    MAX_BYTES,
    MIN_CHARACTERS,
    BinaryTextError,
    EmptyTextError,
    TextEncodingError,
    TextTooLargeError,
    TextTooShortError,
    TextUploadError,
    check_text,
    keep_text,
    read_text,
)

TEXT = "Whose woods these are I think I know. " * 60


def test_good_text_is_given_back() -> None:
    assert check_text(TEXT.encode(), "a.txt") == TEXT
    assert check_text(b"\xef\xbb\xbf" + TEXT.encode(), "a.txt") == TEXT, "no byte order mark"
    assert check_text(b"a\r\nb\rc\n" * 700, "a.txt") == "a\nb\nc\n" * 700
    assert check_text(("λ" * MIN_CHARACTERS).encode(), "a.txt") == "λ" * MIN_CHARACTERS
    assert "\f" in check_text(("page\f" * 500).encode(), "a.txt")


def test_bounds_are_inclusive() -> None:
    check_text(b"x" * MIN_CHARACTERS, "a.txt")
    with pytest.raises(TextTooShortError, match=r"a\.txt has 1,999 characters; at least 2,000"):
        check_text(b"x" * (MIN_CHARACTERS - 1), "a.txt")
    check_text(b"x" * MAX_BYTES, "a.txt")
    with pytest.raises(TextTooLargeError, match="1,000,001 bytes; at most 1,000,000"):
        check_text(b"x" * (MAX_BYTES + 1), "a.txt")
    assert check_text(b"abc", "a.txt", max_bytes=3, min_characters=3) == "abc"


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", EmptyTextError, "a.txt is empty."),
        (b" \n\t" * 2000, EmptyTextError, "nothing but white space"),
        ("\u200b\ufeff\u2060 ".encode() * 2000, EmptyTextError, "a.txt holds nothing that can be seen."),
        ("\u3164\n\u2800\ufe0f".encode() * 2000, EmptyTextError, "a.txt holds nothing that can be seen."),
        (
            b"a" + "\u200b".encode() * 3000,
            TextTooShortError,
            "a.txt has 1 characters that can be seen and 3,000 others; at least 2,000 are needed",
        ),
        (b"x" * 3000 + b"\0", BinaryTextError, "NUL byte at position 3000"),
        (b"x" * 90 + b"\x01" * 2910, BinaryTextError, "the first, 0x01, at byte position 90"),
        ("é".encode() * 50 + b"\x7f" * 2900, BinaryTextError, "the first, 0x7f, at byte position 100"),
        (b"x" * 3000 + b"\xe9", TextEncodingError, "byte 0xe9 at position 3000"),
        (b"\xef\xbb\xbf" + b"x" * 3000 + b"\xff", TextEncodingError, "byte 0xff at position 3003"),
        (TEXT.encode("utf-16"), TextEncodingError, "starts a UTF-16 text"),
        (TEXT.encode("utf-16-be"), BinaryTextError, "NUL byte at position 0"),
    ],
)
def test_refused_texts(data: bytes, error: type[TextUploadError], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        check_text(data, "a.txt")
    assert isinstance(caught.value, TextUploadError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "text",
    [
        "\u0915\u094d\u200d\u0937\u0947\u0924\u094d\u0930 ",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 ",
        "\u2764\ufe0f ",
        "e\u0301\u00e9 ",
    ],
)
def test_scripts_that_use_unseen_characters_are_kept_whole(text: str) -> None:
    assert check_text((text * 1500).encode(), "a.txt") == text * 1500


def test_one_percent_of_control_characters_is_allowed() -> None:
    check_text(b"\x01" * 30 + b"x" * 2970, "a.txt")
    with pytest.raises(BinaryTextError, match=r"31 of its 3,000 characters"):
        check_text(b"\x01" * 31 + b"x" * 2969, "a.txt")


def test_a_text_is_found_again_by_its_key(tmp_path: Path) -> None:
    key = keep_text(TEXT.encode(), "a.txt", tmp_path)
    assert key == f"text-{hashlib.sha256(TEXT.encode()).hexdigest()[:12]}"
    assert keep_text(b"\xef\xbb\xbf" + TEXT.encode(), "b.txt", tmp_path) == key, "made of the content alone"
    assert read_text(key, tmp_path) == TEXT
    assert [path.name for path in (tmp_path / "uploads").iterdir()] == [f"{key}.txt"], "no part is left"


def test_line_ends_survive_keeping(tmp_path: Path) -> None:
    key = keep_text(b"one\r\ntwo\r\n" * 300, "a.txt", tmp_path)
    assert read_text(key, tmp_path) == "one\ntwo\n" * 300


def test_nothing_refused_is_kept(tmp_path: Path) -> None:
    with pytest.raises(TextTooShortError):
        keep_text(b"short", "a.txt", tmp_path)
    assert not (tmp_path / "uploads").exists()


@pytest.mark.parametrize(
    "key", ["", "text-", "text-0123456789AB", "../secret", "text-0123456789ab\n", "text-0123/56789ab"]
)
def test_malformed_keys_reach_no_file(key: str, tmp_path: Path) -> None:
    with pytest.raises(TextUploadError, match="corpus must be 'python-docs' or the key of an uploaded text"):
        read_text(key, tmp_path)


def test_a_text_that_is_not_here(tmp_path: Path) -> None:
    with pytest.raises(TextUploadError, match="is not on this machine: upload it again"):
        read_text("text-0123456789ab", tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "uploads").write_text("a file where the folder should be")
    with pytest.raises(TextUploadError, match=r"a\.txt could not be kept: "):
        keep_text(TEXT.encode(), "a.txt", tmp_path)


def test_data_folder(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert uploads.data_folder() == data_folder
    key = keep_text(TEXT.encode(), "a.txt")
    assert (data_folder / "uploads" / f"{key}.txt").is_file()
    assert read_text(key) == TEXT
    monkeypatch.delenv("NORMVIZ_DATA")
    assert "normviz" in str(uploads.data_folder())
