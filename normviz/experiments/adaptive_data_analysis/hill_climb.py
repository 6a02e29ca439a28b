"""A hill climb over configurations of a digits classifier, each scored by asking the same 200 holdout rows.

A configuration is a subset of 200 random ReLU features of the pixels; ridge regression on 300 training digits turns it
into a classifier. Three of ten labels are random, in all sets. A step flips four features and keeps the change if the
answer does not fall. The random search draws subsets instead and keeps the best answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from normviz.adaptive.data_analysis import BudgetExhausted
from normviz.data import load_digits
from normviz.experiments.adaptive_data_analysis.askers import Asker
from normviz.experiments.adaptive_data_analysis.knobs import Knobs, arm_name
from normviz.experiments.adaptive_data_analysis.recorded import SHOWN_ANSWERS, SHOWN_DIGITS
from normviz.experiments.adaptive_data_analysis.worlds import HOLDOUT, TRAIN, TRUTH, Part
from normviz.frame import Value

__all__ = ["HOLDOUT_ROWS", "TRAIN_ROWS", "DigitsWorld", "HillClimb"]

Array = NDArray[np.float64]

TRAIN_ROWS, HOLDOUT_ROWS = 300, 200
RANDOM_LABELS = 0.3
UNITS = 200
FLIPS = 4
RIDGE = 10.0
CLASSES = 10


@lru_cache(maxsize=1)
def _digits() -> tuple[Array, NDArray[np.int64], Array]:
    """All 1,797 digits: standardised pixels, labels, pixels in [0, 1]."""
    data = load_digits("flat")
    pixels = np.concatenate([data.x_train.numpy(), data.x_test.numpy()]).astype(np.float64)
    labels = np.concatenate([data.y_train.numpy(), data.y_test.numpy()])
    low, high = pixels.min(), pixels.max()
    return pixels, labels, (pixels - low) / (high - low)


class DigitsWorld:
    """Random ReLU features of the digits and noisy labels, split into training, holdout and fresh rows.

    Args:
        seed: of the split, the labels and the features.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 7])
        pixels, true, self.looks = _digits()
        order = rng.permutation(len(pixels))
        given = np.where(
            rng.random(len(pixels)) < RANDOM_LABELS, rng.integers(CLASSES, size=len(pixels)), true
        )
        weights = rng.standard_normal((pixels.shape[1], UNITS)) / math.sqrt(pixels.shape[1])
        hidden = np.maximum(pixels @ weights, 0.0)
        ends = (TRAIN_ROWS, TRAIN_ROWS + HOLDOUT_ROWS)
        self.index = dict(zip((TRAIN, HOLDOUT, TRUTH), np.split(order, ends), strict=True))
        self.true = {name: true[rows] for name, rows in self.index.items()}
        self.given = {name: given[rows] for name, rows in self.index.items()}
        self.features = {name: hidden[rows] for name, rows in self.index.items()}
        train = self.features[TRAIN]
        self._gram = train.T @ train + RIDGE * np.eye(UNITS)
        self._moments = train.T @ (np.eye(CLASSES)[self.given[TRAIN]] - 1 / CLASSES)
        self.parts: dict[str, Part] = {
            name: Part(np.ones(len(rows)), np.full(len(rows), 1 / len(rows)))
            for name, rows in self.index.items()
        }

    def fit(self, kept: NDArray[np.bool_]) -> Array:
        """Ridge regression of the given labels on the features that are kept, [kept, 10]."""
        at = np.flatnonzero(kept)
        solved = np.linalg.solve(self._gram[np.ix_(at, at)], self._moments[at])
        return np.asarray(solved, dtype=np.float64)

    def predict(self, name: str, kept: NDArray[np.bool_], weights: Array) -> NDArray[np.int64]:
        """Classes predicted for the rows of a part."""
        classes: NDArray[np.int64] = (self.features[name][:, kept] @ weights).argmax(axis=1)
        return classes


