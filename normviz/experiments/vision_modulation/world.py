"""The grid world: pictures of coloured cells, questions about one cell, and text without a picture.

A visual token is [colour one-hot, cell one-hot] plus noise of 0.05. Everything is drawn by the seed; a batch by seed
and step, the same for all arms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from normviz.data import seeded_generator
from normviz.experiments.vision_modulation.knobs import Knobs

__all__ = ["TEXT_LENGTH", "Batch", "World"]

NOISE = 0.05
"""Standard deviation of what is added to every entry of a visual token."""
TESTED = 512
"""Questions of the test."""
TEXT_LENGTH = 12
"""Words of a text without a picture."""
TEXTS_TESTED = 64
TRAIN, TEST, PICTURE, TEXT, TEXT_TEST = range(5)
"""Streams of random numbers."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Questions about pictures.

    Attributes:
        tokens: (B, T).
        vision: (B, M, dv).
        colours: index of the colour of every cell (B, M).
        cell: the cell that is asked for (B,).
        answer: token of its colour (B,).
    """

    tokens: Tensor
    vision: Tensor
    colours: Tensor
    cell: Tensor
    answer: Tensor


class World:
    """The world of one seed.

    Args:
        knobs: the setting.
        seed: of all its random numbers.
        device: of what it draws.
    """

    def __init__(self, knobs: Knobs, seed: int, device: torch.device) -> None:
        self.knobs, self.seed, self.device = knobs, seed, device
        self.words = knobs.vocabulary()
        self._chain = torch.from_numpy(self.words.transitions).float()
        self._start = torch.from_numpy(self.words.stationary).float()
        self.batch = lru_cache(maxsize=2)(self._batch)
        self.test = self._draw(seeded_generator(seed, TEST), TESTED)
        self.texts = self.text(seeded_generator(seed, TEXT_TEST), TEXTS_TESTED)
        # One picture, asked for every cell in turn after the same words.
        picture = self._draw(seeded_generator(seed, PICTURE), 1)
        M = knobs.cells
        cells = torch.arange(M, device=device)
        before = picture.tokens[:, : knobs.filler].expand(M, -1)
        self.picture = Batch(
            torch.cat([before, self.question(cells)], 1),
            picture.vision.expand(M, -1, -1),
            picture.colours.expand(M, -1),
            cells,
            self.words.first_colour + picture.colours[0],
        )

    def _batch(self, step: int) -> Batch:
        """The training questions of a step."""
        return self._draw(seeded_generator(self.seed, TRAIN, step), self.knobs.batch_size)

    def pretraining(self, step: int) -> tuple[Tensor, Batch]:
        """Texts, and questions whose picture is not shown, of a step of training on text alone."""
        generator = seeded_generator(self.seed, TEXT, step)
        return self.text(generator, self.knobs.batch_size // 2), self._draw(
            generator, self.knobs.batch_size // 2
        )

    def question(self, cell: Tensor) -> Tensor:
        """The words that ask for cells (B,): (B, 1) or (B, 3)."""
        if self.knobs.question == "name":
            return self.words.first_cell + cell[:, None]
        row = self.words.first_row + torch.div(cell, self.knobs.side, rounding_mode="floor")
        column = self.words.first_row + self.knobs.side + cell % self.knobs.side
        return torch.stack([row, column, torch.full_like(cell, self.words.question_mark)], 1)

    def text(self, generator: torch.Generator, count: int, length: int = TEXT_LENGTH) -> Tensor:
        """Texts of the language (count, length)."""
        words = [torch.multinomial(self._start, count, replacement=True, generator=generator)]
        for _ in range(length - 1):
            words.append(torch.multinomial(self._chain[words[-1]], 1, generator=generator)[:, 0])
        return torch.stack(words, 1).to(self.device)

    def _draw(self, generator: torch.Generator, count: int) -> Batch:
        k = self.knobs
        colours = torch.randint(k.colours, (count, k.cells), generator=generator)
        cell = torch.randint(k.cells, (count,), generator=generator)
        exact = torch.cat(
            [F.one_hot(colours, k.colours).float(), torch.eye(k.cells).expand(count, -1, -1)], dim=-1
        )
        vision = exact + NOISE * torch.randn(exact.shape, generator=generator)
        cell = cell.to(self.device)
        tokens = self.question(cell)
        if k.filler:
            tokens = torch.cat([self.text(generator, count, k.filler), tokens], 1)
        colours = colours.to(self.device)
        answer = self.words.first_colour + colours.gather(1, cell[:, None])[:, 0]
        return Batch(tokens, vision.to(self.device), colours, cell, answer)
