"""Corpora by key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from normviz.data import load_corpus, pydoc_topics
from normviz.uploads import MIN_CHARACTERS, TextUploadError, keep_text


def test_built_in_is_the_documentation() -> None:
    corpus, documentation = load_corpus("python-docs"), pydoc_topics()
    assert (corpus.name, corpus.topics) == (documentation.name, documentation.topics)
    assert torch.equal(corpus.tokens, documentation.tokens)


def test_shortest_upload_still_has_windows_of_both_splits(data_folder: Path) -> None:
    key = keep_text(("abcdefghij" * (MIN_CHARACTERS // 10)).encode(), "short.txt")
    corpus = load_corpus(key)
    assert len(corpus.windows("train", 64).tokens) > 0
    assert len(corpus.windows("val", 64).tokens) > 0
    assert list(data_folder.glob("uploads/*.txt"))


def test_long_uploads_have_topics(data_folder: Path) -> None:
    assert len(load_corpus(keep_text(b"to be or not to be " * 3000, "long.txt")).topics) == 16


def test_unknown_key_is_named(data_folder: Path) -> None:
    with pytest.raises(TextUploadError, match="text-0123456789ab"):
        load_corpus("text-0123456789ab")
    with pytest.raises(TextUploadError, match="corpus must be"):
        load_corpus("../../etc/passwd")
