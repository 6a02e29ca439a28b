"""Rows of :mod:`normviz.norms`: norms that a segmentation map or a style modulates, with the networks around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from normviz import norms
from normviz.testing._norm_inputs import images, wrong
from normviz.testing._values import Inputs
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract

__all__ = ["ROWS"]


LABELS, LATENT, STYLE = 3, 4, 2
"""Classes, width of z and width of styles of the norms below."""


def conditioned(
    layout: tuple[int, ...] | None = (4, 6, 6),
    z: tuple[int, ...] | None = None,
    *,
    x: tuple[int, ...] = (4, 6, 3, 3),
    lowest: int = 0,
) -> Callable[[], Inputs]:
    """Images, LABELS labels from ``lowest`` of a layout, and a style of a shape."""

    def inputs() -> Inputs:
        given: list[Any] = [torch.randn(x)]
        if layout is not None:
            given.append(torch.randint(lowest, lowest + LABELS, layout))
        if z is not None:
            given.append(torch.randn(z))
        return tuple(given)

    return inputs


def semantic(
    name: str, layout: tuple[int, ...] | None, z: tuple[int, ...] | None, variant: str = "", **options: Any
) -> LayerContract:
    """A norm with a layout, a style or both."""
    own: dict[str, Any] = {"num_features": 6}
    bad = [Bad({"num_features": 0}), Bad({"norm": "layer"})]
    bad += [Bad(inputs=conditioned(layout, z, x=shape), names="x") for shape in ((4, 7, 3, 3), (4, 6, 3))]
    if layout is not None:
        own |= {"label_channels": LABELS, "hidden": 5}
        bad += [Bad({"label_channels": 0}), Bad({"hidden": 0}), Bad({"kernel_size": 2})]
        bad += [
            Bad(inputs=conditioned((3, 6, 6), z), names="segmap"),
            Bad(inputs=conditioned((4, 3, 6, 6), z), names="segmap"),
            Bad(inputs=conditioned(layout, z, lowest=LABELS), names="segmap"),
        ]
    if z is not None:
        word = "styles" if len(z) == 3 else "z"
        own |= {"style_dim": STYLE} | ({"latent_dim": LATENT} if len(z) == 2 else {})
        bad += [Bad({"style_dim": 0}), Bad(inputs=conditioned(layout, (1, *z[1:])), names=word)]
        bad += [Bad(inputs=conditioned(layout, (*z[:-1], z[-1] + 1)), names=word)]
    return LayerContract(
        method=f"normviz.norms.{name}",
        variant=variant,
        make=partial(getattr(norms, name), **{**own, **options}),
        inputs=conditioned(layout, z),
        bad=bad,
    )


def plain_batch_norm(channels: int) -> nn.Module:
    """A norm without a condition."""
    return nn.BatchNorm2d(channels)


SPECTRAL = dict.fromkeys(
    ("vmap", "copy"), "torch's spectral norm cannot be pickled, and writes its vectors by out= arguments"
)

ROWS: list[Contract] = [
    semantic("SPADE", (4, 6, 6), None),
    semantic("SPADE", (4, 6, 6), None, "instance", norm="instance"),
    semantic("SSTAN", (4, 6, 6), (4, LATENT)),
    semantic("StyleOnlyNorm", None, (4, LATENT)),
    semantic("SEAN", (4, 6, 6), (4, LABELS, STYLE), noise=False),
    LayerContract(
        method="normviz.norms.RegionStyleEncoder",
        make=partial(norms.RegionStyleEncoder, style_dim=STYLE),
        inputs=lambda: (torch.randn(2, 3, 8, 8), torch.randn(2, LABELS, 8, 8).softmax(1)),
        bad=[
            Bad({"style_dim": 0}),
            Bad(inputs=lambda: (torch.randn(2, 4, 8, 8), torch.ones(2, LABELS, 8, 8)), names="image"),
            Bad(inputs=lambda: (torch.randn(2, 3, 8, 8), torch.ones(2, 8, 8)), names="segmap"),
        ],
        skip=dict.fromkeys(
            ("bfloat16", "autocast"), "instance norms of a few pixels multiply half precision's rounding"
        ),
    ),
    LayerContract(
        method="normviz.norms.SemanticResBlock",
        make=partial(norms.SemanticResBlock, fin=6, fout=4, norm_factory=plain_batch_norm),
        inputs=images,
        skip=SPECTRAL,
        bad=[Bad({"fin": 0}), Bad({"fout": 0}), Bad({"norm_factory": "batch"})],
    ),
    LayerContract(
        method="normviz.norms.DomainVariationalEncoder",
        make=partial(norms.DomainVariationalEncoder, num_domains=3, latent_dim=LATENT, base=2, image_size=8),
        inputs=lambda: (torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 1, 0])),
        skip=SPECTRAL,
        bad=[
            Bad({"num_domains": 0}),
            Bad({"latent_dim": 0}),
            Bad({"base": 0}),
            Bad({"image_size": 12}),
            Bad({"image_size": 4}),
            Bad(inputs=lambda: (torch.randn(2, 3, 16, 16), torch.tensor([0, 1])), names="x"),
            Bad(inputs=lambda: (torch.randn(2, 3, 8, 8), torch.tensor([0, 3])), names="domain"),
            Bad(inputs=lambda: (torch.randn(2, 3, 8, 8), torch.tensor([0])), names="domain"),
            Bad(inputs=lambda: (torch.randn(2, 3, 8, 8), torch.ones(2)), names="domain", error=TypeError),
        ],
    ),
    LayerContract(
        method="normviz.norms.MultiscaleDiscriminator",
        make=partial(norms.MultiscaleDiscriminator, in_channels=3, base=2, layers=2),
        inputs=lambda: (torch.randn(2, 3, 8, 8),),
        skip=SPECTRAL,
        bad=[
            Bad({"in_channels": 0}),
            Bad({"base": 0}),
            Bad({"layers": 0}),
            Bad({"scales": 0}),
            Bad(inputs=wrong(2, 4, 8, 8), names="x"),
        ],
    ),
    FunctionContract(
        method="normviz.norms.region_average_pool",
        inputs=lambda: (torch.randn(2, 4, 3, 3), torch.randn(2, LABELS, 3, 3).softmax(1)),
        bad=[
            Bad(inputs=lambda: (torch.randn(2, 4, 3), torch.ones(2, LABELS, 3, 3)), names="feat"),
            Bad(inputs=lambda: (torch.randn(2, 4, 3, 3), torch.ones(1, LABELS, 3, 3)), names="segmap"),
        ],
    ),
    FunctionContract(
        method="normviz.norms.kl_loss",
        inputs=lambda: (torch.randn(4, 5), torch.randn(4, 5)),
        options={"reduction": "batchmean"},
        bad=[
            Bad({"reduction": "mean"}),
            Bad(inputs=lambda: (torch.randn(4, 5), torch.randn(4, 1)), names="logvar"),
        ],
    ),
    FunctionContract(
        method="normviz.norms.domain_hyperplane",
        inputs=lambda: (torch.randn(8, 3), torch.arange(8) % 3),
        options={"positive": 1},
        tensors=False,
        bad=[
            Bad({"positive": 3}),
            Bad(inputs=lambda: (torch.randn(8), torch.arange(8) % 3), names="z"),
            Bad(inputs=lambda: (torch.randn(8, 3), torch.arange(7) % 3), names="labels"),
        ],
    ),
]
