"""Mechanisms that guess from a hypothesis on a finite universe: private multiplicative weights, the median mechanism.

Dwork et al., "Preserving Statistical Validity in Adaptive Data Analysis", STOC 2015, arXiv 1411.2664; private
multiplicative weights: Hardt, Rothblum, FOCS 2010. Rows are indices into a universe X, queries are vectors of abs(X)
values, so a query costs O(n + abs(X)) (times the candidates, for the median): for small universes only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normviz.adaptive._queries import Array, as_float64, as_generator, is_tensor, query_values
from normviz.adaptive._sparse_test import SparseTest
from normviz.adaptive.statistical_queries import BudgetExhausted, Query, StatisticalQueryMechanism
from normviz.validation import check_integer, check_real

__all__ = ["MedianMechanism", "PrivateMultiplicativeWeights"]

MAX_UNIVERSE = 10_000_000
SUM_TOLERANCE = 1e-6
"""How far a candidate's probabilities may be from summing to 1: rows in float32 are accepted."""


def _indices(data_index: Any, universe_size: int) -> NDArray[np.int64]:
    """Rows as indices into the universe, checked."""
    index = data_index.detach().cpu().numpy() if is_tensor(data_index) else np.asarray(data_index)
    if index.ndim != 1 or index.size == 0 or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(
            f"data_index must be a vector of at least one integer, got shape {index.shape} of {index.dtype}."
        )
    outside = index[(index < 0) | (index >= universe_size)]
    if outside.size:
        raise ValueError(f"data_index must be in 0..{universe_size - 1}, got {int(outside[0])}.")
    return index.astype(np.int64)


