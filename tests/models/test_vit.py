from __future__ import annotations

import pytest
import torch
from torch import nn

from normviz.models import SelfAttention, ViT


def test_patches_equal_loops() -> None:
    net = ViT((4, 6), (2, 3), in_channels=2, dim=8, num_heads=2)
    x = torch.randn(3, 2, 4, 6)
    patches = net.patches(x)
    assert net.grid == (2, 2)
    assert patches.shape == (3, 4, 12)
    for row in range(2):
        for column in range(2):
            cut = x[:, :, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
            assert torch.equal(patches[:, 2 * row + column], cut.reshape(3, -1))


def test_one_pixel_tokens_are_the_flat_image() -> None:
    net = ViT(8, 1, dim=8, num_heads=2)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(net.patches(x), x.reshape(3, 64, 1))
    assert net.position_embedding.std().item() == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_patches_are_a_set_but_for_their_positions(pool: str) -> None:
    torch.manual_seed(0)
    net = ViT(8, 4, dim=8, num_heads=2, pool=pool, position_std=0.5, init_std=0.3).double()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    swapped = torch.cat((x[..., 4:], x[..., :4]), -1)  # left and right half: tokens 0, 1, 2, 3 -> 1, 0, 3, 2
    assert not torch.allclose(net(x), net(swapped))
    order = [1, 0, 3, 2] if pool == "mean" else [0, 2, 1, 4, 3]
    out = net(x)
    with torch.no_grad():
        net.position_embedding.copy_(net.position_embedding[order])
    torch.testing.assert_close(net(swapped), out)


def test_pooling() -> None:
    torch.manual_seed(0)
    for pool in ("mean", "cls"):
        net = ViT(8, 2, dim=8, num_heads=2, pool=pool)
        x = torch.randn(3, 1, 8, 8)
        tokens = net.tokens(x)
        assert tokens.shape == (3, 16 + (pool == "cls"), 8)
        features = tokens[:, 0] if pool == "cls" else tokens.sum(1) / 16
        torch.testing.assert_close(net.features(x), features)
        torch.testing.assert_close(net(x), features @ net.head.weight.T + net.head.bias)


def test_norm_names_and_factories() -> None:
    net = ViT(dim=8, num_heads=2, norm=nn.RMSNorm)
    names = [n for n, m in net.named_modules() if isinstance(m, nn.RMSNorm)]
    assert names == [f"blocks.{i}.norm{k}" for i in range(2) for k in (1, 2)] + ["norm_out"]
    torch.manual_seed(0)
    plain = ViT(dim=8, num_heads=2)
    torch.manual_seed(0)
    other = ViT(
        dim=8, num_heads=2, attention=lambda d, h: SelfAttention(d, h, kernel=lambda q, k, v: v), norm=None
    )
    for name, p in other.named_parameters():
        assert torch.equal(p, plain.get_parameter(name)), name


def test_learns_digits_patterns() -> None:
    """Left-bright against right-bright images, which only positions tell apart."""
    torch.manual_seed(0)
    net = ViT(8, 2, num_classes=2, dim=16, num_layers=1, num_heads=2)
    y = torch.arange(32) % 2
    x = torch.randn(32, 1, 8, 8) * 0.1
    x[y == 0, :, :, :4] += 1
    x[y == 1, :, :, 4:] += 1
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
    assert (net(x).argmax(1) == y).all()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"image_size": 0}, "image_size"),
        ({"image_size": (8, 8, 8)}, "image_size"),
        ({"patch_size": 3}, "patch_size must divide"),
        ({"patch_size": (2, 3)}, "patch_size must divide"),
        ({"in_channels": 0}, "in_channels"),
        ({"num_classes": 0}, "num_classes"),
        ({"dim": 6}, "divisible"),
        ({"num_layers": 0}, "num_layers"),
        ({"pool": "max"}, "pool"),
        ({"position_std": -1.0}, "position_std"),
        ({"init_std": -1.0}, "init_std"),
        ({"mlp_ratio": -1.0}, "mlp_ratio"),
        ({"dropout": 2.0}, "dropout"),
        ({"attention": 1}, "attention"),
        ({"mlp": 1}, "mlp"),
        ({"norm": 1}, "norm"),
    ],
)
def test_errors(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ViT(**arguments)  # type: ignore[arg-type]


def test_wrong_image() -> None:
    with pytest.raises(ValueError, match=r"\(B, 1, 8, 8\)"):
        ViT()(torch.zeros(2, 1, 8, 9))
