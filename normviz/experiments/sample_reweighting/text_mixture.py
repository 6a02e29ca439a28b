"""Text of mixed quality: clean windows of a corpus, repeated ones, shuffled ones, and ones in a foreign language.

Every seed has its own split of the corpus. The source of each sample is drawn by the shares (in the paper's terms:
domain sampling probabilities), and then

- clean: a random window of the corpus;
- duplicated: one of a few windows that stay the same for the whole run;
- shuffled: a clean window with its characters in random order: only letter frequencies can be learned;
- foreign: a clean window with its letters replaced by ROT13: as regular as the corpus, but of no use for it.
"""

from __future__ import annotations

from codecs import encode
from functools import cache

import torch
from torch import Tensor

from normviz.data import TextCorpus, by_seed, seeded_generator
from normviz.experiments.sample_reweighting.knobs import TEXT_SOURCES

__all__ = ["TextMixture"]

CLEAN, DUPLICATED, SHUFFLED, FOREIGN = range(len(TEXT_SOURCES))


class TextMixture:
    """Batches (tokens, targets, source) as a function of (seed, step): shapes (B, T), (B, T), (B,).

    Args:
        corpus: where windows come from.
        context: length T of a window.
        batch_size: samples B per batch.
        shares: probability of each of the sources, in their order.
        duplicates: number of different repeated windows.
    """

    def __init__(
        self, corpus: TextCorpus, context: int, batch_size: int, shares: tuple[float, ...], duplicates: int
    ) -> None:
        self.corpus, self.context, self.batch_size, self.duplicates = corpus, context, batch_size, duplicates
        self._shares = torch.tensor(shares)
        self._split = cache(corpus.resplit)
        self._windows = by_seed(lambda seed: self._split(seed).batches(context, batch_size))
        self._repeated = by_seed(lambda seed: self._split(seed).batches(context, duplicates, stream=1))
        self._foreign = _rot13_table(corpus.vocabulary).to(corpus.tokens.device)

    def __call__(self, seed: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of a step."""
        generator = seeded_generator(seed, 2, step)
        source = torch.multinomial(self._shares, self.batch_size, replacement=True, generator=generator)
        which = torch.randint(self.duplicates, (self.batch_size,), generator=generator)
        device = self.corpus.tokens.device
        clean = _joined(self._windows(seed, step))  # (B, T + 1)
        repeated = self.repeated(seed)[which.to(device)]
        order = torch.rand(clean.shape, generator=generator).argsort(1).to(device)
        source = source.to(device)
        text = torch.where((source == DUPLICATED)[:, None], repeated, clean)
        text = torch.where((source == SHUFFLED)[:, None], clean.gather(1, order), text)
        text = torch.where((source == FOREIGN)[:, None], self._foreign[clean], text)
        return text[:, :-1], text[:, 1:], source

    def repeated(self, seed: int) -> Tensor:
        """The windows that are repeated, (duplicates, T + 1)."""
        return _joined(self._repeated(seed, 0))

    def held_out(self, seed: int, limit: int) -> list[tuple[Tensor, Tensor]]:
        """Tokens and targets of each source for evaluation; those of "duplicated" are the repeated windows."""
        clean = _joined(self._split(seed).windows("val", self.context, limit=limit)[:2])
        order = torch.rand(clean.shape, generator=seeded_generator(seed, 3)).argsort(1).to(clean.device)
        parts = [clean, self.repeated(seed)[:limit], clean.gather(1, order), self._foreign[clean]]
        return [(part[:, :-1], part[:, 1:]) for part in parts]


def _joined(windows: tuple[Tensor, ...]) -> Tensor:
    """Windows with their last target: (B, T), (B, T) -> (B, T + 1)."""
    tokens, targets = windows
    return torch.cat([tokens, targets[:, -1:]], 1)


def _rot13_table(vocabulary: str) -> Tensor:
    """Token -> token of the ROT13 letter; a letter whose partner is not in the vocabulary stays."""
    number = {char: i for i, char in enumerate(vocabulary)}
    return torch.tensor([number.get(encode(char, "rot13"), i) for i, char in enumerate(vocabulary)])
