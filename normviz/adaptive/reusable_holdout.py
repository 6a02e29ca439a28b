"""The reusable holdout: Thresholdout, and SparseValidate, which only says whether a hypothesis overfits.

Dwork, Feldman, Hardt, Pitassi, Reingold, Roth, "The reusable holdout: Preserving validity in adaptive data analysis",
Science 349:636, 2015; "Generalization in Adaptive Data Analysis and Holdout Reuse", NIPS 2015, arXiv 1506.02629;
theory in arXiv 1411.2664.

The guarantee holds only if the holdout is looked at through the mechanism alone: early stopping on it, or a plot of it,
is a query that nobody counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from normviz.adaptive._queries import as_generator, as_rows, check_range, data_size, query_values
from normviz.adaptive._sparse_test import SparseTest
from normviz.adaptive.statistical_queries import Query
from normviz.validation import check_choice, check_real

__all__ = ["SparseValidate", "Thresholdout", "ThresholdoutAnswer"]


class ThresholdoutAnswer(NamedTuple):
    """One answer of Thresholdout (arXiv 1506.02629).

    Attributes:
        value: the mean on the training set, or the noisy one on the holdout.
        overfit: whether the two differed too much, so that the holdout was used.
        budget_left: over-threshold answers left after this one; infinity without a budget.
    """

    value: float
    overfit: bool
    budget_left: float


class _HoldoutMechanism:
    """What both share: two data sets, the test of their means, counts, state."""

    def __init__(
        self,
        train: Any,
        holdout: Any,
        threshold: float,
        sigma: float,
        budget: int | None,
        noise: str,
        value_range: tuple[float, float],
        rng: np.random.Generator | int | None,
    ) -> None:
        self.train = as_rows("train", train)
        self.holdout = as_rows("holdout", holdout)
        self.noise = check_choice("noise", noise, ("laplace", "gaussian"))
        self.value_range = check_range(value_range)
        self.rng = as_generator(rng)
        self.queries_answered = 0
        self._test = SparseTest(threshold, sigma, budget, self.rng, gaussian=noise == "gaussian")

    @property
    def threshold(self) -> float:
        """T."""
        return self._test.threshold

    @property
    def sigma(self) -> float:
        """Scale of the noise."""
        return self._test.sigma

    @property
    def budget_left(self) -> float:
        """Over-threshold answers left; infinity without a budget."""
        return self._test.budget_left

    def privacy_spent(self, delta: float = 0.0) -> tuple[float, float]:
        """(eps, delta) with respect to the holdout: that of the whole budget, from the first query on.

        Without a budget: of the over-threshold answers so far and the next one. Values in a range of width w count as
        noise sigma / w. Infinity for sigma 0 and for Gaussian noise, for which no such proof is known here.

        Args:
            delta: in [0, 1), default 0 (pure form, see ``sparse_privacy``).

        Returns:
            eps (0 before the first query) and the delta given.

        Raises:
            ValueError: delta outside [0, 1).
        """
        delta = check_real("delta", delta, 0, 1, high_open=True)
        if not self.queries_answered:
            return 0.0, delta
        low, high = self.value_range
        return self._test.epsilon(data_size(self.holdout), high - low, delta), delta

    def state_dict(self) -> dict[str, Any]:
        """What the next answers depend on beside the data: counts, threshold and the generator's state."""
        return {
            "queries_answered": self.queries_answered,
            "test": self._test.state_dict(),
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; the generator is set in place, also for others that share it."""
        self.queries_answered = int(state["queries_answered"])
        self._test.load_state_dict(state["test"])
        self.rng.bit_generator.state = state["rng"]

    def _means(self, query: Query) -> tuple[float, float]:
        """Means on training set and holdout."""
        self._test.check_budget()
        if callable(query):
            pair = query(self.train), query(self.holdout)
        elif isinstance(query, tuple | list) and len(query) == 2:
            pair = query[0], query[1]
        else:
            raise ValueError(
                "query must be a callable on a data set or a pair (train values, holdout values), "
                f"got {type(query).__name__}."
            )
        train, holdout = (
            query_values(values, data_size(data), self.value_range)
            for values, data in zip(pair, (self.train, self.holdout), strict=True)
        )
        return float(train.mean()), float(holdout.mean())


class Thresholdout(_HoldoutMechanism):
    """Answers with the training mean, and with a noisy holdout mean only where the two differ (Science 349:636, 2015).

    Per query phi (arXiv 1506.02629, arXiv 1411.2664): if abs(E_train[phi] - E_holdout[phi]) > That + eta, the answer
    is E_holdout[phi] + noise and costs 1 of the budget, else E_train[phi], free.

    "laplace" (theory): That = T + Lap(2 sigma), kept until an over-threshold answer, eta ~ Lap(4 sigma), answer noise
    Lap(sigma). The multiples 2 : 4 : 1 are quoted from memory of the paper. "gaussian" (the program published with the
    Science paper): fresh N(0, sigma^2) in test and answer, threshold T; there T = 4 / sqrt(n), sigma = 1 / sqrt(n) and
    no budget. The theorem's values for Laplace noise: ``thresholdout_parameters``. Answers are not clipped.

    Args:
        train: training rows.
        holdout: holdout rows; their number may differ.
        threshold: T > 0 (0.04 = 4 / sqrt(10000), the size in Science).
        sigma: scale (Laplace) or standard deviation (Gaussian), at least 0 (0.01, likewise).
        budget: over-threshold answers allowed, at least 1; None (default): no end.
        noise: "laplace" (default) or "gaussian".
        value_range: (low, high) of the queries' values; (0, 1) by default.
        rng: generator of the noise, or its seed.

    Attributes:
        queries_answered: answers given so far.
        budget_left: over-threshold answers left.

    Raises:
        ValueError: empty data, threshold <= 0, sigma < 0, budget < 1, unknown noise, a range that is not increasing.

    Example:
        >>> holdout = Thresholdout([0.5, 0.5], [0.4, 0.4], threshold=0.2, sigma=0.0, budget=1)
        >>> holdout.answer(lambda x: x)
        ThresholdoutAnswer(value=0.5, overfit=False, budget_left=1)
    """

    def __init__(
        self,
        train: Any,
        holdout: Any,
        threshold: float = 0.04,
        sigma: float = 0.01,
        budget: int | None = None,
        noise: str = "laplace",
        value_range: tuple[float, float] = (0.0, 1.0),
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(train, holdout, threshold, sigma, budget, noise, value_range, rng)

    def answer(self, query: Query) -> ThresholdoutAnswer:
        """Answer one query.

        Args:
            query: callable that maps a data set to its values, or the pair of vectors (train values, holdout values).

        Raises:
            ValueError: values of another length, NaN, or outside the range by more than 1e-9. Nothing has changed then.
            BudgetExhausted: nothing is left of the budget. Nothing has changed then.
        """
        train, holdout = self._means(query)
        overfit = self._test.is_over(abs(train - holdout))
        if overfit:
            train = self._test.noisy(holdout)
            self._test.charge()
        self.queries_answered += 1
        return ThresholdoutAnswer(train, overfit, self.budget_left)


class SparseValidate(_HoldoutMechanism):
    """Says whether a hypothesis overfits, yes or no, and counts the yes (arXiv 1506.02629; form from memory).

    The same test as ``Thresholdout`` with Laplace noise, but no number is released, so none is drawn for it: eta per
    query, and a new threshold after a yes. "No" is free, "yes" costs 1 of the budget.

    Args:
        train: training rows.
        holdout: holdout rows; their number may differ.
        threshold: T > 0 (0.04, as in ``Thresholdout``).
        sigma: scale of the noise, at least 0 (0.01, likewise).
        budget: yes-answers allowed, at least 1; None (default): no end.
        value_range: (low, high) of the queries' values; (0, 1) by default.
        rng: generator of the noise, or its seed.

    Attributes:
        queries_answered: answers given so far.
        budget_left: yes-answers left.

    Raises:
        ValueError: empty data, threshold <= 0, sigma < 0, budget < 1, a range that is not increasing.
    """

    def __init__(
        self,
        train: Any,
        holdout: Any,
        threshold: float = 0.04,
        sigma: float = 0.01,
        budget: int | None = None,
        value_range: tuple[float, float] = (0.0, 1.0),
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(train, holdout, threshold, sigma, budget, "laplace", value_range, rng)

    @property
    def overfits(self) -> int:
        """How often the answer was yes."""
        return self._test.over_count

    def answer(self, query: Query) -> bool:
        """Whether training and holdout mean of a query differ too much.

        Args:
            query: callable that maps a data set to its values, or the pair of vectors (train values, holdout values).

        Raises:
            ValueError: values of another length, NaN, or outside the range by more than 1e-9. Nothing has changed then.
            BudgetExhausted: nothing is left of the budget. Nothing has changed then.
        """
        train, holdout = self._means(query)
        overfit = self._test.is_over(abs(train - holdout))
        if overfit:
            self._test.charge()
        self.queries_answered += 1
        return overfit
