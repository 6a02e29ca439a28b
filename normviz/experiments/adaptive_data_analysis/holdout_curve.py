"""The experiment of the Science paper: features kept with the help of the holdout, then a vote of the k best.

Dwork et al., Science 349:636, 2015; the selection and both ways of asking: :func:`normviz.adaptive.holdout_selection`.
Plain reuse looks at the holdout itself, Thresholdout answers every question about it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from normviz.adaptive.data_analysis import holdout_selection
from normviz.adaptive.overfitting_attacks import SIGNAL_FEATURES, SIGNAL_SIZE
from normviz.experiments.adaptive_data_analysis.knobs import Knobs, arm_name
from normviz.frame import Value

__all__ = ["Curves", "HoldoutCurve", "draw_curves"]

Array = NDArray[np.float64]

SHOWN_FEATURES = 700
"""Features that are drawn, those with signal among them."""


@dataclass(frozen=True)
class Curves:
    """What both ways of asking give for each number of features, and the features themselves.

    Args:
        ks: numbers of features.
        scores: by the mechanism's key, [len(ks), 3]: accuracy on the training set, reported, fresh.
        features: [m, 3]: correlation with the label on training set and holdout, both in 1 / sqrt(n), and whether it
            has signal.
    """

    ks: tuple[int, ...]
    scores: Mapping[str, Array]
    features: Array


def draw_curves(knobs: Knobs, seed: int, kinds: tuple[str, ...]) -> Curves:
    """Draw training set, holdout and fresh set (X ~ N(0, 1), y a fair sign; with signal + 6 y / sqrt(n)) and ask."""
    n, d = knobs.rows, knobs.queries
    rng = np.random.default_rng([seed, 5])

    def draw() -> tuple[Array, Array]:
        X, y = rng.standard_normal((n, d)), rng.choice((-1.0, 1.0), n)
        if knobs.signal:
            X[:, :SIGNAL_FEATURES] += SIGNAL_SIZE / math.sqrt(n) * y[:, None]
        return X, y

    train, holdout, fresh = draw(), draw(), draw()
    ks = (*range(0, knobs.total_steps(), knobs.stride()), knobs.total_steps())
    noises = {"plain": None, "thresholdout": "gaussian"}
    scores = {
        kind: holdout_selection(train, holdout, fresh, ks, noises[kind], np.random.default_rng([seed, 6]))
        for kind in kinds
    }
    some = min(d, SHOWN_FEATURES)
    correlations = [X[:, :some].T @ y / math.sqrt(n) for X, y in (train, holdout)]
    signal = np.arange(some) < (SIGNAL_FEATURES if knobs.signal else 0)
    return Curves(ks, scores, np.stack([*correlations, signal.astype(np.float64)], axis=1))


class HoldoutCurve:
    """One way of asking with one seed; steps over numbers of features."""

    def __init__(self, kind: str, knobs: Knobs, curves: Curves, seed: int) -> None:
        self.kind, self.arm, self.seed = kind, arm_name(kind), seed
        self.note: str | None = None
        self._knobs, self._curves = knobs, curves

    def block_size(self, at: int) -> int:  # noqa: ARG002
        """Features between two classifiers."""
        return self._knobs.stride()

    def step(self, at: int) -> Mapping[str, Value]:  # noqa: ARG002
        """All was asked when the curves were drawn."""
        return {}

    def evaluate(self, at: int) -> Mapping[str, Value]:
        """The three accuracies of the classifier with this many features; at the end the one that the analyst chose."""
        ks, scores = self._curves.ks, self._curves.scores[self.kind]
        row = len(ks) - 1 if at >= ks[-1] else at // self._knobs.stride()
        train, reported, fresh = (100 * scores[row]).tolist()
        values: dict[str, Value] = {
            "train": train,
            "reported": reported,
            "fresh": fresh,
            "gap": reported - fresh,
        }
        if at == 0 and self.seed == self._knobs.first_seed:
            values["features"] = self._curves.features.astype(np.float32)
        if at >= self._knobs.total_steps():
            best = 1 + int(np.argmax(scores[1:, 1]))
            values |= {
                "chosen/features": float(ks[best]),
                "chosen/reported": 100 * float(scores[best, 1]),
                "chosen/fresh": 100 * float(scores[best, 2]),
            }
        return values
