"""The data of the sign analyst: endless noise features, or random questions about a universe of 1,024 elements.

A world holds three parts: the holdout that mechanisms ask, a training set of as many rows, and what is true (fresh
rows, or the population itself). Question j is about feature j; its value on an element is (1 + x_j y) / 2. Everything
follows from the seed, block by block, so that features need no memory once their votes are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "HOLDOUT",
    "PARTS",
    "TRAIN",
    "TRUTH",
    "NoiseWorld",
    "Part",
    "UniverseWorld",
    "World",
    "median_candidates",
]

Array = NDArray[np.float64]
Signs = NDArray[np.int8]

HOLDOUT, TRAIN, TRUTH = "holdout", "train", "truth"
PARTS = (HOLDOUT, TRAIN, TRUTH)

FRESH_ROWS = 4000
SIGNAL_FEATURES, SIGNAL_SIZE = 20, 6.0
"""As in the experiment of the Science paper: 20 features with a correlation of 6 / sqrt(n)."""

BITS = 9
CELLS = 1 << BITS
UNIVERSE_SIGNAL = 0.6
"""Correlation of the label with the majority of three features, in the small universe with signal."""


@dataclass(frozen=True)
class Part:
    """A set of rows, or a distribution over elements.

    Args:
        y: label of each element, +1 or -1.
        weights: probability of each element.
        rows: the element of each row, where elements are those of a universe; None: elements are rows.
    """

    y: Array
    weights: Array
    rows: NDArray[np.int64] | None = None

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.y) if self.rows is None else len(self.rows)

    def accuracy(self, votes: Array) -> float:
        """Share of elements of which the sign of the votes for the right label is positive; a tie says +1."""
        return float(self.weights @ self.correct(votes))

    def correct(self, votes: Array) -> Array:
        """1 for each element that the votes (for its right label) classify rightly, else 0."""
        hits: Array = np.where(votes == 0, self.y > 0, votes > 0).astype(np.float64)
        return hits

    def on_rows(self, values: Array) -> Array:
        """Values of elements as values of rows."""
        return values if self.rows is None else values[self.rows]


class World(Protocol):
    """Three parts, and the products x y of a block of features."""

    @property
    def parts(self) -> Mapping[str, Part]:
        """The three parts by name."""

    def products(self, block: int, count: int) -> Mapping[str, Signs]:
        """x_j y of the features of a block for each part, [count, elements]."""

    def true_means(self, block: int, products: Mapping[str, Signs]) -> Array:
        """P[(1 + x_j y) / 2] for each feature of a block."""


def _signs(rng: np.random.Generator, shape: tuple[int, int]) -> Signs:
    """Fair signs from single bits."""
    count = shape[0] * shape[1]
    bits = np.unpackbits(np.frombuffer(rng.bytes(-(-count // 8)), dtype=np.uint8), count=count)
    signs: Signs = bits.astype(np.int8).reshape(shape)
    signs *= 2
    signs -= 1
    return signs


class NoiseWorld:
    """Features and labels are independent fair signs; with signal the first 20 features agree more often with y.

    Args:
        n: rows of holdout and training set.
        signal: see above.
        seed: of everything.
    """

    def __init__(self, n: int, signal: bool, seed: int) -> None:
        self._seed, self._bias = seed, SIGNAL_SIZE / np.sqrt(n) if signal else 0.0
        rng = np.random.default_rng([seed, 0])
        sizes = {HOLDOUT: n, TRAIN: n, TRUTH: FRESH_ROWS}
        self.parts: dict[str, Part] = {
            name: Part(rng.choice((-1.0, 1.0), size), np.full(size, 1 / size)) for name, size in sizes.items()
        }
        self._kept: tuple[int, Mapping[str, Signs]] | None = None

    def products(self, block: int, count: int) -> Mapping[str, Signs]:
        """x_j y; it is a fair sign of its own, whatever y is. The last block is kept: all arms ask for it."""
        if self._kept is None or self._kept[0] != block:
            rng = np.random.default_rng([self._seed, 1, block])
            drawn = {name: _signs(rng, (count, len(part.y))) for name, part in self.parts.items()}
            if block == 0 and self._bias:
                self._lean(drawn, rng)
            self._kept = (block, drawn)
        return self._kept[1]

    def _lean(self, drawn: Mapping[str, Signs], rng: np.random.Generator) -> None:
        """Turn -1 into +1 so often that the mean of the first 20 features' products becomes the bias."""
        for z in drawn.values():
            first = z[:SIGNAL_FEATURES]
            first[(first < 0) & (rng.random(first.shape) < self._bias)] = 1

    def true_means(self, block: int, products: Mapping[str, Signs]) -> Array:
        """1/2, and more for the features with signal."""
        means = np.full(len(products[HOLDOUT]), 0.5)
        if block == 0:
            means[:SIGNAL_FEATURES] += self._bias / 2
        return means


