from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz.models import ConvNet


class JointNormAct(nn.Module):
    """Stands for a joint normalization-activation layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x) * self.weight[:, None, None]


def correlate(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """3 x 3 cross-correlation of (c, H, W) with zero padding 1, as loops."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    rows, columns = range(0, x.shape[1], stride), range(0, x.shape[2], stride)
    out = np.empty((len(weight), len(rows), len(columns)))
    for o in range(len(weight)):
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                patch = padded[:, row : row + 3, column : column + 3]
                out[o, i, j] = (patch * weight[o]).sum() + bias[o]
    return out


def test_equals_numpy() -> None:
    torch.manual_seed(0)
    net = ConvNet(2, (3, 4), 5, activation="relu").double()
    with torch.no_grad():
        for p in net.parameters():
            p.normal_()
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    state = {name: p.numpy() for name, p in net.state_dict().items()}
    expected = []
    for image in x.numpy():
        h = image
        for i, stride in ((0, 1), (1, 2)):
            h = correlate(h, state[f"blocks.{i}.conv.weight"], state[f"blocks.{i}.conv.bias"], stride)
            h = np.maximum(h, 0)
        expected.append(state["head.weight"] @ h.mean((1, 2)) + state["head.bias"])
    np.testing.assert_allclose(net(x).detach().numpy(), np.stack(expected), rtol=1e-10)


def test_norm_names_and_places() -> None:
    net = ConvNet(1, (4, 6), 5, norm=nn.BatchNorm2d)
    names = [n for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert names == ["blocks.0.norm", "blocks.1.norm"]
    assert [type(m) for m in net.blocks[0].children()] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]


def test_joint_layer_replaces_norm_and_activation() -> None:
    net = ConvNet(1, (4, 6), 5, norm_act=JointNormAct)
    assert isinstance(net.get_submodule("blocks.1.norm"), JointNormAct)
    assert not any(isinstance(m, nn.ReLU) for m in net.modules())
    torch.manual_seed(0)
    joint = ConvNet(1, (4, 6), 5, norm_act=JointNormAct)
    torch.manual_seed(0)
    pair = ConvNet(1, (4, 6), 5, activation="silu")
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(joint(x), pair(x))


def test_strides_and_depthwise() -> None:
    net = ConvNet(1, (4, 6, 6), 5, strides=(2, 1, 2), depthwise=True)
    x = torch.randn(2, 1, 8, 8)
    sizes = []
    for block in net.blocks:
        x = block(x)
        sizes.append(x.shape[1:])
    assert sizes == [(4, 4, 4), (6, 4, 4), (6, 2, 2)]
    depthwise = net.get_submodule("blocks.1.depthwise")
    assert isinstance(depthwise, nn.Conv2d)
    assert depthwise.weight.shape == (4, 1, 3, 3)
    assert net.get_submodule("blocks.1.conv").weight.shape == (6, 4, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"in_channels": 0}, "in_channels"),
        ({"channels": ()}, "channels"),
        ({"channels": (4, 0)}, r"channels\[1\]"),
        ({"num_classes": 0}, "num_classes"),
        ({"strides": (1,)}, "strides"),
        ({"strides": (1, 0)}, r"strides\[1\]"),
        ({"norm": nn.BatchNorm2d, "norm_act": JointNormAct}, "norm_act"),
        ({"activation": "mish"}, "activation"),
        ({"init": "he_normal"}, "init"),
        ({"norm": 3}, "norm"),
    ],
)
def test_errors(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ConvNet(**({"in_channels": 1, "channels": (4, 6), "num_classes": 3} | arguments))  # type: ignore[arg-type]
