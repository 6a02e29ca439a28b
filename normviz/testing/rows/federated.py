"""Rows of :mod:`normviz.federated`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from normviz import federated
from normviz.testing._values import Inputs, leaves, seeded
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract, ObjectContract

__all__ = ["ROWS"]


def network() -> nn.Module:
    """A small network with batch norm, the same each time; 4 features, 3 classes."""
    with seeded(5):
        return nn.Sequential(
            nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3, bias=False)
        )


def clients() -> list[Any]:
    """Three clients."""
    with seeded(6):
        return [(torch.randn(n, 4), torch.randint(3, (n,))) for n in (9, 6, 12)]


def trainer(kind: Any, **options: Any) -> Any:
    """A federated learner on the small network; the options are its own arguments."""
    given: dict[str, Any] = {"model_fn": network, "clients": clients(), "epochs": 1, "batch_size": 4}
    return kind(**{**given, **options})


def round_of(learner: Any, i: int) -> Any:
    """One round, and where the global model stands after it."""
    del i
    learner.run(1)
    return [learner.round, dict(leaves(learner.model.state_dict()))]


def sparse(**options: Any) -> nn.Module:
    """The small network at density 0.6."""
    return federated.SparseModel(**{"model": network(), "density": 0.6, **options})


def pool(**options: Any) -> Any:
    """Three candidates of the small network."""
    return federated.CandidatePool(**{"model": network(), "density": 0.6, "size": 3, **options})


def selection(**options: Any) -> Any:
    """The selection among three candidates."""
    return federated.AdaptiveBNSelection(**{"pool": pool(), "clients": clients(), **options})


def selected(chooser: federated.AdaptiveBNSelection, i: int) -> Any:
    """The choice, its losses and the chosen network."""
    del i
    model = chooser.run()
    return [chooser.index, chooser.losses, chooser.mean_losses, dict(leaves(model.state_dict()))]


def buffer(**options: Any) -> Any:
    """A buffer of five pairs."""
    return federated.TopKBuffer(**{"k": 5, **options})


def pushed(pairs: federated.TopKBuffer, i: int) -> Any:
    """What the buffer holds after a random chunk."""
    with seeded(i):
        pairs.push(8 * i, torch.randn(8), torch.rand(8) < 0.5)
    return pairs.result()


STATELESS = {"resume": "it has no state beside its arguments"}
FEDERATED = (
    Bad({"clients": []}),
    Bad({"lr": -1.0}),
    Bad({"epochs": 0}),
    Bad({"batch_size": 0}),
    Bad({"clients_per_round": 4}),
    Bad({"momentum": 1.0}),
    Bad({"seed": -1}),
)
SPARSE = (Bad({"density": 0.0}), Bad({"density": 0.2}), Bad({"rule": "erk"}))
ADJUSTED = (Bad({"interval": 0}), Bad({"stop": -1}))


def weight_mask_grad() -> Inputs:
    """(6, 4) each; half of the weights are active."""
    mask = torch.rand(6, 4) < 0.5
    return torch.randn(6, 4) * mask, mask, torch.randn(6, 4), 3


ROWS: list[Contract] = [
    ObjectContract(
        method="normviz.federated.FedTiny",
        make=partial(trainer, federated.FedTiny, density=0.6, pool_size=3, interval=1, stop=9),
        step=round_of,
        bad=[
            *FEDERATED,
            *SPARSE,
            *ADJUSTED,
            Bad({"pool_size": 0}),
            Bad({"adjust_rate": 0.0}),
            Bad({"grad_mode": "all"}),
            Bad({"pool": "random"}),
            Bad({"order": "up"}),
            Bad({"granularity": "model"}),
            Bad({"grow_from": "inactive"}),
            Bad({"upload": "all"}),
            Bad({"dev_fraction": 0.0}),
            Bad({"blocks": [["1.weight"]]}),
        ],
    ),
    ObjectContract(
        method="normviz.federated.FedAvg",
        make=partial(trainer, federated.FedAvg),
        step=round_of,
        bad=FEDERATED,
    ),
    ObjectContract(
        method="normviz.federated.OneShotMagnitude",
        make=partial(trainer, federated.OneShotMagnitude, density=0.6),
        step=round_of,
        bad=[*FEDERATED, *SPARSE],
    ),
    ObjectContract(
        method="normviz.federated.PruneFL",
        make=partial(trainer, federated.PruneFL, density=0.6, interval=1, stop=9),
        step=round_of,
        bad=[*FEDERATED, *SPARSE, *ADJUSTED, Bad({"constant": -1.0})],
    ),
    ObjectContract(
        method="normviz.federated.FedDST",
        make=partial(trainer, federated.FedDST, density=0.6, interval=1, stop=9),
        step=round_of,
        bad=[*FEDERATED, *SPARSE, *ADJUSTED, Bad({"adjust_rate": 0.0})],
    ),
    LayerContract(
        method="normviz.federated.SparseModel",
        make=sparse,
        inputs=lambda: (torch.randn(16, 4),),
        bad=[*SPARSE, Bad({"ignore": ["1.weight"]})],
    ),
    ObjectContract(
        method="normviz.federated.CandidatePool",
        make=pool,
        step=lambda candidates, i: dict(leaves(candidates[i % len(candidates)].state_dict())),
        bad=[*SPARSE, Bad({"size": 0}), Bad({"pool": "random"}), Bad({"noise": -1.0})],
        skip=STATELESS,
    ),
    ObjectContract(
        method="normviz.federated.AdaptiveBNSelection",
        make=selection,
        step=selected,
        bad=[Bad({"pool": []}), Bad({"mode": "sum"}), Bad({"dev_fraction": 0.0}), Bad({"batch_size": 0})],
        skip=STATELESS,
    ),
    ObjectContract(
        method="normviz.federated.TopKBuffer",
        make=buffer,
        step=pushed,
        bad=[Bad({"k": -1})],
        skip={"resume": "it lives within one gradient computation"},
    ),
    FunctionContract(
        method="normviz.federated.magnitude_mask",
        inputs=lambda: (torch.randn(6, 4), 0.4),
        differentiable=False,
        bad=[Bad(inputs=lambda: (torch.randn(3), 0.0), names="density")],
        skip={"vmap": "its only output is bool, and that check differentiates; its own test has vmap"},
    ),
    FunctionContract(
        method="normviz.federated.prune_and_grow",
        inputs=weight_mask_grad,
        differentiable=False,
        bad=[
            Bad({"grow_from": "inactive"}),
            Bad(inputs=lambda: (torch.ones(3), torch.ones(3), torch.ones(3), -1), names="k"),
            Bad(inputs=lambda: (torch.ones(3), torch.ones(2), torch.ones(3), 1), names="mask"),
        ],
    ),
]
