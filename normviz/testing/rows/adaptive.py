"""Rows of :mod:`normviz.adaptive`."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from normviz import adaptive, norms
from normviz.testing._values import Inputs, leaves, seeded
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract, ObjectContract

__all__ = ["ROWS"]

UNIVERSE = 8


def asked(mechanism: Any, i: int) -> Any:
    """The answer to a query on six rows."""
    return mechanism.answer(np.random.default_rng(i).random(6))


def asked_pair(mechanism: Any, i: int) -> Any:
    """The answer to a query on five training and six holdout rows."""
    rng = np.random.default_rng(i)
    return mechanism.answer((rng.random(5), rng.random(6)))


def asked_universe(mechanism: Any, i: int) -> Any:
    """The answer to a query on the universe."""
    return mechanism.answer(np.random.default_rng(i).random(UNIVERSE))


def holdout_method(kind: Any, **options: Any) -> Any:
    """A mechanism on five training and six holdout rows."""
    data = {"train": np.zeros(5), "holdout": np.zeros(6), "rng": 3}
    return kind(**{**data, **options})


def row_method(kind: Any, **options: Any) -> Any:
    """A mechanism on six rows."""
    return kind(**{"data": np.zeros(6), "rng": 3, **options})


def universe_method(kind: Any, **options: Any) -> Any:
    """A mechanism on six of eight elements."""
    given = {"data_index": [0, 1, 1, 2, 5, 7], "threshold": 0.05, "sigma": 0.01, "rng": 3}
    return kind(**{**given, **options})


HOLDOUT = (
    Bad({"threshold": 0.0}),
    Bad({"sigma": -0.1}),
    Bad({"budget": 0}),
    Bad({"train": []}),
    Bad({"holdout": []}),
    Bad({"value_range": (1.0, 0.0)}),
    Bad({"rng": "seed"}),
)
ROW = (Bad({"data": []}), Bad({"rng": -1}))
INDEX = (
    Bad({"data_index": [0, UNIVERSE]}),
    Bad({"data_index": [0.5]}),
    Bad({"threshold": 0.0}),
    Bad({"sigma": -0.1}),
)


def normalised_network() -> nn.Module:
    """A network with batch norm that has seen one batch; four features, four classes."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 4))
    model(torch.randn(8, 4))
    return model


def adapter(**options: Any) -> adaptive.OnlineAdapter:
    """Core on the small network, two steps per batch."""
    loss = adaptive.CoreLoss()
    return adaptive.OnlineAdapter(**{"model": normalised_network(), "loss": loss, "steps": 2, **options})


def adapted(method: adaptive.OnlineAdapter, i: int) -> Any:
    """The predictions for a random batch, and all parameters after it."""
    with seeded(i):
        return [method(torch.randn(5, 4)), dict(leaves(method.model.state_dict()))]


def rehearsal(learner: Any, **options: Any) -> Any:
    """A rehearsal learner in the second of two tasks, on images of a pixel."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4))
    norms.convert_batchnorm(model, num_tasks=2, kappa=0.4)
    sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    built = learner(
        model,
        sgd,
        adaptive.ReservoirBuffer(6),
        **{"num_classes": 4, "classes_per_task": 2, "lam": 0.1, "replay_size": 3, **options},
    )
    built.observe(torch.randn(4, 1, 1, 1), torch.randint(2, (4,)))
    built.end_task()
    return built


def observed(learner: Any, i: int) -> Any:
    """The losses of a step on a random batch, and the network after it."""
    with seeded(i):
        result = learner.observe(torch.randn(4, 1, 1, 1), torch.randint(4, (4,)))
    return [result, dict(leaves(learner.model.state_dict()))]


BAD_LEARNER = (
    Bad({"num_classes": 0}),
    Bad({"classes_per_task": 0}),
    Bad({"lam": -1.0}),
    Bad({"ada_t0": -1}),
    Bad({"replay_size": 0}),
)


def logits() -> Inputs:
    """(B, C) = (6, 4)."""
    return (torch.randn(6, 4),)


def no_logits(*shape: int, dtype: torch.dtype = torch.float32) -> Any:
    """What a loss of logits must refuse."""
    return lambda: (torch.zeros(shape, dtype=dtype),)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Losses are never of a half type."""
    return torch.promote_types(dtype, torch.float32)


