"""What claims measure over the grid: in how many of its cells one method is better than another.

alpha is never chosen on the seed that it is judged on: for every cell the value with the best mean accuracy over the
other seeds of the run is taken. A run of one seed has no others, so such a measure then has no number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from normviz.experiments.shifting_statistics.grid import CELLS, GRID_ALPHAS
from normviz.experiments.shifting_statistics.knobs import METHODS
from normviz.frame import Log
from normviz.measures import Measure, derived

__all__ = [
    "accuracies",
    "beats_both_ends",
    "best_elsewhere",
    "by_alpha",
    "mean_difference",
    "mean_gain",
    "wins",
]

ALPHA_BN, SOURCE, TBN = METHODS["alpha"], METHODS["source"], METHODS["tbn"]


def accuracies(log: Log, arm: str) -> dict[int, np.ndarray]:
    """Accuracy (%) of an arm in every cell by seed, (cells,); NaN for a cell that has not been run."""
    table = log.scalars("accuracy")
    found: dict[int, np.ndarray] = {}
    for step, name, seed, value in zip(
        *(table[c].tolist() for c in ("step", "arm", "seed", "value")), strict=True
    ):
        if name == arm and step < len(CELLS):
            found.setdefault(int(seed), np.full(len(CELLS), np.nan))[int(step)] = value
    return found


def by_alpha(log: Log) -> dict[int, np.ndarray]:
    """Accuracy (%) of alpha-BN in every cell at every value of the grid by seed, (cells, alphas)."""
    found: dict[int, np.ndarray] = {}
    for entry in log.array_history("by_alpha"):
        if entry.arm == ALPHA_BN and entry.step < len(CELLS) and len(entry.value) == len(GRID_ALPHAS):
            table = found.setdefault(entry.seed, np.full((len(CELLS), len(GRID_ALPHAS)), np.nan))
            table[entry.step] = entry.value
    return found


def best_elsewhere(tables: Mapping[int, np.ndarray], seed: int) -> np.ndarray | None:
    """Accuracy of a seed in every cell at the alpha that was best for the other seeds, (cells,); None: no others."""
    others = [table for other, table in tables.items() if other != seed]
    if not others or seed not in tables:
        return None
    mean = np.mean(others, axis=0)  # (cells, alphas)
    best = np.where(np.isnan(mean).any(1), 0, np.nan_to_num(mean, nan=-math.inf).argmax(1))
    chosen: np.ndarray = tables[seed][np.arange(len(CELLS)), best]
    chosen[np.isnan(mean).any(1)] = np.nan
    return chosen


def _count(better: np.ndarray, worse: np.ndarray, cells: Sequence[int]) -> float:
    """Cells in which the first is better; a tie counts half; NaN if a cell is missing."""
    first, second = better[list(cells)], worse[list(cells)]
    if np.isnan(first).any() or np.isnan(second).any():
        return math.nan
    return float((first > second).sum() + 0.5 * (first == second).sum())


def wins(better: str, worse: str, cells: Sequence[int]) -> Measure:
    """Number of these cells in which one arm is more accurate than another."""

    def compute(log: Log, knobs: Any) -> dict[int, float]:  # noqa: ARG001
        ours, theirs = accuracies(log, better), accuracies(log, worse)
        return {seed: _count(row, theirs[seed], cells) for seed, row in ours.items() if seed in theirs}

    return derived(compute, arms=(better, worse))


def beats_both_ends(cells: Sequence[int]) -> Measure:
    """Number of these cells in which alpha-BN, alpha chosen on other seeds, is better than both its ends."""

    def compute(log: Log, knobs: Any) -> dict[int, float]:  # noqa: ARG001
        tables, low, high = by_alpha(log), accuracies(log, TBN), accuracies(log, SOURCE)
        found: dict[int, float] = {}
        for seed in tables:
            chosen = best_elsewhere(tables, seed)
            if chosen is not None and seed in low and seed in high:
                found[seed] = _count(chosen, np.maximum(low[seed], high[seed]), cells)
        return found

    return derived(compute, arms=(ALPHA_BN, SOURCE, TBN))


def mean_gain(alpha: float, baseline: str, cells: Sequence[int]) -> Measure:
    """Accuracy of alpha-BN at one alpha minus a baseline's (points), mean over these cells."""
    at = GRID_ALPHAS.index(alpha)

    def compute(log: Log, knobs: Any) -> dict[int, float]:  # noqa: ARG001
        tables, theirs = by_alpha(log), accuracies(log, baseline)
        return {
            seed: float(np.mean(table[list(cells), at] - theirs[seed][list(cells)]))
            for seed, table in tables.items()
            if seed in theirs
        }

    return derived(compute, arms=(ALPHA_BN, baseline))


def mean_difference(better: str, worse: str, cells: Sequence[int]) -> Measure:
    """Accuracy of one arm minus another's (points), mean over these cells."""

    def compute(log: Log, knobs: Any) -> dict[int, float]:  # noqa: ARG001
        ours, theirs = accuracies(log, better), accuracies(log, worse)
        return {
            seed: float(np.mean(row[list(cells)] - theirs[seed][list(cells)]))
            for seed, row in ours.items()
            if seed in theirs
        }

    return derived(compute, arms=(better, worse))
