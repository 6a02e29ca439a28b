"""SSTAN, SPADE, SEAN and the style-only norm against NumPy loops, and what makes SSTAN joint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.norms import SEAN, SPADE, SSTAN, StyleOnlyNorm, region_average_pool
from tests.norms import semantic_formulas as formulas

C, L, Z, S, H = 4, 3, 5, 6, 7


def far(layer: nn.Module, seed: int = 0) -> nn.Module:
    """The layer in float64 with weights and biases far from its start."""
    torch.manual_seed(seed)
    for p in layer.parameters():
        nn.init.normal_(p, 0.1, 0.4)
    return layer.double()


def sstan(**options) -> SSTAN:
    return far(SSTAN(C, L, Z, S, H, **options))


def spade(**options) -> SPADE:
    return far(SPADE(C, L, H, **options))


def sean(**options) -> SEAN:
    return far(SEAN(C, L, S, H, **{"noise": False, **options}))


def data(seed: int = 1, n: int = 3, size: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, labels at another size, z, region styles."""
    torch.manual_seed(seed)
    x = torch.randn(n, C, size, size, dtype=torch.float64)
    labels = torch.randint(L, (n, 9, 8))
    return x, labels, torch.randn(n, Z, dtype=torch.float64), torch.randn(n, L, S, dtype=torch.float64)


def arrays(module: nn.Module) -> formulas.Weights:
    return {name: p.detach().numpy() for name, p in module.state_dict().items()}


def as_maps(labels: Tensor) -> Tensor:
    return F.one_hot(labels, L).movedim(-1, 1).double()


# --------------------------------------------------------------------------------- against the NumPy loops


@pytest.mark.parametrize("kind", ["batch", "instance"])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_layers_equal_numpy(kind, kernel_size) -> None:
    x, labels, z, styles = data()
    maps = formulas.one_hot(labels.numpy(), L)
    given = x.numpy(), maps
    layer: nn.Module = sstan(kernel_size=kernel_size, norm=kind)
    expected = formulas.sstan(arrays(layer), *given, z.numpy(), kind)
    np.testing.assert_allclose(layer(x, labels, z).detach(), expected, rtol=1e-10, atol=1e-10)
    layer = spade(kernel_size=kernel_size, norm=kind)
    expected = formulas.spade(arrays(layer), *given, kind)
    np.testing.assert_allclose(layer(x, labels).detach(), expected, rtol=1e-10, atol=1e-10)
    layer = sean(kernel_size=kernel_size, norm=kind)
    expected = formulas.sean(arrays(layer), *given, styles.numpy(), kind)
    np.testing.assert_allclose(layer(x, labels, styles).detach(), expected, rtol=1e-10, atol=1e-10)
    layer = far(StyleOnlyNorm(C, Z, S, norm=kind))
    expected = formulas.style_only(arrays(layer), x.numpy(), z.numpy(), kind)
    np.testing.assert_allclose(layer(x, z).detach(), expected, rtol=1e-10, atol=1e-10)


def test_modulation_is_what_the_forward_applies() -> None:
    layer, (x, labels, z, _) = sstan(), data()
    gamma, beta = layer.modulation(labels, z, (6, 6))
    assert gamma.shape == beta.shape == x.shape
    torch.testing.assert_close(layer(x, labels, z), layer.norm(x) * (1 + gamma) + beta)


def test_running_statistics_serve_in_eval_for_batch_norm_only() -> None:
    x, labels, z, _ = data()
    layer = sstan()
    for _ in range(400):
        layer.norm(x)
    count = x.numel() / C
    ratio = (count - 1) / count  # the running variance is the unbiased one
    shift = layer.modulation(labels, z, (6, 6))[1]
    trained, still = layer(x, labels, z) - shift, layer.eval()(x, labels, z) - shift
    torch.testing.assert_close(still / trained, torch.full_like(x, ratio**0.5), rtol=1e-4, atol=0)
    layer = sstan(norm="instance")
    torch.testing.assert_close(layer(x, labels, z), layer.eval()(x, labels, z), rtol=0, atol=0)


