"""Candidates of the search as numbers in frames, and read back from a log; needs no PyTorch.

An event of the search becomes one array (:func:`encode`): a first row with verdict and origin, then one row per node of
the graph: operation and the ids it reads. As a line of text, for links, a graph is its live nodes in order
(:func:`to_code`): ``std_bwh(0) div(0,4) max(5,1)``, with 0 = x, 1 = zeros, 2 = v0, 3 = v1 and 4, 5, ... the nodes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from normviz.frame import Log
from normviz.norms import ARITIES, FIRST_NODE, Graph, Node, pareto_front
from normviz.validation import nearest

__all__ = [
    "ANCHORS",
    "MOST_OPERATIONS",
    "ORIGINS",
    "REFERENCES",
    "RIVAL",
    "VERDICTS",
    "WRITTEN_OUT",
    "Trial",
    "best",
    "encode",
    "formula",
    "from_code",
    "front",
    "operations",
    "population",
    "to_code",
    "trials",
]

VERDICTS = ("accepted", "constant", "nan", "quality", "stability", "error")
"""Verdicts by number, as in :data:`normviz.norms.evonorm_search.VERDICTS`."""
ORIGINS = ("initial", "random", "mutation")
REFERENCES = ("BN-ReLU", "B0", "S0")
"""Published layers that are trained as candidates are, for comparison."""
RIVAL = REFERENCES[0]
"""The one that is also trained as the re-ranked candidates are."""
ANCHORS = ("plain ConvNet", "residual", "depthwise")
"""The architectures on which every candidate is scored."""

MOST_OPERATIONS = 200
"""Most operations of a layer that is given as text, when it is written out; random ones of 16 nodes have up to 20."""
WRITTEN_OUT = 40
"""Most operations of a formula that is written in one piece; longer ones have a name for every part."""

_OPS = tuple(ARITIES)
_NODE = re.compile(r"(\w+)\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)")


@dataclass(frozen=True)
class Trial:
    """One candidate that was examined.

    Attributes:
        index: its number in its search, from 1.
        arm: the search's strategy.
        seed: the search's seed.
        graph: the candidate.
        verdict: one of :data:`VERDICTS`.
        origin: one of :data:`ORIGINS`.
        scores: accuracies, one per anchor, if it was accepted.
    """

    index: int
    arm: str
    seed: int
    graph: Graph
    verdict: str
    origin: str
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean accuracy over the anchors; 0 if it was rejected."""
        return sum(self.scores) / len(self.scores) if self.scores else 0.0


def encode(graph: Graph, verdict: str, origin: str) -> NDArray[np.float32]:
    """The array (1 + nodes, 3) that stands for an event; dead nodes are kept."""
    rows = [[VERDICTS.index(verdict), ORIGINS.index(origin), len(graph.nodes)]]
    for op, inputs in graph.nodes:
        rows.append([_OPS.index(op), inputs[0], inputs[1] if len(inputs) > 1 else -1])
    return np.array(rows, dtype=np.float32)


@lru_cache(maxsize=4096)
def _decoded(data: bytes) -> tuple[Graph, str, str]:
    rows = np.frombuffer(data, dtype=np.float32).reshape(-1, 3).astype(int)
    nodes = [Node(_OPS[op], (a,) if b < 0 else (a, b)) for op, a, b in rows[1:].tolist()]
    return Graph(tuple(nodes)), VERDICTS[rows[0, 0]], ORIGINS[rows[0, 1]]


def trials(log: Log, step: int | None = None) -> list[Trial]:
    """All candidates examined so far, or up to a step, in order of arrival."""
    scores = {(e.arm, e.seed, e.step): tuple(e.value.tolist()) for e in log.array_history("scores")}
    found = []
    for entry in log.array_history("candidate"):
        if step is None or entry.step <= step:
            graph, verdict, origin = _decoded(np.ascontiguousarray(entry.value, dtype=np.float32).tobytes())
            key = (entry.arm, entry.seed, entry.step)
            found.append(
                Trial(entry.step, entry.arm, entry.seed, graph, verdict, origin, scores.get(key, ()))
            )
    return found


def population(found: Sequence[Trial], size: int) -> set[tuple[str, int, int]]:
    """Who is alive: (arm, seed, index) of the last ``size`` accepted candidates of every search."""
    alive: dict[tuple[str, int], list[int]] = {}
    for trial in found:
        if trial.scores:
            alive.setdefault((trial.arm, trial.seed), []).append(trial.index)
    return {(arm, seed, index) for (arm, seed), members in alive.items() for index in members[-size:]}


def front(found: Sequence[Trial]) -> list[Trial]:
    """The Pareto front of the distinct accepted candidates of one search."""
    distinct = list({trial.graph: trial for trial in found if trial.scores}.values())
    return [distinct[i] for i in pareto_front([trial.scores for trial in distinct])]


def best(log: Log, step: int | None = None) -> Trial | None:
    """The accepted candidate with the highest mean accuracy of all searches, the earliest on a tie, or None."""
    return max((t for t in trials(log, step) if t.scores), key=lambda t: t.mean, default=None)


def operations(graph: Graph) -> int:
    """Operations of the layer when it is written out: a part that is read twice counts twice.

    It can double with every node of a graph, so it is counted, never written, before it is known to be small.
    """
    counts = [0] * FIRST_NODE
    for _, inputs in graph.canonical().nodes:
        counts.append(1 + sum(counts[i] for i in inputs))
    return counts[-1]


def formula(graph: Graph) -> str:
    """The layer as text: nested where that is short, else one node after another (:func:`to_code`)."""
    return graph.to_formula() if operations(graph) <= WRITTEN_OUT else to_code(graph)


def to_code(graph: Graph) -> str:
    """The live nodes of a graph as one line of text."""
    return " ".join(f"{op}({','.join(map(str, inputs))})" for op, inputs in graph.canonical().nodes)


def from_code(code: str) -> Graph:
    """The graph that a line of text describes; inverse of :func:`to_code`.

    Raises:
        ValueError: the text is no such line; the message says what is wrong with it.
    """
    rest = _NODE.sub("", code).strip()
    if rest or not code.strip():
        raise ValueError(
            f"a layer is written as nodes op(id) or op(id,id) after another, like 'std_bwh(0) div(0,4) max(5,1)'; "
            f"{rest[:40]!r} is none."
            if rest
            else "a layer needs at least one node, like 'max(0,1)'."
        )
    nodes = []
    for op, *inputs in _NODE.findall(code):
        if op not in ARITIES:
            close = nearest(op, ARITIES)
            hint = f" Nearest: {', '.join(close)}." if close else ""
            raise ValueError(f"there is no operation {op!r}.{hint}")
        nodes.append(Node(op, tuple(int(i) for i in inputs if i)))
    return Graph(tuple(nodes))
