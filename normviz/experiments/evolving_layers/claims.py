"""What the paper of the page *Evolving layers* claims, measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from normviz.claims import Bound, Claim, Effect, Identity
from normviz.experiments.evolving_layers.candidates import RIVAL, front, trials
from normviz.experiments.evolving_layers.knobs import STRATEGIES, Knobs, arm_name
from normviz.experiments.pools import TEST_DIGITS
from normviz.frame import Log
from normviz.measures import ArmName, Measure, absolute, derived, scalar
from normviz.norms import dominates

__all__ = ["CLAIMS"]

TAIL = 3
"""Evaluations that are averaged for a final accuracy."""
HELD_OUT_SIGNALS = 1000
"""Signals that are held out: the resolution of an accuracy is one of them."""
SMALL_BATCH = 4
"""Most images that count as a small batch; the paper's figure ends at 4 images per worker."""
PARETO, AVERAGE, RANDOM = (STRATEGIES[s] for s in ("pareto", "average", "random"))


def _accuracy(layer: str, *, small: bool = False) -> Measure:
    """At the most images, or at the fewest."""

    def arm(knobs: Knobs) -> str:
        return arm_name(layer, knobs.workers()[0 if small else -1])

    named: ArmName = arm
    return scalar("validation_accuracy", named, window=TAIL, bad=-math.inf)


def _lost(layer: str) -> Measure:
    """Accuracy lost from the most to the fewest images."""
    return _accuracy(layer) - _accuracy(layer, small=True)


def _better(layer: str, *rivals: str, small: bool = False) -> Measure | Mapping[str, Measure]:
    found = {r: _accuracy(layer, small=small) - _accuracy(r, small=small) for r in rivals}
    return found if len(found) > 1 else found[rivals[0]]


def _searched(log: Log, knobs: Knobs, *arms: str) -> list[int]:
    """Seeds in which these searches have examined all their candidates."""
    reached = log.members
    return [seed for seed in log.seeds if all(reached.get((arm, seed), 0) >= knobs.budget for arm in arms)]


def _random_acceptance(log: Log, knobs: Any) -> Mapping[int, float]:
    """Share of accepted candidates among all random ones of random search, in percent."""
    drawn = [t for t in trials(log) if t.arm == RANDOM and t.origin == "random"]
    return {
        seed: 100 * float(np.mean([t.verdict == "accepted" for t in drawn if t.seed == seed]))
        for seed in _searched(log, knobs, RANDOM)
        if any(t.seed == seed for t in drawn)
    }


def _training_saved(log: Log, knobs: Any) -> Mapping[int, float]:
    """Share of the training on the anchors that random search did not need, in percent."""
    table = log.scalars("training_saved")
    last = table[(table["arm"] == RANDOM) & (table["step"] == knobs.budget)]
    return dict(zip(last["seed"].tolist(), last["value"].tolist(), strict=True))


def _front_dominance(log: Log, knobs: Any) -> Mapping[int, float]:
    """Share of random search's front that evolution's front dominates, minus the reverse."""
    found = trials(log)
    result: dict[int, float] = {}
    for seed in _searched(log, knobs, PARETO, RANDOM):
        ours, theirs = (
            [t.scores for t in front([t for t in found if t.arm == arm and t.seed == seed])]
            for arm in (PARETO, RANDOM)
        )
        if ours or theirs:
            result[seed] = _covered(theirs, ours) - _covered(ours, theirs)
    return result


def _covered(scores: list[tuple[float, ...]], by: list[tuple[float, ...]]) -> float:
    return float(np.mean([any(dominates(b, s) for b in by) for s in scores])) if scores else float(bool(by))


def _kept(name: str, arm: str | None, *, worst: bool = False) -> Measure:
    """Mean or worst accuracy over networks, in percent, of what was trained after the last candidate.

    Args:
        name: of the array of accuracies.
        arm: the search; None: whichever arm the frames name (a published layer is trained once per seed).
        worst: the worst instead of the mean.
    """

    def compute(log: Log, knobs: Any) -> Mapping[int, float]:  # noqa: ARG001
        entries = [e for e in log.arrays(name) if arm is None or e.arm == arm]
        return {e.seed: 100 * float(e.value.min() if worst else e.value.mean()) for e in entries}

    return derived(compute, arms=() if arm is None else (arm,))


