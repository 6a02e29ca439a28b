"""The words of the grid world: a small language whose entropy is known, names of places, and colours. No PyTorch.

The language is a Markov chain over English words: determiner, perhaps an adjective, noun, then a verb or a full stop.
A question is one word that names a cell ("b2"), or three ("row 2", "column 2", "?"), after some words of the language.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLOURS", "Vocabulary"]

COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "pink", "brown")
"""Names of the colours, in the order in which a world uses them."""

KINDS: dict[str, tuple[str, ...]] = {
    "determiner": ("the", "a"),
    "adjective": ("old", "small", "round"),
    "noun": ("dog", "cat", "bird", "tree"),
    "verb": ("sees", "finds", "likes"),
    "stop": (".",),
}
FOLLOWS: dict[str, dict[str, float]] = {
    "determiner": {"adjective": 0.5, "noun": 0.5},
    "adjective": {"noun": 1.0},
    "noun": {"verb": 0.5, "stop": 0.5},
    "verb": {"determiner": 1.0},
    "stop": {"determiner": 1.0},
}
"""Kind of the next word by kind of this one; within a kind all words are equally likely."""


@dataclass(frozen=True)
class Vocabulary:
    """All tokens of a world.

    Args:
        side: G, the picture has G x G cells.
        colours: C, number of colours.
    """

    side: int
    colours: int

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Every token: the language, cells, rows, columns, the question mark, colours."""
        sides = range(1, self.side + 1)
        return (
            *(word for kind in KINDS.values() for word in kind),
            *self.cells,
            *(f"row {i}" for i in sides),
            *(f"column {i}" for i in sides),
            "?",
            *COLOURS[: self.colours],
        )

    @property
    def cells(self) -> tuple[str, ...]:
        """Names of the cells from left to right and top to bottom: a1, b1, ... in the first row."""
        return tuple(f"{chr(ord('a') + x)}{y + 1}" for y in range(self.side) for x in range(self.side))

    @property
    def spoken(self) -> int:
        """Number of words of the language; they are the first tokens."""
        return sum(len(kind) for kind in KINDS.values())

    @property
    def first_cell(self) -> int:
        """Token of the first cell."""
        return self.spoken

    @property
    def first_row(self) -> int:
        """Token of the first row; the columns follow the rows."""
        return self.spoken + self.side**2

    @property
    def question_mark(self) -> int:
        """Token of the question mark."""
        return self.first_row + 2 * self.side

    @property
    def first_colour(self) -> int:
        """Token of the first colour."""
        return self.question_mark + 1

    @cached_property
    def transitions(self) -> NDArray[np.float64]:
        """Probability of the next word by this one (spoken, spoken)."""
        kinds = [kind for kind, words in KINDS.items() for _ in words]
        return np.array([[FOLLOWS[now].get(then, 0.0) / len(KINDS[then]) for then in kinds] for now in kinds])

    @cached_property
    def stationary(self) -> NDArray[np.float64]:
        """How often each word comes in a long text (spoken,)."""
        P = self.transitions
        system = np.vstack([P.T - np.eye(len(P)), np.ones(len(P))])
        found: NDArray[np.float64] = np.linalg.lstsq(system, np.append(np.zeros(len(P)), 1.0), rcond=None)[0]
        return found

    @property
    def entropy(self) -> float:
        """Mean surprise of the next word in nats, given this one: no model of the language has a smaller loss."""
        P = self.transitions
        surprise = -(P * np.log(np.where(P > 0, P, 1.0))).sum(1)
        return float(self.stationary @ surprise)
