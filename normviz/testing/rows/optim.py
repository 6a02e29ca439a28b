"""Rows of :mod:`normviz.optim`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from normviz import optim
from normviz.testing._values import Inputs
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, OptimizerContract
from normviz.testing.optimizers import MATRICES

__all__ = ["ROWS"]

RATES = (Bad({"lr": -1.0}), Bad({"weight_decay": -1.0}))
BETAS = Bad({"betas": (0.9, 1.0)})
ADAM = (BETAS, Bad({"adam_eps": -1.0}))
EPS = Bad({"eps": -1.0})
NORMUON = (
    *RATES,
    *ADAM,
    EPS,
    Bad({"momentum": 1.0}),
    Bad({"beta2": 1.0}),
    Bad({"ns_steps": 0}),
    Bad({"scale": "paper"}),
    Bad({"adam_lr": -1.0}),
)
SWAN = (
    *RATES,
    *ADAM,
    EPS,
    Bad({"alpha": 0.0}),
    Bad({"steps": 0}),
    Bad({"beta": 1.0}),
    Bad({"gram_norm": "nuclear"}),
    Bad({"norm_axis": "columns"}),
)
NO_META = "it switches autocast off, which torch does not know for the device meta"
PROJECTION = ("rank", "update_proj_gap", "alpha", "scale", "proj_type")
LOW_RANK = (Bad({"rank": 0}), Bad({"update_proj_gap": 0}), Bad({"alpha": 0.0}), Bad({"proj_type": "short"}))
RMSPROP = (Bad({"lr": -1.0}), Bad({"beta": 1.0}), EPS, Bad({"momentum": -1.0}))
FIRA = (Bad({"gamma": 0.5}), Bad({"residual": "paper"}))


def projected(
    cls: Callable[..., Optimizer], **projection: Any
) -> Callable[[Sequence[nn.Parameter]], Optimizer]:
    """``make`` of an optimizer whose matrices go into a projected group and the rest into a plain one."""

    def make(params: Sequence[nn.Parameter], **options: Any) -> Optimizer:
        own = {**projection, **{key: options.pop(key) for key in PROJECTION if key in options}}
        matrices = [p for p in params if p.ndim >= 2]
        rest = [p for p in params if p.ndim < 2]
        groups = [{"params": matrices, **own}, {"params": rest}]
        return cls([group for group in groups if group["params"]], **options)

    return make


def matrix() -> Inputs:
    """A matrix (4, 6)."""
    return (torch.randn(4, 6),)


def not_a_matrix() -> Inputs:
    """A vector."""
    return (torch.ones(4),)


ROWS: list[Contract] = [
    OptimizerContract(
        method="normviz.optim.Muon",
        make=optim.Muon,
        lr=0.2,
        shapes=MATRICES,
        skip=dict.fromkeys(
            ("maximize", "maximize_flag"),
            "its arguments are those of torch.optim.Muon, which has none of that name",
        ),
        bad=[
            *RATES,
            EPS,
            Bad({"momentum": 1.0}),
            Bad({"ns_steps": 0}),
            Bad({"ns_coefficients": (1.0, 2.0)}),
            Bad({"adjust_lr_fn": "rms"}),
        ],
    ),
    OptimizerContract(
        method="normviz.optim.NorMuon", make=partial(optim.NorMuon, adam_lr=0.1), lr=0.2, bad=NORMUON
    ),
    OptimizerContract(
        method="normviz.optim.NorMuon",
        variant="rms",
        make=partial(optim.NorMuon, adam_lr=0.1, scale="rms", nesterov=False, weight_decay=0.01),
        lr=0.5,
    ),
    OptimizerContract(
        method="normviz.optim.DistributedNorMuon",
        make=partial(optim.DistributedNorMuon, adam_lr=0.1),
        lr=0.2,
        bad=NORMUON,
    ),
    OptimizerContract(
        method="normviz.optim.MultiNormGD",
        make=optim.MultiNormGD,
        lr=0.1,
        shapes=MATRICES,
        bad=[*RATES, Bad({"eps": 0.0}), Bad({"iters": 0}), Bad({"norms": ()})],
    ),
    OptimizerContract(
        method="normviz.optim.MultiNormGD",
        variant="row-spectral",
        make=partial(optim.MultiNormGD, norms=(optim.RowNorm(), optim.SpectralNorm()), weight_decay=0.01),
        lr=0.1,
        shapes=MATRICES,
    ),
    OptimizerContract(
        method="normviz.optim.SinkGD",
        make=partial(optim.SinkGD, alpha=1.0),
        lr=0.1,
        bad=[*RATES, *ADAM, Bad({"eps": 0.0}), Bad({"iters": 0}), Bad({"alpha": 0.0})],
    ),
    OptimizerContract(method="normviz.optim.SWAN", make=partial(optim.SWAN, alpha=1.0), lr=0.1, bad=SWAN),
    OptimizerContract(
        method="normviz.optim.SWANFast", make=partial(optim.SWANFast, alpha=1.0), lr=0.1, bad=SWAN
    ),
    OptimizerContract(
        method="normviz.optim.Conda",
        make=projected(optim.Conda, update_proj_gap=2, scale=1.0),
        lr=0.1,
        bad=[
            *RATES,
            BETAS,
            EPS,
            Bad({"update_proj_gap": 0}),
            Bad({"scale": 0.0}),
            Bad({"proj_type": "short"}),
        ],
    ),
    OptimizerContract(
        method="normviz.optim.GaLoreAdamW",
        make=projected(optim.GaLoreAdamW, rank=2, update_proj_gap=2),
        lr=0.1,
        bad=[*RATES, BETAS, EPS, *LOW_RANK],
    ),
    OptimizerContract(
        method="normviz.optim.GaLoreRMSProp",
        make=projected(optim.GaLoreRMSProp, rank=2, update_proj_gap=2),
        lr=0.1,
        bad=[*RMSPROP, *LOW_RANK],
    ),
    OptimizerContract(
        method="normviz.optim.FiraAdamW",
        make=projected(optim.FiraAdamW, rank=2, update_proj_gap=2),
        lr=0.1,
        bad=[*RATES, BETAS, EPS, *LOW_RANK, *FIRA],
    ),
    OptimizerContract(
        method="normviz.optim.FiraRMSProp",
        make=projected(optim.FiraRMSProp, rank=2, update_proj_gap=2),
        lr=0.1,
        bad=[*RMSPROP, *LOW_RANK, *FIRA],
    ),
    OptimizerContract(
        method="normviz.optim.SOAP",
        make=partial(optim.SOAP, precondition_frequency=2),
        lr=0.1,
        skip={"scheduler": "its first step moves no matrix"},
        bad=[*RATES, *ADAM, EPS, Bad({"shampoo_beta": 1.0}), Bad({"precondition_frequency": 0})],
    ),
    FunctionContract(
        method="normviz.optim.sr_sinkhorn",
        inputs=matrix,
        bad=[Bad({"iters": 0}), Bad({"eps": 0.0}), Bad(inputs=not_a_matrix, names="X")],
        skip={"device": NO_META},
    ),
    FunctionContract(
        method="normviz.optim.multi_normalize",
        inputs=matrix,
        options={"norms": (optim.RowNorm(), optim.FrobeniusNorm())},
        bad=[Bad({"norms": ()}), Bad({"iters": 0}), Bad({"eps": 0.0}), Bad(inputs=not_a_matrix, names="X")],
    ),
    FunctionContract(
        method="normviz.optim.newton_schulz",
        inputs=matrix,
        bad=[Bad({"steps": 0}), Bad(inputs=not_a_matrix, names="G")],
        skip={"device": NO_META},
    ),
    FunctionContract(
        method="normviz.optim.swan_update",
        inputs=matrix,
        bad=[Bad({"steps": 0}), Bad({"beta": 1.0}), Bad({"eps": 0.0}), Bad(inputs=not_a_matrix, names="G")],
        skip={"device": NO_META},
        # At beta 0.8 the iteration multiplies errors by up to 1.8 a step, 357 in ten, and their gradient more.
        float32_error=5e-3,
    ),
]
