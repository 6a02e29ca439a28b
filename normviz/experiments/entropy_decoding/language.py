"""The languages of the page *Entropy decoding*: stretches of letters and digits with a right answer, or real text."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normviz.data.corpora import load_corpus
from normviz.experiments.entropy_decoding.knobs import Knobs
from normviz.experiments.entropy_decoding.recorded import CONTEXT, PROMPT, WORLD

__all__ = [
    "Language",
    "RealText",
    "Stretches",
    "judge",
    "language_of",
    "place_in_stretch",
    "place_in_word",
    "write",
]

Ints = NDArray[np.int64]

LETTERS = 26
LENGTHS = {"long": ((18, 26), (10, 14)), "short": ((1, 4), (1, 4))}
"""Fewest and most characters of a stretch of letters and of one of digits."""
HELD_OUT = 16
"""Held-out texts of each seed."""
TRAIN, TEST, ASK = 0, 1, 2
"""Streams of random numbers of a seed."""


class Language(Protocol):
    """What the models learn to write."""

    vocabulary: str
    """The characters; a token is a place in it."""
    places: Ints
    """Place of every held-out target, (texts, CONTEXT); see :meth:`Knobs.places`. 0: none of these."""
    hard: NDArray[np.bool_]
    """Which held-out targets count as hard, (texts, CONTEXT): digits, or first letters of words."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets of a training step, each (B, CONTEXT)."""

    @property
    def held_out(self) -> tuple[Tensor, Tensor]:
        """Tokens and targets that are never trained on, each (texts, CONTEXT)."""

    @property
    def prompts(self) -> Tensor:
        """Test prompts, (prompts, PROMPT)."""

    def encode(self, text: str) -> Tensor:
        """Tokens (n,) of a reader's prompt."""

    def judge(self, text: Ints, begin: int) -> Ints | None:
        """Characters from ``begin`` on that are right (1), wrong (0), not judged (-1); None: nothing can be wrong."""


def write(rng: np.random.Generator, length: int, noise: float, stretch: str) -> Ints:
    """A text of stretches, cut out at random: tokens (length,).

    Letters go on in the order of the alphabet from a random one. A digit is the sum of the two digits before it, mod
    10, or random with probability ``noise``. Long stretches of digits begin with two random ones; in short ones the
    digits of earlier stretches count.

    Args:
        rng: source of randomness.
        length: of the text.
        noise: probability of a random digit.
        stretch: "long" or "short".
    """
    letters, digits = LENGTHS[stretch]
    skip = int(rng.integers(letters[1] + digits[1]))
    text: list[int] = []
    last: list[int] = []
    while len(text) < skip + length:
        first, count = int(rng.integers(LETTERS)), int(rng.integers(letters[0], letters[1] + 1))
        text += [(first + i) % LETTERS for i in range(count)]
        count = int(rng.integers(digits[0], digits[1] + 1))
        random, drawn = rng.random(count) < noise, rng.integers(10, size=count).tolist()
        if stretch == "long":
            last = []
        for is_random, digit in zip(random.tolist(), drawn, strict=True):
            if len(last) == 2 and not is_random:
                digit = (last[0] + last[1]) % 10
            text.append(LETTERS + digit)
            last = [*last, digit][-2:]
    return np.array(text[skip : skip + length], dtype=np.int64)


def judge(text: Ints, begin: int, stretch: str) -> Ints:
    """Which characters from ``begin`` on follow the rule of digits: 1 right, 0 wrong, -1 letters and first digits."""
    found = []
    last: list[int] = []
    for i, token in enumerate(text.tolist()):
        verdict = -1
        if token >= LETTERS:
            digit = token - LETTERS
            if len(last) == 2:
                verdict = int(digit == (last[0] + last[1]) % 10)
            last = [*last, digit][-2:]
        elif stretch == "long":
            last = []
        if i >= begin:
            found.append(verdict)
    return np.array(found, dtype=np.int64)


