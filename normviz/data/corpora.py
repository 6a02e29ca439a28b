"""Corpora by key: the built-in documentation, or a text that was uploaded and kept."""

from __future__ import annotations

from functools import lru_cache

from normviz.data.text import TextCorpus, pydoc_topics
from normviz.data.upload import load_text
from normviz.uploads import BUILT_IN, read_text

__all__ = ["load_corpus"]

MAX_PARTS, PART = 16, 2_000
"""An uploaded text is cut into at most so many topics of at least so many characters, so that its batches can be
sorted by topic too and every topic keeps validation windows of 100 characters and more."""


@lru_cache(maxsize=8)
def load_corpus(key: str, *, split_seed: int | None = None) -> TextCorpus:
    """The corpus with that key. Cached: do not change its tokens in place.

    Args:
        key: ``"python-docs"``, or the key that :func:`normviz.uploads.keep_text` gave.
        split_seed: where validation lies in each topic: None (default) at the end, else at a place this seed draws.

    Raises:
        TextUploadError: no such text on this machine.
        ValueError: a negative ``split_seed``.
    """
    if split_seed is not None:
        return load_corpus(key).resplit(split_seed)
    if key == BUILT_IN:
        return pydoc_topics()
    text = read_text(key)
    return load_text(text.encode(), name=key, parts=min(MAX_PARTS, max(1, len(text) // PART)))
