"""What the paper of the page *Reward normalization* claims, measured here."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from normviz.claims import Claim, Effect, Identity
from normviz.experiments.reward_normalization.knobs import ESTIMATOR_NAMES, UNDECOMPOSED, Knobs
from normviz.frame import Log
from normviz.measures import Measure, constant, derived, scalar

__all__ = ["CLAIMS"]

BNPO, GRPO, BASELINE, REINFORCE, REMAX, PLUS = (
    ESTIMATOR_NAMES[name]
    for name in ("bnpo", "grpo", "reinforce_baseline", "reinforce", "remax", "reinforce++")
)
RIVALS = (REINFORCE, REMAX, GRPO, PLUS)
"""What the paper compares BNPO with."""
TAIL = 3
"""Evaluations that are averaged for a final accuracy."""
POINTS = 0.01
"""Least difference of a probability that counts: one question in a hundred."""
ORDERS = 0.05
"""Least difference of a variance that counts, in orders of magnitude: 12 %."""

Array = NDArray[np.float64]


def _by_seed(log: Log, name: str, arm: str, knobs: Knobs) -> dict[int, Array]:
    """The values of a scalar of an arm in order of the steps, by seed; nothing before the run has ended."""
    table = log.scalars(name)
    if log.last_step < knobs.steps:
        return {}
    table = table[table["arm"] == arm]
    seeds, values = table["seed"].to_numpy(), table["value"].to_numpy(dtype=float)
    return {int(seed): values[seeds == seed] for seed in np.unique(seeds)}


def _beside(name: str, rival: str, of: Callable[[Array, Array], float]) -> Measure:
    """A number of BNPO's and a rival's values of a scalar that is measured for both at the same moments."""

    def compute(log: Log, knobs: Knobs) -> dict[int, float]:
        ours, theirs = (_by_seed(log, name, arm, knobs) for arm in (BNPO, rival))
        return {
            seed: of(ours[seed], theirs[seed])
            for seed in ours.keys() & theirs.keys()
            if len(ours[seed]) == len(theirs[seed]) and not np.isnan([*ours[seed], *theirs[seed]]).any()
        }

    return derived(compute, arms=(BNPO, rival))


def _orders(ours: Array, theirs: Array) -> float:
    """Mean over the moments of log10 of the ratio."""
    return float(np.mean(np.log10(ours / theirs)))


def _share(ours: Array, theirs: Array) -> float:
    """Share of the moments in which ours is at most theirs."""
    return float(np.mean(ours <= theirs))


def _jitter(arm: str) -> Measure:
    """Standard deviation of the step-to-step change of log |gradient|; infinite where it diverged."""

    def compute(log: Log, knobs: Knobs) -> dict[int, float]:
        found = {}
        for seed, values in _by_seed(log, "grad_norm", arm, knobs).items():
            logs = np.log(values[(values > 0) & np.isfinite(values)])
            found[seed] = float(np.diff(logs).std(ddof=1)) if len(logs) > 2 else math.nan
        return {**found, **{seed: math.inf for name, seed in log.diverged if name == arm}}

    return derived(compute, arms=(arm,))


def _final(name: str, arm: str) -> Measure:
    return scalar(name, arm, window=TAIL, bad=-math.inf)


def _both(arm: str) -> Measure:
    return (_final("accuracy", arm) + _final("format", arm)) * 0.5


ACCURACY = {"rewards": "accuracy"}

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="special-cases",
        paper="bnpo",
        statement="BNPO contains REINFORCE with baseline (α = β = 1) and, up to the factor π/8, GRPO (α = β = 3/2).",
        paper_figure="Exact, for 0/1 rewards.",
        measured="largest difference of the advantages from R − p and from π/8 · (R − p)/√(p(1 − p))",
        measure=constant("special_case_error", BNPO, reduce="max"),
        rule=Identity("below", 1e-6),
        preset="accuracy",
    ),
    Claim(
        id="minimal-by-theory",
        paper="bnpo",
        statement="α = 1 + a/3, β = 1 + b/3 gives the smallest second moment V.",
        paper_figure="Theorem.",
        measured="log10 of the smaller V of GRPO and no normaliser over BNPO's, at the worst moment of the run",
        measure=constant("theory_margin", BNPO, reduce="min"),
        rule=Identity("above", -1e-6),
        preset="accuracy",
        unit="orders of magnitude",
    ),
    Claim(
        id="smallest-moment",
        paper="bnpo",
        statement="The second moment that is really measured is smallest for BNPO too.",
        paper_figure="Follows from the theorem if gradient size and squared advantage are uncorrelated.",
        measured="log10 of E[A²|∇ log π|²] of BNPO over each rival's, mean over the run",
        measure={rival: _beside("moment_gradient", rival, _orders) for rival in (GRPO, BASELINE)},
        rule=Effect("below", ORDERS),
        preset="accuracy",
        unit="orders of magnitude",
    ),
    Claim(
        id="less-noise-than-grpo",
        paper="bnpo",
        statement="BNPO's gradient has less variance than GRPO's.",
        paper_figure="Lowest gradient variance (theorem and gradient norms, qualitative).",
        measured="log10 of variance ÷ squared mean of BNPO's gradient over GRPO's, mean over the run",
        measure=_beside("noise", GRPO, _orders),
        rule=Effect("below", ORDERS),
        preset="accuracy",
        unit="orders of magnitude",
        caveat="The theorem minimises the second moment with f normalised to one, not its ratio to the mean.",
    ),
    Claim(
        id="least-noise",
        paper="bnpo",
        statement="BNPO's gradient is the least noisy throughout training.",
        paper_figure="Lowest gradient variance (theorem and gradient norms, qualitative).",
        measured="share of the training in which variance ÷ squared mean is at most the rival's; 2/3 is asked for",
        measure={rival: _beside("noise", rival, _share) for rival in (GRPO, BASELINE)},
        rule=Effect("above", floor=0.1, bar=2 / 3 - 0.5, null=0.5),
        preset="accuracy",
        caveat="The theorem minimises the second moment with f normalised to one, not its ratio to the mean.",
    ),
    Claim(
        id="steadiest-gradients",
        paper="bnpo",
        statement="BNPO has the most stable gradient norms.",
        paper_figure="Qwen2.5-Math 1.5B and 7B, against REINFORCE, ReMax, GRPO, REINFORCE++ (curves).",
        measured="standard deviation of the change of log |gradient| per step, BNPO minus each rival",
        measure={rival: _jitter(BNPO) - _jitter(rival) for rival in RIVALS},
        rule=Effect("below", 0.02),
        preset="accuracy",
    ),
    Claim(
        id="best-accuracy",
        paper="bnpo",
        statement="BNPO reaches the best accuracy.",
        paper_figure="Best average on MATH500, AMC23, AIME24, AIME25; the values are not quoted here.",
        measured="final accuracy of BNPO minus each rival's, a probability computed exactly",
        measure={rival: _final("accuracy", BNPO) - _final("accuracy", rival) for rival in RIVALS},
        rule=Effect("above", POINTS),
        preset="best-rates",
        given=ACCURACY,
        caveat="Decided with every estimator at its own best learning rate.",
    ),
    Claim(
        id="decomposition-helps",
        paper="bnpo",
        statement="With two rewards it helps to normalise each by itself.",
        paper_figure="Accuracy and format rewards on base models; the values are not quoted here.",
        measured="mean of accuracy and format at the end, decomposed BNPO minus BNPO on the sum",
        measure=_both(BNPO) - _both(UNDECOMPOSED),
        rule=Effect("above", POINTS),
        preset="two-rewards",
        given={"rewards": "accuracy_and_format"},
        caveat="Both have the same learning rate; Adam makes up for the size of the advantages.",
    ),
)
