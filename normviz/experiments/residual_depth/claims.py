"""What the paper of the page *Residual depth* claims, measured here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normviz.claims import Bound, Claim, Effect, Identity
from normviz.experiments.pools import TEST_DIGITS
from normviz.experiments.residual_depth.knobs import RATES, Knobs, arm_name, sweep_name
from normviz.frame import Log
from normviz.measures import ArmName, Measure, array, constant, log10, scalar

__all__ = ["CLAIMS"]

PAPER = "residual-depth"
DEEP = 64
"""Least depth at which the claims about deep towers are tested."""
TAIL = 10
"""Training losses that are averaged for a final one."""
LEVELS = 5
"""Levels that are said to be enough with λ = 1/n."""
RATE = "0.01"


def _arm(method: str, rate: str | None = None) -> ArmName:
    """The arm of a method at a rate (default: the first that is set)."""

    def name(knobs: Any) -> str:
        return arm_name(method, knobs.rate_suffix(rate or knobs.learning_rates[0]))

    return name


def _accuracy(method: str, rate: str | None = None, *, bad: float = -math.inf) -> Measure:
    """The accuracy on held-out digits at the end, in per cent."""
    return scalar("validation_accuracy", _arm(method, rate), bad=bad)


def _at_start(name: str, method: str, of: Callable[[NDArray[np.float64]], float]) -> Measure:
    """A number from an array before training: a divergence later in training does not change it."""
    arm = _arm(method)

    def compute(log: Log, knobs: Any) -> dict[int, float]:
        this = arm(knobs) if callable(arm) else arm
        return {e.seed: of(e.value.astype(float)) for e in log.arrays(name, 0) if e.arm == this}

    return Measure(compute, (arm,))


def _orders_grown(signal: NDArray[np.float64]) -> float:
    """log10 of the last over the first norm of the stream; infinite if the signal overflowed."""
    return math.log10(signal[-1] / signal[0]) if np.isfinite(signal[-1]) else math.inf


def _distance_from_inverse_root(effective: NDArray[np.float64]) -> float:
    """|slope + 1/2| of log(effective scale) over log(module), from the fourth module on."""
    module = np.arange(1, len(effective) + 1)[3:]
    return abs(float(np.polyfit(np.log(module), np.log(effective[3:]), 1)[0]) + 0.5)


def _typical_scale(method: str) -> Measure:
    """Root mean square over the modules of branch over stream, at the last measurement."""
    return array("effective_scale", _arm(method), lambda scales: float(np.sqrt(np.mean(scales**2))))


def _complexity(method: str) -> Measure:
    return log10(scalar("complexity", _arm(method)))


def _hump(end: int) -> Measure:
    """log10 of the complexity at an inner scale over that at the smallest (0) or largest (-1) that trained.

    Scales from the first one on that diverged in any seed are left out. The inner scale is the one with the highest
    mean logarithm in the *other* seeds: chosen without the seed that is judged, so that noise makes no hump.
    """

    def compute(log: Log, knobs: Knobs) -> dict[int, float]:
        curves: list[dict[int, float]] = []
        for arm in map(sweep_name, knobs.lambdas()):
            logs = log10(scalar("complexity", arm))(log, knobs)
            if math.inf in logs.values():
                break
            curves.append(logs)
        if len(curves) < 3:
            return {}
        found: dict[int, float] = {}
        for seed in curves[0]:
            means = [
                float(np.mean([v for s, v in curve.items() if s != seed] or [math.nan])) for curve in curves
            ]
            if not any(map(math.isnan, means)):
                inner = 1 + int(np.argmax(means[1:-1]))
                found[seed] = curves[inner][seed] - curves[end][seed]
        return found

    return Measure(compute)


TRAINED: dict[str, Any] = {"task": "training", "depth": lambda depth: depth >= DEEP}
TRAINED_WORDS = f"at least {DEEP} modules"
AT_BEST: dict[str, Any] = {**TRAINED, "learning_rates": lambda rates: len(rates) == 1}
AT_BEST_WORDS = f"{TRAINED_WORDS}, one learning rate for each method"
SMALL_SCALE = "Digits and small dense towers; the paper trains convolutions on CIFAR-10."
SECONDARY = "known to us from the public reviews"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="path-counts",
        paper=PAPER,
        statement="A residual tower is a sum over levels: level k collects the C(n, k) paths through k modules.",
        paper_figure="Residual Expansion Theorem (abstract).",
        measured="six affine modules: greatest relative difference of a level and its enumerated paths, 64 in all",
        measure=constant("theorem/level_error"),
        rule=Identity("below", 1e-10),
        preset="towers",
    ),
    Claim(
        id="remainder-order",
        paper=PAPER,
        statement="Cut after level K, what is missed is of order λ^(K+1).",
        paper_figure="Theorem to second order: remainder O(λ³).",
        measured="six tanh branches, K = 0 to 4: greatest distance of the measured power of λ from K + 1",
        measure=constant("theorem/slope_error"),
        rule=Identity("below", 0.35),
        preset="towers",
    ),
    Claim(
        id="unscaled-explodes",
        paper=PAPER,
        statement="Without scaling or normalization, paths multiply and the signal explodes with depth.",
        paper_figure="Theory (abstract): combinatorial explosion of the output.",
        measured="growth of the stream with λ = 1 before training",
        measure=_at_start("signal_by_layer", "plain", _orders_grown),
        rule=Effect("above", floor=1.0, bar=3.0),
        preset="towers",
        given=TRAINED,
        given_words=TRAINED_WORDS,
        unit="orders of magnitude",
    ),
    Claim(
        id="scaled-stays",
        paper=PAPER,
        statement="Scaling each module by 1/√n or 1/n keeps the sum bounded.",
        paper_figure="Theory.",
        measured="growth of the stream before training with each of the two",
        measure={
            arm_name(method): _at_start("signal_by_layer", method, _orders_grown)
            for method in ("inv_sqrt", "inv")
        },
        rule=Bound("below", 1.0),
        preset="towers",
        given=TRAINED,
        given_words=TRAINED_WORDS,
        unit="orders of magnitude",
    ),
    Claim(
        id="few-levels",
        paper=PAPER,
        statement="With λ = 1/n levels beyond about five are negligible at any depth.",
        paper_figure="Weights of the levels tend to 1/k!.",
        measured=f"error relative to the output when the sum stops at level {LEVELS}, at the full depth",
        measure=array("truncation", arm_name("inv"), lambda errors: float(errors[LEVELS])),
        rule=Bound("below", 0.01),
        preset="taken-apart",
        given={
            "task": "expansion",
            "depth": lambda depth: depth >= DEEP,
            "order": lambda order: order >= LEVELS,
        },
        given_words=f"at least {DEEP} modules and {LEVELS} levels",
    ),
    Claim(
        id="unscaled-fails",
        paper=PAPER,
        statement="A deep tower without scaling or normalization does not train, whatever the learning rate.",
        paper_figure="Historically needed normalization (abstract).",
        measured="accuracy of λ = 1 minus half that of 1/√n at each of four rates",
        measure={
            f"rate {rate}": _accuracy("plain", rate, bad=0.0) - _accuracy("inv_sqrt", rate) * 0.5
            for rate in RATES
        },
        rule=Effect("below", floor=5.0),
        preset="every-rate",
        given={**TRAINED, "learning_rates": lambda rates: set(rates) == set(RATES)},
        given_words=f"{TRAINED_WORDS}, all four learning rates",
        unit="points",
        resolution=100 / TEST_DIGITS,
        caveat="A tower with λ = 1 that diverged counts as one that gets no digit right.",
    ),
    Claim(
        id="scaling-trains",
        paper=PAPER,
        statement="With 1/√n or 1/n deep towers train without normalization.",
        paper_figure=f"Up to 1000 layers on CIFAR-10 ({SECONDARY}).",
        measured="held-out accuracy of each of the two, at its best rate",
        measure={arm_name(method): _accuracy(method) for method in ("inv_sqrt", "inv")},
        rule=Bound("above", 85.0),
        preset="best-rates",
        given=AT_BEST,
        given_words=AT_BEST_WORDS,
        unit="%",
        resolution=100 / TEST_DIGITS,
        caveat=SMALL_SCALE,
    ),
    Claim(
        id="root-fits-faster",
        paper=PAPER,
        statement="1/√n leaves more capacity than 1/n: it fits the training data better.",
        paper_figure=f"Qualitative ({SECONDARY}).",
        measured=f"training loss of 1/√n minus 1/n at rate {RATE}, mean of the last {TAIL} steps",
        measure=scalar("loss", _arm("inv_sqrt", RATE), window=TAIL)
        - scalar("loss", _arm("inv", RATE), window=TAIL),
        rule=Effect("below", floor=0.05),
        preset="towers",
        given={**TRAINED, "learning_rates": lambda rates: RATE in rates},
        given_words=f"{TRAINED_WORDS}, rate {RATE}",
        unit="nats",
        caveat="One rate for both: a larger one suits 1/n better.",
    ),
    *(
        Claim(
            id=name,
            paper=PAPER,
            statement=statement,
            paper_figure=figure,
            measured=f"held-out accuracy of {arm_name(better)} minus λ = 1/n, each at its best rate",
            measure=_accuracy(better) - _accuracy("inv"),
            rule=Effect("above", floor=0.5),
            preset="best-rates",
            given=AT_BEST,
            given_words=AT_BEST_WORDS,
            unit="points",
            resolution=100 / TEST_DIGITS,
            caveat=SMALL_SCALE,
        )
        for name, better, statement, figure in (
            (
                "root-beats-inverse",
                "inv_sqrt",
                "1/√n reaches better test accuracy than 1/n.",
                f"CIFAR-10 ({SECONDARY}; no number).",
            ),
            (
                "norm-beats-inverse",
                "batchnorm",
                "Batch-normalized towers are still more accurate than those with λ = 1/n.",
                f"CIFAR-10, table 1 ({SECONDARY}; no number).",
            ),
        )
    ),
    Claim(
        id="norm-is-a-small-scale",
        paper=PAPER,
        statement="Normalization works by making the effective scale of deep modules small.",
        paper_figure="De and Smith, whom the paper builds on: about 1/√l for module l at the start.",
        measured="BatchNorm before training: distance of the log-log slope of branch over stream from −1/2",
        measure=_at_start("effective_scale", "batchnorm", _distance_from_inverse_root),
        rule=Bound("below", 0.1),
        preset="towers",
        given=TRAINED,
        given_words=TRAINED_WORDS,
    ),
    Claim(
        id="skipinit-is-a-small-scale",
        paper=PAPER,
        statement="SkipInit and Fixup are ways to a small effective scale: no larger than that of 1/√n.",
        paper_figure="Qualitative: the paper names both as implicit scalings.",
        measured="branch over stream at the end of training, root mean square over modules, over that of 1/√n",
        measure={
            arm_name(method): _typical_scale(method) / _typical_scale("inv_sqrt")
            for method in ("skipinit", "fixup")
        },
        rule=Bound("below", 1.0),
        preset="towers",
        given=TRAINED,
        given_words=TRAINED_WORDS,
        unit="×",
    ),
    Claim(
        id="scale-regularises",
        paper=PAPER,
        statement="The scale controls capacity: a network with 1/n ends less complex than one with 1/√n.",
        paper_figure="Abstract: scaling acts as capacity control, in terms of geometric complexity.",
        measured="log10 of the geometric complexity at the end of training, 1/n minus 1/√n",
        measure=_complexity("inv") - _complexity("inv_sqrt"),
        rule=Effect("below", floor=0.1),
        preset="towers",
        given=TRAINED,
        given_words=TRAINED_WORDS,
        unit="orders of magnitude",
        caveat="Both are trained for the same steps at the same rate.",
    ),
    Claim(
        id="complexity-hump",
        paper=PAPER,
        statement="Geometric complexity is unimodal in the scale: highest at a scale in between.",
        paper_figure=f"CIFAR-10 ({SECONDARY}; no number).",
        measured="log10 of the complexity at the inner scale that is highest in the other seeds, over each end's",
        measure={"the smallest scale": _hump(0), "the largest scale that trains": _hump(-1)},
        rule=Effect("above", floor=0.1),
        preset="sweep",
        given={"task": "sweep"},
        unit="orders of magnitude",
    ),
)