class UniverseWorld:
    """Elements are nine bits and a label; features are the nine bits, then random functions of them.

    Args:
        n: rows of holdout and training set.
        signal: the label follows the majority of the first three bits with a correlation of 0.6.
        seed: of everything.
    """

    size = 2 * CELLS

    def __init__(self, n: int, signal: bool, seed: int) -> None:
        self._seed = seed
        rng = np.random.default_rng([seed, 2])
        y = np.tile((-1.0, 1.0), CELLS)  # element = 2 cell + (label is +1)
        self._bits = bit_signs()
        lean = UNIVERSE_SIGNAL * np.sign(self._bits[:3].sum(axis=0)) if signal else np.zeros(CELLS)
        population = (1 + np.repeat(lean, 2) * y) / (2 * CELLS)
        parts: dict[str, Part] = {}
        for name in (HOLDOUT, TRAIN):
            rows = rng.choice(self.size, n, p=population)
            parts[name] = Part(y, np.bincount(rows, minlength=self.size) / n, rows)
        self.parts: dict[str, Part] = {**parts, TRUTH: Part(y, population)}
        self._kept: tuple[int, Signs] | None = None

    def products(self, block: int, count: int) -> Mapping[str, Signs]:
        """x_j y on every element, the same for all parts."""
        if self._kept is None or self._kept[0] != block:
            x = _signs(np.random.default_rng([self._seed, 3, block]), (count, CELLS))
            if block == 0:
                x[:BITS] = self._bits[:count]
            products: Signs = np.repeat(x, 2, axis=1)
            products *= self.parts[TRUTH].y.astype(np.int8)
            self._kept = (block, products)
        return dict.fromkeys(PARTS, self._kept[1])

    def true_means(self, block: int, products: Mapping[str, Signs]) -> Array:  # noqa: ARG002
        """The mean over the population."""
        means: Array = (1 + products[TRUTH] @ self.parts[TRUTH].weights) / 2
        return means


def bit_signs() -> Signs:
    """The nine bits of every cell as signs, [9, 512]."""
    signs: Signs = (2 * ((np.arange(CELLS) >> np.arange(BITS)[:, None]) & 1) - 1).astype(np.int8)
    return signs


def median_candidates() -> Array:
    """Distributions for the median mechanism, [H, 1024]: uniform, and labels that follow a bit or a majority of three.

    Correlations: 0.2, 0.4, 0.6, 0.8 in both directions for a bit, 0.3 and 0.6 for a majority.
    """
    bits = bit_signs().astype(np.float64)
    y = np.tile((-1.0, 1.0), CELLS)
    leans = [np.zeros(CELLS)]
    leans += [c * bit for bit in bits for c in (-0.8, -0.6, -0.4, -0.2, 0.2, 0.4, 0.6, 0.8)]
    leans += [
        c * np.sign(bits[list(three)].sum(axis=0))
        for three in combinations(range(BITS), 3)
        for c in (0.3, 0.6)
    ]
    table: Array = (1 + np.repeat(np.stack(leans), 2, axis=1) * y) / (2 * CELLS)
    return table