NOT_LOGITS = (
    Bad(inputs=no_logits(6), names="logits"),
    Bad(inputs=no_logits(6, 1), names="logits"),
    Bad(inputs=no_logits(0, 4), names="logits"),
    Bad(inputs=no_logits(6, 4, dtype=torch.long), names="logits", error=TypeError),
)
CORRELATION = (Bad({"temperature": 0.0}), Bad({"weighting": "margin"}), *NOT_LOGITS)

ARMS = adaptive.BanditProblem.multi_armed(3, noise="bernoulli")


def policy_features() -> Inputs:
    """Features of two histories of at most five answers about three arms."""
    return (torch.rand(2, 3, 3),)


def history_policy(**options: Any) -> nn.Module:
    """A small policy for three arms."""
    return adaptive.HistoryPolicy(**{"problem": ARMS, "budget": 5, "hidden": 6, **options})


def adversarial_trainer(**options: Any) -> adaptive.AdversarialTrainer:
    """A small game, the policy drawn from torch's generator."""
    given = {
        "problem": ARMS,
        "policy": history_policy(budget=3),
        "budget": 3,
        "r": 6.0,
        "num_particles": 5,
        "num_samples": 4,
        "num_rollouts": 2,
        "baseline": torch.tensor([0.1, 0.3]),
        "class_radii": [3.0, 6.0],
    }
    return adaptive.AdversarialTrainer(**{**given, **options})


def game_step(trainer: adaptive.AdversarialTrainer, i: int) -> Any:
    """One step of the game, and where it stands after it."""
    del i
    metrics = trainer.step()
    state = [trainer.particles, trainer.weight_logits, trainer.policy]
    return [metrics, *(copy.deepcopy(part) for part in state)]


