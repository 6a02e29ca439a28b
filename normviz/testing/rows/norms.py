"""Rows of :mod:`normviz.norms`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normviz import norms
from normviz.testing._values import Inputs
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract, ObjectContract

__all__ = ["ROWS"]


def tokens(channels: int = 6) -> Callable[[], Inputs]:
    """(B, T, C) = (4, 5, channels)."""
    return lambda: (torch.randn(4, 5, channels),)


def padded_tokens(time_first: bool = False, channels: int = 6) -> Callable[[], Inputs]:
    """(B, T, C) or (T, B, C) with a mask (B, T) = (4, 5), True at padding; at least three real tokens a row."""

    def inputs() -> Inputs:
        lengths = torch.randint(3, 6, (4, 1))
        shape = (5, 4, channels) if time_first else (4, 5, channels)
        return torch.randn(shape), torch.arange(5) >= lengths

    return inputs


def images() -> Inputs:
    """(N, C, H, W) = (4, 6, 3, 3)."""
    return (torch.randn(4, 6, 3, 3),)


def sequences() -> Inputs:
    """(T, N, I) = (2, 4, 5), no initial state, lengths."""
    return torch.randn(2, 4, 5), None, torch.randint(1, 3, (4,))


def batch(width: int = 6) -> Callable[[], Inputs]:
    """(N, width) with N = 4."""
    return lambda: (torch.randn(4, width),)


def wrong(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[], Inputs]:
    """Zeros of a shape or dtype that must be refused."""
    return lambda: (torch.zeros(shape, dtype=dtype),)


NOT_TOKENS = (
    Bad(inputs=wrong(4, 5, 7), names="x"),
    Bad(inputs=wrong(4, 5, 6, dtype=torch.long), names="x", error=TypeError),
)
NOT_IMAGES = (
    Bad(inputs=wrong(4, 6), names="input"),
    Bad(inputs=wrong(4, 7, 3, 3), names="input"),
    Bad(inputs=wrong(4, 6, 3, 3, dtype=torch.long), names="input", error=TypeError),
)


def mask_of(shape: Sequence[int], dtype: torch.dtype = torch.bool) -> Callable[[], Inputs]:
    """Tokens (4, 5, 6) with a mask that must be refused."""
    return lambda: (torch.zeros(4, 5, 6), torch.ones(*shape, dtype=dtype))


BAD_MASKS = (
    Bad(inputs=mask_of((5, 3)), names="pad_mask"),
    Bad(inputs=mask_of((4, 5), torch.float32), names="pad_mask", error=TypeError),
)


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


def evonorm(name: str) -> LayerContract:
    """An EvoNorm layer; the B series has batch statistics, the S series groups."""
    batch_dependent = name.startswith("EvoNorm2dB")
    own = (
        [Bad({"momentum": 1.5})]
        if batch_dependent
        else [Bad({"groups": 4}), Bad({"group_size": 4, "groups": None})]
    )
    return LayerContract(
        method=f"normviz.norms.{name}",
        make=partial(getattr(norms, name), num_features=6, **({} if batch_dependent else {"groups": 3})),
        inputs=images,
        bad=[Bad({"num_features": 0}), Bad({"eps": -1.0}), *own, *NOT_IMAGES],
    )


def graph_layer(**options: Any) -> norms.GraphLayer2d:
    """max(v1 x, v0 rms over a group) / std over the batch: every parameter and both kinds of aggregation."""
    nodes = (
        ("mul", (0, 3)),
        ("rms_whg", (0,)),
        ("mul", (5, 2)),
        ("max", (4, 6)),
        ("std_bwh", (0,)),
        ("div", (7, 8)),
    )
    graph = norms.Graph(tuple(norms.Node(op, inputs) for op, inputs in nodes))
    return norms.GraphLayer2d(graph, **{"num_features": 6, "groups": 3, **options})


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


# ------------------------------------------------------------------------------------- what is no layer


def anchor(norm: Callable[[int], nn.Module]) -> nn.Module:
    """A network with one norm, for images of 4 x 4."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm(4), nn.Flatten(), nn.Linear(16, 2))


