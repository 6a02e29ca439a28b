"""Rows of :mod:`normviz.adaptive`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from normviz import adaptive
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, ObjectContract

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

ROWS: list[Contract] = [
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
]
