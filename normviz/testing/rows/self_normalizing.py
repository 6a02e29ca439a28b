"""Rows of :mod:`normviz.norms`: self-normalizing networks."""

from __future__ import annotations

from functools import partial

import torch

from normviz import norms
from normviz.testing._norm_inputs import batch, wrong
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract

__all__ = ["ROWS"]


ROWS: list[Contract] = [
    LayerContract(
        method="normviz.norms.SELU",
        make=norms.SELU,
        inputs=batch(),
        bad=[Bad({"alpha": float("inf")}), Bad({"scale": float("inf")})],
    ),
    LayerContract(
        method="normviz.norms.AlphaDropout",
        make=partial(norms.AlphaDropout, p=0.3),
        inputs=batch(),
        random=True,
        bad=[Bad({"p": 1.0}), Bad({"p": -0.1}), Bad({"fixed_var": 0.0})],
    ),
    LayerContract(
        method="normviz.norms.SelfNormalizingMLP",
        make=partial(norms.SelfNormalizingMLP, in_features=6, hidden=5, out_features=3, depth=2, dropout=0.2),
        inputs=batch(),
        random=True,
        bad=[
            Bad({"in_features": 0}),
            Bad({"hidden": 0}),
            Bad({"out_features": 0}),
            Bad({"depth": 0}),
            Bad({"dropout": 1.0}),
        ],
    ),
    FunctionContract(
        method="normviz.norms.selu",
        inputs=batch(),
        bad=[Bad(inputs=wrong(4, 6, dtype=torch.long), names="selu", error=TypeError)],
        skip={"numbers": "the module checks alpha and scale, the function is its inner loop"},
    ),
]
