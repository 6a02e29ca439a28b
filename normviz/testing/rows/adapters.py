"""Rows of :mod:`normviz.adapters`."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn

from normviz import adapters
from normviz.testing._values import Inputs
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract

__all__ = ["ROWS"]


def covariance(size: int = 6) -> torch.Tensor:
    """[size, size], of inputs in which the coordinates differ in size."""
    x = torch.randn(40, size) * torch.linspace(0.5, 2, size)
    return x.mT @ x / 40


def linear(**options: Any) -> adapters.LoRALinear:
    """An adapter on a layer [5, 6]."""
    return adapters.LoRALinear(nn.Linear(6, 5), **{"r": 2, "alpha": 3.0, **options})


def linear_inputs() -> Inputs:
    """[4, 3, 6]."""
    return (torch.randn(4, 3, 6),)


def tokens() -> Inputs:
    """[N, L, E] = [2, 20, 4], small enough for scores within a few units."""
    return (torch.randn(2, 20, 4) / 2,)


def attention(**options: Any) -> adapters.LoRAAttention:
    """Two heads of two channels."""
    return adapters.LoRAAttention(**{"embed_dim": 4, "num_heads": 2, "r": 2, **options})


def head() -> Inputs:
    """x1, x2, x3 [20, 3], target [20, 2] and three weights [2, 3]."""
    return (*torch.randn(3, 20, 3) / 2, torch.randn(20, 2), *torch.randn(3, 2, 3) / 2)


def head_with(position: int, *shape: int, dtype: torch.dtype = torch.float32) -> Any:
    """Those of :func:`head` with one that must be refused."""

    def inputs() -> Inputs:
        given = list(head())
        given[position] = torch.zeros(shape, dtype=dtype)
        return tuple(given)

    return inputs


def decomposed() -> Inputs:
    """W [5, 6], its inputs' covariance [6, 6], rank 2."""
    return torch.randn(5, 6), covariance(), 2


def queries_and_keys() -> Inputs:
    """q, k [2, 20, 2], the scale, the coefficients of the Taylor polynomial of degree 4."""
    return *torch.randn(2, 2, 20, 2) / 2, 0.7, adapters.exp_polynomial("taylor", 4, 1.0)


def orthogonal(**options: Any) -> adapters.OrthogonalLoRALinear:
    """An adapter with a frozen frame on a layer [5, 6]."""
    return adapters.OrthogonalLoRALinear(nn.Linear(6, 5), **{"r": 2, "alpha": 3.0, **options})


def pointwise(kernel_size: int = 1, groups: int = 1, **options: Any) -> adapters.OrthogonalLoRAConv2d1x1:
    """The same on a convolution from 4 to 6 channels."""
    base = nn.Conv2d(4, 6, kernel_size, stride=2, padding=1, groups=groups)
    return adapters.OrthogonalLoRAConv2d1x1(base, **{"r": 2, **options})


def concepts() -> Inputs:
    """The state of a layer [5, 6] and two adapters of it with different frames."""
    frames = [adapters.concept_basis(6, 2, method="disjoint", concept=i).float() for i in range(2)]
    tuned = [{"k": {"lora_up": torch.randn(5, 2), "basis": B}} for B in frames]
    return {"k.weight": torch.randn(5, 6), "k.bias": torch.randn(5)}, tuned


def fitted() -> dict[str, Any]:
    """Options of gradient fusion for :func:`concepts`."""
    return {"method": "gradient_fusion", "inputs": [{"k": torch.eye(6)}, {"k": torch.ones(3, 6)}], "iters": 5}


def merging(*adapted: Any) -> Any:
    """A base and adapters, as inputs."""
    return lambda: (concepts()[0], list(adapted))


def float64(dtype: torch.dtype) -> torch.dtype:  # noqa: ARG001
    """Factors are float64 whatever they are made of."""
    return torch.float64


def compatible() -> Inputs:
    """z, u, h_old [4, 3], each with a gradient of its own, and labels."""
    return (*torch.randn(3, 4, 3), torch.tensor([0, 1, 0, 2]))


class MappedLoss(nn.Module):
    """The compatibility loss of two maps, with a graph from both kinds of features and a weight."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.loss = adapters.CompatibilityLoss(**options)

    def forward(
        self, z: torch.Tensor, u: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """The total; the old features are those of an identity map, which get no gradient."""
        total: torch.Tensor = self.loss(z, u, u.flip(0), labels, weight)[0]
        return total


def mapped() -> Inputs:
    """z, u [4, 3], labels [4], weight [3, 5]."""
    return *torch.randn(2, 4, 3), torch.tensor([0, 1, 0, 2]), torch.randn(3, 5)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Distances are never narrower than float32."""
    return torch.promote_types(dtype, torch.float32)


