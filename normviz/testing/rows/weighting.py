"""Rows of :mod:`normviz.weighting`."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import nn

from normviz import weighting
from normviz.testing._values import Inputs, seeded
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract, ObjectContract

__all__ = ["ROWS"]


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Losses, weights and advantages are never of a half type."""
    return torch.promote_types(dtype, torch.float32)


def losses() -> Inputs:
    """Losses of six samples."""
    return (4 * torch.rand(6),)


def losses_and_tokens() -> Inputs:
    """Losses of six samples with their numbers of tokens, one of them 0."""
    return 4 * torch.rand(6), torch.tensor([3, 1, 4, 0, 5, 2])


def rewards() -> Inputs:
    """0/1 rewards of five questions with four outputs each."""
    return ((torch.rand(5, 4) < torch.rand(5, 1)).float(),)


def features() -> Inputs:
    """Seven features of five samples."""
    return (torch.randn(5, 7),)


def labelled() -> tuple[torch.Tensor, torch.Tensor]:
    """A batch (x, y) of six samples, four features, three classes."""
    return torch.randn(6, 4), torch.randint(3, (6,))


def storm(**options: Any) -> weighting.STORM:
    """STORM on a small network with dropout, trained by Adam."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 3))
    rescaler = weighting.LossRescaler()
    return weighting.STORM(
        model,
        rescaler,
        torch.optim.Adam(model.parameters(), lr=1e-2),
        torch.optim.Adam(rescaler.parameters(), lr=1e-2),
        **{"num_passes": 2, "burn_in": 1, "outer_scale": 0.1, **options},
    )


def storm_step(method: weighting.STORM, i: int) -> Any:
    """One step of STORM on two random batches, and the parameters after it."""
    with seeded(i):
        step = method.step(labelled(), labelled())
    return [step, copy.deepcopy(method.model), copy.deepcopy(method.rescaler)]


NOT_LOSSES = (
    Bad(inputs=lambda: (torch.ones(3, 4),), names="losses"),
    Bad(inputs=lambda: (torch.tensor([1.0, float("nan")]),), names="losses"),
)
NOT_REWARDS = (
    Bad(inputs=lambda: (torch.ones(4),), names="rewards"),
    Bad(inputs=lambda: (torch.full((2, 3), float("inf")),), names="rewards"),
)
BNPO = (
    Bad({"min_value": 2.0}, names="max_value"),
    Bad({"max_weight": 0.0}),
    Bad({"alpha": 1.5}),
    Bad({"alpha": 0.0, "beta": 1.0}),
    *NOT_REWARDS,
)
WEIGHTS = (Bad({"strategy": "lowest"}), Bad({"r": 0.0}), Bad({"delta": 0.0}), *NOT_LOSSES)

ROWS: list[Contract] = [
    LayerContract(
        method="normviz.weighting.DynamicLossReweighter",
        make=partial(weighting.DynamicLossReweighter, warmup_steps=1),
        inputs=losses,
        output_dtype=at_least_float32,
        bad=[*WEIGHTS, Bad({"warmup_steps": -1})],
    ),
    LayerContract(
        method="normviz.weighting.DynamicLossReweighter",
        variant="tokens",
        make=lambda **options: weighting.DynamicLossReweighter(
            **{
                "r_schedule": weighting.AnnealedR(2.0, 0.4, warmup=1, anneal_steps=4),
                "token_weighted": True,
                **options,
            }
        ),
        inputs=losses_and_tokens,
        output_dtype=at_least_float32,
        bad=[Bad(inputs=losses, names="n_tokens"), Bad({"warmup_steps": 3}), Bad({"r_schedule": 0.4})],
        skip={"numbers": "r and warmup_steps are those of the schedule here"},
    ),
    FunctionContract(
        method="normviz.weighting.sample_weights",
        inputs=losses,
        differentiable=False,
        output_dtype=at_least_float32,
        bad=WEIGHTS,
    ),
    ObjectContract(
        method="normviz.weighting.STORM",
        make=storm,
        step=storm_step,
        bad=[
            Bad({"num_passes": 0}),
            Bad({"n_inner": 0}),
            Bad({"unroll": 2}),
            Bad({"outer_scale": -1.0}),
            Bad({"combine": "mean"}),
            Bad({"burn_in": -1}),
            Bad({"meta_every": 0}),
        ],
    ),
    LayerContract(
        method="normviz.weighting.LossRescaler",
        make=weighting.LossRescaler,
        inputs=features,
        bad=[
            Bad({"num_features": 0}),
            Bad({"hidden": 0}),
            Bad({"normalize": "sum"}),
            Bad(inputs=lambda: (torch.zeros(5, 6),), names="features"),
        ],
    ),
    LayerContract(
        method="normviz.weighting.GCELoss",
        make=weighting.GCELoss,
        inputs=lambda: (torch.randn(6, 3), torch.randint(3, (6,))),
        output_dtype=at_least_float32,
        bad=[Bad({"q": 0.0}), Bad({"reduction": "median"})],
    ),
    LayerContract(
        method="normviz.weighting.MetaWeightNet",
        make=partial(weighting.MetaWeightNet, hidden=5),
        inputs=losses,
        skip=dict.fromkeys(("float32", "float64", "bfloat16"), "the losses carry no gradient, by the method"),
        bad=[Bad({"hidden": 0}), Bad(inputs=lambda: (torch.ones(3, 4),), names="losses")],
    ),
    LayerContract(
        method="normviz.weighting.BNPO",
        make=weighting.BNPO,
        inputs=rewards,
        differentiable=False,
        output_dtype=at_least_float32,
        bad=BNPO,
    ),
    FunctionContract(
        method="normviz.weighting.bnpo_advantage",
        inputs=rewards,
        differentiable=False,
        output_dtype=at_least_float32,
        bad=BNPO,
    ),
    FunctionContract(
        method="normviz.weighting.group_advantage",
        inputs=rewards,
        options={"estimator": "grpo"},
        differentiable=False,
        output_dtype=at_least_float32,
        bad=[Bad({"estimator": "ppo"}), Bad({"eps": -1.0}), *NOT_REWARDS],
    ),
]
