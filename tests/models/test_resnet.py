from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from normviz.models import ResNet, ResNetBlock
from tests.models.test_convnet import JointNormAct


def test_block_is_the_pre_activation_formula() -> None:
    torch.manual_seed(0)
    block = ResNetBlock(3, 5, stride=2, norm=nn.BatchNorm2d).double()
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)

    def norm(v: torch.Tensor) -> torch.Tensor:
        centred = v - v.mean((0, 2, 3), keepdim=True)
        return centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()

    a = norm(x).clamp(min=0)
    inner = F.conv2d(a, block.conv1.weight, block.conv1.bias, stride=2, padding=1)
    branch = F.conv2d(norm(inner).clamp(min=0), block.conv2.weight, block.conv2.bias, padding=1)
    assert block.shortcut is not None
    skip = torch.einsum("oc,nchw->nohw", block.shortcut.weight[:, :, 0, 0], a[:, :, ::2, ::2])
    torch.testing.assert_close(block(x), skip + branch + block.shortcut.bias[:, None, None])


def test_identity_skip_when_the_branch_is_zero() -> None:
    block = ResNetBlock(4, 4, norm=nn.BatchNorm2d)
    assert block.shortcut is None
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), x)


def test_layout_of_stages() -> None:
    net = ResNet(3, (4, 6, 8), 5, depths=3, norm=nn.BatchNorm2d)
    assert len(net.blocks) == 9
    convolutions = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in n]
    assert len(convolutions) + 1 == 20  # ResNet-20 with its linear head
    assert [i for i, b in enumerate(net.blocks) if b.shortcut is not None] == [3, 6]
    norms = [n for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == [f"blocks.{i}.norm{k}" for i in range(9) for k in (1, 2)] + ["norm_out"]
    x = net.stem(torch.randn(2, 3, 32, 32))
    sizes = []
    for block in net.blocks:
        x = block(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(4, 32, 32)] * 3 + [(6, 16, 16)] * 3 + [(8, 8, 8)] * 3


def test_joint_layer_in_every_slot() -> None:
    net = ResNet(1, (4, 6), 5, norm_act=JointNormAct)
    joints = [n for n, m in net.named_modules() if isinstance(m, JointNormAct)]
    assert joints == ["blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2", "norm_out"]
    assert not any(isinstance(m, nn.ReLU) for m in net.modules())
    torch.manual_seed(0)
    joint = ResNet(1, (4, 6), 5, norm_act=JointNormAct)
    torch.manual_seed(0)
    pair = ResNet(1, (4, 6), 5, activation="silu")
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(joint(x), pair(x))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"in_channels": 0}, "in_channels"),
        ({"channels": []}, "channels"),
        ({"num_classes": -1}, "num_classes"),
        ({"depths": 0}, "depths"),
        ({"depths": (1,)}, "depths"),
        ({"depths": (1, 0)}, r"depths\[1\]"),
        ({"norm": nn.BatchNorm2d, "norm_act": JointNormAct}, "norm_act"),
        ({"activation": "mish"}, "activation"),
    ],
)
def test_errors(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ResNet(**({"in_channels": 1, "channels": (4, 6), "num_classes": 3} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [(0, 4, 1), (4, 0, 1), (4, 4, 0)])
def test_block_errors(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be an integer >= 1"):
        ResNetBlock(bad[0], bad[1], stride=bad[2])
