"""Text as sentences of words, each filled up with padding to one length: what a translation model's batches look like.

A sentence ends at ``.``, ``!``, ``?``, ``:`` or ``;`` before white space, or at an empty line. Its tokens are words
and single punctuation marks in lower case; the rarest are one token for all.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from normviz.data.corpora import load_corpus
from normviz.data.sampling import TensorBatches, seeded_generator
from normviz.validation import check_integer, check_real

__all__ = ["IGNORED", "SentenceCorpus", "load_sentences"]

IGNORED = -100
"""Target of a padded place: PyTorch's cross entropy leaves it out."""

PADDING, UNKNOWN = 0, 1
"""The tokens of padding and of all rare words."""

_END, _WORD = re.compile(r"(?<=[.!?:;])\s+|\n\s*\n"), re.compile(r"\w+|[^\w\s]")
_LEAST = 4


@dataclass(frozen=True, eq=False)
class SentenceCorpus:
    """Sentences in one split into training and held-out ones.

    Attributes:
        name: of the corpus.
        vocabulary: the words by token; the first two stand for padding and for rare words.
        train: tokens (S, T) and targets (S, T), one place ahead, of the training sentences.
        held_out: the same of the others.
    """

    name: str
    vocabulary: tuple[str, ...]
    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return len(self.vocabulary)

    def batches(self, batch_size: int) -> TensorBatches:
        """A source of training batches (tokens, targets), each (B, T)."""
        return TensorBatches(self.train, batch_size)

    def to(self, device: torch.device | str) -> SentenceCorpus:
        """The same sentences on another device."""
        (x, y), (x_held_out, y_held_out) = self.train, self.held_out
        return replace(
            self,
            train=(x.to(device), y.to(device)),
            held_out=(x_held_out.to(device), y_held_out.to(device)),
        )


@lru_cache(maxsize=4)
def _padded(key: str, vocabulary: int, longest: int) -> tuple[tuple[str, ...], Tensor]:
    """The words by token, and all sentences (S, longest + 1) in the order of the text."""
    corpus = load_corpus(key)
    texts = (corpus.decode(corpus.tokens[slice(*corpus.span(k, "all"))]) for k in range(len(corpus.topics)))
    pieces = [piece for text in texts for piece in _END.split(text)]
    sentences = [words for piece in pieces if len(words := _WORD.findall(piece.lower())) >= _LEAST]
    if len(sentences) < 2:
        raise ValueError(f"the text must have at least 2 sentences of {_LEAST} words, got {len(sentences)}.")
    counts = Counter(word for words in sentences for word in words)
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[: vocabulary - 2]
    number = {word: i for i, word in enumerate(frequent, start=2)}
    rows = torch.full((len(sentences), longest + 1), PADDING)
    for row, words in zip(rows, sentences, strict=True):
        tokens = [number.get(word, UNKNOWN) for word in words[: longest + 1]]
        row[: len(tokens)] = torch.tensor(tokens)
    return ("", "\N{REPLACEMENT CHARACTER}", *frequent), rows


@lru_cache(maxsize=16)
def load_sentences(
    key: str, *, vocabulary: int = 1000, longest: int = 32, val_fraction: float = 0.1, seed: int = 0
) -> SentenceCorpus:
    """The sentences of a corpus, in a split that the seed draws.

    Args:
        key: of the corpus, as for :func:`normviz.data.load_corpus`.
        vocabulary: at most so many tokens, padding and the rare word among them (1,000 by default).
        longest: length T; longer sentences are cut, shorter ones padded at their end (32 by default).
        val_fraction: share of the sentences that is held out, in (0, 1); 0.1 by default.
        seed: of the split (0 by default).

    Returns:
        The sentences; targets of padded places are :data:`IGNORED`. Cached: do not change in place.

    Raises:
        TextUploadError: no such text on this machine.
        ValueError: a size out of range, a negative seed, or a text with fewer than two sentences.
    """
    check_integer("vocabulary", vocabulary, low=3)
    check_integer("longest", longest, low=2)
    check_real("val_fraction", val_fraction, low=0.0, high=1.0, low_open=True, high_open=True)
    words, rows = _padded(key, vocabulary, longest)
    count = min(max(round(val_fraction * len(rows)), 1), len(rows) - 1)
    order = torch.randperm(len(rows), generator=seeded_generator(check_integer("seed", seed, low=0)))
    tokens, following = rows[:, :-1], rows[:, 1:]
    targets = torch.where(following == PADDING, IGNORED, following)
    train, held_out = order[count:], order[:count]
    return SentenceCorpus(key, words, (tokens[train], targets[train]), (tokens[held_out], targets[held_out]))
