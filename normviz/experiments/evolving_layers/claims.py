"""What the paper of the page *Evolving layers* claims, measured here."""

from __future__ import annotations

import numpy as np

from normviz.claims import Claim, Measure, paired_difference
from normviz.experiments.evolving_layers.candidates import RIVAL, front, trials
from normviz.experiments.evolving_layers.knobs import STRATEGIES, Knobs, arm_name
from normviz.frame import Log
from normviz.norms import dominates

__all__ = ["CLAIMS"]

TAIL = 3
"""Evaluations that are averaged for a final accuracy."""
SMALL_BATCH = 4
"""Most images per worker that count as a small batch; the paper's figure ends at 4."""
PARETO, AVERAGE, RANDOM = (STRATEGIES[s] for s in ("pareto", "average", "random"))


def _difference(log: Log, arm: str, baseline: str) -> dict[int, float]:
    return paired_difference(log, "validation_accuracy", arm, baseline, window=TAIL)


def _drop(log: Log, knobs: Knobs, layer: str) -> dict[int, float]:
    """Accuracy lost from the largest to the smallest number of images per worker."""
    small, large = knobs.workers()[0], knobs.workers()[-1]
    if knobs.mode != "compare" or small > SMALL_BATCH or large == small:
        return {}
    return _difference(log, arm_name(layer, large), arm_name(layer, small))


def _s0_is_level(log: Log, knobs: Knobs) -> dict[int, float]:
    return {seed: abs(drop) for seed, drop in _drop(log, knobs, "S0").items()}


def _batch_norm_drops_more(log: Log, knobs: Knobs) -> dict[int, float]:
    batch, image = _drop(log, knobs, "BN-ReLU"), _drop(log, knobs, "S0")
    return {seed: batch[seed] - image[seed] for seed in batch.keys() & image.keys()}


def _against(layer: str, baseline: str, *, small: bool) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:
        size = knobs.workers()[0 if small else -1]
        if knobs.mode != "compare" or (small and size > SMALL_BATCH):
            return {}
        return _difference(log, arm_name(layer, size), arm_name(baseline, size))

    return measure


def _random_acceptance(log: Log, knobs: Knobs) -> dict[int, float]:
    """Share of accepted candidates among all random ones of random search, in percent."""
    if knobs.mode != "search":
        return {}
    shares: dict[int, float] = {}
    for seed in log.seeds:
        drawn = [t for t in trials(log) if t.arm == RANDOM and t.seed == seed and t.origin == "random"]
        if drawn:
            shares[seed] = 100 * sum(t.verdict == "accepted" for t in drawn) / len(drawn)
    return shares


def _front_dominance(log: Log, knobs: Knobs) -> dict[int, float]:
    """Share of random search's front that evolution's front dominates, minus the reverse."""
    if knobs.mode != "search" or not {PARETO, RANDOM} <= set(log.arms):
        return {}
    found = trials(log)
    result: dict[int, float] = {}
    for seed in log.seeds:
        ours, theirs = (
            [t.scores for t in front([t for t in found if t.arm == arm and t.seed == seed])]
            for arm in (PARETO, RANDOM)
        )
        if ours or theirs:
            result[seed] = _covered(theirs, ours) - _covered(ours, theirs)
    return result


def _covered(scores: list[tuple[float, ...]], by: list[tuple[float, ...]]) -> float:
    return float(np.mean([any(dominates(b, s) for b in by) for s in scores])) if scores else float(bool(by))


def _reranked(log: Log, arm: str) -> dict[int, float]:
    """Worst accuracy over the anchors, in percent, of the layer that a search kept."""
    return {e.seed: 100 * float(e.value.min()) for e in log.arrays("reranked") if e.arm == arm}


def _mean_reranked(log: Log, arm: str) -> dict[int, float]:
    return {e.seed: 100 * float(e.value.mean()) for e in log.arrays("reranked") if e.arm == arm}


def _found_against_batch_norm(log: Log, knobs: Knobs) -> dict[int, float]:
    if knobs.mode != "search":
        return {}
    found = _mean_reranked(log, PARETO)
    usual = {e.seed: 100 * float(e.value.mean()) for e in log.arrays(f"reranked/{RIVAL}")}
    return {seed: found[seed] - usual[seed] for seed in found.keys() & usual.keys()}


def _pareto_against_average(log: Log, knobs: Knobs) -> dict[int, float]:
    if knobs.mode != "search":
        return {}
    pareto, average = _reranked(log, PARETO), _reranked(log, AVERAGE)
    return {seed: pareto[seed] - average[seed] for seed in pareto.keys() & average.keys()}


