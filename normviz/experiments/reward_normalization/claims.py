"""What the paper of the page *Reward normalization* claims, measured here."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from statistics import fmean, stdev

from normviz.claims import Claim
from normviz.experiments.reward_normalization.knobs import ESTIMATOR_NAMES, UNDECOMPOSED, Knobs
from normviz.frame import Log

__all__ = ["CLAIMS"]

BNPO, GRPO, BASELINE, REINFORCE, REMAX, PLUS = (
    ESTIMATOR_NAMES[name]
    for name in ("bnpo", "grpo", "reinforce_baseline", "reinforce", "remax", "reinforce++")
)
RIVALS = (REINFORCE, REMAX, GRPO, PLUS)
"""What the paper compares BNPO with."""
TAIL = 3
"""Evaluations that are averaged for a final accuracy."""
MOST = 2 / 3
"""Share of the training in which BNPO's gradient is to be the least noisy."""

Curves = dict[tuple[str, int], list[tuple[int, float]]]


def _curves(log: Log, name: str) -> Curves:
    """(step, value) of a scalar in order, by arm and seed."""
    table = log.scalars(name)
    curves: Curves = {}
    columns = (table[c].tolist() for c in ("arm", "seed", "step", "value"))
    for arm, seed, step, value in zip(*columns, strict=True):
        curves.setdefault((arm, seed), []).append((step, value))
    return curves


def _against(
    log: Log, name: str, arm: str, others: tuple[str, ...], summary: Callable[[list[float]], float]
) -> dict[int, float]:
    """A summary of a scalar of an arm minus the largest among others, for each seed that has all of them."""
    values = {key: summary([v for _, v in curve]) for key, curve in _curves(log, name).items()}
    return {
        seed: values[arm, seed] - max(values[other, seed] for other in others)
        for seed in log.seeds
        if all((a, seed) in values for a in (arm, *others))
    }


def _final(values: list[float]) -> float:
    return fmean(values[-TAIL:])


def _jitter(values: list[float]) -> float:
    """Standard deviation of the step-to-step change of the logarithm, with the sign turned: larger is steadier."""
    logs = [math.log(v) for v in values if 0 < v < math.inf]
    changes = [b - a for a, b in pairwise(logs)]
    return -stdev(changes) if len(changes) > 1 else math.nan


def _best_accuracy(log: Log, knobs: Knobs) -> dict[int, float]:
    return _against(log, "accuracy", BNPO, RIVALS, _final) if knobs.rewards == "accuracy" else {}


