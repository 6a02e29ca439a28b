"""SPADE's generator and block, the encoders and the discriminator: forms, reach, spectral norm, gradients, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from normviz.norms import (
    SEAN,
    SPADE,
    SSTAN,
    DomainVariationalEncoder,
    MultiscaleDiscriminator,
    RegionStyleEncoder,
    SemanticGenerator,
    SemanticResBlock,
    StyleOnlyNorm,
    region_average_pool,
)

L, Z, S = 4, 5, 3


def generator(norm: str = "sstan", size: int = 16, **options) -> SemanticGenerator:
    torch.manual_seed(0)
    small = {"base": 4, "hidden": 6, "style_dim": S, "upsamplings": 3}
    return SemanticGenerator(L, Z, image_size=size, norm=norm, **{**small, **options})


def given(n: int = 2, size: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(L, (n, size, size)), torch.randn(n, Z), torch.randn(n, L, S)


NORMS = ["sstan", "spade", "sean", "style"]


def far(net: SemanticGenerator) -> SemanticGenerator:
    """In float64 and eval mode, without noise, with every condition at work and images that do not saturate."""
    for name, p in net.named_parameters():
        if not name.endswith("noise_scale"):
            nn.init.normal_(p, 0.0, 0.2)
    net.double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average
    labels, z, styles = given(n=16, size=32)
    for _ in range(3):
        net(labels, z.double(), styles.double())
    return net.eval()


# ------------------------------------------------------------------------------------------- the block


def test_block_is_its_formula() -> None:
    for fin, fout in ((6, 4), (4, 6), (5, 5)):
        torch.manual_seed(0)
        block = SemanticResBlock(fin, fout, lambda channels: SPADE(channels, L, 5), spectral=False).double()
        for p in block.parameters():
            nn.init.normal_(p, 0.05, 0.3)
        x, labels = torch.randn(2, fin, 6, 6, dtype=torch.float64), torch.randint(L, (2, 6, 6))
        out = block(x, labels)

        def activated(norm: nn.Module, h: Tensor, labels: Tensor = labels) -> Tensor:
            y = norm(h, labels)
            return torch.where(y > 0, y, 0.2 * y)

        def conv(c: nn.Conv2d, h: Tensor) -> Tensor:
            return F.conv2d(h, c.weight, c.bias, padding=c.weight.shape[-1] // 2)

        y = conv(block.conv_1, activated(block.norm_1, conv(block.conv_0, activated(block.norm_0, x))))
        skip = x if fin == fout else conv(block.conv_s, block.norm_s(x, labels))
        torch.testing.assert_close(out, skip + y, rtol=1e-10, atol=1e-10)
        assert block.conv_0.out_channels == min(fin, fout)
        if fin == fout:
            assert block.norm_s is None
            assert block.conv_s is None
        else:
            assert block.conv_s.bias is None


def test_8_spectral_norm_is_near_one_after_twenty_iterations() -> None:
    block = SemanticResBlock(6, 4, lambda channels: SSTAN(channels, L, Z))
    labels, z, _ = given()
    for _ in range(20):
        block(torch.randn(2, 6, 8, 8), labels, z)
    with torch.no_grad():
        for conv in (block.conv_0, block.conv_1, block.conv_s):
            assert torch.linalg.matrix_norm(conv.eval().weight.flatten(1), 2) == pytest.approx(1, abs=0.1)
    inner = [m for norm in (block.norm_0, block.norm_1, block.norm_s) for m in norm.modules()]
    assert not any(is_parametrized(m) for m in inner), "the convolutions of the norms are free"


# --------------------------------------------------------------------------------------- the generator


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("param_free", ["batch", "instance"])
def test_9_images_are_in_range_and_of_the_size(norm, param_free) -> None:
    net = generator(norm, param_free=param_free)
    labels, z, styles = given(size=20)
    out = net(labels, None if norm == "sean" else z, styles)
    assert out.shape == (2, 3, 16, 16)
    assert out.abs().max() <= 1
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_9_a_change_of_the_layout_changes_the_image_there_in_eval_mode() -> None:
    labels, z, styles = given(size=32)
    labels[:] = 0
    changed = labels.clone()
    changed[:, 24:28, 24:28] = 1
    for norm in NORMS:
        net = far(generator(norm, size=32))
        a, b = (net(m, z.double(), styles.double()) for m in (labels, changed))
        difference = (a - b).abs().amax((0, 1))
        if norm == "style":
            assert not difference.any(), "it sees no layout"
        else:
            assert difference[24:28, 24:28].max() > 1e-3, norm
            assert difference[24:28, 24:28].mean() > 5 * difference[:8, :8].mean(), norm


def test_who_sees_z_and_styles() -> None:
    labels, z, styles = given()
    for norm in NORMS:
        net = far(generator(norm))
        base = net(labels, z.double(), styles.double())
        assert torch.equal(net(labels, -z.double(), styles.double()), base) == (norm == "sean")
        assert torch.equal(net(labels, z.double(), -styles.double()), base) == (norm != "sean")


@pytest.mark.parametrize("norm", NORMS)
def test_blocks_and_norms_are_those_of_spades_generator(norm) -> None:
    kind = {"sstan": SSTAN, "spade": SPADE, "sean": SEAN, "style": StyleOnlyNorm}[norm]
    small = generator(norm)
    large = generator(norm, size=64, upsamplings=5, base=1)
    units = {
        small: [(16, 16), (16, 16), (16, 8), (8, 4)],
        large: [(16, 16)] * 3 + [(16, 8), (8, 4), (4, 2), (2, 1)],
    }
    for net, widths in units.items():
        found = [(b.norm_0.num_features, b.conv_1.weight.shape[0]) for b in net.blocks]
        assert found == widths
        assert all(isinstance(b.norm_0, kind) for b in net.blocks)
        assert isinstance(net.fc, nn.Conv2d if norm == "sean" else nn.Linear)
    if norm == "sean":
        assert [b.norm_0.fc is None for b in small.blocks] == [False, False, False, True]


def test_sizes_along_the_way() -> None:
    labels, z, _ = given(size=64)
    for upsamplings, size, expected in ((3, 16, [2, 4, 8, 16]), (5, 64, [2, 4, 4, 8, 16, 32, 64])):
        net = generator(size=size, upsamplings=upsamplings, base=1)
        seen: list[int] = []
        for block in net.blocks:
            block.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out.shape[-1]))
        net(labels, z)
        assert seen == expected


def test_default_styles_are_128_and_512_for_sean() -> None:
    small = {"base": 1, "image_size": 8, "upsamplings": 3}
    assert SemanticGenerator(L, norm="sean", **small).style_dim == 512
    assert SemanticGenerator(L, norm="sstan", **small).style_dim == 128
    assert SemanticGenerator(L, norm="sstan", **small).latent_dim == 256


def test_11_state_dict_round_trip_gives_the_same_image() -> None:
    labels, z, styles = given()
    for norm in NORMS:
        net, other = generator(norm), generator(norm)
        for p in other.parameters():
            nn.init.normal_(p)
        net(labels, z, styles)
        other.load_state_dict(net.state_dict())
        assert torch.equal(net.eval()(labels, z, styles), other.eval()(labels, z, styles))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"norm": "adain"}, "norm"),
        ({"param_free": "layer"}, "param_free"),
        ({"upsamplings": 4}, "upsamplings"),
        ({"size": 20}, "image_size"),
        ({"size": 48, "upsamplings": 5}, "image_size"),
    ],
)
def test_bad_arguments_of_the_generator(options, name) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must"):
        generator(**options)


def test_bad_inputs_of_the_generator() -> None:
    labels, z, styles = given()
    for norm, inputs, name in (
        ("sstan", (labels, None), "z"),
        ("spade", (labels, z[:, :-1]), "z"),
        ("sstan", (labels, z[:1]), "z"),
        ("sean", (labels, z), "styles"),
        ("sean", (labels, z, styles[:1]), "styles"),
        ("spade", (labels + L, z), "segmap"),
        ("spade", (torch.zeros(2, L + 1, 8, 8), z), "segmap"),
    ):
        with pytest.raises(ValueError, match=rf"^{name} must"):
            generator(norm)(*inputs)


# ---------------------------------------------------------------------------------------- the encoders


def encoder(**options) -> DomainVariationalEncoder:
    torch.manual_seed(0)
    return DomainVariationalEncoder(3, **{"latent_dim": Z, "base": 2, "image_size": 16, **options})


@pytest.mark.parametrize("share_trunk", [False, True])
def test_mixed_batch_equals_one_domain_at_a_time(share_trunk) -> None:
    net = encoder(share_trunk=share_trunk).eval().double()
    for p in net.parameters():
        nn.init.normal_(p)
    x, domain = torch.randn(5, 3, 16, 16).double(), torch.tensor([2, 0, 1, 1, 2])
    mu, logvar = net(x, domain)
    for i, d in enumerate(domain.tolist()):
        features = net.trunks[0 if share_trunk else d](x[i : i + 1])
        torch.testing.assert_close(mu[i], net.mu[d](features)[0])
        torch.testing.assert_close(logvar[i], net.logvar[d](features)[0])
    assert (mu[0] - net(x, torch.zeros(5, dtype=torch.uint8))[0][0]).abs().max() > 1e-3


def test_single_domain_batch_trains_that_encoder_alone() -> None:
    net = encoder()
    mu, logvar = net(torch.randn(4, 3, 16, 16), torch.full((4,), 1))
    (mu.square().sum() + logvar.sum()).backward()
    for name, p in net.named_parameters():
        moved = p.grad is not None and bool(p.grad.any())
        assert moved == (name.split(".")[1] == "1"), name
    optimizer = torch.optim.Adam(net.parameters(), betas=(0.0, 0.9))
    optimizer.step()
    assert all(p.isfinite().all() for p in net.parameters())


def test_convolutions_go_down_to_four_by_four() -> None:
    widths = {8: [1], 32: [1, 2, 4], 256: [1, 2, 4, 8, 8, 8]}
    for size, expected in widths.items():
        net = encoder(base=1, image_size=size)
        convs = [m for m in net.trunks[0].modules() if isinstance(m, nn.Conv2d)]
        assert [conv.out_channels for conv in convs] == expected
        assert all(conv.bias is None and is_parametrized(conv) for conv in convs)
        assert net.mu[0].in_features == 16 * expected[-1]


def test_sample_has_mean_and_spread_and_its_own_generator() -> None:
    net = encoder()
    mu, logvar = torch.full((20_000, 1), 2.0), torch.full((20_000, 1), -1.0)
    draws = net.sample(mu, logvar, torch.Generator().manual_seed(0))
    assert float(draws.mean()) == pytest.approx(2, abs=0.03)
    assert float(draws.std()) == pytest.approx(float(torch.tensor(-0.5).exp()), rel=0.03)
    assert torch.equal(draws, net.sample(mu, logvar, torch.Generator().manual_seed(0)))
    torch.manual_seed(3)
    first = net.sample(mu, logvar)
    torch.manual_seed(3)
    assert torch.equal(first, net.sample(mu, logvar))
    assert net.sample(mu, torch.full_like(mu, 500.0)).isfinite().all()


def test_wrong_domains_and_images_are_refused() -> None:
    x = torch.randn(2, 3, 16, 16)
    for domain in (torch.tensor([0, 3]), torch.tensor([-1, 0]), torch.tensor([0])):
        with pytest.raises(ValueError, match=r"^domain must"):
            encoder()(x, domain)
    for images in (torch.randn(2, 3, 8, 8), torch.randn(2, 4, 16, 16)):
        with pytest.raises(ValueError, match=r"^x must"):
            encoder()(images, torch.tensor([0, 1]))
    for size in (4, 24):
        with pytest.raises(ValueError, match=r"^image_size must"):
            encoder(image_size=size)


def test_region_styles_are_means_of_bounded_features() -> None:
    torch.manual_seed(0)
    net = RegionStyleEncoder(S)
    image = torch.randn(2, 3, 16, 16)
    maps = F.one_hot(torch.randint(L - 1, (2, 16, 16)), L).movedim(-1, 1).float()
    styles = net(image, maps)
    assert styles.shape == (2, L, S)
    assert styles.abs().max() <= 1
    assert not styles[:, L - 1].any()
    torch.testing.assert_close(styles, region_average_pool(net.layers(image), maps))


# ----------------------------------------------------------------------------------- the discriminator


def test_discriminator_returns_all_maps_at_two_scales() -> None:
    net = MultiscaleDiscriminator(5, base=2)
    scales = net(torch.randn(2, 5, 32, 32))
    shapes = [[tuple(m.shape[1:]) for m in maps] for maps in scales]
    assert shapes == [
        [(2, 17, 17), (4, 9, 9), (8, 5, 5), (16, 6, 6), (1, 7, 7)],
        [(2, 9, 9), (4, 5, 5), (8, 3, 3), (16, 4, 4), (1, 5, 5)],
    ]
    convs = [m for m in net.discriminators[0].modules() if isinstance(m, nn.Conv2d)]
    assert [is_parametrized(conv) for conv in convs] == [False, True, True, True, False]
    assert [conv.stride[0] for conv in convs] == [2, 2, 2, 1, 1]
    assert [conv.bias is None for conv in convs] == [False, True, True, True, False]
    wide = MultiscaleDiscriminator(3, base=1, layers=6, scales=1)
    widths = [m.out_channels for m in wide.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [1, 2, 4, 8, 8, 8, 1]


def test_second_scale_sees_the_average_of_three_by_three_without_padding() -> None:
    net = MultiscaleDiscriminator(1, base=1, layers=1).eval()
    x = torch.randn(1, 1, 8, 8)
    half = torch.empty(1, 1, 4, 4)
    for i in range(4):
        for j in range(4):
            window = x[0, 0, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2]
            half[0, 0, i, j] = window.mean()
    for ours, expected in zip(net(x)[1], net.discriminators[1](half), strict=True):
        torch.testing.assert_close(ours, expected)


def test_one_step_of_both_sides_moves_everything() -> None:
    labels, z, _ = given(size=16)
    net, judge = generator(), MultiscaleDiscriminator(L + 3, base=2, layers=2)
    maps = F.one_hot(labels, L).movedim(-1, 1).float()
    judged = judge(torch.cat([maps, net(labels, z)], 1))
    sum(m[-1].mean() for m in judged).backward()
    for module in (net, judge):
        assert all(p.grad is not None for p in module.parameters())
