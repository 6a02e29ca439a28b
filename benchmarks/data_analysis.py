"""Queries per second of every mechanism for adaptive data analysis, and its time over that of a plain mean.

    python -m benchmarks.data_analysis

A query is a vector of values on 2,000 rows; for PMW and the median mechanism a vector on a universe of 1,024 elements,
of which the 2,000 rows are indices. Every pair (mechanism, plain mean of the same rows in NumPy) takes turns and counts
the thread's own CPU time, so that a busy machine disturbs little. The mean is what an answer must cost in any case; the
rest is checks, the test, noise, and the guess.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import paired_ratio, report
from normviz.adaptive.data_analysis import (
    EmpiricalMechanism,
    GaussianMechanism,
    LaplaceMechanism,
    MedianMechanism,
    PrivateMultiplicativeWeights,
    SampleSplittingMechanism,
    SparseValidate,
    Thresholdout,
)

ROWS, UNIVERSE, CANDIDATES = 2000, 1024, 240
QUERIES = 256
"""Different queries that are asked in turn."""
REPEATS, SLICE = 11, 0.1

Array = NDArray[np.float64]


def seconds_per_call(f: Callable[[int], object]) -> Callable[[], float]:
    """CPU seconds of a call over one slice; the argument counts the calls."""

    def measure() -> float:
        calls, start = 0, time.thread_time()
        while (spent := time.thread_time() - start) < SLICE:
            for _ in range(16):
                f(calls % QUERIES)
                calls += 1
        return spent / calls

    return measure


def row_mechanisms(values: Array) -> dict[str, Callable[[int], object]]:
    """Mechanisms that are asked about rows; splitting is made anew when its blocks are used up."""
    rows = np.arange(ROWS)
    pairs = [(values[i], values[-1 - i]) for i in range(QUERIES)]
    splits = [SampleSplittingMechanism(rows, ROWS)]

    def split(i: int) -> object:
        if splits[0].queries_answered == ROWS:
            splits[0] = SampleSplittingMechanism(rows, ROWS)
        return splits[0].answer(values[i])

    plain, laplace = EmpiricalMechanism(rows), LaplaceMechanism(rows, 0.05, 0)
    gaussian = GaussianMechanism(rows, 0.05, 0)
    theory, science = Thresholdout(rows, rows, rng=0), Thresholdout(rows, rows, noise="gaussian", rng=0)
    validate = SparseValidate(rows, rows, rng=0)
    return {
        "EmpiricalMechanism": lambda i: plain.answer(values[i]),
        "SampleSplittingMechanism": split,
        "LaplaceMechanism": lambda i: laplace.answer(values[i]),
        "GaussianMechanism": lambda i: gaussian.answer(values[i]),
        "Thresholdout, Laplace": lambda i: theory.answer(pairs[i]),
        "Thresholdout, Gaussian": lambda i: science.answer(pairs[i]),
        "SparseValidate": lambda i: validate.answer(pairs[i]),
    }


def universe_mechanisms(queries: Array) -> dict[str, Callable[[int], object]]:
    """Mechanisms that are asked about a universe; a wide threshold, so that few answers change the hypothesis."""
    rng = np.random.default_rng(1)
    index = rng.integers(0, UNIVERSE, ROWS)
    candidates = rng.dirichlet(np.ones(UNIVERSE), CANDIDATES)
    pmw = PrivateMultiplicativeWeights(index, UNIVERSE, 0.2, 0.001, rng=0)
    median = MedianMechanism(index, candidates, 0.2, 0.001, rng=0)
    return {
        "PrivateMultiplicativeWeights": lambda i: pmw.answer(queries[i]),
        f"MedianMechanism, {CANDIDATES} candidates": lambda i: median.answer(queries[i]),
    }


def main() -> None:
    """Compare and report."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, (QUERIES, ROWS)).astype(np.float64)
    queries = rng.integers(0, 2, (QUERIES, UNIVERSE)).astype(np.float64)
    mean = seconds_per_call(lambda i: float(values[i].mean()))
    rows: list[tuple[object, ...]] = []
    for name, ask in (row_mechanisms(values) | universe_mechanisms(queries)).items():
        measure = seconds_per_call(ask)
        measured: list[float] = []

        def timed(measure: Callable[[], float] = measure, measured: list[float] = measured) -> float:
            measured.append(measure())
            return measured[-1]

        ratio, low, high = paired_ratio(timed, mean, REPEATS)
        median = sorted(measured)[len(measured) // 2]
        rows.append((name, int(1 / median), ratio, f"{low:.3g} to {high:.3g}"))
    report(
        "data_analysis",
        "Queries per second of the mechanisms",
        ("mechanism", "queries/s", "time ÷ plain mean", "range"),
        rows,
        f"{ROWS:,} rows, universe of {UNIVERSE:,}; CPU time of one thread, {REPEATS} pairs of {SLICE} s. Thresholdout "
        "reads two sets of rows.",
    )


if __name__ == "__main__":
    main()
