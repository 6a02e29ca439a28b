"""Rows of :mod:`normviz.residual`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from normviz import residual
from normviz.testing._values import Inputs
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract

__all__ = ["ROWS"]


def vectors() -> Inputs:
    """(B, d) = (4, 6)."""
    return (torch.randn(4, 6),)


def images() -> Inputs:
    """(B, C, H, W) = (4, 6, 3, 3)."""
    return (torch.randn(4, 6, 3, 3),)


def tower(**options: Any) -> residual.ResidualTower:
    """Three branches between an encoder and a decoder, with scales that are learned."""
    blocks: list[nn.Module] = [
        residual.MLPBlock(6, activation="tanh", norm="layer"),
        residual.SkipInit(residual.MLPBlock(6, hidden=4, activation="gelu")),
        nn.Tanh(),
    ]
    settings = {"modules": blocks, "encoder": nn.Linear(6, 6), "decoder": nn.Linear(6, 3)}
    return residual.ResidualTower(**{**settings, "scale": "inv_sqrt", "learnable": True, **options})


def smooth_tower() -> Inputs:
    """A tower without kinks, an input, and the order of the expansion."""
    blocks = [residual.MLPBlock(3, activation="tanh") for _ in range(3)]
    return residual.ResidualTower(blocks, scale="inv"), torch.randn(2, 3), 2


ROWS: list[Contract] = [
    LayerContract(
        method="normviz.residual.ResidualTower",
        make=tower,
        inputs=vectors,
        bad=[
            Bad({"modules": []}),
            Bad({"scale": "half"}, names="rule"),
            Bad({"scale": [1.0, 2.0]}),
            Bad({"scale": [1.0, 2.0, float("nan")]}),
        ],
    ),
    LayerContract(
        method="normviz.residual.MLPBlock",
        make=partial(residual.MLPBlock, dim=6, hidden=5, norm="batch"),
        inputs=vectors,
        bad=[
            Bad({"dim": 0}),
            Bad({"hidden": 0}),
            Bad({"activation": "sine"}),
            Bad({"norm": "group"}),
            Bad({"init": "lecun"}),
        ],
    ),
    LayerContract(
        method="normviz.residual.ConvBlock",
        make=partial(residual.ConvBlock, channels=6, hidden=4, norm="layer"),
        inputs=images,
        bad=[Bad({"channels": 0}), Bad({"kernel_size": 2}), Bad({"activation": "sine"})],
    ),
    LayerContract(
        method="normviz.residual.FixupBlock",
        make=partial(residual.FixupBlock, dim=6, num_layers=3),
        inputs=vectors,
        bad=[
            Bad({"dim": 0}),
            Bad({"hidden": 0}),
            Bad({"num_layers": 1}),
            Bad({"kernel_size": 2}),
            Bad({"activation": "sine"}),
        ],
    ),
    FunctionContract(
        method="normviz.residual.expansion_terms",
        inputs=smooth_tower,
        tensors=False,
        bad=[
            Bad({"method": "exact"}),
            Bad({"method": "linear"}, inputs=smooth_tower, names="linear", error=TypeError),
            Bad({"decoder": True}),
            Bad(inputs=lambda: (*smooth_tower()[:2], -1), names="order"),
            Bad(inputs=lambda: (*smooth_tower()[:2], 13), names="order"),
        ],
    ),
    FunctionContract(
        method="normviz.residual.path_count",
        inputs=lambda: (6, 3),
        tensors=False,
        bad=[Bad(inputs=lambda: (0, 3), names="n"), Bad(inputs=lambda: (6, -1), names="k")],
    ),
]
