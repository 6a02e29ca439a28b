r"""The search space of EvoNorm: normalization-activation layers as computation graphs.

Node ids: 0 = input x, 1 = constant zeros, 2 = v0 (trainable per channel, init 0), 3 = v1 (init 1), then 4, 5, ... the
intermediate nodes in list order, each reading smaller ids only. The last node is the output. Nodes that the output
does not reach are allowed: they cost nothing, and a later mutation may connect them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from normviz.norms._evonorm_language import ARITIES, is_batch_op, ops_of
from normviz.validation import check_choice, check_integer

__all__ = ["EVONORM_GRAPHS", "FIRST_NODE", "LEAVES", "Graph", "Node"]

LEAVES = ("x", "0", "v0", "v1")
"""Names of the ids 0 to 3."""

FIRST_NODE = len(LEAVES)
"""Id of the first intermediate node."""


class Node(NamedTuple):
    """One intermediate node: the name of its operation and the ids it reads.

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967, the search
        space.
    """

    op: str
    inputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """An immutable candidate layer.

    Two graphs are equal (and hash alike) when their canonical nodes are: storage order, dead nodes and
    ``batch_dependent`` do not matter.

    Args:
        nodes: the intermediate nodes, ids 4, 5, ...; (op, inputs) pairs are accepted.
        batch_dependent: whether batch aggregations (``*_bwh``) may occur, now and after mutation.

    Raises:
        ValueError: no node, unknown op, wrong number of inputs, an id that is negative or not smaller than the node's
            own, or a batch aggregation although ``batch_dependent`` is False.

    Example:
        >>> relu = Graph([("max", (0, 1))])
        >>> relu.to_formula()
        'max(x, 0)'

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967, the search
        space.
    """

    nodes: tuple[Node, ...]
    batch_dependent: bool = True

    def __post_init__(self) -> None:
        nodes = tuple(
            _checked_node(i, node, self.batch_dependent) for i, node in enumerate(self.nodes, FIRST_NODE)
        )
        if not nodes:
            raise ValueError("nodes must hold at least 1 node, got none.")
        object.__setattr__(self, "nodes", nodes)

    @classmethod
    def random(cls, rng: np.random.Generator, n_nodes: int = 10, batch_dependent: bool = True) -> Graph:
        """Draw a graph: every op uniform over the language, every input uniform over all smaller ids.

        Args:
            rng: numpy generator, advanced.
            n_nodes: number of intermediate nodes; 10 (the paper's size as remembered, unconfirmed).
            batch_dependent: False leaves out the three batch aggregations.

        Raises:
            ValueError: n_nodes < 1.
        """
        check_integer("n_nodes", n_nodes, 1)
        ids = range(FIRST_NODE, FIRST_NODE + n_nodes)
        return cls(tuple(_random_node(rng, i, batch_dependent) for i in ids), batch_dependent)

    def mutate(self, rng: np.random.Generator) -> Graph:
        """Redraw the op and all inputs of one node chosen uniformly, dead nodes included."""
        k = int(rng.integers(len(self.nodes)))
        node = _random_node(rng, FIRST_NODE + k, self.batch_dependent)
        return Graph((*self.nodes[:k], node, *self.nodes[k + 1 :]), self.batch_dependent)

    @cached_property
    def _live_ids(self) -> tuple[int, ...]:
        """Intermediate ids that the output reaches, depth-first post-order, inputs left to right."""
        order: list[int] = []
        seen: set[int] = set()
        stack = [(FIRST_NODE + len(self.nodes) - 1, False)]
        while stack:
            i, inputs_done = stack.pop()
            if inputs_done:
                order.append(i)
            elif i >= FIRST_NODE and i not in seen:
                seen.add(i)
                stack.append((i, True))
                stack.extend((j, False) for j in reversed(self.nodes[i - FIRST_NODE].inputs))
        return tuple(order)

    @cached_property
    def _canonical_nodes(self) -> tuple[Node, ...]:
        new_id = {i: i for i in range(FIRST_NODE)} | {
            old: new for new, old in enumerate(self._live_ids, FIRST_NODE)
        }
        live = (self.nodes[i - FIRST_NODE] for i in self._live_ids)
        return tuple(Node(op, tuple(new_id[i] for i in inputs)) for op, inputs in live)

    def canonical(self) -> Graph:
        """The same layer without dead nodes, in depth-first post-order from the output."""
        return Graph(self._canonical_nodes, self.batch_dependent)

    @property
    def depends_on_input(self) -> bool:
        """Whether the output reaches x at all."""
        return any(0 in node.inputs for node in self._canonical_nodes)

    def to_formula(self) -> str:
        """Nested prefix text over the leaves ``x``, ``0``, ``v0``, ``v1``; shared nodes are written out again."""
        texts = list(LEAVES)
        for op, inputs in self._canonical_nodes:
            texts.append(f"{op}({', '.join(texts[i] for i in inputs)})")
        return texts[-1]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, dead nodes kept."""
        nodes = [{"op": op, "inputs": list(inputs)} for op, inputs in self.nodes]
        return {"nodes": nodes, "batch_dependent": self.batch_dependent}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Graph:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: a key is missing, or as in the constructor.
        """
        try:
            nodes = tuple(Node(node["op"], tuple(node["inputs"])) for node in d["nodes"])
            batch_dependent = bool(d["batch_dependent"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                "d must have the form {'nodes': [{'op': str, 'inputs': [int, ...]}], 'batch_dependent': bool}, "
                f"got {d!r}."
            ) from error
        return cls(nodes, batch_dependent)

    def __eq__(self, other: object) -> bool:
        return self._canonical_nodes == other._canonical_nodes if isinstance(other, Graph) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._canonical_nodes)


def _checked_node(own_id: int, node: Iterable[Any], batch_dependent: bool) -> Node:
    op, inputs = node
    check_choice(f"op of node {own_id}", op, ARITIES)
    if is_batch_op(op) and not batch_dependent:
        raise ValueError(
            f"op of node {own_id} must not use batch statistics (batch_dependent=False), got {op!r}."
        )
    ids = tuple(check_integer(f"inputs of node {own_id}", i, 0, own_id - 1) for i in inputs)
    if len(ids) != ARITIES[op]:
        raise ValueError(f"{op!r} of node {own_id} takes {ARITIES[op]} input(s), got {len(ids)}.")
    return Node(op, ids)


def _random_node(rng: np.random.Generator, own_id: int, batch_dependent: bool) -> Node:
    ops = ops_of(batch_dependent)
    op = ops[int(rng.integers(len(ops)))]
    return Node(op, tuple(int(rng.integers(own_id)) for _ in range(ARITIES[op])))


def _graph(batch_dependent: bool, *nodes: tuple[str, tuple[int, ...]]) -> Graph:
    return Graph(tuple(Node(*node) for node in nodes), batch_dependent)


EVONORM_GRAPHS: dict[str, Graph] = {
    "B0": _graph(
        True,
        ("std_bwh", (0,)),
        ("mul", (3, 0)),
        ("std_wh", (0,)),
        ("add", (5, 6)),
        ("max", (4, 7)),
        ("div", (0, 8)),
    ),
    "B2": _graph(
        True,
        ("std_bwh", (0,)),
        ("rms_wh", (0,)),
        ("neg", (0,)),
        ("add", (5, 6)),
        ("max", (4, 7)),
        ("div", (0, 8)),
    ),
    "S0": _graph(
        False, ("mul", (3, 0)), ("sigmoid", (4,)), ("mul", (0, 5)), ("std_whg", (0,)), ("div", (6, 7))
    ),
    "S1": _graph(False, ("sigmoid", (0,)), ("mul", (0, 4)), ("std_whg", (0,)), ("div", (5, 6))),
    "S2": _graph(False, ("sigmoid", (0,)), ("mul", (0, 4)), ("rms_whg", (0,)), ("div", (5, 6))),
    "BN-ReLU": _graph(
        True,
        ("mean_bwh", (0,)),
        ("neg", (4,)),
        ("add", (0, 5)),
        ("std_bwh", (0,)),
        ("div", (6, 7)),
        ("max", (8, 1)),
    ),
    "GN-SiLU": _graph(
        False,
        ("mean_whg", (0,)),
        ("neg", (4,)),
        ("add", (0, 5)),
        ("std_whg", (0,)),
        ("div", (6, 7)),
        ("sigmoid", (8,)),
        ("mul", (8, 9)),
    ),
}
"""Published layers written in the search language (B1 needs a constant 1, which the language lacks)."""