def _has_small(sizes: tuple[str, ...]) -> bool:
    return min(map(int, sizes)) <= SMALL_BATCH


def _has_small_and_large(sizes: tuple[str, ...]) -> bool:
    return _has_small(sizes) and len(sizes) > 1


COMPARE, SEARCH = {"mode": "compare"}, {"mode": "search"}
BOTH_SIZES = {**COMPARE, "batch_sizes": _has_small_and_large}
BOTH_SIZES_WORDS = f"{SMALL_BATCH} or fewer images, and more"
ROBUST = "ResNet-50 on ImageNet, 128 down to 4 images per worker: S0 level, BN-ReLU falls (curves)."
MANY = "ResNets, MobileNets, EfficientNets, Mask R-CNN, BigGAN: better in many cases (abstract)."
TINY = "On 8 × 8 digits all layers end within a few points of each other."
SMALL_SEARCH = "A few hundred candidates; the paper's search ran two days on 5000 workers."
ONE, ONE_SIGNAL = 100 / TEST_DIGITS, 100 / HELD_OUT_SIGNALS

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="s0-level-over-batch-sizes",
        paper="evonorm",
        statement="EvoNorm-S0 does not care how many images a worker has.",
        paper_figure=ROBUST,
        measured="|accuracy at the most images per worker − at the fewest| of S0",
        measure=absolute(_lost("S0")),
        rule=Identity("below", 1.0),
        preset="layers",
        given={**BOTH_SIZES, "shrink": "workers"},
        given_words=BOTH_SIZES_WORDS,
        unit="points",
        caveat="By construction: S0 takes no statistic over several images.",
    ),
    Claim(
        id="s0-level-as-batches-shrink",
        paper="evonorm",
        statement="EvoNorm-S0 loses nothing when the whole batch shrinks and the learning rate with it.",
        paper_figure=ROBUST,
        measured="accuracy that S0 loses from the largest to the smallest batch",
        measure=_lost("S0"),
        rule=Bound("below", 1.0),
        preset="shrinking",
        given={**BOTH_SIZES, "shrink": "batch"},
        given_words=BOTH_SIZES_WORDS,
        unit="points",
        resolution=ONE_SIGNAL,
    ),
    Claim(
        id="batch-norm-drops-more",
        paper="evonorm",
        statement="Batch norm breaks with few images per worker, S0 does not.",
        paper_figure=ROBUST,
        measured="accuracy that BN-ReLU loses from the most to the fewest images, minus what S0 loses",
        measure=_lost("BN-ReLU") - _lost("S0"),
        rule=Effect("above", floor=1.0),
        preset="shrinking",
        given=BOTH_SIZES,
        given_words=BOTH_SIZES_WORDS,
        unit="points",
        resolution=2 * ONE_SIGNAL,
    ),
    Claim(
        id="s0-best-at-small-batches",
        paper="evonorm",
        statement="With few images per worker S0 is better than batch norm and group norm with ReLU.",
        paper_figure=ROBUST,
        measured="accuracy of S0 minus each rival's at the fewest images",
        measure=_better("S0", "BN-ReLU", "GN-ReLU", small=True),
        rule=Effect("above", floor=0.5),
        preset="shrinking",
        given={**COMPARE, "batch_sizes": _has_small},
        given_words=f"{SMALL_BATCH} or fewer images",
        unit="points",
        resolution=ONE_SIGNAL,
        caveat="Signals of 40 values, and three convolutions.",
    ),
    Claim(
        id="b0-at-least-batch-norm",
        paper="evonorm",
        statement="EvoNorm-B0 is at least as good as batch norm with ReLU.",
        paper_figure=MANY,
        measured="accuracy of B0 minus BN-ReLU at the most images (a point is about 4 of 449 digits)",
        measure=_better("B0", "BN-ReLU"),
        rule=Bound("above", -1.0),
        preset="best-rates",
        given=COMPARE,
        unit="points",
        resolution=ONE,
        caveat=TINY,
    ),
    Claim(
        id="s0-at-least-group-norm",
        paper="evonorm",
        statement="EvoNorm-S0 is better than group norm with ReLU.",
        paper_figure=MANY,
        measured="accuracy of S0 minus GN-ReLU at the most images",
        measure=_better("S0", "GN-ReLU"),
        rule=Effect("above", floor=0.5),
        preset="best-rates",
        given=COMPARE,
        unit="points",
        resolution=ONE,
        caveat=TINY,
    ),
    Claim(
        id="random-layers-fail",
        paper="evonorm",
        statement="Random layers almost always fail: rejection removes most candidates.",
        paper_figure="Rates unconfirmed; “exceedingly sparse” space of layers.",
        measured="share of random search's candidates that pass all tests (limit of 10 % set here)",
        measure=derived(_random_acceptance, arms=(RANDOM,)),
        rule=Bound("below", 10.0),
        preset="search",
        given=SEARCH,
        unit="%",
    ),
    Claim(
        id="rejection-saves-training",
        paper="evonorm",
        statement="Rejecting candidates early makes the search affordable.",
        paper_figure="Qualitative: candidates that cannot work are filtered out early.",
        measured="training steps that random search saves against training every candidate on all three networks",
        measure=derived(_training_saved, arms=(RANDOM,)),
        rule=Effect("above", floor=10.0, bar=50.0),
        preset="search",
        given=SEARCH,
        unit="%",
    ),
    Claim(
        id="evolution-beats-random",
        paper="evonorm",
        statement="Evolution finds better layers than random search with the same budget.",
        paper_figure="Curves of the search (qualitative).",
        measured="share of random search's Pareto front that evolution's front dominates, minus the reverse",
        measure=derived(_front_dominance, arms=(PARETO, RANDOM)),
        rule=Effect("above", floor=0.1),
        preset="search",
        given=SEARCH,
        caveat=SMALL_SEARCH,
    ),
    Claim(
        id="found-beats-batch-norm",
        paper="evonorm",
        statement="The search finds layers that outperform batch norm with ReLU.",
        paper_figure=MANY,
        measured="mean accuracy of the layer that evolution kept minus BN-ReLU, retrained longer from another seed",
        measure=_kept("reranked", PARETO) - _kept(f"reranked/{RIVAL}", None),
        rule=Effect("above", floor=1.0),
        preset="criteria",
        given=SEARCH,
        unit="points",
        resolution=ONE / 3,
        caveat=SMALL_SEARCH,
    ),
    Claim(
        id="found-transfers",
        paper="evonorm",
        statement="A layer that was found on some networks outperforms batch norm with ReLU on another one.",
        paper_figure="Found on CIFAR-10; better in many cases in ResNets, Mask R-CNN and BigGAN (abstract).",
        measured="accuracy of the layer that evolution kept minus BN-ReLU, in a wider and deeper residual network",
        measure=_kept("unseen", PARETO) - _kept(f"unseen/{RIVAL}", None),
        rule=Effect("above", floor=1.0),
        preset="criteria",
        given=SEARCH,
        unit="points",
        resolution=ONE,
        caveat=SMALL_SEARCH,
    ),
    Claim(
        id="pareto-beats-average",
        paper="evonorm",
        statement="The Pareto criterion generalises better over architectures than the average.",
        paper_figure="Ablation of the search (qualitative, quoted second-hand).",
        measured="worst accuracy over the three networks, layer kept by Pareto minus layer kept by average",
        measure=_kept("reranked", PARETO, worst=True) - _kept("reranked", AVERAGE, worst=True),
        rule=Effect("above", floor=1.0),
        preset="criteria",
        given=SEARCH,
        unit="points",
        resolution=ONE,
        caveat=SMALL_SEARCH,
    ),
)
