"""The reader as the analyst: forty features, a hundred rows, and a mechanism between them and the holdout.

Free of PyTorch: the page's server plays it. Four features tell a little about the label, 36 nothing. The analyst sees
one answer per feature, votes with those they like, in the direction of the answer, and asks how good the vote is. What
is true is computed exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from normviz.adaptive.data_analysis import (
    BudgetExhausted,
    EmpiricalMechanism,
    GaussianMechanism,
    Thresholdout,
)

__all__ = ["FEATURES", "ROWS", "AnalystGame", "GameKind", "Report", "vote_accuracy"]

Array = NDArray[np.float64]
GameKind = Literal["plain", "gaussian", "thresholdout"]

ROWS, FEATURES, REAL = 100, 40, 4
CORRELATION = 0.2
NOISE = 0.05
"""Standard deviation of the Gaussian mechanism's noise."""
THRESHOLD, SIGMA, BUDGET = 0.1, 0.02, 20
"""Thresholdout: T, standard deviation of its Gaussian noise, and answers from the holdout."""


@dataclass(frozen=True)
class Report:
    """A question about a vote.

    Attributes:
        picked: features in the vote.
        reported: what the mechanism answered; None: nothing, its budget is spent.
        true: accuracy on endless fresh data.
        from_holdout: whether the answer cost budget.
    """

    picked: tuple[int, ...]
    reported: float | None
    true: float
    from_holdout: bool = False


def vote_accuracy(agreements: Sequence[float]) -> float:
    """Probability that a vote of independent features is right.

    Args:
        agreements: probability of each feature's vote for the right label.

    Returns:
        P(more than half are right) + half of P(a tie), from the distribution of the number of right votes.
    """
    counts = np.ones(1)
    for p in agreements:
        counts = np.convolve(counts, [1 - p, p])
    votes = 2 * np.arange(len(counts)) - len(agreements)
    return float(counts[votes > 0].sum() + counts[votes == 0].sum() / 2)


class AnalystGame:
    """One data set and one mechanism; every answer is remembered.

    Args:
        kind: the mechanism.
        seed: of the data and of the noise.

    Attributes:
        clues: answer to each feature's question, how often it agrees with the label; NaN where none was given.
        history: the questions about votes so far.
        real: indices of the features that tell something.
    """

    def __init__(self, kind: GameKind, seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self.kind, self.seed = kind, seed
        self.real = np.sort(rng.choice(FEATURES, REAL, replace=False))
        self._correlation = np.zeros(FEATURES)
        self._correlation[self.real] = CORRELATION * rng.choice((-1.0, 1.0), REAL)
        agrees = (1 + self._correlation) / 2
        self._train, self._holdout = (
            np.where(rng.random((ROWS, FEATURES)) < agrees, 1.0, -1.0) for _ in range(2)
        )
        rows, noise = np.arange(ROWS), np.random.default_rng([seed, 1])
        self._guarded: Thresholdout | None = None
        if kind == "thresholdout":
            self._guarded = Thresholdout(rows, rows, THRESHOLD, SIGMA, BUDGET, "gaussian", rng=noise)
        self._open = GaussianMechanism(rows, NOISE, noise) if kind == "gaussian" else EmpiricalMechanism(rows)
        self.questions = 0
        self.history: list[Report] = []
        self.clues = np.array([self._clue(j) for j in range(FEATURES)])

    def _clue(self, j: int) -> float:
        values = ((1 + self._train[:, j]) / 2, (1 + self._holdout[:, j]) / 2)
        try:
            return self._ask(*values)[0]
        except BudgetExhausted:
            return math.nan

    def _ask(self, train: Array, holdout: Array) -> tuple[float, bool]:
        if self._guarded is not None:
            answer = self._guarded.answer((train, holdout))
            self.questions += 1
            return answer.value, answer.overfit
        value = self._open.answer(holdout)
        self.questions += 1
        return value, False

    @property
    def budget_left(self) -> float:
        """Answers from the holdout that are left; infinity without a budget."""
        return math.inf if self._guarded is None else self._guarded.budget_left

    def directions(self) -> Array:
        """The direction in which each feature votes: that of its answer."""
        return np.where(np.nan_to_num(self.clues, nan=0.5) >= 0.5, 1.0, -1.0)

    def best(self, count: int) -> tuple[int, ...]:
        """The features whose answers are furthest from one half."""
        distance = np.abs(np.nan_to_num(self.clues, nan=0.5) - 0.5)
        return tuple(sorted(np.argsort(-distance, kind="stable")[:count].tolist()))

    def ask(self, picked: Sequence[int]) -> Report:
        """Ask how good a vote of these features is; the answer is kept in the history.

        Raises:
            ValueError: no feature, or one that does not exist.
        """
        chosen = tuple(sorted(set(picked)))
        if not chosen or not all(0 <= j < FEATURES for j in chosen):
            raise ValueError(f"picked must be one or more of 0 to {FEATURES - 1}, got {list(picked)}.")
        at, directions = list(chosen), self.directions()
        sides = directions[at]
        true = vote_accuracy(((1 + sides * self._correlation[at]) / 2).tolist())
        right = [np.clip(np.sign(z[:, at] @ sides) + 1, 0, 2) / 2 for z in (self._train, self._holdout)]
        try:
            value, over = self._ask(right[0], right[1])
        except BudgetExhausted:
            report = Report(chosen, None, true)
        else:
            report = Report(chosen, value, true, over)
        self.history.append(report)
        return report