ROWS: list[Contract] = [
    ObjectContract(
        method="normviz.adaptive.ERACE",
        make=partial(rehearsal, adaptive.ERACE),
        step=observed,
        bad=BAD_LEARNER,
    ),
    ObjectContract(
        method="normviz.adaptive.DERPlusPlus",
        make=partial(rehearsal, adaptive.DERPlusPlus),
        step=observed,
        bad=[*BAD_LEARNER, Bad({"alpha": -1.0}), Bad({"beta": -1.0})],
    ),
    LayerContract(
        method="normviz.adaptive.CoreLoss",
        make=adaptive.CoreLoss,
        inputs=logits,
        output_dtype=at_least_float32,
        bad=[*CORRELATION, Bad({"normalize": "column"}), Bad({"eps": 0.0})],
    ),
    LayerContract(
        method="normviz.adaptive.CoreLoss",
        variant="pixels",
        make=partial(adaptive.CoreLoss, 2.5, "entropy", "global"),
        inputs=lambda: (torch.randn(2, 4, 3, 3),),
        output_dtype=at_least_float32,
    ),
    LayerContract(
        method="normviz.adaptive.EntropyLoss",
        make=adaptive.EntropyLoss,
        inputs=logits,
        output_dtype=at_least_float32,
        bad=NOT_LOGITS,
    ),
    FunctionContract(
        method="normviz.adaptive.class_correlation",
        inputs=logits,
        output_dtype=at_least_float32,
        bad=CORRELATION,
    ),
    ObjectContract(
        method="normviz.adaptive.OnlineAdapter",
        make=adapter,
        step=adapted,
        bad=[
            Bad({"alpha": 1.5}),
            Bad({"alpha": [0.5, 0.5]}),
            Bad({"steps": 0}),
            Bad({"params": "bias"}),
            Bad({"variance": "std"}),
            Bad({"model": nn.Linear(4, 4)}),
            Bad(inputs=no_logits(0, 4), names="x"),
        ],
    ),
    ObjectContract(
        method="normviz.adaptive.Thresholdout",
        make=partial(holdout_method, adaptive.Thresholdout),
        step=asked_pair,
        bad=[*HOLDOUT, Bad({"noise": "normal"})],
    ),
    ObjectContract(
        method="normviz.adaptive.Thresholdout",
        variant="gaussian",
        make=partial(holdout_method, adaptive.Thresholdout, noise="gaussian"),
        step=asked_pair,
        bad=HOLDOUT,
    ),
    ObjectContract(
        method="normviz.adaptive.SparseValidate",
        make=partial(holdout_method, adaptive.SparseValidate),
        step=asked_pair,
        bad=HOLDOUT,
    ),
    ObjectContract(
        method="normviz.adaptive.PrivateMultiplicativeWeights",
        make=partial(universe_method, adaptive.PrivateMultiplicativeWeights, universe_size=UNIVERSE),
        step=asked_universe,
        bad=[*INDEX, Bad({"universe_size": 10**8}), Bad({"eta": 0.0}), Bad({"budget": 0})],
    ),
    ObjectContract(
        method="normviz.adaptive.MedianMechanism",
        make=partial(
            universe_method,
            adaptive.MedianMechanism,
            candidates=np.random.default_rng(0).dirichlet(np.ones(UNIVERSE), 200),
        ),
        step=asked_universe,
        bad=[*INDEX, Bad({"candidates": np.ones((2, UNIVERSE))})],
    ),
    ObjectContract(
        method="normviz.adaptive.LaplaceMechanism",
        make=partial(row_method, adaptive.LaplaceMechanism, scale=0.1),
        step=asked,
        bad=[*ROW, Bad({"scale": -1.0})],
    ),
    ObjectContract(
        method="normviz.adaptive.GaussianMechanism",
        make=partial(row_method, adaptive.GaussianMechanism, std=0.1),
        step=asked,
        bad=[*ROW, Bad({"std": float("inf")})],
    ),
    ObjectContract(
        method="normviz.adaptive.SampleSplittingMechanism",
        make=partial(row_method, adaptive.SampleSplittingMechanism, max_queries=6),
        step=asked,
        bad=[*ROW, Bad({"max_queries": 7})],
    ),
    ObjectContract(
        method="normviz.adaptive.EmpiricalMechanism",
        make=partial(row_method, adaptive.EmpiricalMechanism),
        step=asked,
        bad=ROW,
    ),
    LayerContract(
        method="normviz.adaptive.HistoryPolicy",
        make=history_policy,
        inputs=policy_features,
        bad=[Bad({"budget": 0}), Bad({"hidden": 0})],
    ),
    LayerContract(
        method="normviz.adaptive.HistoryPolicy",
        variant="symmetric",
        make=partial(history_policy, symmetric=True),
        inputs=policy_features,
        bad=[Bad({"budget": 0}), Bad({"hidden": 0})],
    ),
    ObjectContract(
        method="normviz.adaptive.AdversarialTrainer",
        make=adversarial_trainer,
        step=game_step,
        bad=[
            Bad({"budget": 0}),
            Bad({"r": 1.0}),
            Bad({"class_radii": [6.0, 3.0]}),
            Bad({"class_radii": None}, names="baseline"),
            Bad({"weight_floor": 1.0}),
        ],
    ),
    FunctionContract(
        method="normviz.adaptive.learn_robust_policy",
        tensors=False,
        inputs=lambda: (ARMS, [3.0, 6.0], 2, 1, 1),
        options={"hidden": 4, "num_particles": 3, "num_samples": 2, "num_rollouts": 2},
        bad=[
            Bad(inputs=lambda: (ARMS, [6.0, 3.0], 2, 1, 1), names="radii"),
            Bad(inputs=lambda: (ARMS, [3.0], 0, 1, 1), names="budget"),
            Bad({"num_samples": 0}),
        ],
    ),
]
