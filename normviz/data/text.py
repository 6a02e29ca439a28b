"""Text as tokens: documents with names, a vocabulary built from them, a split by position, batches of windows.

The corpus at hand everywhere is the help text inside Python itself (``pydoc_data.topics``): about 80 topics of the
language reference, 460,000 characters. It belongs to the running Python, so its text differs between Python versions.

Split: the *last* ``val_fraction`` of every topic is validation, the rest training. With a seed for the split
(:meth:`TextCorpus.resplit`) validation is as long a part at a random place of every topic, and training what lies
before and behind it. So training and validation speak of the same topics, and no window crosses a cut or the border of
two topics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from normviz.data.sampling import seeded_generator
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["REPLACEMENT", "TextBatches", "TextCorpus", "TextWindows", "pydoc_topics"]

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""Stands for every character that is not in the vocabulary, where the vocabulary is limited."""


class TextWindows(NamedTuple):
    """Windows of one corpus: tokens (B, T), targets (B, T) one position ahead, topic number of each window (B,)."""

    tokens: Tensor
    targets: Tensor
    topics: Tensor


@dataclass(frozen=True, eq=False)
class TextCorpus:
    """Documents ("topics") as one run of tokens; build it with :meth:`from_documents`.

    Attributes:
        name: of the corpus.
        topics: name of each topic, in the order of the text.
        level: "char" or "byte" (UTF-8 bytes, always 256 tokens).
        vocabulary: the character of each token, in ascending order; empty for bytes.
        tokens: the whole text, (L,) int64, topics end to end.
        bounds: topic k is ``tokens[bounds[k]:bounds[k + 1]]``.
        val_fraction: share of each topic that is validation.
        split_seed: where it lies in each topic: None at the end, else at a place that this seed draws.
    """

    name: str
    topics: tuple[str, ...]
    level: str
    vocabulary: str
    tokens: Tensor
    bounds: tuple[int, ...]
    val_fraction: float
    split_seed: int | None = None

    @classmethod
    def from_documents(
        cls,
        name: str,
        documents: Mapping[str, str],
        *,
        level: str = "char",
        val_fraction: float = 0.1,
        max_vocabulary: int | None = None,
    ) -> TextCorpus:
        """Build a corpus from named texts, in the order given; empty texts are left out.

        Args:
            name: of the corpus.
            documents: topic name -> text.
            level: "char" (default): one token per character that occurs; "byte": one per UTF-8 byte.
            val_fraction: share of each topic for validation, in (0, 1); 0.1 by default.
            max_vocabulary: at most so many different characters (default None: all); rarer ones become U+FFFD.

        Raises:
            ValueError: no text at all, unknown level, ``val_fraction`` outside (0, 1), ``max_vocabulary`` below 2.
        """
        check_choice("level", level, ("char", "byte"))
        check_real("val_fraction", val_fraction, low=0.0, high=1.0, low_open=True, high_open=True)
        texts = {topic: text for topic, text in documents.items() if text}
        if not texts:
            raise ValueError("documents must hold at least one non-empty text.")
        if level == "byte":
            vocabulary = ""
            pieces = [list(text.encode()) for text in texts.values()]
        else:
            vocabulary = _vocabulary("".join(texts.values()), max_vocabulary)
            number = {char: i for i, char in enumerate(vocabulary)}
            unknown = number.get(REPLACEMENT, 0)
            pieces = [[number.get(char, unknown) for char in text] for text in texts.values()]
        bounds = [0]
        for piece in pieces:
            bounds.append(bounds[-1] + len(piece))
        tokens = torch.tensor([token for piece in pieces for token in piece], dtype=torch.long)
        return cls(name, tuple(texts), level, vocabulary, tokens, tuple(bounds), val_fraction)

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return 256 if self.level == "byte" else len(self.vocabulary)

    def encode(self, text: str) -> Tensor:
        """Tokens of a text, (length,) int64.

        Raises:
            ValueError: a character that is not in the vocabulary (unless the vocabulary has U+FFFD for it).
        """
        if self.level == "byte":
            return torch.tensor(list(text.encode()), dtype=torch.long)
        number = {char: i for i, char in enumerate(self.vocabulary)}
        unknown = number.get(REPLACEMENT)
        tokens = []
        for position, char in enumerate(text):
            token = number.get(char, unknown)
            if token is None:
                raise ValueError(
                    f"text must use the characters of the corpus, got {char!r} at position {position}."
                )
            tokens.append(token)
        return torch.tensor(tokens, dtype=torch.long)

    def decode(self, tokens: Tensor) -> str:
        """Text of a 1-D tensor of tokens; bytes that are not UTF-8 become U+FFFD."""
        numbers: list[int] = tokens.tolist()
        if self.level == "byte":
            return bytes(numbers).decode(errors="replace")
        return "".join(self.vocabulary[number] for number in numbers)

    def resplit(self, seed: int | None) -> TextCorpus:
        """The same text with validation at other places: those that the seed draws, or the topics' ends for None.

        Raises:
            ValueError: a negative seed.
        """
        return replace(self, split_seed=None if seed is None else check_integer("seed", seed, low=0))

    def spans(self, topic: int, split: str = "train") -> tuple[tuple[int, int], ...]:
        """The pieces of a topic's part: first position and the one behind the last of each, in the text's order.

        There is one piece, or two where training lies before and behind validation.

        Raises:
            ValueError: no such topic or split.
        """
        check_choice("split", split, ("train", "val", "all"))
        check_integer("topic", topic, low=0, high=len(self.topics) - 1)
        start, stop = self.bounds[topic], self.bounds[topic + 1]
        length = round((stop - start) * self.val_fraction)
        begin = stop - length
        if self.split_seed is not None:
            drawn = torch.randint(begin - start + 1, (), generator=seeded_generator(self.split_seed, topic))
            begin = start + int(drawn)
        end = begin + length
        if split == "all":
            return ((start, stop),)
        if split == "val":
            return ((begin, end),)
        return tuple(piece for piece in ((start, begin), (end, stop)) if piece[0] < piece[1]) or (
            (start, start),
        )

    def span(self, topic: int, split: str = "train") -> tuple[int, int]:
        """First position and the one behind the last of a topic's part: split "train", "val" or "all".

        Raises:
            ValueError: no such topic or split, or a part in two pieces (see :meth:`spans`).
        """
        pieces = self.spans(topic, split)
        if len(pieces) > 1:
            raise ValueError(f"topic {topic} has its {split} part in {len(pieces)} pieces: use spans.")
        return pieces[0]

    def windows(self, split: str, context: int, *, limit: int | None = None) -> TextWindows:
        """All windows of a split that follow each other without overlap, topic by topic: for evaluation.

        Args:
            split: "train", "val" or "all".
            context: length T of a window; its targets reach one token further.
            limit: at most so many windows, evenly spaced over all of them (default None: all).

        Raises:
            ValueError: unknown split, ``context`` or ``limit`` below 1, or no topic long enough for one window.
        """
        check_integer("context", context, low=1)
        starts: list[int] = []
        topics: list[int] = []
        for topic in range(len(self.topics)):
            for begin, end in self.spans(topic, split):
                fitting = range(begin, end - context, context)
                starts.extend(fitting)
                topics.extend([topic] * len(fitting))
        if not starts:
            raise _too_short(self, split, context)
        if limit is not None:
            check_integer("limit", limit, low=1)
            chosen = (
                [i * len(starts) // limit for i in range(limit)]
                if limit < len(starts)
                else range(len(starts))
            )
            starts, topics = [starts[i] for i in chosen], [topics[i] for i in chosen]
        return self._cut(torch.tensor(starts), torch.tensor(topics), context)

    def _cut(self, starts: Tensor, topics: Tensor, context: int) -> TextWindows:
        positions = starts[:, None] + torch.arange(context + 1)  # (B, T + 1)
        device = self.tokens.device
        text = self.tokens[positions.to(device)]
        return TextWindows(text[:, :-1], text[:, 1:], topics.to(device))

    def batches(
        self,
        context: int,
        batch_size: int,
        *,
        split: str = "train",
        order: str = "shuffled",
        topic_run: int = 4,
        stream: int = 0,
    ) -> TextBatches:
        """A source of random batches; see :class:`TextBatches`."""
        return TextBatches(
            self, context, batch_size, split=split, order=order, topic_run=topic_run, stream=stream
        )

    def to(self, device: torch.device | str) -> TextCorpus:
        """The same corpus on another device."""
        return replace(self, tokens=self.tokens.to(device))


class TextBatches:
    """A source of batches of random windows: ``source(seed, step)`` gives (tokens, targets), each (B, T).

    Every window lies in one topic. In both orders a window is drawn with equal probability from all windows of the
    split; the orders differ only in what meets in a batch:

    - "shuffled": every window of a batch is drawn by itself, so batches are alike;
    - "topic": all windows of ``topic_run`` consecutive batches come from one topic, which is drawn with a probability
      proportional to its number of windows. Batch statistics jump from run to run, as they do in natural text.

    Args:
        corpus: where the windows come from.
        context: length T of a window.
        batch_size: windows per batch B.
        split: "train" (default), "val" or "all".
        order: "shuffled" (default) or "topic".
        topic_run: consecutive batches from one topic in the order "topic" (4 by default).
        stream: number of an independent stream of the same seed (0 by default).

    Raises:
        ValueError: a size below 1, an unknown split or order, or no topic long enough for one window.

    Example:
        >>> tokens, targets = pydoc_topics().batches(64, 16)(0, 5)
        >>> tokens.shape, torch.equal(tokens[:, 1:], targets[:, :-1])
        (torch.Size([16, 64]), True)
    """

    def __init__(
        self,
        corpus: TextCorpus,
        context: int,
        batch_size: int,
        *,
        split: str = "train",
        order: str = "shuffled",
        topic_run: int = 4,
        stream: int = 0,
    ) -> None:
        self.corpus = corpus
        self.context = check_integer("context", context, low=1)
        self.batch_size = check_integer("batch_size", batch_size, low=1)
        self.split = split
        self.order = check_choice("order", order, ("shuffled", "topic"))
        self.topic_run = check_integer("topic_run", topic_run, low=1)
        self.stream = check_integer("stream", stream, low=0)
        pieces = [(k, *piece) for k in range(len(corpus.topics)) for piece in corpus.spans(k, split)]
        counts = torch.tensor([max(0, end - begin - context) for _, begin, end in pieces])
        if not counts.any():
            raise _too_short(corpus, split, context)
        self._topics = torch.tensor([topic for topic, _, _ in pieces])  # (P,)
        self._begins = torch.tensor([begin for _, begin, _ in pieces])  # (P,)
        self._counts = counts  # (P,) windows of each piece
        self._ends = counts.cumsum(0)  # (P,) windows are numbered through all pieces
        self._of_topic = torch.zeros(len(corpus.topics), dtype=torch.long).index_add(0, self._topics, counts)
        self._topic_ends = self._of_topic.cumsum(0)  # (K,)

    def draw(self, seed: int, step: int) -> TextWindows:
        """The windows of batch ``step``, with the topic number of each.

        Raises:
            ValueError: seed or step negative or not an integer.
        """
        seed = check_integer("seed", seed, low=0)
        step = check_integer("step", step, low=0)
        size = (self.batch_size,)
        generator = seeded_generator(seed, self.stream, 0, step)
        if self.order == "shuffled":
            numbers = torch.randint(int(self._ends[-1]), size, generator=generator)
        else:
            run = seeded_generator(seed, self.stream, 1, step // self.topic_run)
            any_window = torch.randint(int(self._ends[-1]), (), generator=run)
            topic = torch.searchsorted(self._topic_ends, any_window, right=True)
            count = int(self._of_topic[topic])
            numbers = self._topic_ends[topic] - count + torch.randint(count, size, generator=generator)
        pieces = torch.searchsorted(self._ends, numbers, right=True)
        starts = self._begins[pieces] + numbers - (self._ends - self._counts)[pieces]
        return self.corpus._cut(starts, self._topics[pieces], self.context)

    def __call__(self, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets of batch ``step``, each (B, T), on the corpus' device."""
        windows = self.draw(seed, step)
        return windows.tokens, windows.targets


def _too_short(corpus: TextCorpus, split: str, context: int) -> ValueError:
    pieces = (piece for k in range(len(corpus.topics)) for piece in corpus.spans(k, split))
    longest = max(end - begin for begin, end in pieces)
    return ValueError(
        f"context must be at most {longest - 1} for the {split} part of {corpus.name!r}, got {context}."
    )


def _vocabulary(text: str, max_vocabulary: int | None) -> str:
    counts = Counter(text)
    if max_vocabulary is not None and len(counts) > check_integer("max_vocabulary", max_vocabulary, low=2):
        counts.pop(REPLACEMENT, None)
        kept = sorted(counts, key=lambda char: (-counts[char], char))[: max_vocabulary - 1]
        return "".join(sorted([*kept, REPLACEMENT]))
    return "".join(sorted(counts))


@lru_cache(maxsize=4)
def pydoc_topics(
    level: str = "char", val_fraction: float = 0.1, *, split_seed: int | None = None
) -> TextCorpus:
    """Python's own help topics (``pydoc_data.topics``), sorted by name.

    Args:
        level: "char" (default) or "byte".
        val_fraction: share of each topic for validation (0.1 by default).
        split_seed: where it lies in each topic: None (default) at the end, else at a place that this seed draws.

    Returns:
        The corpus. Cached: do not change its tokens in place.

    Raises:
        ValueError: unknown level, ``val_fraction`` outside (0, 1), a negative ``split_seed``.
    """
    if split_seed is not None:
        return pydoc_topics(level, val_fraction).resplit(split_seed)
    from pydoc_data.topics import topics

    return TextCorpus.from_documents(
        "pydoc topics", dict(sorted(topics.items())), level=level, val_fraction=val_fraction
    )