def different_lengths() -> Inputs:
    """Features of four items, labels of three."""
    return (*torch.randn(3, 4, 3), torch.zeros(3))


FRAME = (
    Bad({"r": 0}),
    Bad({"alpha": 0.0}),
    Bad({"method": "hadamard"}),
    Bad({"method": "disjoint", "concept": 3}, names="concept"),
    Bad({"method": "disjoint", "concept": -1}, names="concept"),
)
LORA = (
    Bad({"r": 0}),
    Bad({"r": 6}),
    Bad({"alpha": 0.0}),
    Bad({"init": "loftq"}),
    Bad({"dropout": 1.0}),
    Bad({"sigma_fuse": "S"}),
    Bad({"damp": 0.0}),
    Bad({"init": "corda_ipm"}, names="covariance"),
    Bad({"init": "corda_kpm", "covariance": torch.eye(5)}, names="covariance"),
    Bad({"init": "corda_kpm", "covariance": torch.zeros(6, 6)}, names="covariance"),
)
ATTENTION = (
    Bad({"num_heads": 3}, names="embed_dim"),
    Bad({"r": 5}),
    Bad({"alpha": 0.0}),
    Bad({"adapt": ()}),
    Bad({"adapt": ("q", "o")}),
    Bad({"method": "performer"}),
    Bad({"degree": -1}),
    Bad({"poly": "pade"}),
    Bad({"eps": 1.0}),
    Bad({"scale": math.nan}),
    Bad({"max_rank": 0}),
    Bad(inputs=lambda: (torch.zeros(2, 20, 5),), names="x"),
    Bad(inputs=lambda: (torch.zeros(2, 20, 4, dtype=torch.long),), names="x", error=TypeError),
)
GRADIENTS = (
    Bad({"method": "performer"}),
    Bad({"degree": -1}),
    Bad({"poly": "pade"}),
    Bad({"eps": 1.0}),
    Bad({"radius": -1.0}),
    Bad({"scale": math.inf}),
    Bad({"max_rank": 0}),
    Bad(inputs=head_with(1, 19, 3), names="x2"),
    Bad(inputs=head_with(3, 19, 2), names="target"),
    Bad(inputs=head_with(5, 2, 4), names="wk"),
    Bad(inputs=head_with(0, 20, 3, dtype=torch.long), names="x1", error=TypeError),
)
# LoRAAttention has differentiable=False in its rows because its frozen weights have no gradient.
VALUES = "the damping is chosen by looking at the covariance's values"