def search(**options: Any) -> norms.EvolutionSearch:
    """The EvoNorm search on eight images, with one step of training per candidate."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 1, 4, 4, generator=generator)
    data = norms.SearchData(x, (x.mean((1, 2, 3)) > 0).long(), x, (x.mean((1, 2, 3)) > 0).long(), 4)
    initial = [norms.EVONORM_GRAPHS["S0"], norms.EVONORM_GRAPHS["BN-ReLU"]]
    settings = {"steps": 1, "threshold": 0.0, "stability_steps": 1, "n_nodes": 4, "initial": initial}
    return norms.EvolutionSearch([anchor], data, **{**settings, **options})


def projected(**options: Any) -> ProjectedModel:
    """A small normalised network and its projector."""
    return ProjectedModel(**options)


class ProjectedModel:
    """A network and its projector, stepped and saved together."""

    def __init__(self, **options: Any) -> None:
        self.model = nn.Sequential(
            nn.Linear(4, 6, bias=False),
            nn.LayerNorm(6),
            nn.ReLU(),
            nn.Linear(6, 6, bias=False),
            nn.LayerNorm(6),
        )
        self.projector = norms.NormProjector(self.model, **options)

    def step(self, i: int) -> dict[str, Tensor]:
        """Move every parameter at random, then project."""
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for p in self.model.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        self.projector.project_(lr=0.1)
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        """States of network and projector."""
        return {"model": self.model.state_dict(), "projector": self.projector.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        self.projector.load_state_dict(state["projector"])


def plain_network() -> Inputs:
    """A network without norms."""
    return (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)),)


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
        method="normviz.norms.SELU",
        make=norms.SELU,
        inputs=batch(),
        bad=[Bad({"alpha": float("inf")}), Bad({"scale": float("inf")})],
    ),
    LayerContract(
        method="normviz.norms.AlphaDropout",
        make=partial(norms.AlphaDropout, p=0.3),
        inputs=batch(),
        random=True,
        bad=[Bad({"p": 1.0}), Bad({"p": -0.1}), Bad({"fixed_var": 0.0})],
    ),
    LayerContract(
        method="normviz.norms.SelfNormalizingMLP",
        make=partial(norms.SelfNormalizingMLP, in_features=6, hidden=5, out_features=3, depth=2, dropout=0.2),
        inputs=batch(),
        random=True,
        bad=[
            Bad({"in_features": 0}),
            Bad({"hidden": 0}),
            Bad({"out_features": 0}),
            Bad({"depth": 0}),
            Bad({"dropout": 1.0}),
        ],
    ),
    FunctionContract(
        method="normviz.norms.selu",
        inputs=batch(),
        bad=[Bad(inputs=wrong(4, 6, dtype=torch.long), names="selu", error=TypeError)],
        skip={"numbers": "the module checks alpha and scale, the function is its inner loop"},
    ),
    *(evonorm(f"EvoNorm2d{kind}") for kind in ("B0", "B1", "B2", "S0", "S1", "S2")),
    FunctionContract(
        method="normviz.norms.make_evonorm",
        inputs=lambda: ("S0", 6),
        options={"groups": 3},
        tensors=False,
        bad=[Bad(inputs=lambda: ("S9", 6), names="kind"), Bad({"groups": 4}), Bad({"eps": -1.0})],
    ),
    LayerContract(
        method="normviz.norms.GraphLayer2d",
        make=graph_layer,
        inputs=images,
        bad=[
            Bad({"num_features": 0}),
            Bad({"groups": 0}),
            Bad({"eps": -1.0}),
            Bad({"momentum": 1.5}),
            *NOT_IMAGES,
        ],
    ),
    ObjectContract(
        method="normviz.norms.EvolutionSearch",
        make=search,
        step=lambda object, _: object.step(),
        bad=[
            Bad({"population_size": 0}),
            Bad({"tournament_fraction": 0.0}),
            Bad({"min_tournament": 0}),
            Bad({"criterion": "best"}),
            Bad({"exploration": 1.5}),
            Bad({"n_nodes": 0}),
            Bad({"seed": -1}),
            Bad({"steps": 0}),
            Bad({"lr": 0.0}),
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
    LayerContract(
        method="normviz.norms.FeatureNorm",
        make=partial(norms.FeatureNorm, num_features=6),
        inputs=tokens(),
        bad=[Bad({"num_features": 0}), Bad({"eps": -1.0})],
    ),
    LayerContract(
        method="normviz.norms.NaPMLP",
        make=partial(norms.NaPMLP, in_dim=6, out_dim=3, hidden=(5, 4)),
        inputs=batch(),
        bad=[Bad({"in_dim": 0}), Bad({"out_dim": 0}), Bad({"hidden": (0,)}), Bad({"norm": "batch"})],
    ),
    FunctionContract(
        method="normviz.norms.insert_normalization",
        inputs=plain_network,
        tensors=False,
        bad=[
            Bad({"norm": "batch"}),
            Bad({"eps": -1.0}),
            Bad(inputs=lambda: (nn.Linear(2, 2),), names="model"),
        ],
    ),
    ObjectContract(
        method="normviz.norms.NormProjector",
        make=projected,
        step=ProjectedModel.step,
        bad=[
            Bad({"every": 0}),
            Bad({"scale_offset": "keep"}),
            Bad({"reg_strength": -1.0}),
            Bad({"exclude": ("9.weight",)}),
        ],
    ),
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
