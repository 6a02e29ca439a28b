"""What the paper of the page *Residual depth* claims, measured here."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from normviz.claims import Claim, Measure, by_seed, paired_difference
from normviz.experiments.residual_depth.knobs import Knobs, arm_name, sweep_name
from normviz.frame import Log

__all__ = ["CLAIMS"]

PAPER = "residual-depth"
DEEP = 64
"""Least depth at which the claims about deep towers are tested."""
TAIL = 10
"""Training losses that are averaged for a final one."""
LEVELS = 5
"""Levels that are said to be enough with λ = 1/n."""
RATE = "0.01"


def _value(name: str) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
        return by_seed(log.scalars(name))

    return measure


def _arm(knobs: Knobs, method: str, rate: str) -> str:
    return arm_name(method, rate if len(knobs.learning_rates) > 1 else None)


def _deep(knobs: Knobs, *methods: str) -> bool:
    return knobs.task == "training" and knobs.depth >= DEEP and set(methods) <= set(knobs.methods)


def _accuracies(log: Log, knobs: Knobs, method: str) -> dict[int, dict[str, float]]:
    """The last accuracy that was measured, for each seed and rate."""
    table = log.final("validation_accuracy")
    found: dict[int, dict[str, float]] = {}
    for rate in knobs.learning_rates:
        rows = table[table["arm"] == _arm(knobs, method, rate)]
        for seed, value in zip(rows["seed"].tolist(), rows["value"].tolist(), strict=True):
            found.setdefault(int(seed), {})[rate] = float(value)
    return {seed: rates for seed, rates in found.items() if len(rates) == len(knobs.learning_rates)}


def _plain_fails(log: Log, knobs: Knobs) -> dict[int, float]:
    """Accuracy of λ = 1 minus half that of 1/√n, at the rate where λ = 1 comes closest."""
    if not _deep(knobs, "plain", "inv_sqrt"):
        return {}
    plain, root = (_accuracies(log, knobs, method) for method in ("plain", "inv_sqrt"))
    return {
        seed: max(plain[seed][rate] - root[seed][rate] / 2 for rate in knobs.learning_rates)
        for seed in plain.keys() & root.keys()
    }


def _best(log: Log, knobs: Knobs, method: str) -> dict[int, float]:
    return {seed: max(rates.values()) for seed, rates in _accuracies(log, knobs, method).items()}


def _both_train(log: Log, knobs: Knobs) -> dict[int, float]:
    if not _deep(knobs, "inv_sqrt", "inv"):
        return {}
    root, inverse = (_best(log, knobs, method) for method in ("inv_sqrt", "inv"))
    return {seed: min(root[seed], inverse[seed]) for seed in root.keys() & inverse.keys()}


def _best_difference(method: str, baseline: str) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:
        if not _deep(knobs, method, baseline):
            return {}
        ours, theirs = (_best(log, knobs, m) for m in (method, baseline))
        return {seed: ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()}

    return measure


def _faster_fit(log: Log, knobs: Knobs) -> dict[int, float]:
    if not _deep(knobs, "inv_sqrt", "inv") or RATE not in knobs.learning_rates:
        return {}
    root, inverse = (_arm(knobs, method, RATE) for method in ("inv_sqrt", "inv"))
    return paired_difference(log, "loss", root, inverse, window=TAIL)


def _at_start(
    name: str, method: str, of: Callable[[np.ndarray], float]
) -> Callable[[Log, Knobs], dict[int, float]]:
    """A number from an array at step 0 of an arm."""

    def measure(log: Log, knobs: Knobs) -> dict[int, float]:
        if not _deep(knobs, method):
            return {}
        arm = _arm(knobs, method, knobs.learning_rates[0])
        return {
            entry.seed: of(entry.value.astype(float)) for entry in log.arrays(name, 0) if entry.arm == arm
        }

    return measure


def _orders_grown(signal: np.ndarray) -> float:
    """log10 of the last over the first norm of the stream; infinite if the signal overflowed."""
    return math.log10(signal[-1] / signal[0]) if np.isfinite(signal[-1]) else math.inf


def _distance_from_inverse_root(effective: np.ndarray) -> float:
    """|slope + 1/2| of log(effective scale) over log(module), from the fourth module on."""
    module = np.arange(1, len(effective) + 1)[3:]
    return abs(float(np.polyfit(np.log(module), np.log(effective[3:]), 1)[0]) + 0.5)


def _stays(log: Log, knobs: Knobs) -> dict[int, float]:
    """The larger growth of the two scaled towers."""
    if not _deep(knobs, "inv_sqrt", "inv"):
        return {}
    root, inverse = (_at_start("signal_by_layer", m, _orders_grown)(log, knobs) for m in ("inv_sqrt", "inv"))
    return {seed: max(root[seed], inverse[seed]) for seed in root.keys() & inverse.keys()}


def _few_levels(log: Log, knobs: Knobs) -> dict[int, float]:
    """What is missed with λ = 1/n when the sum stops at level 5, at the full depth."""
    if knobs.task != "expansion" or knobs.depth < DEEP or knobs.order < LEVELS:
        return {}
    return {
        entry.seed: float(entry.value[LEVELS])
        for entry in log.arrays("truncation")
        if entry.arm == arm_name("inv") and entry.step == knobs.depth
    }


def _hump(log: Log, knobs: Knobs) -> dict[int, float]:
    """log10 of the greatest complexity inside the sweep over the greater of those at its two ends.

    The ends are the smallest and the largest scale that did not diverge.
    """
    if knobs.task != "sweep":
        return {}
    diverged = log.diverged
    table = log.final("complexity")
    values = {(arm, int(seed)): float(v) for arm, seed, v in table.itertuples(index=False)}
    humps: dict[int, float] = {}
    for seed in log.seeds:
        names = [sweep_name(lam) for lam in knobs.lambdas()]
        curve = [values[arm, seed] for arm in names if (arm, seed) in values and (arm, seed) not in diverged]
        if len(curve) >= 3 and min(curve) > 0:
            humps[seed] = math.log10(max(curve[1:-1]) / max(curve[0], curve[-1]))
    return humps


TRAINED = f"the training task with these methods at depth {DEEP} or more"
SMALL_SCALE = "Digits and small dense towers; the paper trains convolutions on CIFAR-10."
SECONDARY = "known to us from the public reviews"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="path-counts",
        paper=PAPER,
        statement="A residual tower is a sum over levels: level k collects the C(n, k) paths through k modules.",
        paper_figure="Residual Expansion Theorem (abstract).",
        measured="six affine modules: greatest relative difference of a level and its enumerated paths, 64 in all",
        measure=_value("theorem/level_error"),
        threshold=1e-10,
        exact=True,
    ),
    Claim(
        id="remainder-order",
        paper=PAPER,
        statement="Cut after level K, what is missed is of order λ^(K+1).",
        paper_figure="Theorem to second order: remainder O(λ³).",
        measured="six tanh branches, K = 0 to 4: greatest distance of the measured power of λ from K + 1",
        measure=_value("theorem/slope_error"),
        threshold=0.35,
    ),
    Claim(
        id="unscaled-explodes",
        paper=PAPER,
        statement="Without scaling or normalization, paths multiply and the signal explodes with depth.",
        paper_figure="Theory (abstract): combinatorial explosion of the output.",
        measured=f"growth of the stream with λ = 1 before training, depth {DEEP} or more",
        measure=_at_start("signal_by_layer", "plain", _orders_grown),
        threshold=3.0,
        side="above",
        unit="orders of magnitude",
        needs=TRAINED,
    ),
    Claim(
        id="scaled-stays",
        paper=PAPER,
        statement="Scaling each module by 1/√n or 1/n keeps the sum bounded.",
        paper_figure="Theory.",
        measured="growth of the stream before training, the larger of the two",
        measure=_stays,
        threshold=1.0,
        unit="orders of magnitude",
        needs=TRAINED,
    ),
    Claim(
        id="few-levels",
        paper=PAPER,
        statement="With λ = 1/n levels beyond about five are negligible at any depth.",
        paper_figure="Weights of the levels tend to 1/k!.",
        measured=f"error relative to the output when the sum stops at level {LEVELS}",
        measure=_few_levels,
        threshold=0.01,
        needs=f"the task Take apart with λ = 1/n, depth {DEEP} or more and level {LEVELS}",
    ),
    Claim(
        id="unscaled-fails",
        paper=PAPER,
        statement="A deep tower without scaling or normalization does not train.",
        paper_figure="Historically needed normalization (abstract).",
        measured="accuracy of λ = 1 minus half that of 1/√n, at the rate where it comes closest",
        measure=_plain_fails,
        unit="points",
        needs=TRAINED,
    ),
    Claim(
        id="scaling-trains",
        paper=PAPER,
        statement="With 1/√n or 1/n deep towers train without normalization.",
        paper_figure=f"Up to 1000 layers on CIFAR-10 ({SECONDARY}).",
        measured="held-out accuracy at the best rate, the lower of the two",
        measure=_both_train,
        threshold=85.0,
        side="above",
        unit="%",
        needs=TRAINED,
        caveat=SMALL_SCALE,
    ),
    Claim(
        id="root-fits-faster",
        paper=PAPER,
        statement="1/√n leaves more capacity than 1/n: it fits the training data better.",
        paper_figure=f"Qualitative ({SECONDARY}).",
        measured=f"training loss of 1/√n minus 1/n at rate {RATE}, mean of the last {TAIL} steps",
        measure=_faster_fit,
        unit="nats",
        needs=f"{TRAINED} and rate {RATE}",
    ),
    Claim(
        id="root-beats-inverse",
        paper=PAPER,
        statement="1/√n reaches better test accuracy than 1/n.",
        paper_figure=f"CIFAR-10 ({SECONDARY}; no number).",
        measured="held-out accuracy of 1/√n minus 1/n, each at its best rate",
        measure=_best_difference("inv_sqrt", "inv"),
        side="above",
        unit="points",
        needs=TRAINED,
        caveat="Depends on the rates that are tried: run all four.",
    ),
    Claim(
        id="norm-beats-inverse",
        paper=PAPER,
        statement="Batch-normalized towers are still more accurate than those with λ = 1/n.",
        paper_figure=f"CIFAR-10, table 1 ({SECONDARY}; no number).",
        measured="held-out accuracy of BatchNorm minus λ = 1/n, each at its best rate",
        measure=_best_difference("batchnorm", "inv"),
        side="above",
        unit="points",
        needs=TRAINED,
        caveat=SMALL_SCALE,
    ),
    Claim(
        id="norm-is-a-small-scale",
        paper=PAPER,
        statement="Normalization works by making the effective scale of deep modules small.",
        paper_figure="De and Smith, whom the paper builds on: about 1/√l for module l at the start.",
        measured="BatchNorm before training: distance of the log-log slope of branch over stream from −1/2",
        measure=_at_start("effective_scale", "batchnorm", _distance_from_inverse_root),
        threshold=0.1,
        needs=TRAINED,
    ),
    Claim(
        id="complexity-hump",
        paper=PAPER,
        statement="Geometric complexity is unimodal in the scale: highest at a scale in between.",
        paper_figure=f"CIFAR-10 ({SECONDARY}; no number).",
        measured="log10 of the greatest complexity inside the sweep over the greater one at its ends",
        measure=_hump,
        side="above",
        unit="orders of magnitude",
        needs="the sweep, with at least three scales that do not diverge",
    ),
)
