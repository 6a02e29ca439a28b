"""Rows of :mod:`normviz.norms`: batch statistics that follow tasks and shifts (AdaB²N, α-BN, Continual Norm)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normviz import norms
from normviz.testing._norm_inputs import NOT_IMAGES, images, plain_network, wrong
from normviz.testing._values import Inputs
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract

__all__ = ["ROWS"]


def balanced(layer: type[nn.Module], **options: Any) -> nn.Module:
    """An AdaB²N layer in the third of four tasks."""
    built = layer(**{"num_features": 6, "num_tasks": 4, "kappa": 0.4, **options})
    norms.end_task(built)
    norms.end_task(built)
    return built


def with_task_ids(*shape: int) -> Callable[[], Inputs]:
    """Five samples of a shape with their tasks, of which there are three."""
    return lambda: (torch.randn(5, *shape), torch.randint(3, (5,)))


def adab2n(
    name: str, variant: str, *shape: int, wrong_shape: tuple[int, ...], **options: Any
) -> LayerContract:
    """An AdaB²N layer on samples of a shape."""
    return LayerContract(
        method=f"normviz.norms.{name}",
        variant=variant,
        make=partial(balanced, getattr(norms, name), **options),
        inputs=with_task_ids(*shape),
        bad=[
            Bad({"num_features": 0}),
            Bad({"num_tasks": 0}),
            Bad({"kappa": 1.5}),
            Bad({"eps": -1.0}),
            Bad({"momentum": None}),
            Bad({"momentum": 0.0}),
            Bad({"absent_tasks": "drop"}),
            Bad(inputs=wrong(*wrong_shape), names="x"),
            Bad(inputs=wrong(5, 7, *shape[1:]), names="x"),
            Bad(inputs=wrong(5, *shape, dtype=torch.long), names="x", error=TypeError),
            Bad(inputs=lambda: (torch.randn(5, *shape), torch.zeros(4, dtype=torch.long)), names="task_ids"),
            Bad(inputs=lambda: (torch.randn(5, *shape), torch.full((5,), 3)), names="task_ids"),
            Bad(inputs=lambda: (torch.randn(5, *shape), torch.zeros(5)), names="task_ids", error=TypeError),
        ],
    )


def trained(batch_norm: type[_BatchNorm]) -> _BatchNorm:
    """A batch norm of six channels with random running statistics."""
    bn = batch_norm(6, momentum=1.0)
    generator = torch.Generator().manual_seed(0)
    bn.running_mean = torch.randn(6, generator=generator)
    bn.running_var = 0.5 + torch.rand(6, generator=generator)
    bn.num_batches_tracked = torch.tensor(1)
    return bn


def alpha_bn(
    name: str, *shape: int, wrong_shape: tuple[int, ...], variant: str = "", **options: Any
) -> LayerContract:
    """An alpha-BN layer on inputs of a shape."""
    batch_norm = getattr(nn, name.removeprefix("Alpha"))
    return LayerContract(
        method=f"normviz.norms.{name}",
        variant=variant,
        make=lambda **more: getattr(norms, name)(
            **{"bn": trained(batch_norm), "alpha": 0.6, **options, **more}
        ),
        inputs=lambda: (torch.randn(*shape),),
        bad=[
            Bad({"alpha": 1.5}),
            Bad({"variance": "std"}),
            Bad({"bn": batch_norm(6, track_running_stats=False)}),
            Bad({"bn": nn.LayerNorm(6)}, error=TypeError),
            Bad(inputs=wrong(*wrong_shape), names="x"),
            Bad(inputs=wrong(4, 7, *shape[2:]), names="x"),
            Bad(inputs=wrong(0, *shape[1:]), names="x"),
            Bad(inputs=wrong(*shape, dtype=torch.long), names="x", error=TypeError),
        ],
    )


ROWS: list[Contract] = [
    adab2n("AdaptiveBalanceBatchNorm2d", "", 6, 3, 3, wrong_shape=(5, 6)),
    adab2n(
        "AdaptiveBalanceBatchNorm2d", "renormalize", 6, 3, 3, wrong_shape=(5, 6), absent_tasks="renormalize"
    ),
    adab2n("AdaptiveBalanceBatchNorm1d", "", 6, wrong_shape=(5, 6, 3, 3)),
    alpha_bn("AlphaBatchNorm1d", 4, 6, wrong_shape=(4, 6, 3, 3), unbiased=True),
    alpha_bn("AlphaBatchNorm2d", 4, 6, 3, 3, wrong_shape=(4, 6)),
    alpha_bn(
        "AlphaBatchNorm2d",
        *(4, 6, 3, 3),
        wrong_shape=(4, 6),
        variant="mixture",
        variance="mixture",
        detach_stats=False,
    ),
    alpha_bn("AlphaBatchNorm3d", 4, 6, 2, 2, 2, wrong_shape=(4, 6, 3, 3)),
    FunctionContract(
        method="normviz.norms.calibrate_batchnorm",
        inputs=lambda: (nn.Sequential(nn.Linear(4, 6), trained(nn.BatchNorm1d)),),
        tensors=False,
        bad=[
            Bad({"alpha": 1.5}),
            Bad({"alpha": [0.5, 0.5]}),
            Bad({"variance": "std"}),
            Bad(inputs=plain_network, names="model"),
        ],
    ),
    LayerContract(
        method="normviz.norms.ContinualNorm2d",
        make=partial(norms.ContinualNorm2d, num_features=6, num_groups=3),
        inputs=images,
        bad=[
            Bad({"num_features": 0}),
            Bad({"num_groups": 4}),
            Bad({"eps": -1.0}),
            Bad({"momentum": 1.5}),
            *NOT_IMAGES,
        ],
    ),
]
