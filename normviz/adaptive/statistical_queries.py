"""Mechanisms that answer adaptively chosen statistical queries: plain, split, with Laplace or Gaussian noise.

Dwork et al., "Preserving Statistical Validity in Adaptive Data Analysis", STOC 2015, arXiv 1411.2664.

A statistical query is a function phi: X -> [0, 1]. Its answer on a sample S of n rows is E_S[phi], the mean of n
values; what is wanted is P[phi], the mean over the population. Later queries may depend on earlier answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from normviz.adaptive._queries import Array, as_generator, as_rows, data_size, query_values
from normviz.adaptive.validity_bounds import gaussian_privacy, laplace_privacy
from normviz.validation import check_integer, check_real

__all__ = [
    "BudgetExhausted",
    "EmpiricalMechanism",
    "GaussianMechanism",
    "LaplaceMechanism",
    "SampleSplittingMechanism",
    "StatisticalQueryMechanism",
]

Query = Callable[[Any], Any] | Any


class BudgetExhausted(RuntimeError):  # noqa: N818 -- the condition, not an error of the program
    """The mechanism gives no further answer: its budget, its data or its candidates are used up (arXiv 1411.2664)."""


class StatisticalQueryMechanism:
    """Base of the mechanisms that answer one statistical query after the other (Dwork et al., arXiv 1411.2664).

    A subclass gives ``_respond(values) -> float``, what is answered to a query with these values on the data, and
    ``_epsilon(delta) -> float``, what the answers so far have cost. State is saved with ``state_dict``.

    Args:
        data: rows [n, ...], a NumPy array or torch tensor (kept as given, not copied).
        rng: generator of the noise, or its seed; None (default) for a random one.

    Attributes:
        data: the rows.
        n: number of rows.
        rng: the generator; shared, not copied, if one was given.
        queries_answered: answers given so far.

    Raises:
        ValueError: empty data, or an rng of another kind.
    """

    def __init__(self, data: Any, rng: np.random.Generator | int | None = None) -> None:
        self.data = as_rows("data", data)
        self.n = data_size(self.data)
        self.rng = as_generator(rng)
        self.queries_answered = 0

    def answer(self, query: Query) -> float:
        """Answer one query.

        Args:
            query: callable on the data that returns [n] values in [0, 1], or these values.

        Returns:
            The answer, an estimate of P[query].

        Raises:
            ValueError: values of another length, NaN, or outside [0, 1] by more than 1e-9. Nothing has changed then.
            BudgetExhausted: no further answer is given. Nothing has changed then.
        """
        self._check_budget()
        value = float(self._respond(self._values(query)))
        self.queries_answered += 1
        return value

    def privacy_spent(self, delta: float = 0.0) -> tuple[float, float]:
        """(eps, delta) of differential privacy that the answers given so far have used.

        Args:
            delta: in [0, 1), default 0.

        Returns:
            eps (0 before the first answer, infinity if there is no guarantee) and the delta given.

        Raises:
            ValueError: delta outside [0, 1).
        """
        delta = check_real("delta", delta, 0, 1, high_open=True)
        return (self._epsilon(delta) if self.queries_answered else 0.0), delta

    def state_dict(self) -> dict[str, Any]:
        """What the next answers depend on beside the data: the count and the generator's state."""
        return {"queries_answered": self.queries_answered, "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; the generator is set in place, also for others that share it."""
        self.queries_answered = int(state["queries_answered"])
        self.rng.bit_generator.state = state["rng"]

    def _check_budget(self) -> None:
        """Raise BudgetExhausted if no further answer may be given."""

    def _values(self, query: Query) -> Array:
        return query_values(query(self.data) if callable(query) else query, self.n)

    def _respond(self, values: Array) -> float:
        raise NotImplementedError

    def _epsilon(self, delta: float) -> float:
        raise NotImplementedError


class EmpiricalMechanism(StatisticalQueryMechanism):
    """Answers the mean on the whole sample, every time: naive reuse (arXiv 1411.2664, introduction).

    In the worst case it stays accurate only for a number of adaptive queries linear in n, as
    ``sign_aggregation_attack`` shows. No privacy: eps is infinite from the first answer on.

    Args:
        data: rows [n, ...].
        rng: not used; there for a common signature.

    Raises:
        ValueError: empty data.

    Example:
        >>> EmpiricalMechanism([0.0, 1.0, 1.0, 0.0]).answer(lambda x: x)
        0.5
    """

    def _respond(self, values: Array) -> float:
        return float(values.mean())

    def _epsilon(self, delta: float) -> float:  # noqa: ARG002
        return math.inf


class SampleSplittingMechanism(EmpiricalMechanism):
    """Answers query j (from 0) on rows j b .. (j + 1) b - 1 alone, b = n // max_queries (arXiv 1411.2664).

    Callables see only these rows; of a vector of n values only these are used. Rows that remain are never used.

    Args:
        data: rows [n, ...].
        max_queries: number of blocks, 1..n; the next query finds the budget exhausted.
        rng: not used; there for a common signature.

    Raises:
        ValueError: empty data, or max_queries outside 1..n.
    """

    def __init__(self, data: Any, max_queries: int, rng: np.random.Generator | int | None = None) -> None:
        super().__init__(data, rng)
        self.max_queries = check_integer("max_queries", max_queries, 1, self.n)
        self.block_size = self.n // self.max_queries

    def _check_budget(self) -> None:
        if self.queries_answered >= self.max_queries:
            raise BudgetExhausted(f"all {self.max_queries} blocks of the sample have been used.")

    def _values(self, query: Query) -> Array:
        start = self.queries_answered * self.block_size
        block = slice(start, start + self.block_size)
        if callable(query):
            return query_values(query(self.data[block]), self.block_size)
        return query_values(query, self.n)[block]


class LaplaceMechanism(StatisticalQueryMechanism):
    """Answers E_S[phi] + Lap(scale), clipped to [0, 1] (arXiv 1411.2664, section on noise addition).

    Lap(b) has the density exp(-abs(x) / b) / (2 b) and standard deviation sqrt(2) b. One ``rng.laplace(0, scale)`` per
    answer. m answers spend eps = m / (n scale), whatever delta.

    Args:
        data: rows [n, ...].
        scale: b >= 0; 0 gives exact means and no privacy.
        rng: generator of the noise, or its seed.

    Raises:
        ValueError: empty data, or scale below 0 or infinite.
    """

    def __init__(self, data: Any, scale: float, rng: np.random.Generator | int | None = None) -> None:
        super().__init__(data, rng)
        self.scale = check_real("scale", scale, 0, math.inf, high_open=True)

    def _respond(self, values: Array) -> float:
        return float(np.clip(values.mean() + self.rng.laplace(0.0, self.scale), 0.0, 1.0))

    def _epsilon(self, delta: float) -> float:  # noqa: ARG002
        return laplace_privacy(self.queries_answered, self.n, self.scale)


class GaussianMechanism(StatisticalQueryMechanism):
    """Answers E_S[phi] + N(0, std^2), clipped to [0, 1] (arXiv 1411.2664, section on noise addition).

    One ``rng.normal(0, std)`` per answer. m answers are rho-zCDP with rho = m / (2 n^2 std^2), which gives
    eps = rho + 2 sqrt(rho ln(1 / delta)).

    Args:
        data: rows [n, ...].
        std: standard deviation >= 0; 0 gives exact means and no privacy.
        rng: generator of the noise, or its seed.

    Raises:
        ValueError: empty data, or std below 0 or infinite.
    """

    def __init__(self, data: Any, std: float, rng: np.random.Generator | int | None = None) -> None:
        super().__init__(data, rng)
        self.std = check_real("std", std, 0, math.inf, high_open=True)

    def _respond(self, values: Array) -> float:
        return float(np.clip(values.mean() + self.rng.normal(0.0, self.std), 0.0, 1.0))

    def _epsilon(self, delta: float) -> float:
        return gaussian_privacy(self.queries_answered, self.n, self.std, delta)
