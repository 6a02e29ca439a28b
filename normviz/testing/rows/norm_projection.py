"""Rows of :mod:`normviz.norms`: normalize-and-project: norms that are inserted, and weights that keep their length."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normviz import norms
from normviz.testing._norm_inputs import batch, plain_network, tokens
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract, ObjectContract

__all__ = ["ROWS"]


def projected(**options: Any) -> ProjectedModel:
    """A small normalised network and its projector."""
    return ProjectedModel(**options)


class ProjectedModel:
    """A network and its projector, stepped and saved together."""

    def __init__(self, **options: Any) -> None:
        self.model = nn.Sequential(
            nn.Linear(4, 6, bias=False),
            nn.LayerNorm(6),
            nn.ReLU(),
            nn.Linear(6, 6, bias=False),
            nn.LayerNorm(6),
        )
        self.projector = norms.NormProjector(self.model, **options)

    def step(self, i: int) -> dict[str, Tensor]:
        """Move every parameter at random, then project."""
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for p in self.model.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        self.projector.project_(lr=0.1)
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        """States of network and projector."""
        return {"model": self.model.state_dict(), "projector": self.projector.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        self.projector.load_state_dict(state["projector"])


ROWS: list[Contract] = [
    LayerContract(
        method="normviz.norms.FeatureNorm",
        make=partial(norms.FeatureNorm, num_features=6),
        inputs=tokens(),
        bad=[Bad({"num_features": 0}), Bad({"eps": -1.0})],
    ),
    LayerContract(
        method="normviz.norms.NaPMLP",
        make=partial(norms.NaPMLP, in_dim=6, out_dim=3, hidden=(5, 4)),
        inputs=batch(),
        bad=[Bad({"in_dim": 0}), Bad({"out_dim": 0}), Bad({"hidden": (0,)}), Bad({"norm": "batch"})],
    ),
    FunctionContract(
        method="normviz.norms.insert_normalization",
        inputs=plain_network,
        tensors=False,
        bad=[
            Bad({"norm": "batch"}),
            Bad({"eps": -1.0}),
            Bad(inputs=lambda: (nn.Linear(2, 2),), names="model"),
        ],
    ),
    ObjectContract(
        method="normviz.norms.NormProjector",
        make=projected,
        step=ProjectedModel.step,
        bad=[
            Bad({"every": 0}),
            Bad({"scale_offset": "keep"}),
            Bad({"reg_strength": -1.0}),
            Bad({"exclude": ("9.weight",)}),
        ],
    ),
]
