from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from normviz.models import MLP


def test_equals_numpy() -> None:
    torch.manual_seed(0)
    net = MLP(5, [7, 6], 3, norm=nn.LayerNorm, activation="tanh").double()
    with torch.no_grad():
        for p in net.parameters():
            p.normal_()
    x = torch.randn(4, 5, dtype=torch.float64)
    h = x.numpy()
    state = {name: p.numpy() for name, p in net.state_dict().items()}
    for i in range(2):
        h = h @ state[f"blocks.{i}.linear.weight"].T + state[f"blocks.{i}.linear.bias"]
        h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
        h = np.tanh(h * state[f"blocks.{i}.norm.weight"] + state[f"blocks.{i}.norm.bias"])
    np.testing.assert_allclose(net.features(x).detach().numpy(), h, rtol=1e-12)
    expected = h @ state["head.weight"].T + state["head.bias"]
    np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("init", "variance"),
    [("he", 2 / 400), ("lecun", 1 / 400), ("xavier", 2 / 900), ("uniform", 1 / 1200)],
)
def test_weight_laws(init: str, variance: float) -> None:
    torch.manual_seed(0)
    net = MLP(400, [500], 2, init=init)
    linear = net.blocks[0].linear
    assert isinstance(linear, nn.Linear)
    assert linear.weight.var().item() == pytest.approx(variance, rel=0.02)
    assert abs(linear.weight.mean().item()) < 5 * math.sqrt(variance / linear.weight.numel())
    assert not linear.bias.any()
    if init == "uniform":
        assert linear.weight.abs().max() <= 1 / 20


def test_he_keeps_relu_signals_and_lecun_loses_them() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 128)
    he = MLP(128, [128] * 20, 2, init="he").features(x).square().mean()
    lecun = MLP(128, [128] * 20, 2, init="lecun").features(x).square().mean()
    assert 0.1 < he < 10
    assert lecun < 1e-3


def test_bias_does_not_move_the_weights() -> None:
    torch.manual_seed(0)
    with_bias = MLP(5, [7, 6], 3)
    torch.manual_seed(0)
    without = MLP(5, [7, 6], 3, bias=False)
    weights = without.state_dict()
    assert "blocks.0.linear.bias" not in weights
    assert "head.bias" in weights
    for name, value in weights.items():
        assert torch.equal(value, with_bias.state_dict()[name])


def test_dropout_only_in_training() -> None:
    torch.manual_seed(0)
    net = MLP(5, [50], 3, dropout=0.5)
    x = torch.randn(4, 5)
    assert (net.features(x) == 0).sum() > (net.eval().features(x) == 0).sum()
    assert torch.equal(net(x), net(x))


def test_order_of_a_block_and_activation_factory() -> None:
    net = MLP(5, [7], 3, norm=nn.LayerNorm, activation=nn.SELU, dropout=0.1)
    kinds = [type(layer) for layer in net.blocks[0].children()]
    assert kinds == [nn.Linear, nn.LayerNorm, nn.SELU, nn.Dropout]
    assert [n for n, m in net.named_modules() if isinstance(m, nn.LayerNorm)] == ["blocks.0.norm"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"in_features": 0}, "in_features"),
        ({"in_features": True}, "in_features"),
        ({"hidden": [3, -1]}, r"hidden\[1\]"),
        ({"hidden": 3}, "hidden"),
        ({"hidden": "33"}, "hidden"),
        ({"out_features": 2.0}, "out_features"),
        ({"dropout": 1.0}, "dropout"),
        ({"init": "kaiming"}, "'he'"),
        ({"activation": "swish"}, "'relu'"),
        ({"activation": 3}, "activation"),
        ({"norm": "layer"}, "norm"),
        ({"norm": lambda c: c}, "norm"),
    ],
)
def test_errors(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        MLP(**({"in_features": 5, "hidden": [4], "out_features": 3} | arguments))  # type: ignore[arg-type]
