"""How often the rule of a claim calls equal methods different, and how often it finds an effect: by simulation.

Two methods that differ in nothing but noise are compared many times, as a claim would compare them. "Different" is any
outcome that says so: reproduced, weaker than claimed, opposite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from normviz.claims import LEAST_SEEDS, OUTCOMES, Claim, Effect, Outcome
from normviz.measures import constant
from normviz.validation import check_integer, check_real

__all__ = ["outcome_rates", "per_seed_best_rate"]


def outcome_rates(
    rivals: int = 1,
    *,
    effect: float = 0.0,
    seeds: int = LEAST_SEEDS,
    repetitions: int = 2000,
    rule: Effect | None = None,
    diverging: float = 0.0,
    seed: int = 0,
) -> dict[Outcome, float]:
    """How often each outcome comes out, when an arm is compared with rivals over seeds of normal noise.

    Every arm's number in every seed is normal with standard deviation 1, the claim's arm larger by ``effect``; a
    claim says that it is larger than each rival. What all arms of a seed have in common cancels in the differences.

    Args:
        rivals: arms that it is compared with.
        effect: true difference, in standard deviations of one arm.
        seeds: of each comparison.
        repetitions: comparisons.
        rule: what decides; default: an effect above a floor of 0.01, so small that it hides no false alarm.
        diverging: probability that an arm diverges in a seed.
        seed: of the random numbers.

    Returns:
        The share of the repetitions with each outcome.
    """
    check_integer("rivals", rivals, 1)
    check_integer("seeds", seeds, 1)
    check_integer("repetitions", repetitions, 1)
    check_real("diverging", diverging, 0.0, 1.0)
    names = [f"rival {i}" for i in range(1, rivals + 1)]
    claim = Claim(
        "simulated",
        "none",
        "The arm is better.",
        "",
        "difference",
        {name: constant("number") for name in names} if rivals > 1 else constant("number"),
        rule or Effect("above", floor=0.01),
        "none",
    )
    generator = np.random.default_rng(seed)
    counted: Counter[Outcome] = Counter()
    for _ in range(repetitions):
        scores = _scores(generator, rivals + 1, seeds, diverging)
        scores[0] += effect
        differences = [_difference(scores[0], other) for other in scores[1:]]
        numbers: Mapping[str, Mapping[int, float]] = {
            name: dict(enumerate(values.tolist()))
            for name, values in zip(claim.rivals, differences, strict=True)
        }
        counted[claim.judge(numbers).outcome] += 1
    return {outcome: counted[outcome] / repetitions for outcome in OUTCOMES}


def per_seed_best_rate(
    rivals: int, *, seeds: int = LEAST_SEEDS, repetitions: int = 2000, seed: int = 0
) -> float:
    """How often a rule that looks tempting calls equal methods different: the arm minus the best rival of each seed.

    The best of several noisy numbers is better than each of them, so that the arm loses although it is no worse. No
    claim here uses it; the method page shows why.

    Returns:
        Share of the repetitions in which the 95 % interval of that difference excludes zero.
    """
    from normviz.claims import confidence_interval

    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(repetitions):
        scores = _scores(generator, rivals + 1, seeds, 0.0)
        low, high = confidence_interval((scores[0] - scores[1:].max(axis=0)).tolist())
        hits += low > 0 or high < 0
    return hits / repetitions


def _scores(
    generator: np.random.Generator, arms: int, seeds: int, diverging: float
) -> npt.NDArray[np.float64]:
    """(arms, seeds) standard normal numbers; -inf where an arm diverged."""
    scores = generator.standard_normal((arms, seeds))
    return np.where(generator.random((arms, seeds)) < diverging, -np.inf, scores)


def _difference(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # both diverged: no number, as in a measure
        return np.asarray(one - other, dtype=np.float64)
