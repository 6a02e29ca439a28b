"""The search itself at small scale: three anchor networks on the 8 x 8 digits, one search per strategy and seed.

Candidates of all searches are examined in turn. After the budget, the two best of each search are trained longer from
another seed and the better one is kept, as the paper re-ranks its ten best. Published layers
are trained in the same way for comparison.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import nn

from models import ConvNet, ResNet
from normviz.data import load_digits
from normviz.experiments.evolving_layers.candidates import REFERENCES, RIVAL, encode
from normviz.experiments.evolving_layers.knobs import (
    RERANK_STEPS,
    STRATEGIES,
    Knobs,
    arm_names,
    warm_start_graphs,
)
from normviz.frame import Frame, Value
from normviz.norms import EVONORM_GRAPHS, Candidate, Event, EvolutionSearch, SearchData

__all__ = ["anchors", "search"]

CHANNELS = (8, 16)
GROUPS, BATCH, LEARNING_RATE, STABILITY_STEPS = 4, 64, 0.1, 20
RERANK_TOP, RERANK_FACTOR = 2, 2
FIRST_CANDIDATES = 10
"""Candidates examined before the published layers are trained for comparison, so that something shows at once."""


def anchors() -> list[partial[nn.Module]]:
    """Builders of the three networks, in the order of :data:`candidates.ANCHORS`."""

    def build(
        network: type[nn.Module], channels: tuple[int, ...], norm: object, **options: object
    ) -> nn.Module:
        return network(1, channels, 10, norm_act=norm, **options)

    return [
        partial(build, ConvNet, CHANNELS),
        partial(build, ResNet, CHANNELS),
        partial(build, ConvNet, (*CHANNELS, CHANNELS[-1]), depthwise=True, strides=(1, 1, 2)),
    ]


def search(knobs: Knobs, device: torch.device) -> Iterator[Frame]:
    """Run every search to its budget, then re-rank."""
    names = arm_names(knobs)
    members = [(name, seed) for seed in knobs.seed_range() for name in names]
    yield from (Frame(0, name, seed) for name, seed in members)
    digits = load_digits("image").to(device)
    data = SearchData(digits.x_train, digits.y_train, digits.x_test, digits.y_test, BATCH)
    searches = {
        (STRATEGIES[strategy], seed): _search(strategy, seed, knobs, data)
        for strategy in knobs.strategies
        for seed in knobs.seed_range()
    }
    for index in range(knobs.budget):
        for name, seed in members:
            yield from _examined(searches[name, seed], name, seed, index)
        if index == min(FIRST_CANDIDATES, knobs.budget) - 1 and knobs.first_seed in knobs.seed_range():
            for reference in REFERENCES:
                for scores in _reference(reference, 0, knobs.trial_steps, data):
                    yield Frame(
                        index + 1, names[0], knobs.first_seed, _named(f"reference/{reference}", scores)
                    )

    longer = knobs.trial_steps * RERANK_FACTOR
    for seed in knobs.seed_range():
        for scores in _reference(RIVAL, seed + 1, longer, data):
            yield Frame(knobs.budget, names[0], seed, _named(f"reranked/{RIVAL}", scores))
    for name, seed in members:
        yield from _reranked(searches[name, seed], name, seed, knobs)


def _named(name: str, scores: tuple[float, ...] | None) -> dict[str, Value]:
    return {} if scores is None else {name: np.array(scores)}


def _search(strategy: str, seed: int, knobs: Knobs, data: SearchData) -> EvolutionSearch:
    return EvolutionSearch(
        anchors(),
        data,
        population_size=knobs.population,
        criterion="average" if strategy == "average" else "pareto",
        exploration=1.0 if strategy == "random" else knobs.exploration,
        n_nodes=knobs.nodes,
        batch_dependent=knobs.language == "B",
        seed=seed,
        initial=[EVONORM_GRAPHS[name] for name in warm_start_graphs(knobs.start, knobs.language)],
        steps=knobs.trial_steps,
        threshold=knobs.threshold,
        lr=LEARNING_RATE,
        stability_steps=STABILITY_STEPS,
        groups=GROUPS,
    )


def _examined(running: EvolutionSearch, name: str, seed: int, index: int) -> Iterator[Frame]:
    """One candidate: an empty frame per training step, then its verdict and the state of the search."""
    for item in running.examine():
        if not isinstance(item, Event):
            yield Frame(index, name, seed)
            continue
        values: dict[str, Value] = {"candidate": encode(item.graph, item.verdict, item.origin)}
        values |= {f"count/{verdict}": float(n) for verdict, n in running.counts.items()}
        if item.scores is not None:
            values["scores"] = np.array(item.scores)
        if running.best is not None:
            values["best"] = 100 * float(np.mean(running.best.scores))
        message = running.errors.get(item.index)
        event = (
            None if message is None else f"candidate {index + 1} was rejected because it raised: {message}"
        )
        yield Frame(index + 1, name, seed, values, event)


def _reference(name: str, seed: int, steps: int, data: SearchData) -> Iterator[tuple[float, ...] | None]:
    """A published layer trained as candidates are: None per training step, at last its accuracies."""
    judge = EvolutionSearch(
        anchors(),
        data,
        initial=[EVONORM_GRAPHS[name]],
        seed=seed,
        steps=steps,
        threshold=0.0,
        lr=LEARNING_RATE,
        stability_steps=0,
        max_norm=math.inf,
        groups=GROUPS,
    )
    for item in judge.examine():
        yield item.scores if isinstance(item, Event) else None


def _reranked(running: EvolutionSearch, name: str, seed: int, knobs: Knobs) -> Iterator[Frame]:
    """Retrain the best candidates longer from another seed; keep the better."""
    done: list[Candidate] = []
    expected = RERANK_TOP * len(running.anchors) * knobs.trial_steps * RERANK_FACTOR
    for taken, item in enumerate(running.rerank_steps(RERANK_TOP, RERANK_FACTOR)):
        if isinstance(item, Candidate):
            done.append(item)
        yield Frame(knobs.budget + RERANK_STEPS * taken // (expected + RERANK_TOP), name, seed)
    values: dict[str, Value] = {}
    if done:
        winner = max(done, key=lambda candidate: float(np.mean(candidate.scores)))
        values["reranked"] = np.array(winner.scores)
        values["reranked_candidate"] = encode(winner.graph, "accepted", "initial")
    yield Frame(knobs.total_steps(), name, seed, values)
