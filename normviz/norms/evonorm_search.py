r"""EvoNorm's layer search: graphs of primitives, rejection tests, Pareto evolution.

Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", NeurIPS 2020, arXiv 2004.02967.

A layer is a graph of low-level operations from a tensor to a tensor of the same shape. Almost all graphs are useless,
so a candidate first passes cheap tests and only then is scored on several architectures; tournament evolution with a
Pareto criterion over the architectures keeps layers that generalise.

Part of the paper → code::

    primitives, aggregations over (b,w,h), (w,h,c), (w,h), (w,h,c/g)   PRIMITIVES
    computation graph, random generation, mutation                     Graph, Node, EVONORM_GRAPHS
    the graph as a layer                                               GraphLayer2d, layer_factory
    rejection for quality and for instability                          quality_reject, stability_reject
    multi-objective tournament, ageing population                      dominates, pareto_front, EvolutionSearch
    re-ranking of the ten best                                         EvolutionSearch.rerank
    the found layer as mathematics, as code                            graph_to_latex, graph_to_sympy, graph_to_python

Confirmed from the paper: the 20 % accuracy threshold after 100 steps on any of the anchors, ten best re-ranked and
three kept. As remembered, unconfirmed: the table of primitives, ten nodes per graph, exploration 0.5, tournament 5 %,
population 2500, gradient norm 1e8. Ours: SGD with lr 0.05, raw gradient ascent with lr 0.1 and 20 steps, no training
for graphs that never read x, common random numbers, the cache of equal graphs, "error" for candidates that raise.

Example:
    >>> import numpy as np
    >>> Graph.random(np.random.default_rng(0), n_nodes=3).to_formula()
    'exp(x)'
"""

from __future__ import annotations

from normviz.norms._evonorm_evolution import (
    VERDICTS,
    Candidate,
    Event,
    EvolutionSearch,
    Proposal,
)
from normviz.norms._evonorm_export import graph_to_python
from normviz.norms._evonorm_graph import EVONORM_GRAPHS, Graph, Node
from normviz.norms._evonorm_layer import GraphLayer2d, layer_factory
from normviz.norms._evonorm_pareto import dominates, pareto_front
from normviz.norms._evonorm_primitives import PRIMITIVES, Primitive
from normviz.norms._evonorm_rejection import (
    Anchor,
    Progress,
    RejectionReport,
    SearchData,
    evaluate_norm,
    quality_reject,
    stability_reject,
)
from normviz.norms._evonorm_render import graph_to_latex, graph_to_sympy

__all__ = [
    "EVONORM_GRAPHS",
    "PRIMITIVES",
    "VERDICTS",
    "Anchor",
    "Candidate",
    "Event",
    "EvolutionSearch",
    "Graph",
    "GraphLayer2d",
    "Node",
    "Primitive",
    "Progress",
    "Proposal",
    "RejectionReport",
    "SearchData",
    "dominates",
    "evaluate_norm",
    "graph_to_latex",
    "graph_to_python",
    "graph_to_sympy",
    "layer_factory",
    "pareto_front",
    "quality_reject",
    "stability_reject",
]