class _UniverseMechanism(StatisticalQueryMechanism):
    """Guesses, tests the guess on the sample, and corrects the hypothesis after an over-threshold answer."""

    def __init__(
        self,
        data_index: Any,
        universe_size: int,
        threshold: float,
        sigma: float,
        budget: int | None,
        rng: np.random.Generator | int | None,
    ) -> None:
        if universe_size > MAX_UNIVERSE:
            raise ValueError(
                f"universe_size must be at most {MAX_UNIVERSE}, got {universe_size}: every query reads the whole "
                "universe. Use fewer or coarser features, or LaplaceMechanism, which needs no universe."
            )
        super().__init__(_indices(data_index, universe_size), as_generator(rng))
        self.universe_size = universe_size
        self._test = SparseTest(threshold, sigma, budget, self.rng)

    @property
    def threshold(self) -> float:
        """T."""
        return self._test.threshold

    @property
    def sigma(self) -> float:
        """Scale of the noise."""
        return self._test.sigma

    @property
    def updates(self) -> int:
        """Over-threshold answers so far; each has corrected the hypothesis."""
        return self._test.over_count

    def state_dict(self) -> dict[str, Any]:
        """What the next answers depend on beside the data."""
        return {**super().state_dict(), "test": self._test.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; the generator is set in place, also for others that share it."""
        super().load_state_dict(state)
        self._test.load_state_dict(state["test"])

    def _values(self, query: Query) -> Array:
        if callable(query):
            raise ValueError(f"query must be a vector of {self.universe_size} values, got a callable.")
        return query_values(query, self.universe_size)

    def _respond(self, values: Array) -> float:
        guess = self._guess(values)
        mean = float(values[self.data].mean())
        if not self._test.is_over(abs(mean - guess)):
            return guess
        value = self._test.noisy(mean)
        self._test.charge()
        self._correct(values, guess, value)
        return value

    def _epsilon(self, delta: float) -> float:
        return self._test.epsilon(self.n, 1.0, delta)

    def _guess(self, values: Array) -> float:
        raise NotImplementedError

    def _correct(self, values: Array, guess: float, answer: float) -> None:
        raise NotImplementedError


class PrivateMultiplicativeWeights(_UniverseMechanism):
    """Guesses the mean under a distribution x_t on the universe, and tilts x_t where the guess was wrong.

    arXiv 1411.2664, after Hardt and Rothblum 2010. x_0 is uniform. If abs(E_S[phi] - E_x[phi]) is over the noisy
    threshold, the answer is a = E_S[phi] + Lap(sigma), and with s = sign(a - E_x[phi])

        x_{t+1}(u) = x_t(u) exp(eta s phi(u)) / sum,

    else the answer is the guess. Noise is drawn as in ``Thresholdout``; answers are not clipped.

    Why it stops: KL(S || x_t) starts at most at ln abs(X). An update at an error of at least gamma, with the right
    sign, lowers it by at least eta gamma - eta^2 / 8 (Hoeffding's lemma), with eta = gamma / 2 by 15 gamma^2 / 32; so
    there are at most 4 ln abs(X) / gamma^2 updates, however many queries. The defaults take gamma = T, which is exact
    for sigma = 0. With noise pass an ``eta`` and a ``budget`` for a gamma below T by the margin of the noise.

    Args:
        data_index: rows [n], integers in 0..universe_size - 1.
        universe_size: abs(X), 1..10^7.
        threshold: T > 0.
        sigma: scale of the noise, at least 0.
        eta: step of the update, above 0; default threshold / 2.
        budget: updates allowed, at least 1; default ceil(4 ln abs(X) / threshold^2).
        rng: generator of the noise, or its seed.

    Attributes:
        updates, budget_left: updates so far, and left.
        hypothesis: x_t [abs(X)].

    Raises:
        ValueError: an index outside the universe, a universe above 10^7, a number outside its range.

    Example:
        >>> pmw = PrivateMultiplicativeWeights([0, 0, 1], 4, threshold=0.1, sigma=0.0)
        >>> round(pmw.answer([1.0, 0.0, 0.0, 0.0]), 3), pmw.updates
        (0.667, 1)
    """

    def __init__(
        self,
        data_index: Any,
        universe_size: int,
        threshold: float,
        sigma: float,
        eta: float | None = None,
        budget: int | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        size = check_integer("universe_size", universe_size, 1)
        gamma = check_real("threshold", threshold, 0, math.inf, low_open=True, high_open=True)
        if budget is None:
            budget = max(1, math.ceil(4 * math.log(size) / gamma**2))
        step = gamma / 2 if eta is None else eta
        self.eta = check_real("eta", step, 0, math.inf, low_open=True, high_open=True)
        super().__init__(data_index, size, threshold, sigma, budget, rng)
        self._log_weights = np.zeros(size)

    @property
    def hypothesis(self) -> Array:
        """x_t [abs(X)], a distribution."""
        weights = np.exp(self._log_weights - self._log_weights.max())
        normalized: Array = weights / weights.sum()
        return normalized

    @property
    def budget_left(self) -> float:
        """Updates left."""
        return self._test.budget_left

    def state_dict(self) -> dict[str, Any]:
        """What the next answers depend on beside the data."""
        import torch

        return {**super().state_dict(), "log_weights": torch.from_numpy(self._log_weights.copy())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; the generator is set in place, also for others that share it."""
        super().load_state_dict(state)
        self._log_weights = state["log_weights"].numpy().copy()

    def _check_budget(self) -> None:
        self._test.check_budget()

    def _guess(self, values: Array) -> float:
        return float(self.hypothesis @ values)

    def _correct(self, values: Array, guess: float, answer: float) -> None:
        self._log_weights += self.eta * np.sign(answer - guess) * values


class MedianMechanism(_UniverseMechanism):
    """Guesses the median over the candidates that are left, and strikes out those on the wrong side of it.

    The version-space form of the median mechanism (Roth, Roughgarden, STOC 2010), an instance of the sparse test of
    arXiv 1411.2664. The guess is the median of E_h[phi] over the candidates h left (of an even number: the mean of the
    two middle ones). After an over-threshold answer a, those stay whose E_h[phi] is strictly on a's side: above the
    lower median if a > guess, else below the upper median. At least half leave, so there are at most log2(H) updates as
    long as one candidate is accurate. The answer that empties the set is still given; the next query is refused.

    Args:
        data_index: rows [n], integers in 0..abs(X) - 1.
        candidates: distributions [H, abs(X)], one per row.
        threshold: T > 0.
        sigma: scale of the noise, at least 0.
        rng: generator of the noise, or its seed.

    Attributes:
        updates: over-threshold answers so far.
        candidates_left: candidates not yet struck out.
        budget_left: 0 if none is left, else infinity: there is no other budget.

    Raises:
        ValueError: candidates that are not distributions, an index outside the universe, a number outside its range.
    """

    def __init__(
        self,
        data_index: Any,
        candidates: Any,
        threshold: float,
        sigma: float,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        table = as_float64(candidates)
        if table.ndim != 2 or table.size == 0:
            raise ValueError(f"candidates must be a table [H, universe], got shape {table.shape}.")
        if not (np.all(table >= 0) and np.all(np.abs(table.sum(axis=1) - 1) <= SUM_TOLERANCE)):
            raise ValueError("candidates must be distributions: entries >= 0, each row with sum 1.")
        super().__init__(data_index, table.shape[1], threshold, sigma, None, rng)
        self.candidates = table
        self._left = np.ones(table.shape[0], dtype=bool)

    @property
    def candidates_left(self) -> int:
        """Candidates not yet struck out."""
        return int(self._left.sum())

    @property
    def budget_left(self) -> float:
        """0 if no candidate is left, else infinity."""
        return math.inf if self._left.any() else 0

    def state_dict(self) -> dict[str, Any]:
        """What the next answers depend on beside the data."""
        import torch

        return {**super().state_dict(), "left": torch.from_numpy(self._left.copy())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; the generator is set in place, also for others that share it."""
        super().load_state_dict(state)
        self._left = state["left"].numpy().copy()

    def _check_budget(self) -> None:
        if not self._left.any():
            raise BudgetExhausted("no candidate is left.")

    def _guess(self, values: Array) -> float:
        return float(np.median(self.candidates[self._left] @ values))

    def _correct(self, values: Array, guess: float, answer: float) -> None:
        means = self.candidates[self._left] @ values
        ordered = np.sort(means)
        lower, upper = ordered[(ordered.size - 1) // 2], ordered[ordered.size // 2]
        self._left[self._left] = means > lower if answer > guess else means < upper