# ------------------------------------------------------------------------------------------- the checks


def test_1_without_style_columns_it_is_spade() -> None:
    joint, plain, (x, labels, z, _) = sstan(), spade(), data()
    with torch.no_grad():
        joint.conv_shared.weight[:, L:] = 0
        plain.conv_shared.weight.copy_(joint.conv_shared.weight[:, :L])
    rest = {
        name: w for name, w in joint.state_dict().items() if not name.startswith(("style", "conv_shared.w"))
    }
    plain.load_state_dict({**plain.state_dict(), **rest})
    for scale in (1, 10):
        torch.testing.assert_close(joint(x, labels, scale * z), plain(x, labels), rtol=0, atol=1e-10)


def test_2_without_layout_columns_the_layout_is_not_seen_and_style_is_flat_inside() -> None:
    layer, (x, labels, z, _) = sstan(), data(size=8)
    with torch.no_grad():
        layer.conv_shared.weight[:, :L] = 0
    torch.testing.assert_close(layer(x, labels, z), layer(x, (labels + 1) % L, z), rtol=0, atol=1e-10)
    gamma, _ = layer.modulation(labels, z, (8, 8))
    inside = gamma[:, :, 2:-2, 2:-2]  # two convolutions 3 x 3 reach two pixels
    torch.testing.assert_close(inside, inside[:, :, :1, :1].expand_as(inside), rtol=0, atol=1e-10)
    assert (gamma[:, :, 0, 0] - inside[:, :, 0, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["batch", "instance"])
def test_3_without_gamma_and_beta_it_is_the_norm(kind) -> None:
    x, labels, z, styles = data()
    expected = formulas.normed(x.numpy(), kind)
    layers = [
        (sstan(norm=kind), (labels, z)),
        (spade(norm=kind), (labels,)),
        (sean(norm=kind), (labels, styles)),
    ]
    for layer, cond in layers:
        for branch in (layer, getattr(layer, "spade", layer)):
            for conv in (branch.conv_gamma, branch.conv_beta):
                nn.init.zeros_(conv.weight)
                nn.init.zeros_(conv.bias)
        np.testing.assert_allclose(layer(x, *cond).detach(), expected, rtol=0, atol=1e-12)


def mixed_difference(layer: SSTAN) -> Tensor:
    """Of the output at x = 0, in layout and style."""
    _, labels, z, _ = data()
    x = torch.zeros(3, C, 6, 6, dtype=torch.float64)
    other, moved = (labels + 1) % L, -z
    return layer(x, labels, z) - layer(x, other, z) - layer(x, labels, moved) + layer(x, other, moved)


def test_4_the_relu_couples_layout_and_style() -> None:
    assert mixed_difference(sstan()).abs().max() > 0.1
    linear = sstan()
    with torch.no_grad():  # far from zero the ReLU of the hidden maps is the identity
        linear.conv_shared.bias += 1000
    assert mixed_difference(linear).abs().max() < 1e-8


def test_5_sean_without_its_styles_weight_is_spade() -> None:
    mixed, plain, (x, labels, _, styles) = sean(), spade(), data()
    plain.load_state_dict({**plain.state_dict(), **mixed.spade.state_dict()})
    with torch.no_grad():
        mixed.alpha_gamma.fill_(-80)
        mixed.alpha_beta.fill_(-80)
    torch.testing.assert_close(mixed(x, labels, styles), plain(x, labels), rtol=0, atol=1e-10)
    alone = sean(use_style=False)
    alone.spade.load_state_dict(mixed.spade.state_dict())
    torch.testing.assert_close(alone(x, labels), plain(x, labels), rtol=0, atol=1e-10)


def test_5_region_average_pool_equals_a_loop() -> None:
    torch.manual_seed(0)
    feat, labels = torch.randn(2, 5, 6, 4, dtype=torch.float64), torch.randint(2, (2, 12, 7))
    maps = as_maps(labels)  # class 2 is absent
    pooled = region_average_pool(feat, maps.float())
    np.testing.assert_allclose(
        pooled, formulas.region_means(feat.numpy(), maps.numpy()), rtol=1e-12, atol=1e-12
    )
    assert not pooled[:, 2].any()
    torch.testing.assert_close(region_average_pool(feat, maps.long()), pooled, rtol=0, atol=0)
    with pytest.raises(TypeError, match="segmap must"):
        region_average_pool(feat, maps.numpy())


def test_5_swapped_styles_change_their_regions_and_the_kernels_reach() -> None:
    layer = sean().eval()
    x = data(size=12)[0]
    labels = torch.zeros(3, 12, 12, dtype=torch.long)
    labels[:, 2:4, 2:4], labels[:, 2:4, 8:10] = 1, 2
    styles = data()[3]
    moved = (layer(x, labels, styles) - layer(x, labels, styles[:, [0, 2, 1]])).abs().amax(1) > 1e-12
    reach = torch.zeros(12, 12, dtype=torch.bool)
    reach[1:5, 1:5] = reach[1:5, 7:11] = True
    assert torch.equal(moved, reach.expand(3, -1, -1))


def test_5_an_absent_region_contributes_nothing() -> None:
    layer, (x, labels, _, styles) = sean(), data()
    labels = labels % 2
    other = styles.clone()
    other[:, 2] += 10
    torch.testing.assert_close(layer(x, labels, other), layer(x, labels, styles), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["batch", "instance"])
def test_6_gradcheck_in_x_and_z(kind) -> None:
    layer = sstan(norm=kind)
    x, labels, z, _ = data(n=2, size=3)
    assert torch.autograd.gradcheck(
        lambda x, z: layer(x, labels, z), (x.requires_grad_(), z.requires_grad_())
    )


# ------------------------------------------------------------------------------------- state and noise


def test_state_is_that_of_the_named_submodules() -> None:
    children = {
        SSTAN(C, L, Z): {"norm", "style", "conv_shared", "conv_gamma", "conv_beta"},
        SPADE(C, L): {"norm", "conv_shared", "conv_gamma", "conv_beta"},
        StyleOnlyNorm(C, Z): {"norm", "style", "affine"},
        SEAN(C, L): {"norm", "fc", "conv_gamma", "conv_beta", "spade"},
    }
    for layer, names in children.items():
        assert {name for name, module in layer.named_children() if module is not None} == names
    own = dict(SEAN(C, L).named_parameters(recurse=False))
    assert {name: tuple(p.shape) for name, p in own.items()} == {
        "noise_scale": (C,),
        "alpha_gamma": (),
        "alpha_beta": (),
    }
    bare = SEAN(C, L, noise=False, use_style=False)
    assert all(
        getattr(bare, name) is None
        for name in ("noise_scale", "fc", "conv_gamma", "conv_beta", "alpha_gamma", "alpha_beta")
    )


def test_defaults_are_those_of_spade_and_sean() -> None:
    joint, regional = SSTAN(C, L, Z), SEAN(C, L)
    assert joint.conv_shared.weight.shape == (128, L + 128, 3, 3)
    assert joint.style.weight.shape == (128, Z)
    assert [tuple(fc.weight.shape) for fc in regional.fc] == [(512, 512)] * L
    assert isinstance(joint.norm, nn.BatchNorm2d)
    assert not joint.norm.affine


def test_weights_start_xavier_with_small_gain_and_zero_biases() -> None:
    torch.manual_seed(0)
    conv = SSTAN(32, L, Z).conv_gamma
    expected = 0.02 * (2 / (9 * (32 + 128))) ** 0.5
    assert float(conv.weight.detach().std()) == pytest.approx(expected, rel=0.05)
    for layer in (SSTAN(C, L, Z), SPADE(C, L), StyleOnlyNorm(C, Z), SEAN(C, L)):
        assert all(not p.any() for name, p in layer.named_parameters() if name.endswith("bias"))


def test_noise_is_one_map_scaled_per_channel_in_both_modes() -> None:
    layer, (x, labels, _, styles) = sean(noise=True, norm="instance", use_style=False), data()
    with torch.no_grad():
        layer.noise_scale.copy_(torch.tensor([0.0, 1.0, 2.0, -1.0]))
    seen: list[Tensor] = []
    layer.norm.register_forward_hook(lambda _m, given, _o: seen.append(given[0] - x))
    for mode in (True, False):
        layer.train(mode)(x, labels)
        noise = seen[-1].detach()
        assert noise[:, 1].std() > 0.5
        torch.testing.assert_close(noise, noise[:, 1:2] * layer.noise_scale.detach().view(1, -1, 1, 1))
    fresh = SEAN(C, L, S, H).double().eval()
    assert torch.equal(fresh(x, labels, styles), fresh(x, labels, styles)), "the scale starts at 0"


# ------------------------------------------------------------------------------------------- refusals


def test_labels_and_one_hot_maps_of_any_float_type_are_the_same() -> None:
    layer, (x, labels, z, _) = sstan(), data()
    expected = layer(x, labels, z)
    for maps in (as_maps(labels).float(), as_maps(labels).bfloat16(), labels.int(), labels.to(torch.uint8)):
        given = maps if maps.is_floating_point() or maps.ndim == 3 else maps.long()
        torch.testing.assert_close(layer(x, given, z), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "segmap",
    [
        torch.zeros(3, 9, 8),
        torch.zeros(3, L + 1, 9, 8),
        torch.zeros(1, L, 9, 8),
        torch.zeros(3, L, 9, 8, dtype=torch.long),
        torch.zeros(2, 9, 8, dtype=torch.long),
        torch.full((3, 9, 8), L),
        torch.full((3, 9, 8), -1),
    ],
)
def test_wrong_layouts_are_refused_by_name(segmap) -> None:
    x, _, z, styles = data()
    for layer, rest in ((sstan(), (z,)), (spade(), ()), (sean(), (styles,))):
        with pytest.raises(ValueError, match="segmap must"):
            layer(x, segmap, *rest)


def test_wrong_styles_are_refused_by_name_and_never_broadcast() -> None:
    x, labels, z, styles = data()
    for wrong in (z[:1], z[:, :-1], z[0]):
        with pytest.raises(ValueError, match="z must have shape"):
            sstan()(x, labels, wrong)
        with pytest.raises(ValueError, match="z must have shape"):
            far(StyleOnlyNorm(C, Z))(x, wrong)
    for other in (styles[:1], styles[:, :-1], styles[..., :-1], styles[:, 0]):
        with pytest.raises(ValueError, match="styles must have shape"):
            sean()(x, labels, other)
    with pytest.raises(ValueError, match="styles must be given"):
        sean()(x, labels)
    with pytest.raises(ValueError, match="z must have shape"):
        sstan().modulation(labels, z[0], (6, 6))


@pytest.mark.parametrize("layer", [SPADE, SEAN])
def test_bad_arguments_are_named(layer) -> None:
    for options, name in (
        ({"kernel_size": 4}, "kernel_size"),
        ({"norm": "layer"}, "norm"),
        ({"hidden": 0}, "hidden"),
    ):
        with pytest.raises(ValueError, match=rf"^{name} must"):
            layer(C, L, **options)
        with pytest.raises(ValueError, match=rf"^{name} must"):
            SSTAN(C, L, Z, **options)
    with pytest.raises(ValueError, match=r"^norm must"):
        StyleOnlyNorm(C, Z, norm="none")


def test_instance_norm_of_one_pixel_is_refused_by_torch() -> None:
    _, labels, z, _ = data()
    with pytest.raises(ValueError, match=r"more than 1 spatial element"):
        sstan(norm="instance")(torch.zeros(3, C, 1, 1).double(), labels, z)
