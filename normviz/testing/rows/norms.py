"""Rows of :mod:`normviz.norms`: the statistics of rows, batches and windows."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from normviz import norms
from normviz.testing._norm_inputs import BAD_MASKS, NOT_TOKENS, images, mask_of, padded_tokens, tokens, wrong
from normviz.testing._values import Inputs
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract

__all__ = ["ROWS"]


def sequences() -> Inputs:
    """(T, N, I) = (2, 4, 5), no initial state, lengths."""
    return torch.randn(2, 4, 5), None, torch.randint(1, 3, (4,))


def recurrent(name: str, state: str = "state") -> LayerContract:
    """A recurrent network with layer norm."""
    return LayerContract(
        method=f"normviz.norms.{name}",
        make=partial(getattr(norms, name), input_size=5, hidden_size=4, num_layers=2),
        inputs=sequences,
        bad=[
            Bad({"input_size": 0}),
            Bad({"hidden_size": 0}),
            Bad({"num_layers": 0}),
            Bad({"eps": -1.0}),
            Bad(inputs=wrong(3, 4, 6), names="x"),
            Bad(inputs=wrong(3, 4, 5, dtype=torch.long), names="x", error=TypeError),
            Bad(inputs=lambda: (torch.zeros(3, 4, 5), torch.zeros(2, 3, 4)), names=state),
            Bad(inputs=lambda: (torch.zeros(3, 4, 5), None, torch.tensor([1, 2, 3, 4])), names="lengths"),
            Bad(inputs=lambda: (torch.zeros(3, 4, 5), None, torch.ones(4)), names="lengths", error=TypeError),
        ],
    )


def trained_power_norm() -> Inputs:
    """A PowerNorm with a running statistic, and tokens."""
    norm = norms.PowerNorm(6, batch_first=True)
    norm(torch.randn(4, 5, 6))
    return norm, torch.randn(4, 5, 6)


BLOCK: dict[str, Any] = {"num_features": 6, "batch_first": True}

ROWS: list[Contract] = [
    LayerContract(
        method="normviz.norms.LayerNorm",
        make=partial(norms.LayerNorm, normalized_shape=6),
        inputs=tokens(),
        bad=[
            Bad({"normalized_shape": 0}),
            Bad({"eps": -1.0}),
            Bad(inputs=wrong(4, 5, 7), names="normalized_shape"),
            Bad(inputs=wrong(4, 5, 6, dtype=torch.long), names="a", error=TypeError),
        ],
    ),
    LayerContract(
        method="normviz.norms.LayerNormLinear",
        make=partial(norms.LayerNormLinear, in_features=6, out_features=4),
        inputs=tokens(),
        bad=[
            Bad({"in_features": 0}),
            Bad({"out_features": 0}),
            Bad({"activation": "sine"}),
            Bad({"eps": -1.0}),
        ],
    ),
    recurrent("LayerNormRNN"),
    recurrent("LayerNormGRU"),
    recurrent("LayerNormLSTM"),
    FunctionContract(
        method="normviz.norms.invariance_table",
        inputs=tuple,
        tensors=False,
        bad=[Bad({"tol": 0.0}), Bad({"seed": -1})],
    ),
    LayerContract(
        method="normviz.norms.PowerNorm",
        make=partial(norms.PowerNorm, groups=2, warmup_iters=2, **BLOCK),
        inputs=padded_tokens(),
        bad=[
            Bad({"num_features": 0}),
            Bad({"groups": 4}),
            Bad({"eps": -1.0}),
            Bad({"alpha_fwd": 1.5}),
            Bad({"alpha_bkw": -0.5}),
            Bad({"warmup_iters": -1}),
            Bad({"mode": "exact"}),
            *NOT_TOKENS,
            *BAD_MASKS,
            Bad(inputs=mask_of((4, 5)), names="pad_mask"),
        ],
    ),
    LayerContract(
        method="normviz.norms.PowerNorm",
        variant="paper",
        make=partial(norms.PowerNorm, num_features=6, warmup_iters=0, mode="paper"),
        inputs=padded_tokens(time_first=True),
    ),
    LayerContract(
        method="normviz.norms.PowerNormV",
        make=partial(norms.PowerNormV, **BLOCK),
        inputs=padded_tokens(),
        bad=[
            Bad({"num_features": 0}),
            Bad({"groups": 4}),
            Bad({"eps": -1.0}),
            Bad({"momentum": 1.5}),
            *NOT_TOKENS,
            *BAD_MASKS,
        ],
    ),
    FunctionContract(
        method="normviz.norms.statistics_gap",
        inputs=trained_power_norm,
        tensors=False,
        bad=[
            Bad(inputs=lambda: (nn.LayerNorm(6), torch.zeros(4, 6)), names="norm", error=TypeError),
            Bad(inputs=lambda: (norms.PowerNorm(6), torch.zeros(4, 7)), names="x"),
        ],
    ),
    LayerContract(
        method="normviz.norms.UnifiedNorm1d",
        make=partial(
            norms.UnifiedNorm1d, num_features=6, window_size=(2, 3), warmup_iters=3, compensation_start=0
        ),
        inputs=padded_tokens(),
        bad=[
            Bad({"num_features": 0}),
            Bad({"window_size": 0}),
            Bad({"window_size": 2.5}, error=TypeError),
            Bad({"warmup_iters": -1}),
            Bad({"eps": -1.0}),
            Bad({"momentum": 1.0}),
            Bad({"compensation_clip": 0.5}),
            Bad({"forward_smoothing": "median"}),
            Bad({"threshold_scope": "row"}),
            *NOT_TOKENS,
            *BAD_MASKS,
        ],
    ),
    LayerContract(
        method="normviz.norms.UnifiedNorm2d",
        make=partial(
            norms.UnifiedNorm2d, num_features=6, window_size=2, warmup_iters=2, outlier_filtration=True
        ),
        inputs=images,
        bad=[
            Bad({"num_features": 0}),
            Bad(inputs=wrong(4, 6, 3), names="x"),
            Bad(inputs=wrong(4, 7, 3, 3), names="x"),
        ],
    ),
    LayerContract(
        method="normviz.norms.BatchNorm",
        make=partial(norms.BatchNorm, num_features=6),
        inputs=padded_tokens(),
        bad=[Bad({"num_features": 0}), Bad({"eps": -1.0}), Bad({"momentum": 1.5}), *NOT_TOKENS, *BAD_MASKS],
    ),
    LayerContract(
        method="normviz.norms.RMSNorm",
        make=partial(norms.RMSNorm, num_features=6),
        inputs=tokens(),
        bad=[Bad({"num_features": 0}), Bad({"eps": -1.0}), *NOT_TOKENS],
    ),
    LayerContract(
        method="normviz.norms.GroupNorm",
        make=partial(norms.GroupNorm, num_features=6, groups=2),
        inputs=tokens(),
        bad=[Bad({"num_features": 0}), Bad({"groups": 4}), Bad({"eps": -1.0}), *NOT_TOKENS],
    ),
    FunctionContract(
        method="normviz.norms.make_synthetic_firecube",
        inputs=lambda: (4,),
        options={"size": 5, "days": 3, "channels": (1, 1, 2)},
        tensors=False,
        bad=[
            Bad(inputs=lambda: (1,), names="n"),
            Bad({"size": 0}),
            Bad({"days": 2}),
            Bad({"response": "mean"}),
            Bad({"channels": (1, 1, 3)}),
            Bad({"channels": (1, 2)}),
            Bad({"knots": 0}),
            Bad({"contrast": -1.0}),
        ],
    ),
    FunctionContract(
        method="normviz.norms.make_artsem_like",
        inputs=lambda: (3,),
        options={"size": 8, "domains": 2},
        tensors=False,
        bad=[
            Bad(inputs=lambda: (0,), names="n"),
            Bad({"size": 4}),
            Bad({"domains": 0}),
            Bad({"jitter": -1.0}),
        ],
    ),
]
