"""Corpora by key: the built-in documentation, or a text that was uploaded and kept."""

from __future__ import annotations

from functools import lru_cache

from normviz.data.text import TextCorpus, pydoc_topics
from normviz.data.upload import load_text
from normviz.uploads import BUILT_IN, read_text

__all__ = ["load_corpus"]

PARTS = 16
"""Pieces of an uploaded text, each a topic of its own, so that its batches can be sorted too."""


@lru_cache(maxsize=8)
def load_corpus(key: str) -> TextCorpus:
    """The corpus with that key. Cached: do not change its tokens in place.

    Args:
        key: ``"python-docs"``, or the key that :func:`normviz.uploads.keep_text` gave.

    Raises:
        TextUploadError: no such text on this machine.
    """
    if key == BUILT_IN:
        return pydoc_topics()
    return load_text(read_text(key).encode(), name=key, parts=PARTS)
