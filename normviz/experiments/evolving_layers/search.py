"""The search itself at small scale: three anchor networks on the 8 x 8 digits, one search per strategy and seed.

All searches advance side by side, one training step each in turn, so that each examines its k-th candidate while the
others do. After the budget, the two best of each search are trained longer from another seed and the better one is
kept, as the paper re-ranks its ten best; the kept one is then trained in a network that no candidate has seen.
Published layers are trained in the same ways for comparison.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial

import numpy as np
import torch
from torch import nn

from normviz.data import load_digits
from normviz.experiments.evolving_layers.candidates import ANCHORS, REFERENCES, RIVAL, encode
from normviz.experiments.evolving_layers.knobs import (
    CANDIDATES,
    RERANK_STEPS,
    STRATEGIES,
    Knobs,
    warm_start_graphs,
)
from normviz.frame import Frame, Value
from normviz.models import ConvNet, ResNet
from normviz.norms import EVONORM_GRAPHS, Candidate, Event, EvolutionSearch, Graph, SearchData
from normviz.norms.evonorm_search import Progress
from normviz.training import Trainee, interleave

__all__ = ["anchors", "search"]

CHANNELS = (8, 16)
UNSEEN_CHANNELS, UNSEEN_DEPTH = (16, 32), 2
GROUPS, BATCH, LEARNING_RATE, STABILITY_STEPS = 4, 64, 0.1, 20
RERANK_TOP, RERANK_FACTOR = 2, 2
FIRST_CANDIDATES = 10
"""Candidates examined before the published layers are trained for comparison, so that something shows at once."""
FINE = 10_000
"""Positions of one candidate on the axis that is interleaved: more than the training steps that it can take."""


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


def unseen(norm: object) -> nn.Module:
    """A network that no candidate is judged on: residual, twice as wide and twice as deep as the anchor."""
    return ResNet(1, UNSEEN_CHANNELS, 10, depths=UNSEEN_DEPTH, norm_act=norm)  # type: ignore[arg-type]


def search(knobs: Knobs, device: torch.device) -> Iterator[Frame]:
    """Run every search to its budget, then re-rank."""
    names = [STRATEGIES[strategy] for strategy in knobs.strategies]
    members = [(strategy, seed) for seed in knobs.seed_range() for strategy in knobs.strategies]
    yield from (Frame(0, STRATEGIES[strategy], seed) for strategy, seed in members)

    @cache
    def data(seed: int) -> SearchData:
        digits = load_digits("image", seed=seed).to(device)
        return SearchData(digits.x_train, digits.y_train, digits.x_test, digits.y_test, BATCH)

    searches = [_Searching(STRATEGIES[s], seed, _search(s, seed, knobs, data(seed))) for s, seed in members]
    trainees: list[_Paced] = list(searches)
    if knobs.first_seed in knobs.seed_range():
        trainees.append(_References(names[0], knobs, data(knobs.first_seed)))
    for frame in interleave(trainees, until=knobs.budget * FINE, stride=_stride, progress=CANDIDATES):
        yield _of_candidate(frame, searches)

    last: list[_Finishing] = [
        _RivalRetrained(names[0], seed, knobs, data(seed)) for seed in knobs.seed_range()
    ]
    last += [_Reranking(s, knobs, data(s.seed)) for s in searches]
    whole = max(trainee.steps for trainee in last)

    def found(trainee: Trainee, at: int) -> Mapping[str, Value] | None:
        assert isinstance(trainee, _Finishing)
        return trainee.found if at >= whole else None

    for frame in interleave(last, until=whole, evaluate=found, stride=_stride):
        yield Frame(knobs.budget + RERANK_STEPS * frame.step // whole, frame.arm, frame.seed, frame.values)


def _of_candidate(frame: Frame, searches: Sequence[_Searching]) -> Frame:
    """The frame with candidates for positions: what is known of a candidate belongs to its number, from 1."""
    if not frame.values:
        return Frame(frame.step // FINE, frame.arm, frame.seed)
    event = next((s.take_message() for s in searches if (s.arm, s.seed) == (frame.arm, frame.seed)), None)
    return Frame(frame.step // FINE + 1, frame.arm, frame.seed, frame.values, event)


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


class _Paced:
    """A trainee that says how far its last step went."""

    def __init__(self, arm: str, seed: int) -> None:
        self.arm, self.seed, self.stride = arm, seed, 1

    def step(self, at: int) -> Mapping[str, Value]:
        """See :class:`normviz.training.Trainee`."""
        raise NotImplementedError


def _stride(trainee: Trainee) -> int:
    assert isinstance(trainee, _Paced)
    return trainee.stride


class _Searching(_Paced):
    """A search as a trainee: a step of it is one training step of the candidate that is examined."""

    def __init__(self, arm: str, seed: int, running: EvolutionSearch) -> None:
        super().__init__(arm, seed)
        self.running = running
        self._examined = iter(running.examine())
        self._trained = 0
        self._message: str | None = None

    def step(self, at: int) -> Mapping[str, Value]:
        item = next(self._examined)
        self.stride = 1
        if isinstance(item, Progress):
            self._trained += item.stage != "stability"
        if not isinstance(item, Event):
            return {}
        self.stride = FINE - at % FINE
        self._examined = iter(self.running.examine())
        running = self.running
        values: dict[str, Value] = {"candidate": encode(item.graph, item.verdict, item.origin)}
        values |= {f"count/{verdict}": float(n) for verdict, n in running.counts.items()}
        whole = len(running.history) * len(running.anchors) * running.steps
        values["training_saved"] = 100 * (1 - self._trained / whole)
        if item.scores is not None:
            values["scores"] = np.array(item.scores)
        if running.best is not None:
            values["best"] = 100 * float(np.mean(running.best.scores))
        message = running.errors.get(item.index)
        if message is not None:
            self._message = f"candidate {item.index + 1} was rejected because it raised: {message}"
        return values

    def take_message(self) -> str | None:
        """What there is to tell of the candidate that was examined last, once."""
        message, self._message = self._message, None
        return message


def _trained(
    graph: Graph, networks: Sequence[object], seed: int, steps: int, data: SearchData
) -> Iterator[tuple[float, ...] | None]:
    """A layer trained as candidates are, but never rejected: None per training step, at last its accuracies.

    A layer whose training breaks has no accuracies: the last item is None too.
    """
    judge = EvolutionSearch(
        networks,  # type: ignore[arg-type]
        data,
        initial=[graph],
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


class _References(_Paced):
    """The published layers as a trainee of the first seed, beginning with the tenth candidate."""

    def __init__(self, arm: str, knobs: Knobs, data: SearchData) -> None:
        super().__init__(arm, knobs.first_seed)
        self._begin = (min(FIRST_CANDIDATES, knobs.budget) - 1) * FINE
        self._end = knobs.budget * FINE
        self._items = (
            {} if scores is None else {f"reference/{name}": np.array(scores)}
            for name in REFERENCES
            for scores in _trained(EVONORM_GRAPHS[name], anchors(), 0, knobs.trial_steps, data)
        )

    def step(self, at: int) -> Mapping[str, Value]:
        if at < self._begin:
            self.stride = self._begin - at
            return {}
        self.stride = 1
        values: Mapping[str, Value] | None = next(self._items, None)
        if values is None:
            self.stride = self._end
            return {}
        return values


class _Finishing(_Paced):
    """A trainee of the time after the last candidate; a step is a training step, what it found is told at the end."""

    def __init__(self, arm: str, seed: int, steps: int) -> None:
        super().__init__(arm, seed)
        self.steps = steps
        self.found: dict[str, Value] = {}
        self._items = self._work()

    def _work(self) -> Iterator[object]:
        raise NotImplementedError

    def step(self, at: int) -> Mapping[str, Value]:  # noqa: ARG002
        """One training step; where nothing is left to train, on to the end."""
        self.stride = 1
        if next(self._items, self) is self:
            self.stride = self.steps * FINE
        return {}

    def _keep(self, name: str, items: Iterator[tuple[float, ...] | None]) -> Iterator[object]:
        for scores in items:
            if scores is not None:
                self.found[name] = np.array(scores)
            yield scores


class _RivalRetrained(_Finishing):
    """The rival of the re-ranked candidates, trained as long and from the same seed, also in the unseen network."""

    def __init__(self, arm: str, seed: int, knobs: Knobs, data: SearchData) -> None:
        self._data, self._longer = data, knobs.trial_steps * RERANK_FACTOR
        super().__init__(arm, seed, (len(ANCHORS) + 1) * self._longer + 4)

    def _work(self) -> Iterator[object]:
        graph, seed, longer = EVONORM_GRAPHS[RIVAL], self.seed + 1, self._longer
        yield from self._keep(f"reranked/{RIVAL}", _trained(graph, anchors(), seed, longer, self._data))
        yield from self._keep(f"unseen/{RIVAL}", _trained(graph, [unseen], seed, longer, self._data))


class _Reranking(_Finishing):
    """The best candidates of a search trained longer from another seed; the better is kept and tried elsewhere."""

    def __init__(self, searched: _Searching, knobs: Knobs, data: SearchData) -> None:
        self._running, self._data = searched.running, data
        self._longer = knobs.trial_steps * RERANK_FACTOR
        steps = (RERANK_TOP * len(ANCHORS) + 1) * self._longer + RERANK_TOP + 4
        super().__init__(searched.arm, searched.seed, steps)

    def _work(self) -> Iterator[object]:
        done: list[Candidate] = []
        for item in self._running.rerank_steps(RERANK_TOP, RERANK_FACTOR):
            if isinstance(item, Candidate):
                done.append(item)
            yield item
        if not done:
            return
        winner = max(done, key=lambda candidate: float(np.mean(candidate.scores)))
        self.found["reranked"] = np.array(winner.scores)
        self.found["reranked_candidate"] = encode(winner.graph, "accepted", "initial")
        yield from self._keep(
            "unseen", _trained(winner.graph, [unseen], self.seed + 1, self._longer, self._data)
        )
