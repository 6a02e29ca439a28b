"""Moments and gradients by layer, against NumPy and hand-made networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from normviz.frame import Value
from normviz.models import MLP
from normviz.probes import LayerGradients, LayerMoments, Probe


def is_block(name: str, module: nn.Module) -> bool:
    return name.startswith("blocks.") and name.count(".") == 1


def watch(probe: Probe, model: nn.Module, x: torch.Tensor) -> dict[str, Value]:
    values: dict[str, Value] = {}
    with probe.forward(model, values):
        model(x).square().mean().backward()
    return {**values, **probe.gradients(model)}


def test_moments_are_those_of_input_and_layers() -> None:
    torch.manual_seed(0)
    model = MLP(5, (7, 6, 4), 2, activation="tanh")
    x = 3 * torch.randn(20, 5) + 1
    values = watch(LayerMoments(is_block), model, x)
    h = x.numpy().astype(np.float64)
    means, variances = [h.mean()], [h.var()]
    for block in model.blocks:
        weight, bias = (p.detach().numpy().astype(np.float64) for p in block.parameters())
        h = np.tanh(h @ weight.T + bias)
        means.append(h.mean())
        variances.append(h.var())
    np.testing.assert_allclose(values["mean_by_layer"], means, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(values["var_by_layer"], variances, rtol=1e-4)


def test_hooks_are_gone_afterwards() -> None:
    model = MLP(5, (7,), 2)
    values = watch(LayerMoments(is_block), model, torch.ones(3, 5))
    first = values["mean_by_layer"]
    model(torch.zeros(3, 5))
    assert values["mean_by_layer"] is first


def test_gradients_are_root_mean_squares_by_layer() -> None:
    torch.manual_seed(1)
    model = MLP(5, (7, 6), 2)
    select = lambda name, module: isinstance(module, nn.Linear)  # noqa: E731
    values = watch(LayerGradients(select), model, torch.randn(8, 5))
    layers = [model.blocks[0].linear, model.blocks[1].linear, model.head]
    expected = [np.sqrt(np.mean(layer.weight.grad.numpy() ** 2)) for layer in layers]
    np.testing.assert_allclose(values["gradient_by_layer"], expected, rtol=1e-5)


def test_nothing_to_measure() -> None:
    model = nn.Sequential(nn.Tanh())
    assert LayerGradients(lambda name, module: True).gradients(model) == {}
    with pytest.raises(ValueError, match="every"):
        LayerMoments(is_block, every=0)
