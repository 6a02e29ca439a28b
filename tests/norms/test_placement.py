"""``device`` and ``dtype`` of every layer: the layer that is built there is the one that is moved there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from normviz import norms
from normviz.norms import UnifiedNorm1d, make_norm

BUILD: dict[str, Callable[..., nn.Module]] = {
    "LOAN": partial(norms.LOAN, 4, 3),
    "SEAN": partial(norms.SEAN, 4, 3, style_dim=5, hidden=6),
    "SPADE": partial(norms.SPADE, 4, 3, hidden=6),
    "SSTAN": partial(norms.SSTAN, 4, 3, 5, style_dim=6, hidden=6),
    "StyleOnlyNorm": partial(norms.StyleOnlyNorm, 4, 5, style_dim=6),
    "DayOfYearEncoding": partial(norms.DayOfYearEncoding, 8),
    "LOANFireNet": partial(norms.LOANFireNet, widths=(8, 8, 8), hidden=(8, 8, 8)),
    "LayerNormLinear": partial(norms.LayerNormLinear, 4, 6),
    "NaPConvNet": partial(norms.NaPConvNet, 3, 2, (4, 4)),
    "NaPMLP": partial(norms.NaPMLP, 3, 2, (8, 8)),
    "SelfNormalizingMLP": partial(norms.SelfNormalizingMLP, 4, 8, 2, 2),
    "RegionStyleEncoder": partial(norms.RegionStyleEncoder, 4),
    "MultiscaleDiscriminator": partial(norms.MultiscaleDiscriminator, 3, 4, layers=2),
    "DomainVariationalEncoder": partial(norms.DomainVariationalEncoder, 2, 4, base=4, image_size=32),
    "SemanticGenerator": partial(
        norms.SemanticGenerator, 3, 4, base=4, image_size=32, upsamplings=3, hidden=4
    ),
    "SemanticResBlock": partial(norms.SemanticResBlock, 4, 4, nn.InstanceNorm2d),
    "GraphLayer2d": partial(norms.GraphLayer2d, norms.EVONORM_GRAPHS["B0"], 8),
    "GroupNorm": partial(norms.GroupNorm, 8, 4),
    "ContinualNorm2d": partial(norms.ContinualNorm2d, 8, 4),
    **{f"EvoNorm2d{kind}": partial(getattr(norms, f"EvoNorm2d{kind}"), 8) for kind in ("B0", "B1", "B2")},
    **{f"EvoNorm2d{kind}": partial(getattr(norms, f"EvoNorm2d{kind}"), 8, 4) for kind in ("S0", "S1", "S2")},
    **{
        f"LayerNorm{kind}": partial(getattr(norms, f"LayerNorm{kind}"), 3, 4)
        for kind in ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
    },
    **{
        name: partial(getattr(norms, name), 4, 2)
        for name in ("AdaB2N", "AdaptiveBalanceBatchNorm1d", "AdaptiveBalanceBatchNorm2d")
    },
    **{
        name: partial(getattr(norms, name), 8)
        for name in (
            *("BatchNorm", "FeatureNorm", "LayerNorm", "PowerNorm", "PowerNormV"),
            *("RMSNorm", "UnifiedNorm1d", "UnifiedNorm2d"),
        )
    },
}
ELSEWHERE = {
    "AlphaBatchNorm1d": "takes over the tensors of a batch norm",
    "AlphaBatchNorm2d": "takes over the tensors of a batch norm",
    "AlphaBatchNorm3d": "takes over the tensors of a batch norm",
    "ScaleShift": "is given its tensors",
    "ChannelsLast": "is given its norm",
    "AlphaDropout": "has no tensors",
    "GroupScaling": "has no tensors",
    "SELU": "has no tensors",
}


def test_every_layer_takes_device_and_dtype() -> None:
    layers = {
        name
        for name in norms.__all__
        if inspect.isclass(getattr(norms, name)) and issubclass(getattr(norms, name), nn.Module)
    }
    assert layers == {*BUILD, *ELSEWHERE}


@pytest.mark.parametrize("name", BUILD)
def test_dtype(name: str) -> None:
    torch.manual_seed(0)
    built = BUILD[name](dtype=torch.float64).state_dict()
    torch.manual_seed(0)
    plain = BUILD[name]().state_dict()
    assert built.keys() == plain.keys()
    for key, value in plain.items():
        wanted = torch.float64 if value.is_floating_point() else value.dtype
        assert built[key].dtype == wanted, key
        torch.testing.assert_close(built[key], value.to(wanted), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", BUILD)
def test_device(name: str) -> None:
    layer = BUILD[name](device="meta")
    assert all(value.is_meta for value in layer.state_dict().values())
    assert any(True for _ in layer.state_dict())


def test_by_name() -> None:
    for name in ("batch", "layer", "rms", "power", "unified"):
        norm = make_norm(name, 4, device="cpu", dtype=torch.float64)
        assert all(p.dtype == torch.float64 for p in norm.parameters())


def test_batch_first_is_the_layout_of_a_mask() -> None:
    x = torch.randn(3, 5, 4)  # (B, T, C)
    pad = torch.zeros(3, 5, dtype=torch.bool)
    pad[1, 2:] = True
    first, second = UnifiedNorm1d(4), UnifiedNorm1d(4, batch_first=False)
    y = first(x, pad)
    turned = second(x.transpose(0, 1).contiguous(), pad)
    torch.testing.assert_close(turned.transpose(0, 1), y)
    torch.testing.assert_close(first.running_var, second.running_var)
