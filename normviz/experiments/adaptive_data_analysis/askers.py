"""Every mechanism behind one front: a question about a feature, a report about a classifier, what has been spent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normviz.adaptive.data_analysis import (
    EmpiricalMechanism,
    GaussianMechanism,
    LaplaceMechanism,
    MedianMechanism,
    PrivateMultiplicativeWeights,
    SampleSplittingMechanism,
    StatisticalQueryMechanism,
    Thresholdout,
)
from normviz.experiments.adaptive_data_analysis.knobs import Knobs
from normviz.experiments.adaptive_data_analysis.worlds import HOLDOUT, TRAIN, TRUTH, Part, median_candidates

__all__ = ["DELTA", "Asker", "build_asker"]

Array = NDArray[np.float64]
Ask = Callable[[Mapping[str, Array]], float]

DELTA = 1e-6
"""delta of the privacy that is shown."""

STREAMS = ("plain", "splitting", "laplace", "gaussian", "thresholdout", "pmw", "median", "random")
"""Order in which the noise of mechanisms is numbered; a new one goes to the end."""


@dataclass(frozen=True)
class Asker:
    """A mechanism as the analyst sees it; all functions raise ``BudgetExhausted`` when it gives no further answer.

    Args:
        feature: answers a question from its values on the elements of each part.
        report: answers whether a classifier is right, likewise.
        spent: answers so far that cost something: those over the threshold, with splitting all (a block of rows each);
            NaN where nothing is counted.
        epsilon: privacy used so far, at delta = 1e-6.
        reads: parts whose values it looks at.
    """

    feature: Ask
    report: Ask
    spent: Callable[[], float]
    epsilon: Callable[[], float]
    reads: tuple[str, ...] = (HOLDOUT,)


def build_asker(
    kind: str, knobs: Knobs, parts: Mapping[str, Part], seed: int, planned: int, reports: int
) -> Asker:
    """The mechanism ``kind`` over the holdout (and the training set) of a world.

    Args:
        kind: key in the knobs.
        knobs: noise, threshold, budget.
        parts: the world's.
        seed: of the noise.
        planned: questions about features that will be asked.
        reports: questions about classifiers that will be asked.
    """
    rng = np.random.default_rng([seed, 4, STREAMS.index(kind)])
    holdout = parts[HOLDOUT]
    rows = np.arange(holdout.count)

    def held(values: Mapping[str, Array]) -> Array:
        return holdout.on_rows(values[HOLDOUT])

    if kind == "splitting":
        return _splitting(held, rows, planned, reports)
    if kind == "thresholdout":
        train = parts[TRAIN]
        guarded = Thresholdout(
            np.arange(train.count),
            rows,
            knobs.threshold,
            knobs.sigma,
            knobs.budget or None,
            knobs.sparse_noise,
            rng=rng,
        )
        over = 0

        def ask(values: Mapping[str, Array]) -> float:
            nonlocal over
            answer = guarded.answer((train.on_rows(values[TRAIN]), held(values)))
            over += answer.overfit
            return answer.value

        return Asker(
            ask, ask, lambda: float(over), lambda: guarded.privacy_spent(DELTA)[0], reads=(TRAIN, HOLDOUT)
        )
    if kind in ("pmw", "median"):
        assert holdout.rows is not None
        size = len(holdout.y)
        mechanism: Any = (
            PrivateMultiplicativeWeights(holdout.rows, size, knobs.threshold, knobs.sigma, rng=rng)
            if kind == "pmw"
            else MedianMechanism(holdout.rows, _candidates(), knobs.threshold, knobs.sigma, rng=rng)
        )

        # Values on the elements of the universe; the mechanism itself looks up those of the holdout's rows.
        def of_elements(values: Mapping[str, Array]) -> float:
            return float(mechanism.answer(values[TRUTH]))

        return Asker(
            of_elements,
            of_elements,
            lambda: float(mechanism.updates),
            lambda: float(mechanism.privacy_spent(DELTA)[0]),
            reads=(TRUTH,),
        )
    simple: StatisticalQueryMechanism
    if kind == "laplace":
        simple = LaplaceMechanism(rows, knobs.noise / math.sqrt(2), rng)
    elif kind == "gaussian":
        simple = GaussianMechanism(rows, knobs.noise, rng)
    else:
        simple = EmpiricalMechanism(rows)

    def plain(values: Mapping[str, Array]) -> float:
        return simple.answer(held(values))

    return Asker(plain, plain, lambda: math.nan, lambda: simple.privacy_spent(DELTA)[0])


@lru_cache(maxsize=1)
def _candidates() -> Array:
    return median_candidates()


def _splitting(
    held: Callable[[Mapping[str, Array]], Array], rows: NDArray[np.int64], planned: int, reports: int
) -> Asker:
    """Half of the rows for the features, half for the reports, each in blocks of its own."""
    half = len(rows) // 2
    features = SampleSplittingMechanism(rows[:half], min(planned, half))
    checks = SampleSplittingMechanism(rows[half:], min(reports, len(rows) - half))
    return Asker(
        lambda values: features.answer(held(values)[:half]),
        lambda values: checks.answer(held(values)[half:]),
        lambda: float(features.queries_answered + checks.queries_answered),
        lambda: math.inf,
    )