ROBUST = "ResNet-50 on ImageNet, 128 down to 4 images per worker: S0 level, BN-ReLU falls (curves)."
MANY = "ResNets, MobileNets, EfficientNets, Mask R-CNN, BigGAN: better in many cases (abstract)."
TINY = "On 8 × 8 digits all layers end within a few points of each other."
SMALL_SEARCH = "A few hundred candidates; the paper's search ran two days on 5000 workers."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="s0-level-over-batch-sizes",
        paper="evonorm",
        statement="EvoNorm-S0 does not care how many images a worker has.",
        paper_figure=ROBUST,
        measured="|accuracy at the most images per worker − at the fewest| of S0",
        measure=_s0_is_level,
        threshold=1.0,
        unit="points",
        needs=f"S0 at {SMALL_BATCH} or fewer images per worker and at more",
    ),
    Claim(
        id="batch-norm-drops-more",
        paper="evonorm",
        statement="Batch norm breaks with few images per worker, S0 does not.",
        paper_figure=ROBUST,
        measured="accuracy that BN-ReLU loses from the most to the fewest images per worker, minus what S0 loses",
        measure=_batch_norm_drops_more,
        side="above",
        unit="points",
        needs=f"BN-ReLU and S0 at {SMALL_BATCH} or fewer images per worker and at more",
    ),
    *(
        Claim(
            id=f"s0-beats-{short}-at-small-batches",
            paper="evonorm",
            statement=f"With few images per worker S0 is better than {name}.",
            paper_figure=ROBUST,
            measured=f"accuracy of S0 minus {name} at the fewest images per worker",
            measure=_against("S0", name, small=True),
            side="above",
            unit="points",
            needs=f"S0 and {name} at {SMALL_BATCH} or fewer images per worker",
            caveat=TINY,
        )
        for short, name in (("batch-norm", "BN-ReLU"), ("group-norm", "GN-ReLU"))
    ),
    Claim(
        id="b0-at-least-batch-norm",
        paper="evonorm",
        statement="EvoNorm-B0 is at least as good as batch norm with ReLU.",
        paper_figure=MANY,
        measured="accuracy of B0 minus BN-ReLU at the most images per worker (a point is about 4 of 449 digits)",
        measure=_against("B0", "BN-ReLU", small=False),
        threshold=-1.0,
        side="above",
        unit="points",
        needs="B0 and BN-ReLU",
        caveat=TINY,
    ),
    Claim(
        id="s0-at-least-group-norm",
        paper="evonorm",
        statement="EvoNorm-S0 is better than group norm with ReLU.",
        paper_figure=MANY,
        measured="accuracy of S0 minus GN-ReLU at the most images per worker",
        measure=_against("S0", "GN-ReLU", small=False),
        side="above",
        unit="points",
        needs="S0 and GN-ReLU",
        caveat=TINY,
    ),
    Claim(
        id="random-layers-fail",
        paper="evonorm",
        statement="Random layers almost always fail: rejection removes most candidates.",
        paper_figure="Rates unconfirmed; “exceedingly sparse” space of layers.",
        measured="share of random search's candidates that pass all tests (threshold of 10 % set here)",
        measure=_random_acceptance,
        threshold=10.0,
        unit="%",
        needs="a search with random search among its strategies",
    ),
    Claim(
        id="evolution-beats-random",
        paper="evonorm",
        statement="Evolution finds better layers than random search with the same budget.",
        paper_figure="Curves of the search (qualitative).",
        measured="share of random search's Pareto front that evolution's front dominates, minus the reverse",
        measure=_front_dominance,
        side="above",
        needs="a search by evolution and by random search",
        caveat=SMALL_SEARCH,
    ),
    Claim(
        id="found-beats-batch-norm",
        paper="evonorm",
        statement="The search finds layers that outperform batch norm with ReLU.",
        paper_figure=MANY,
        measured="mean accuracy of the layer that evolution kept minus BN-ReLU, retrained longer from another seed",
        measure=_found_against_batch_norm,
        side="above",
        unit="points",
        needs="a search by evolution that accepted a layer, run to its end",
        caveat=SMALL_SEARCH,
    ),
    Claim(
        id="pareto-beats-average",
        paper="evonorm",
        statement="The Pareto criterion generalises better over architectures than the average.",
        paper_figure="Ablation of the search (qualitative, quoted second-hand).",
        measured="worst accuracy over the three networks, layer kept by Pareto minus layer kept by average",
        measure=_pareto_against_average,
        side="above",
        unit="points",
        needs="a search by both criteria that accepted layers, run to its end",
        caveat=SMALL_SEARCH,
    ),
)
