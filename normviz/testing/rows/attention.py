"""Rows of :mod:`normviz.attention`."""

from __future__ import annotations

from functools import partial

import torch

from normviz import attention
from normviz.testing._values import Inputs
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract

__all__ = ["ROWS"]


def images() -> Inputs:
    """[B, C, H, W] = [2, 8, 2, 3]."""
    return (torch.randn(2, 8, 2, 3),)


def photographs() -> Inputs:
    """[B, 3, H, W] = [3, 3, 32, 32]."""
    return (torch.randn(3, 3, 32, 32),)


def queries_and_keys() -> Inputs:
    """[B, h, N, d] = [1, 2, 3, 4] and [B, h, M, d] = [1, 2, 5, 4], and the kind."""
    return torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4), "nala_cosine"


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Weights are never of a half type."""
    return torch.promote_types(dtype, torch.float32)


FEATURES = (Bad({"direction": "sine"}), Bad({"lam": 0.0}), Bad({"tau": 0.0}), Bad({"alpha": 0.0}))

ROWS: list[Contract] = [
    LayerContract(
        method="normviz.attention.NormAwareLinearAttention",
        make=partial(attention.NormAwareLinearAttention, dim=8, num_heads=2),
        inputs=images,
        bad=[
            *FEATURES,
            Bad({"num_heads": 3}),
            Bad({"lepe_kernel": 2}),
            Bad({"eps": -1.0}),
            Bad(inputs=lambda: (torch.zeros(2, 7, 2, 3),), names="x"),
        ],
    ),
    LayerContract(
        method="normviz.attention.NormAwareLinearAttention",
        variant="causal",
        make=partial(
            attention.NormAwareLinearAttention,
            dim=8,
            num_heads=2,
            direction="sign",
            lepe_kernel=3,
            causal=True,
        ),
        inputs=lambda: (torch.randn(2, 5, 8),),
        bad=[Bad(inputs=lambda: (torch.zeros(2, 5, 7),), names="x")],
    ),
    LayerContract(
        method="normviz.attention.NaLaFormerBlock",
        make=partial(
            attention.NaLaFormerBlock, dim=8, num_heads=2, attention="softmax", drop_path=0.3, mlp_ratio=2
        ),
        inputs=images,
        random=True,
        bad=[Bad({"attention": "local"}), Bad({"drop_path": 1.0}), Bad({"mlp_ratio": 0.0})],
    ),
    LayerContract(
        method="normviz.attention.NaLaFormerBlock",
        variant="linear",
        make=partial(attention.NaLaFormerBlock, dim=8, num_heads=2, direction="sign", mlp_ratio=2),
        inputs=images,
    ),
    LayerContract(
        method="normviz.attention.NaLaFormer",
        make=partial(
            attention.NaLaFormer,
            num_classes=3,
            dims=(8, 8, 8, 8),
            depths=(1, 1, 1, 1),
            heads=(1, 1, 2, 2),
            mlp_ratio=1.0,
            drop_path=0.0,
        ),
        inputs=photographs,
        float32_error=1e-3,  # rounding grows with depth and batch norm
        skip={
            "bfloat16": "rounding grows with depth and batch norm; the block has a row of its own",
            "autocast": "the same",
            "compile": "the block is compiled, linear and softmax",
        },
        bad=[
            Bad({"variant": "XXL"}),
            Bad({"num_classes": 0}),
            Bad({"in_chans": 0}),
            Bad({"attention": ("linear",)}),
            Bad({"direction": "sine"}),
            Bad({"dims": (7, 8, 8, 8)}),
            Bad({"depths": (0, 1, 1, 1)}),
            Bad({"drop_path": 1.0}),
        ],
    ),
    FunctionContract(
        method="normviz.attention.attention_weights",
        inputs=queries_and_keys,
        output_dtype=at_least_float32,
        bad=[
            Bad(inputs=lambda: (*queries_and_keys()[:2], "linear"), names="kind"),
            Bad(inputs=lambda: (torch.zeros(1, 2, 3, 5), torch.zeros(1, 2, 5, 4), "relu"), names="k"),
            Bad({"eps": -1.0}),
            Bad({"lam": 0.0}),
        ],
    ),
]