def _steadiest(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    return {s: -v for s, v in _against(log, "grad_norm", BNPO, RIVALS, _jitter).items()}


def _least_noisy(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    """Share of the measurements in which BNPO's noise is at most GRPO's and the baseline's."""
    curves = _curves(log, "noise")
    shares: dict[int, float] = {}
    for seed in log.seeds:
        if all((arm, seed) in curves for arm in (BNPO, GRPO, BASELINE)):
            rows = zip(*([v for _, v in curves[arm, seed]] for arm in (BNPO, GRPO, BASELINE)), strict=False)
            shares[seed] = fmean(float(own <= min(others)) for own, *others in rows)
    return shares


def _least_moment(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    """log10 of BNPO's measured second moment over the smaller of the other two, mean over the training."""
    curves = _curves(log, "moment_gradient")
    orders: dict[int, float] = {}
    for seed in log.seeds:
        if all((arm, seed) in curves for arm in (BNPO, GRPO, BASELINE)):
            rows = zip(*([v for _, v in curves[arm, seed]] for arm in (BNPO, GRPO, BASELINE)), strict=False)
            orders[seed] = fmean(math.log10(own / min(others)) for own, *others in rows if own > 0)
    return orders


def _worst(name: str, of: Callable[[list[float]], float]) -> Callable[[Log, Knobs], dict[int, float]]:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
        return {seed: of([v for _, v in c]) for (arm, seed), c in _curves(log, name).items() if arm == BNPO}

    return measure


def _decomposition(log: Log, knobs: Knobs) -> dict[int, float]:
    """Mean of accuracy and format at the end, decomposed minus summed."""
    if knobs.rewards != "accuracy_and_format":
        return {}
    parts = [_against(log, name, BNPO, (UNDECOMPOSED,), _final) for name in ("accuracy", "format")]
    return {seed: fmean(part[seed] for part in parts) for seed in parts[0].keys() & parts[1].keys()}


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="special-cases",
        paper="bnpo",
        statement="BNPO contains REINFORCE with baseline (α = β = 1) and, up to the factor π/8, GRPO (α = β = 3/2).",
        paper_figure="Exact, for 0/1 rewards.",
        measured="largest difference of the advantages from R − p and from π/8 · (R − p)/√(p(1 − p))",
        measure=_worst("special_case_error", max),
        threshold=1e-6,
        exact=True,
        needs="BNPO",
    ),
    Claim(
        id="minimal-by-theory",
        paper="bnpo",
        statement="α = 1 + a/3, β = 1 + b/3 gives the smallest second moment V.",
        paper_figure="Theorem.",
        measured="log10 of the smaller V of GRPO and no normaliser over BNPO's, at the worst moment of the run",
        measure=_worst("theory_margin", min),
        threshold=-1e-6,
        side="above",
        unit="orders of magnitude",
        exact=True,
        needs="BNPO",
    ),
    Claim(
        id="smallest-moment",
        paper="bnpo",
        statement="The second moment that is really measured is smallest for BNPO too.",
        paper_figure="Follows from the theorem if gradient size and squared advantage are uncorrelated.",
        measured="log10 of E[A²|∇ log π|²] of BNPO over the smaller of GRPO's and the baseline's, mean over the run",
        measure=_least_moment,
        unit="orders of magnitude",
        needs="BNPO, GRPO and REINFORCE-b",
    ),
    Claim(
        id="least-noise",
        paper="bnpo",
        statement="BNPO's gradient is the least noisy throughout training.",
        paper_figure="Lowest gradient variance (theorem and gradient norms, qualitative).",
        measured="share of the training in which variance ÷ squared mean is at most GRPO's and the baseline's",
        measure=_least_noisy,
        threshold=MOST,
        side="above",
        needs="BNPO, GRPO and REINFORCE-b",
        caveat="The theorem minimises the second moment with f normalised to one, not its ratio to the mean.",
    ),
    Claim(
        id="steadiest-gradients",
        paper="bnpo",
        statement="BNPO has the most stable gradient norms.",
        paper_figure="Qwen2.5-Math 1.5B and 7B, against REINFORCE, ReMax, GRPO, REINFORCE++ (curves).",
        measured="standard deviation of the change of log |gradient| per step, BNPO minus the steadiest of the four",
        measure=_steadiest,
        needs="BNPO, REINFORCE, ReMax, GRPO and REINFORCE++",
    ),
    Claim(
        id="best-accuracy",
        paper="bnpo",
        statement="BNPO reaches the best accuracy.",
        paper_figure="Best average on MATH500, AMC23, AIME24, AIME25; the values are not quoted here.",
        measured="final accuracy of BNPO minus the best of REINFORCE, ReMax, GRPO and REINFORCE++",
        measure=_best_accuracy,
        side="above",
        needs="the accuracy reward alone with BNPO, REINFORCE, ReMax, GRPO and REINFORCE++",
        caveat="All arms share one learning rate; none is tuned for any of them.",
    ),
    Claim(
        id="decomposition-helps",
        paper="bnpo",
        statement="With two rewards it helps to normalise each by itself.",
        paper_figure="Accuracy and format rewards on base models; the values are not quoted here.",
        measured="mean of accuracy and format at the end, decomposed BNPO minus BNPO on the sum",
        measure=_decomposition,
        side="above",
        needs="accuracy and format as rewards, with BNPO",
    ),
)