class HillClimb:
    """One mechanism with one seed; steps over blocks of configurations.

    Args:
        kind: the mechanism's key in the knobs.
        knobs: the setting.
        world: shared by all mechanisms of a seed.
        asker: the mechanism.
        seed: of the data and of the changes that are tried.
    """

    def __init__(self, kind: str, knobs: Knobs, world: DigitsWorld, asker: Asker, seed: int) -> None:
        self.kind, self.arm, self.seed = kind, arm_name(kind), seed
        self.note: str | None = None
        self._knobs, self._world, self._asker = knobs, world, asker
        self._rng = np.random.default_rng([seed, 8])
        self._kept = self._draw()
        self._weights = world.fit(self._kept)
        self._reported = -math.inf
        self._ended = False
        self._shown: list[tuple[float, float]] = []
        self._start: NDArray[np.bool_] | None = None
        if kind == "plain" and seed == knobs.first_seed:
            self._start = world.predict(HOLDOUT, self._kept, self._weights) == world.given[HOLDOUT]

    def _draw(self) -> NDArray[np.bool_]:
        kept = np.zeros(UNITS, dtype=bool)
        kept[self._rng.choice(UNITS, UNITS // 2, replace=False)] = True
        return kept

    def block_size(self, at: int) -> int:
        """Configurations of the block that begins at this position."""
        return min(self._knobs.stride(), self._knobs.total_steps() - at)

    def step(self, at: int) -> Mapping[str, Value]:
        """Try a block of configurations; the first of the run is the start itself."""
        for i in range(self.block_size(at)):
            if self._ended:
                break
            tried = self._kept.copy() if at + i == 0 else self._neighbour()
            try:
                self._try(tried)
            except BudgetExhausted as spent:
                self._ended = True
                if self.kind != "splitting":  # that it needs rows for every question was known beforehand
                    self.note = f"question {at + i + 1} is not answered: {spent}"
        return {}

    def _neighbour(self) -> NDArray[np.bool_]:
        if self.kind == "random":
            return self._draw()
        tried = self._kept.copy()
        flipped = self._rng.choice(UNITS, FLIPS, replace=False)
        tried[flipped] = ~tried[flipped]
        return tried if tried.any() else self._kept.copy()

    def _try(self, tried: NDArray[np.bool_]) -> None:
        world = self._world
        weights = world.fit(tried)
        correct = {
            name: (world.predict(name, tried, weights) == world.given[name]).astype(np.float64)
            for name in (TRAIN, HOLDOUT)
        }
        answer = self._asker.feature(correct)
        if self.seed == self._knobs.first_seed:
            shown = (float(correct[HOLDOUT].mean()), answer)
            self._shown = [*self._shown, shown][-SHOWN_ANSWERS:]
        if answer >= self._reported:
            self._kept, self._weights, self._reported = tried, weights, answer

    def evaluate(self, at: int) -> Mapping[str, Value]:
        """What was reported about the configuration that is kept, and what is true."""
        world = self._world
        predicted = {name: world.predict(name, self._kept, self._weights) for name in world.parts}
        right = {name: 100 * float((p == world.given[name]).mean()) for name, p in predicted.items()}
        values: dict[str, Value] = {
            "fresh": right[TRUTH],
            "holdout": right[HOLDOUT],
            "train": right[TRAIN],
        }
        if at == 0:
            return values
        reported = 100 * self._reported
        values |= {
            "reported": reported,
            "gap": reported - right[TRUTH],
            "overfit": right[HOLDOUT] - right[TRUTH],
        }
        costs = {"spent": self._asker.spent(), "epsilon": self._asker.epsilon()}
        values |= {name: value for name, value in costs.items() if math.isfinite(value)}
        if self._shown:
            values["answers"] = np.array(self._shown)
        if self._start is not None:
            values |= self._changed(predicted[HOLDOUT])
        return values

    def _changed(self, predicted: NDArray[np.int64]) -> dict[str, Value]:
        """Holdout digits that the start got wrong and this configuration right, then the other way round.

        Facts: given label, true label, prediction, and 1 for a gain, 0 for a loss.
        """
        assert self._start is not None
        given, true = self._world.given[HOLDOUT], self._world.true[HOLDOUT]
        right = predicted == given
        gained, lost = np.flatnonzero(right & ~self._start), np.flatnonzero(~right & self._start)
        most_lost = min(len(lost), max(SHOWN_DIGITS // 3, SHOWN_DIGITS - len(gained)))
        chosen = np.concatenate([gained[: SHOWN_DIGITS - most_lost], lost[:most_lost]])
        looks = self._world.looks[self._world.index[HOLDOUT][chosen]].reshape(-1, 8, 8)
        facts = np.stack([given[chosen], true[chosen], predicted[chosen], right[chosen]], axis=1)
        return {
            "changed_looks": looks,
            "changed_facts": facts.astype(np.float64),
            "gained": float(len(gained)),
            "lost": float(len(lost)),
        }
