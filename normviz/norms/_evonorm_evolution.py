r"""Multi-objective evolution of normalization-activation layers with rejection (EvoNorm's search)."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from normviz.norms._evonorm_graph import Graph, Node
from normviz.norms._evonorm_layer import GraphLayer2d, layer_factory
from normviz.norms._evonorm_pareto import pareto_front
from normviz.norms._evonorm_rejection import (
    Anchor,
    Progress,
    SearchData,
    checked_anchors,
    checked_data,
    finish,
    quality_steps,
    stability_steps,
    train_on_anchors,
)
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["VERDICTS", "Candidate", "Event", "EvolutionSearch", "Proposal"]

VERDICTS = ("accepted", "constant", "nan", "quality", "stability", "error")
"""Every verdict a candidate can get: accepted, or the reason of its rejection."""

IDENTITY = Graph((Node("add", (0, 1)),))


class Candidate(NamedTuple):
    """An accepted layer and its accuracies, one per anchor. Calling it builds the layer: ``norm=candidate``.

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967, the layer
        search.
    """

    graph: Graph
    scores: tuple[float, ...]

    def __call__(self, num_features: int, groups: int = 8) -> GraphLayer2d:
        """Build the layer for ``num_features`` channels; ``groups`` is lowered to a divisor of them."""
        return layer_factory(self.graph, groups)(num_features)


@dataclass(frozen=True)
class Proposal:
    """A candidate about to be examined: step index, graph, origin and the graph it was mutated from."""

    index: int
    graph: Graph
    origin: str
    parent: Graph | None


@dataclass(frozen=True)
class Event:
    """One step of the search.

    Attributes:
        index: number of the step, from 0.
        graph: the candidate, dead nodes included.
        origin: "initial", "random" or "mutation".
        parent: the tournament's winner that was mutated, else None.
        verdict: one of :data:`VERDICTS`.
        scores: accuracies, one per anchor, of an accepted candidate, else None.

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967, the layer
        search.
    """

    index: int
    graph: Graph
    origin: str
    parent: Graph | None
    verdict: str
    scores: tuple[float, ...] | None


class _Outcome(NamedTuple):
    verdict: str
    scores: tuple[float, ...] | None = None
    message: str | None = None


class EvolutionSearch:
    r"""Evolve layers that train several architectures well.

    One candidate per :meth:`step`: propose (initial, random or a mutated tournament winner), reject the constant, the
    non-finite, the poor and the unstable, score the rest on every anchor and let them into an ageing population. A
    candidate that raises is rejected as "error" with its message in :attr:`errors`; if the anchors raise with a plain
    identity layer too, the exception is passed on, since then no candidate could succeed.

    Args:
        anchors: network builders ``anchor(norm) -> nn.Module``; ``norm(channels)`` returns one layer.
        data: training and validation samples.
        population_size: survivors kept, the oldest leave; 50 (the paper, as remembered: 2500). At least 1.
        tournament_fraction: part of the population in a tournament; 0.05 (as remembered).
        min_tournament: least tournament size while the population allows it; 3 (ours).
        criterion: "pareto": random member of the sample's Pareto front; "average": highest mean score.
        exploration: probability of a random graph instead of a mutation; 0.5 (as remembered). 1 is random search.
        n_nodes: intermediate nodes of random graphs; 10 (as remembered).
        batch_dependent: whether ``*_bwh`` aggregations belong to the language (B series) or not (S series).
        seed: of the evolution, of every initialisation and of the batches.
        initial: graphs examined first; they and their mutations use this search's language.
        steps: training steps of the quality test; 100 (paper).
        eval_steps: training steps behind the scores; None reuses the quality test's accuracies.
        threshold: least accuracy on every anchor; 0.2 (paper: twice chance).
        lr: of the training; 0.05 (ours).
        stability_steps: ascent steps; 20 (ours; paper 100).
        stability_lr: of the ascent; 0.1 (ours).
        max_norm: largest gradient norm allowed; 1e8 (as remembered).
        stability_batch: first training samples used by the stability test; 32 (ours).
        groups: of ``*_whg`` nodes, lowered to a divisor of each width; 8.

    Raises:
        ValueError: unknown criterion; exploration outside [0, 1]; tournament_fraction outside (0, 1]; a size, a count
            of steps or ``groups`` below 1 (stability_steps below 0); lr, stability_lr or max_norm <= 0; no anchors;
            empty or inconsistent data; an initial graph with batch statistics although batch_dependent is False.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> x = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> y = (x.mean((1, 2, 3)) > 0).long()
        >>> def anchor(norm):
        ...     return nn.Sequential(nn.Conv2d(1, 4, 3), norm(4), nn.Flatten(), nn.Linear(16, 2))
        >>> search = EvolutionSearch([anchor], SearchData(x, y, x, y), steps=5, initial=[IDENTITY])
        >>> event = search.step()
        >>> event.origin, event.index, len(search.history)
        ('initial', 0, 1)

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967, the layer
        search: Pareto tournament, ageing, rejection.
    """

    def __init__(
        self,
        anchors: Sequence[Anchor],
        data: SearchData,
        population_size: int = 50,
        tournament_fraction: float = 0.05,
        min_tournament: int = 3,
        criterion: str = "pareto",
        exploration: float = 0.5,
        n_nodes: int = 10,
        batch_dependent: bool = True,
        seed: int = 0,
        *,
        initial: Iterable[Graph] = (),
        steps: int = 100,
        eval_steps: int | None = None,
        threshold: float = 0.2,
        lr: float = 0.05,
        stability_steps: int = 20,
        stability_lr: float = 0.1,
        max_norm: float = 1e8,
        stability_batch: int = 32,
        groups: int = 8,
    ) -> None:
        self.anchors = checked_anchors(anchors)
        self.data = checked_data(data)
        self.population_size = check_integer("population_size", population_size, 1)
        self.tournament_fraction = check_real("tournament_fraction", tournament_fraction, 0, 1, low_open=True)
        self.min_tournament = check_integer("min_tournament", min_tournament, 1)
        self.criterion = check_choice("criterion", criterion, ("pareto", "average"))
        self.exploration = check_real("exploration", exploration, 0, 1)
        self.n_nodes = check_integer("n_nodes", n_nodes, 1)
        self.batch_dependent = batch_dependent
        self.seed = check_integer("seed", seed, 0)
        self.initial = tuple(Graph(graph.nodes, batch_dependent) for graph in initial)
        self.steps = check_integer("steps", steps, 1)
        self.eval_steps = self.steps if eval_steps is None else check_integer("eval_steps", eval_steps, 1)
        self.threshold = check_real("threshold", threshold)
        self.lr = check_real("lr", lr, 0, low_open=True)
        self.stability_steps = check_integer("stability_steps", stability_steps, 0)
        self.stability_lr = check_real("stability_lr", stability_lr, 0, low_open=True)
        self.max_norm = check_real("max_norm", max_norm, 0, low_open=True)
        self.stability_batch = check_integer("stability_batch", stability_batch, 1)
        self.groups = check_integer("groups", groups, 1)
        self._rng = np.random.default_rng(seed)
        self._population: deque[Candidate] = deque(maxlen=self.population_size)
        self._history: list[Event] = []
        self._cache: dict[Graph, _Outcome] = {}

    # ---- what there is to see

    @property
    def population(self) -> tuple[Candidate, ...]:
        """Accepted candidates still alive, oldest first, with their dead nodes."""
        return tuple(self._population)

    @property
    def history(self) -> list[Event]:
        """All events so far, first to last."""
        return list(self._history)

    @property
    def counts(self) -> dict[str, int]:
        """How many candidates got each verdict, all of :data:`VERDICTS` present."""
        counts = dict.fromkeys(VERDICTS, 0)
        for event in self._history:
            counts[event.verdict] += 1
        return counts

    @property
    def errors(self) -> dict[int, str]:
        """Message of every candidate that raised, by event index."""
        messages = ((event.index, self._cache[event.graph].message) for event in self._history)
        return {index: message for index, message in messages if message is not None}

    @property
    def accepted(self) -> list[Candidate]:
        """Distinct accepted candidates of the whole history, first seen first."""
        distinct = {event.graph: event.scores for event in self._history if event.scores is not None}
        return [Candidate(graph, scores) for graph, scores in distinct.items()]

    @property
    def front(self) -> list[Candidate]:
        """Pareto front of :attr:`accepted`."""
        accepted = self.accepted
        return [accepted[i] for i in pareto_front([candidate.scores for candidate in accepted])]

    @property
    def best(self) -> Candidate | None:
        """Accepted candidate with the highest mean score, the earliest on a tie; None while there is none."""
        return max(self.accepted, key=_mean_score, default=None)

    # ---- searching

    def step(self) -> Event:
        """Propose and examine one candidate."""
        *_, event = self.examine()
        assert isinstance(event, Event)
        return event

    def examine(self) -> Iterator[Proposal | Progress | Event]:
        """One step as it happens: a Proposal, a Progress per training or ascent step, at last the Event.

        Nothing is recorded before the Event: a generator that is closed or fails earlier leaves the search as it was,
        and the same candidate is proposed again next time.
        """
        before = self._rng.bit_generator.state
        try:
            proposal = self._propose()
            yield proposal
            outcome = self._cache.get(proposal.graph)
            if outcome is None:
                outcome = yield from self._examine(proposal.graph)
        except BaseException:
            self._rng.bit_generator.state = before
            raise
        event = Event(
            proposal.index, proposal.graph, proposal.origin, proposal.parent, outcome.verdict, outcome.scores
        )
        self._cache[event.graph] = outcome
        self._history.append(event)
        if outcome.scores is not None:
            self._population.append(Candidate(event.graph, outcome.scores))
        yield event

    def stream(self, n: int | None = None) -> Iterator[Event]:
        """Yield the next ``n`` events, each as soon as it is known; without ``n`` never end.

        Raises:
            ValueError: n < 1.
        """
        budget = itertools.count() if n is None else range(check_integer("n", n, 1))
        return (self.step() for _ in budget)

    def run(self, n: int, callback: Callable[[Event], object] | None = None) -> list[Event]:
        """Take ``n`` steps.

        Args:
            n: number of candidates to examine, at least 1.
            callback: called with every event; the search stops after the event for which it returns False.

        Raises:
            ValueError: n < 1.
        """
        events = []
        for event in self.stream(n):
            events.append(event)
            if callback is not None and callback(event) is False:
                break
        return events

    def _propose(self) -> Proposal:
        index = len(self._history)
        if index < len(self.initial):
            return Proposal(index, self.initial[index], "initial", None)
        if not self._population or self._rng.random() < self.exploration:
            return Proposal(
                index, Graph.random(self._rng, self.n_nodes, self.batch_dependent), "random", None
            )
        winner = self._tournament().graph
        return Proposal(index, winner.mutate(self._rng), "mutation", winner)

    def _tournament(self) -> Candidate:
        alive = len(self._population)
        size = min(alive, max(self.min_tournament, math.ceil(self.tournament_fraction * alive)))
        sample = [self._population[int(i)] for i in self._rng.choice(alive, size, replace=False)]
        if self.criterion == "average":
            return max(sample, key=_mean_score)
        front = pareto_front([candidate.scores for candidate in sample])
        return sample[front[int(self._rng.integers(len(front)))]]

    def _examine(self, graph: Graph) -> Generator[Progress, None, _Outcome]:
        try:
            return (yield from self._protocol(graph))
        except Exception as error:
            self._check_anchors()
            return _Outcome("error", None, f"{type(error).__name__}: {error}")

    def _protocol(self, graph: Graph) -> Generator[Progress, None, _Outcome]:
        """Constant and quality, then stability, then evaluation; the first failure decides."""
        quality = yield from quality_steps(
            graph, self.anchors, self.data, self.steps, self.threshold, self.seed, self.lr, self.groups
        )
        if quality.reason is not None:
            return _Outcome(quality.reason)
        stability = yield from self._stability(graph, self.stability_steps)
        if stability.reason is not None:
            return _Outcome(stability.reason)
        if self.eval_steps == self.steps:
            return _Outcome("accepted", quality.scores)
        norm = layer_factory(graph, self.groups)
        evaluation = yield from train_on_anchors(
            norm, self.anchors, self.data, self.eval_steps, self.seed, self.lr
        )
        if evaluation.reason is not None:
            return _Outcome(evaluation.reason)
        return _Outcome("accepted", evaluation.scores)

    def _stability(self, graph: Graph, steps: int) -> Generator[Progress, None, Any]:
        batch = self.data.x[: self.stability_batch], self.data.y[: self.stability_batch]
        return stability_steps(
            graph, self.anchors[0], batch, steps, self.stability_lr, self.max_norm, self.seed, self.groups
        )

    def _check_anchors(self) -> None:
        """Train the anchors with a plain identity layer: an error of the anchors or of the data is raised here."""
        norm = layer_factory(IDENTITY, self.groups)
        finish(train_on_anchors(norm, self.anchors, self.data, 1, self.seed, self.lr))
        finish(self._stability(IDENTITY, 1))

    # ---- re-ranking

    def rerank(
        self,
        top: int = 10,
        keep: int = 3,
        factor: int = 5,
        data: SearchData | None = None,
        seed: int | None = None,
    ) -> list[Candidate]:
        """Retrain the best candidates longer and keep the best of them.

        Args:
            top: distinct accepted candidates of the whole history to retrain, by mean score; 10 (paper).
            keep: how many to return; 3 (paper).
            factor: multiple of the search's training steps; 5 (ours).
            data: held-out task; None: the search's own.
            seed: None: the search's seed + 1.

        Returns:
            Candidates with their new scores, best mean first. One whose longer training is not finite is left out.

        Raises:
            ValueError: top, keep or factor < 1, a negative seed, inconsistent data.
        """
        check_integer("keep", keep, 1)
        candidates = [
            item for item in self.rerank_steps(top, factor, data, seed) if isinstance(item, Candidate)
        ]
        return sorted(candidates, key=_mean_score, reverse=True)[:keep]

    def rerank_steps(
        self, top: int = 10, factor: int = 5, data: SearchData | None = None, seed: int | None = None
    ) -> Iterator[Progress | Candidate]:
        """The retraining of :meth:`rerank` as it happens: a Progress per step, a Candidate when one is done."""
        check_integer("top", top, 1)
        check_integer("factor", factor, 1)
        seed = self.seed + 1 if seed is None else check_integer("seed", seed, 0)
        data = self.data if data is None else checked_data(data)
        return self._rerank_steps(top, self.eval_steps * factor, data, seed)

    def _rerank_steps(
        self, top: int, steps: int, data: SearchData, seed: int
    ) -> Iterator[Progress | Candidate]:
        for graph, _ in sorted(self.accepted, key=_mean_score, reverse=True)[:top]:
            norm = layer_factory(graph, self.groups)
            report = yield from train_on_anchors(norm, self.anchors, data, steps, seed, self.lr)
            if not report.rejected:
                yield Candidate(graph, report.scores)

    # ---- saving

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state: random generator, history, population and cache. Settings are the constructor's."""
        return {
            "rng": self._rng.bit_generator.state,
            "history": [
                {
                    "index": event.index,
                    "graph": event.graph.to_dict(),
                    "origin": event.origin,
                    "parent": None if event.parent is None else event.parent.to_dict(),
                    "verdict": event.verdict,
                    "scores": _listed(event.scores),
                }
                for event in self._history
            ],
            "population": [{"graph": g.to_dict(), "scores": list(scores)} for g, scores in self._population],
            "cache": [
                {
                    "graph": graph.to_dict(),
                    "verdict": o.verdict,
                    "scores": _listed(o.scores),
                    "message": o.message,
                }
                for graph, o in self._cache.items()
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken: the same events follow as without the interruption."""
        history = [
            Event(
                entry["index"],
                Graph.from_dict(entry["graph"]),
                entry["origin"],
                None if entry["parent"] is None else Graph.from_dict(entry["parent"]),
                entry["verdict"],
                _tupled(entry["scores"]),
            )
            for entry in state["history"]
        ]
        population = [Candidate(Graph.from_dict(c["graph"]), tuple(c["scores"])) for c in state["population"]]
        cache = {
            Graph.from_dict(c["graph"]): _Outcome(c["verdict"], _tupled(c["scores"]), c["message"])
            for c in state["cache"]
        }
        self._rng.bit_generator.state = state["rng"]
        self._history = history
        self._population = deque(population, maxlen=self.population_size)
        self._cache = cache


def _mean_score(candidate: Candidate) -> float:
    return sum(candidate.scores) / len(candidate.scores)


def _listed(scores: tuple[float, ...] | None) -> list[float] | None:
    return None if scores is None else list(scores)


def _tupled(scores: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if scores is None else tuple(scores)
