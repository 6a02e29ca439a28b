"""Rows of :mod:`normviz.norms`: EvoNorm layers, graphs of operations and the search for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from normviz import norms
from normviz.testing._norm_inputs import NOT_IMAGES, images
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract, ObjectContract

__all__ = ["ROWS"]


def evonorm(name: str) -> LayerContract:
    """An EvoNorm layer; the B series has batch statistics, the S series groups."""
    batch_dependent = name.startswith("EvoNorm2dB")
    own = (
        [Bad({"momentum": 1.5})]
        if batch_dependent
        else [Bad({"groups": 4}), Bad({"group_size": 4, "groups": None})]
    )
    return LayerContract(
        method=f"normviz.norms.{name}",
        make=partial(getattr(norms, name), num_features=6, **({} if batch_dependent else {"groups": 3})),
        inputs=images,
        bad=[Bad({"num_features": 0}), Bad({"eps": -1.0}), *own, *NOT_IMAGES],
    )


def graph_layer(**options: Any) -> norms.GraphLayer2d:
    """max(v1 x, v0 rms over a group) / std over the batch: every parameter and both kinds of aggregation."""
    nodes = (
        ("mul", (0, 3)),
        ("rms_whg", (0,)),
        ("mul", (5, 2)),
        ("max", (4, 6)),
        ("std_bwh", (0,)),
        ("div", (7, 8)),
    )
    graph = norms.Graph(tuple(norms.Node(op, inputs) for op, inputs in nodes))
    return norms.GraphLayer2d(graph, **{"num_features": 6, "groups": 3, **options})


def anchor(norm: Callable[[int], nn.Module]) -> nn.Module:
    """A network with one norm, for images of 4 x 4."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm(4), nn.Flatten(), nn.Linear(16, 2))


def search(**options: Any) -> norms.EvolutionSearch:
    """The EvoNorm search on eight images, with one step of training per candidate."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 1, 4, 4, generator=generator)
    data = norms.SearchData(x, (x.mean((1, 2, 3)) > 0).long(), x, (x.mean((1, 2, 3)) > 0).long(), 4)
    initial = [norms.EVONORM_GRAPHS["S0"], norms.EVONORM_GRAPHS["BN-ReLU"]]
    settings = {"steps": 1, "threshold": 0.0, "stability_steps": 1, "n_nodes": 4, "initial": initial}
    return norms.EvolutionSearch([anchor], data, **{**settings, **options})


ROWS: list[Contract] = [
    *(evonorm(f"EvoNorm2d{kind}") for kind in ("B0", "B1", "B2", "S0", "S1", "S2")),
    FunctionContract(
        method="normviz.norms.make_evonorm",
        inputs=lambda: ("S0", 6),
        options={"groups": 3},
        tensors=False,
        bad=[Bad(inputs=lambda: ("S9", 6), names="kind"), Bad({"groups": 4}), Bad({"eps": -1.0})],
    ),
    LayerContract(
        method="normviz.norms.GraphLayer2d",
        make=graph_layer,
        inputs=images,
        bad=[
            Bad({"num_features": 0}),
            Bad({"groups": 0}),
            Bad({"eps": -1.0}),
            Bad({"momentum": 1.5}),
            *NOT_IMAGES,
        ],
    ),
    ObjectContract(
        method="normviz.norms.EvolutionSearch",
        make=search,
        step=lambda object, _: object.step(),
        bad=[
            Bad({"population_size": 0}),
            Bad({"tournament_fraction": 0.0}),
            Bad({"min_tournament": 0}),
            Bad({"criterion": "best"}),
            Bad({"exploration": 1.5}),
            Bad({"n_nodes": 0}),
            Bad({"seed": -1}),
            Bad({"steps": 0}),
            Bad({"lr": 0.0}),
        ],
    ),
]