ROWS: list[Contract] = [
    LayerContract(method="normviz.adapters.LoRALinear", make=linear, inputs=linear_inputs, bad=LORA),
    LayerContract(
        method="normviz.adapters.LoRALinear",
        variant="corda",
        make=lambda **options: linear(**{"init": "corda_kpm", "covariance": covariance(), **options}),
        inputs=linear_inputs,
        bad=[Bad({"covariance": None})],
    ),
    LayerContract(
        method="normviz.adapters.LoRALinear",
        variant="dropout",
        make=partial(linear, init="pissa", dropout=0.3),
        inputs=linear_inputs,
        random=True,
        skip=dict.fromkeys(("bfloat16", "float32", "autocast"), "draws differ between dtypes")
        | {"compile": "the compiler draws in another order"},
    ),
    FunctionContract(
        method="normviz.adapters.corda_init",
        inputs=decomposed,
        differentiable=False,
        options={"mode": "ipm", "alpha": 3.0},
        skip=dict.fromkeys(("device", "vmap", "compile"), VALUES),
        bad=[
            Bad({"mode": "kpa"}),
            Bad({"alpha": 0.0}),
            Bad({"sigma_fuse": "S"}),
            Bad({"damp": 0.0}),
            Bad(inputs=lambda: (torch.zeros(5, 6), torch.eye(5), 2), names="C"),
            Bad(inputs=lambda: (torch.zeros(5, 6), torch.zeros(6, 6), 2), names="C"),
            Bad(inputs=lambda: (torch.zeros(5, 6), torch.eye(6), 6), names="r"),
            Bad(inputs=lambda: (torch.zeros(5, 6).long(), torch.eye(6), 2), names="W", error=TypeError),
        ],
    ),
    FunctionContract(
        method="normviz.adapters.pissa_init",
        inputs=lambda: (torch.randn(5, 6), 2),
        differentiable=False,
        bad=[
            Bad({"alpha": 0.0}),
            Bad(inputs=lambda: (torch.zeros(5, 6), 0), names="r"),
            Bad(inputs=lambda: (torch.zeros(5), 1), names="W"),
        ],
    ),
    LayerContract(
        method="normviz.adapters.LoRAAttention",
        make=attention,
        inputs=tokens,
        differentiable=False,
        bad=ATTENTION,
    ),
    LayerContract(
        method="normviz.adapters.LoRAAttention",
        variant="lowrank",
        make=partial(attention, method="lowrank", degree=4, adapt=("q", "k", "v")),
        inputs=tokens,
        differentiable=False,
        bad=[Bad({"max_rank": 14})],
    ),
    LayerContract(
        method="normviz.adapters.LoRAAttention",
        variant="causal lowrank",
        make=partial(attention, method="lowrank", degree=4, causal=True),
        inputs=tokens,
        differentiable=False,
    ),
    FunctionContract(
        method="normviz.adapters.lora_attention_gradients",
        inputs=head,
        differentiable=False,
        bad=GRADIENTS,
    ),
    FunctionContract(
        method="normviz.adapters.lora_attention_gradients",
        variant="lowrank",
        inputs=head,
        options={"method": "lowrank", "degree": 4, "radius": 3.0},
        differentiable=False,
        bad=[Bad({"max_rank": 14})],
        skip={"compile": "the polynomial's error is returned as a number"},
    ),
    FunctionContract(
        method="normviz.adapters.lowrank_attention_factors",
        inputs=queries_and_keys,
        output_dtype=float64,
        bad=[
            Bad({"max_rank": 14}),
            Bad(inputs=lambda: (torch.ones(4), *queries_and_keys()[1:]), names="q"),
            Bad(inputs=lambda: (torch.ones(4, 3), torch.ones(4, 2), 1.0, torch.ones(1)), names="k"),
            Bad(inputs=lambda: (torch.ones(4, 2), torch.ones(4, 2), 1.0, torch.ones(1, 1)), names="coeffs"),
            Bad(inputs=lambda: (torch.ones(4, 2), -torch.ones(4, 2), 2.0, torch.ones(2)), names="degree"),
        ],
    ),
    FunctionContract(
        method="normviz.adapters.required_degree",
        inputs=lambda: (2.0, 1e-3),
        tensors=False,
        bad=[
            Bad(inputs=lambda: (-1.0, 1e-3), names="radius"),
            Bad(inputs=lambda: (50.0, 1e-3), names="radius"),
            Bad(inputs=lambda: (1.0, 1.0), names="eps"),
            Bad({"kind": "pade"}),
        ],
    ),
    LayerContract(
        method="normviz.adapters.AffineAdapter",
        make=partial(adapters.AffineAdapter, in_features=4, out_features=3),
        inputs=lambda: (torch.randn(2, 5, 4),),
        bad=[
            Bad({"in_features": 0}),
            Bad({"out_features": 0}),
            Bad({"init": "zeros"}),
            Bad({"init": "procrustes"}, names="data"),
            Bad({"init": "procrustes", "data": (torch.zeros(5, 4), torch.zeros(5, 2))}, names="data"),
        ],
    ),
    LayerContract(
        method="normviz.adapters.OrthogonalAdapter",
        make=partial(adapters.OrthogonalAdapter, features=4),
        inputs=lambda: (torch.randn(2, 5, 4),),
        bad=[
            Bad({"features": 0}),
            Bad({"out_features": 0}),
            Bad({"parametrization": "givens"}),
            Bad({"weight": torch.eye(3)}),
            Bad({"weight": 2 * torch.eye(4)}),
        ],
    ),
    LayerContract(
        method="normviz.adapters.OrthogonalAdapter",
        variant="cayley",
        make=partial(adapters.OrthogonalAdapter, features=4, parametrization="cayley"),
        inputs=lambda: (torch.randn(3, 4),),
    ),
    *(
        LayerContract(
            method="normviz.adapters.LambdaOrthogonalityLoss",
            variant=mode,
            make=partial(adapters.LambdaOrthogonalityLoss, mode=mode),
            inputs=lambda: (torch.randn(4, 3),),
            output_dtype=at_least_float32,
            bad=[
                Bad({"lam": -1.0}),
                Bad({"beta": 0.0}),
                Bad({"mode": "hard"}),
                Bad(inputs=lambda: (torch.zeros(3),), names="weight"),
            ],
        )
        for mode in adapters.LAMBDA_MODES
    ),
    LayerContract(
        method="normviz.adapters.CrossModelSupConLoss",
        make=adapters.CrossModelSupConLoss,
        inputs=compatible,
        output_dtype=at_least_float32,
        bad=[Bad({"temperature": 0.0}), Bad(inputs=different_lengths, names="labels")],
    ),
    LayerContract(
        method="normviz.adapters.CompatibilityLoss",
        make=MappedLoss,
        inputs=mapped,
        output_dtype=at_least_float32,
        bad=[
            *(Bad({name: -1.0}) for name in ("w_forward", "w_backward", "w_contrastive", "w_lambda")),
            Bad({"lam": -1.0}),
            Bad({"temperature": -1.0}),
        ],
    ),
    LayerContract(
        method="normviz.adapters.ForwardTransform",
        make=partial(adapters.ForwardTransform, in_features=4, out_features=3, hidden=5),
        inputs=lambda: (torch.randn(2, 4),),
        differentiable=False,  # the log variance is no part of the forward
        bad=[Bad({"in_features": 0}), Bad({"out_features": 0}), Bad({"hidden": 0})],
    ),
    *(
        LayerContract(
            method="normviz.adapters.OrthogonalLoRALinear",
            variant="" if frames == "orthogonal" else frames,
            make=partial(orthogonal, method=frames),
            inputs=linear_inputs,
            bad=[*FRAME, Bad({"r": 7})],
        )
        for frames in ("orthogonal", "gaussian", "disjoint")
    ),
    LayerContract(
        method="normviz.adapters.OrthogonalLoRAConv2d1x1",
        make=pointwise,
        inputs=lambda: (torch.randn(2, 4, 5, 3),),
        bad=[
            *(bad for bad in FRAME if bad.name != "concept"),
            Bad({"r": 5}),
            Bad({"kernel_size": 3}, names="kernel_size"),
            Bad({"groups": 2}),
        ],
    ),
    FunctionContract(
        method="normviz.adapters.SharedOrthogonalBasis",
        inputs=tuple,
        tensors=False,
    ),
    FunctionContract(
        method="normviz.adapters.concept_basis",
        inputs=lambda: (6, 2),
        tensors=False,
        bad=[
            Bad({"method": "hadamard"}),
            Bad({"method": "disjoint", "concept": 3}, names="capacity"),
            Bad({"method": "disjoint", "concept": -1}, names="concept"),
            Bad(inputs=lambda: (6, 7), names="r"),
            Bad(inputs=lambda: (0, 1), names="n"),
        ],
    ),
    FunctionContract(
        method="normviz.adapters.merge_adapters",
        inputs=concepts,
        tensors=False,
        bad=[
            Bad({"method": "average"}),
            Bad({"solver": "adam"}),
            Bad({"iters": 0}),
            Bad({"weights": [1.0]}),
            Bad({"weights": [1.0, math.inf]}),
            Bad({"method": "fedavg", "weights": [1.0, -1.0]}, names="weights"),
            Bad({"method": "gradient_fusion"}, names="inputs"),
            Bad(inputs=merging(), names="adapters"),
            Bad(inputs=merging({"v": concepts()[1][0]["k"]}), names="v"),
        ],
    ),
    FunctionContract(
        method="normviz.adapters.merge_adapters",
        variant="gradient fusion",
        inputs=concepts,
        options=fitted(),
        tensors=False,
        bad=[Bad({"inputs": [{"k": torch.eye(6)}, {}]}), Bad({"inputs": [{"k": torch.eye(5)}] * 2})],
    ),
    FunctionContract(
        method="normviz.adapters.weight_crosstalk",
        inputs=lambda: (list(torch.randn(3, 5, 6)),),
        tensors=False,
        bad=[
            Bad(inputs=lambda: ([],), names="deltas"),
            Bad(inputs=lambda: ([torch.ones(5, 6), torch.ones(5, 4)],), names="deltas"),
        ],
    ),
    FunctionContract(
        method="normviz.adapters.activation_crosstalk",
        inputs=lambda: (list(torch.randn(3, 5, 6)), list(torch.randn(3, 4, 6))),
        tensors=False,
        bad=[
            Bad({"weights": [1.0, 1.0]}),
            Bad({"weights": [1.0, 1.0, math.nan]}),
            Bad(inputs=lambda: (list(torch.ones(3, 5, 6)), list(torch.ones(2, 4, 6))), names="inputs"),
            Bad(inputs=lambda: (list(torch.ones(2, 5, 6)), list(torch.ones(2, 4, 5))), names="inputs"),
        ],
    ),
    *(
        FunctionContract(
            method=f"normviz.adapters.{name}",
            inputs=lambda: (6, 2),
            tensors=False,
            bad=[Bad(inputs=lambda: (6, 7), names="r"), Bad(inputs=lambda: (0, 1), names="n")],
        )
        for name in ("expected_overlap", "probability_disjoint")
    ),
    FunctionContract(
        method="normviz.adapters.orthogonality_distance",
        inputs=lambda: (torch.randn(3, 4),),
        output_dtype=at_least_float32,
        bad=[Bad(inputs=lambda: (torch.zeros(2, 3, 3),), names="weight")],
    ),
    FunctionContract(
        method="normviz.adapters.retrieval_metrics",
        inputs=lambda: (torch.randn(6, 3), torch.arange(6) % 2, torch.randn(6, 3), torch.arange(6) % 2),
        tensors=False,
        bad=[Bad({"topk": 0})],
    ),
]
