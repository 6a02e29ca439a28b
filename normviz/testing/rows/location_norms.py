"""Rows of :mod:`normviz.norms`: LOAN, which conditions on static maps and on the day."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from normviz import norms
from normviz.testing._values import Inputs
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract

__all__ = ["ROWS"]


def maps(x: tuple[int, ...] = (3, 5, 2, 4, 4), cond: tuple[int, ...] = (3, 6, 4, 4)) -> Callable[[], Inputs]:
    """A dynamic feature map and the static one that goes with it."""
    return lambda: (torch.randn(x), torch.randn(cond))


def loan(variant: str = "", shape: tuple[int, ...] = (3, 5, 2, 4, 4), **options: Any) -> LayerContract:
    """A LOAN layer on feature maps of a shape."""
    return LayerContract(
        method="normviz.norms.LOAN",
        variant=variant,
        make=partial(norms.LOAN, **{"in_channels": 5, "cond_channels": 6, **options}),
        inputs=maps(shape),
        bad=[
            Bad({"in_channels": 0}),
            Bad({"cond_channels": 0}),
            Bad({"kernel_size": 2}),
            Bad({"norm_type": "instance"}),
            Bad({"eps": -1.0}),
            Bad({"momentum": 1.5}),
            Bad({"init_std": -1.0}),
            Bad(inputs=maps(cond=(3, 7, 4, 4)), names="cond"),
            Bad(inputs=maps(cond=(1, 6, 4, 4)), names="cond"),
            Bad(inputs=maps(cond=(3, 6, 4, 5)), names="cond"),
            Bad(inputs=maps(cond=(3, 6, 1, 4, 4)), names="cond"),
            Bad(inputs=maps((3, 6, 2, 4, 4)), names="x"),
            Bad(inputs=maps((3, 5, 4)), names="x"),
            Bad(inputs=wrong_pair((3, 5, 2, 4, 4), torch.long), names="x", error=TypeError),
        ],
    )


def wrong_pair(shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], Inputs]:
    """Zeros of a shape and dtype, with a good static map."""
    return lambda: (torch.zeros(shape, dtype=dtype), torch.zeros(3, 6, 4, 4))


def fire_inputs(
    dynamic: tuple[int, ...] = (3, 2, 8, 14, 14),
    static: tuple[int, ...] = (3, 1, 14, 14),
    landcover: tuple[int, ...] = (3, 2, 14, 14),
    days: tuple[int, ...] | None = (1, 60, 366),
) -> Callable[[], Inputs]:
    """A data cube of two dynamic and one static variable, two land-cover classes, and days."""
    return lambda: (
        torch.randn(dynamic),
        torch.randn(static),
        torch.randn(landcover),
        None if days is None else torch.tensor(days),
    )


ROWS: list[Contract] = [
    loan(),
    loan("without norm", kernel_size=1, norm=False, init_std=0.3),
    loan("without time", (3, 5, 4, 4), track_running_stats=False),
    LayerContract(
        method="normviz.norms.DayOfYearEncoding",
        make=partial(norms.DayOfYearEncoding, d_model=8),
        inputs=lambda: (torch.randint(1, 367, (5,)),),
        bad=[
            Bad({"d_model": 7}),
            Bad({"n_days": 0}),
            Bad({"base": 0.0}),
            Bad(inputs=lambda: (torch.tensor([1, 0]),), names="day"),
            Bad(inputs=lambda: (torch.tensor([1, 367]),), names="day"),
            Bad(inputs=lambda: (torch.tensor(1),), names="day"),
            Bad(inputs=lambda: (torch.tensor([1.0]),), names="day", error=TypeError),
            Bad(inputs=lambda: ([1],), names="day", error=TypeError),
        ],
    ),
    LayerContract(
        method="normviz.norms.LOANFireNet",
        make=partial(
            norms.LOANFireNet,
            dynamic_channels=2,
            static_channels=1,
            landcover_channels=2,
            n_classes=3,
            widths=(2, 3, 4),
            hidden=(5, 4),
            dropout=0.0,
        ),
        inputs=fire_inputs(),
        bad=[
            Bad({"dynamic_channels": 0}),
            Bad({"static_channels": 0}),
            Bad({"landcover_channels": 0}),
            Bad({"n_classes": 0}),
            Bad({"widths": (2, 3)}),
            Bad({"hidden": (0,)}),
            Bad({"dropout": 1.0}),
            Bad({"fusion": "middle"}),
            Bad(inputs=fire_inputs((3, 3, 8, 14, 14)), names="dynamic"),
            Bad(inputs=fire_inputs((3, 2, 7, 14, 14)), names="dynamic"),
            Bad(inputs=fire_inputs((3, 2, 8, 14, 13)), names="dynamic"),
            Bad(inputs=fire_inputs(static=(3, 2, 14, 14)), names="static"),
            Bad(inputs=fire_inputs(landcover=(1, 2, 14, 14)), names="landcover"),
            Bad(inputs=fire_inputs(landcover=(3, 2, 14, 15)), names="landcover"),
            Bad(inputs=fire_inputs(days=None), names="day"),
            Bad(inputs=fire_inputs(days=(1, 2)), names="day"),
            Bad(inputs=fire_inputs(days=(1, 2, 0)), names="day"),
        ],
        skip=dict.fromkeys(
            ("bfloat16", "autocast"),
            "half precision moves a maximum to another cell of the small pooled maps",
        ),
    ),
    FunctionContract(
        method="normviz.norms.leap_day_of_year",
        inputs=lambda: (3, 1),
        tensors=False,
        bad=[
            Bad(inputs=lambda: (13, 1), names="month"),
            Bad(inputs=lambda: (2, 30), names="day"),
            Bad(inputs=lambda: (4, 0), names="day"),
        ],
    ),
]