def place_in_stretch(text: Ints) -> Ints:
    """1, 2, … from a stretch's first digit on, -1, -2, … backwards from the last letter before it; 0: not known."""
    places = np.zeros(len(text), dtype=np.int64)
    run = 0
    for i, token in enumerate(text.tolist()):
        if token < LETTERS:
            run = -1
        elif run != 0:
            run = max(run, 0) + 1
            places[i] = run
    ahead = 0
    for i in range(len(text) - 1, -1, -1):
        if text[i] >= LETTERS:
            ahead = -1
        elif ahead < 0:
            places[i] = ahead
            ahead -= 1
    return places


def place_in_word(text: str) -> Ints:
    """1, 2, … for the letters of a word from its first on; 0: no letter, or the text begins within the word."""
    places = np.zeros(len(text), dtype=np.int64)
    run = -1
    for i, char in enumerate(text):
        run = (run + 1 if run >= 0 else -1) if char.isalpha() else 0
        places[i] = max(run, 0)
    return places


class Stretches:
    """Stretches of letters and of digits; every text is made when it is asked for.

    Args:
        knobs: the setting.
        seed: of all its texts.
    """

    vocabulary = WORLD

    def __init__(self, knobs: Knobs, seed: int) -> None:
        self._seed, self._noise, self._stretch, self._size = (
            seed,
            knobs.noise,
            knobs.stretch,
            knobs.batch_size,
        )
        texts = self._texts(HELD_OUT, CONTEXT + 1, TEST)
        self.held_out = _shifted(torch.from_numpy(texts))
        self.places = np.stack([place_in_stretch(text)[1:] for text in texts])
        self.hard = texts[:, 1:] >= LETTERS
        self.prompts = torch.from_numpy(self._texts(knobs.prompts, PROMPT, ASK))

    def _texts(self, count: int, length: int, *key: int) -> Ints:
        rng = np.random.default_rng([self._seed, *key])
        return np.stack([write(rng, length, self._noise, self._stretch) for _ in range(count)])

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets of a training step."""
        return _shifted(torch.from_numpy(self._texts(self._size, CONTEXT + 1, TRAIN, step)))

    def encode(self, text: str) -> Tensor:
        """Tokens of a prompt."""
        return torch.tensor([WORLD.index(char) for char in text])

    def judge(self, text: Ints, begin: int) -> Ints | None:
        """Which digits follow the rule; see :func:`judge`."""
        return judge(text, begin, self._stretch)


class RealText:
    """A corpus by characters; validation lies at places that the seed draws.

    Args:
        knobs: the setting.
        seed: of split and batches.
    """

    def __init__(self, knobs: Knobs, seed: int) -> None:
        corpus = load_corpus(knobs.corpus, split_seed=seed)
        self._corpus, self._seed = corpus, seed
        self.vocabulary = "".join(corpus.vocabulary)
        self._batches = corpus.batches(CONTEXT, knobs.batch_size)
        windows = corpus.windows("val", CONTEXT, limit=HELD_OUT)
        self.held_out = windows.tokens, windows.targets
        texts = torch.cat([windows.tokens[:, :1], windows.targets], dim=1)
        self.places = np.stack([place_in_word(corpus.decode(text))[1:] for text in texts])
        self.hard = self.places == 1
        asked = corpus.windows("val", PROMPT, limit=knobs.prompts).tokens
        self.prompts = asked[torch.arange(knobs.prompts) % len(asked)]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets of a training step."""
        return self._batches(self._seed, step)

    def encode(self, text: str) -> Tensor:
        """Tokens of a prompt; what the text does not have becomes a space."""
        space = " " if " " in self.vocabulary else self.vocabulary[0]
        return self._corpus.encode("".join(char if char in self.vocabulary else space for char in text))

    def judge(self, text: Ints, begin: int) -> Ints | None:  # noqa: ARG002 - real text has no right answer
        """None."""
        return None


def _shifted(texts: Tensor) -> tuple[Tensor, Tensor]:
    return texts[:, :-1], texts[:, 1:]


def language_of(knobs: Knobs, seed: int) -> Language:
    """The language of a setting and a seed."""
    return Stretches(knobs, seed) if knobs.task == "stretches" else RealText(knobs, seed)
