import copy
import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import erf
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

import normviz.residual as package
from normviz.residual.blocks import (
    ConvBlock,
    FixupBlock,
    MLPBlock,
    ResidualTower,
    ReZero,
    SkipInit,
    build_tower,
    fixup_init_,
    fixup_param_groups,
    residual_scale,
)

METHODS = ("plain", "inv_sqrt", "inv", "skipinit", "fixup", "batchnorm", "layernorm")
ACTIVATIONS = {
    "relu": lambda a: np.maximum(a, 0),
    "tanh": np.tanh,
    "gelu": lambda a: a * (1 + erf(a / math.sqrt(2))) / 2,
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def randomise(module: nn.Module) -> nn.Module:
    """Float64, every parameter random, so that no zero layer or unit multiplier hides a mistake."""
    module = module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def array(t: torch.Tensor) -> np.ndarray:
    return t.detach().numpy()


# ------------------------------------------------------------------------------------------------- the tower


def test_tower_equals_numpy_loop() -> None:
    modules = [nn.Linear(4, 4).double() for _ in range(3)]
    encoder, decoder = nn.Linear(5, 4).double(), nn.Linear(4, 2).double()
    scales = [0.5, -1.5, 2.0]
    tower = ResidualTower(modules, scales, encoder=encoder, decoder=decoder)
    x = randn(6, 5)
    h = array(x) @ array(encoder.weight).T + array(encoder.bias)
    stream = [h]
    for lam, f in zip(scales, modules, strict=True):
        h = h + lam * (h @ array(f.weight).T + array(f.bias))
        stream.append(h)
    y = h @ array(decoder.weight).T + array(decoder.bias)
    np.testing.assert_allclose(array(tower(x)), y, rtol=1e-12, atol=1e-13)
    assert len(tower.features(x)) == 4
    for upto in range(4):
        features = tower.features(x, upto=upto)
        assert len(features) == upto + 1
        for ours, wanted in zip(features, stream, strict=False):
            np.testing.assert_allclose(array(ours), wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("rule", "lam"), [("one", 1), ("inv_sqrt", 0.5), ("inv", 0.25), (0.3, 0.3), (-2, -2)]
)
def test_scale_rules(rule: str | float, lam: float) -> None:
    tower = ResidualTower([nn.Identity()] * 4, rule)
    torch.testing.assert_close(tower.scales, torch.full((4,), lam, dtype=torch.float32))
    x = torch.randn(3, 2)
    torch.testing.assert_close(tower(x), x * (1 + lam) ** 4)  # coherent paths: (1 + lam)^n


def test_scales_are_a_buffer_or_a_parameter_in_the_modules_dtype() -> None:
    fixed = ResidualTower([nn.Tanh(), nn.Linear(2, 2).double()])
    assert fixed.scales.dtype == torch.float64
    assert not isinstance(fixed.scales, nn.Parameter)
    assert "scales" in fixed.state_dict()
    learned = ResidualTower([nn.Tanh(), nn.Tanh()], learnable=True)
    assert isinstance(learned.scales, nn.Parameter)
    assert learned.scales.dtype == torch.get_default_dtype()
    learned(torch.randn(3, 2)).sum().backward()
    assert (learned.scales.grad != 0).all()
    default = ResidualTower([nn.Identity()] * 5)
    torch.testing.assert_close(default.scales, torch.full((5,), 0.2))
    assert set(fixed.state_dict()) == {"scales", "blocks.1.weight", "blocks.1.bias"}
    assert "scale='inv', learnable=False" in repr(fixed)
    assert "per module" in repr(ResidualTower([nn.Tanh()], [0.1]))


def test_scale_zero_returns_the_input_exactly() -> None:
    tower = ResidualTower([MLPBlock(4) for _ in range(3)], 0.0)
    x = torch.randn(5, 4)
    assert torch.equal(tower(x), x)


def test_the_scale_multiplies_the_branch_not_its_input() -> None:
    x = torch.tensor([[0.3, -1.2]])
    torch.testing.assert_close(ResidualTower([nn.Tanh()], 0.5)(x), x + 0.5 * torch.tanh(x))


def test_explosion_is_returned_silently() -> None:
    tower = ResidualTower([nn.Linear(4, 4)] * 3, "one")
    for p in tower.parameters():
        nn.init.constant_(p, 1e20)
    assert not torch.isfinite(tower(torch.ones(1, 4))).any()
    assert torch.isfinite(build_tower(200, method="inv_sqrt")(torch.randn(8, 64))).all()


def test_tied_weights_tend_to_the_matrix_exponential() -> None:
    for seed in range(3):
        W = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        layer = nn.Linear(5, 5, bias=False).double()
        with torch.no_grad():
            layer.weight.copy_(W / torch.linalg.matrix_norm(W, 2))
        x = randn(7, 5)
        h = ResidualTower([layer] * 1000, "inv")(x)
        limit = x @ torch.linalg.matrix_exp(layer.weight).T
        assert (h - limit).norm() < 0.01 * limit.norm()


def test_random_linear_tower_grows_by_the_expected_ratio() -> None:
    """3000 draws of a tower d = 8, n = 16, lam = 1/4: E |h|^2 / |x|^2 = 1.0625^16 = 2.638."""
    d, n, draws = 8, 16, 3000
    tower = ResidualTower([nn.Linear(d, d, bias=False) for _ in range(n)], 0.25).double()
    weights = {f"blocks.{i}.weight": randn(draws, d, d) / math.sqrt(d) for i in range(n)}
    x = randn(d)
    h = vmap(lambda w: functional_call(tower, w, (x,)))(weights)
    ratio = float(h.square().sum(1).mean() / x.square().sum())
    assert ratio == pytest.approx(2.638, rel=0.1)


# ------------------------------------------------------------------------------------------------- the branches


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", [None, "batch", "layer"])
def test_mlp_block_equals_numpy(activation: str, norm: str | None) -> None:
    block = randomise(MLPBlock(3, 5, activation, norm))
    x = randn(7, 3)
    a = array(x) @ array(block.first.weight).T + array(block.first.bias)
    if norm is not None:
        axis = 0 if norm == "batch" else 1
        mean = a.sum(axis, keepdims=True) / a.shape[axis]
        a = (a - mean) / np.sqrt(((a - mean) ** 2).sum(axis, keepdims=True) / a.shape[axis] + 1e-5)
        a = a * array(block.norm.weight) + array(block.norm.bias)
    y = ACTIVATIONS[activation](a) @ array(block.last.weight).T + array(block.last.bias)
    np.testing.assert_allclose(array(block(x)), y, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("norm", [None, "batch", "layer"])
def test_conv_block_equals_its_formula_and_keeps_the_shape(norm: str | None) -> None:
    block = randomise(ConvBlock(3, 4, kernel_size=5, activation="tanh", norm=norm))
    x = randn(2, 3, 6, 7)
    a = F.conv2d(x, block.first.weight, block.first.bias, padding=2)
    if norm is not None:
        axes = (0, 2, 3) if norm == "batch" else (1, 2, 3)
        mean = a.mean(axes, keepdim=True)
        a = (a - mean) / ((a - mean).square().mean(axes, keepdim=True) + 1e-5).sqrt()
        a = a * block.norm.weight[:, None, None] + block.norm.bias[:, None, None]
    y = F.conv2d(a.tanh(), block.last.weight, block.last.bias, padding=2)
    torch.testing.assert_close(block(x), y)
    assert block(x).shape == x.shape
    assert isinstance(ConvBlock(4, norm="layer").norm, nn.GroupNorm)
    assert ConvBlock(4).first.out_channels == 4


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_he_init(activation: str) -> None:
    block = MLPBlock(200, 300, activation)
    assert float(block.first.weight.detach().std()) == pytest.approx(math.sqrt(2 / 200), rel=0.02)
    assert float(block.last.weight.detach().std()) == pytest.approx(math.sqrt(2 / 300), rel=0.02)
    assert not block.first.bias.any()
    assert not block.last.bias.any()
    conv = ConvBlock(32, 64, activation=activation)
    assert float(conv.first.weight.detach().std()) == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.03)
    assert float(conv.last.weight.detach().std()) == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.03)


def test_zero_last_init() -> None:
    for block in (MLPBlock(50, init="fixup_first_zero_last"), ConvBlock(8, init="fixup_first_zero_last")):
        assert block.first.weight.std() > 0.1
        assert not block.last.weight.any()
    torch.manual_seed(3)
    he = MLPBlock(6)
    torch.manual_seed(3)
    assert torch.equal(he.first.weight, MLPBlock(6, init="fixup_first_zero_last").first.weight)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize(("activation", "variance"), [("relu", 1.0), ("tanh", 0.394), ("gelu", 0.425 * 2)])
def test_output_variance_of_a_normalised_branch(norm: str, activation: str, variance: float) -> None:
    """2 E act(z)^2 with z ~ N(0, 1): 1 for ReLU."""
    if activation == "tanh":
        variance *= 2
    y = MLPBlock(512, norm=norm, activation=activation)(5 + 3 * torch.randn(512, 512))
    assert float(y.detach().square().mean()) == pytest.approx(variance, rel=0.05)


def test_skipinit_at_init_moves_only_alphas_then_weights() -> None:
    assert ReZero is SkipInit
    assert package.ReZero is package.SkipInit
    tower = build_tower(6, dim=8, method="skipinit", in_dim=8)
    x, target = torch.randn(16, 8), torch.randint(10, (16,))
    h = tower.features(x)
    assert torch.equal(h[-1], h[0])
    optimizer = torch.optim.SGD(tower.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        F.cross_entropy(tower(x), target).backward()
        for block in tower.blocks:
            assert block.alpha.grad != 0
            weights_move = any(p.grad.any() for p in block.module.parameters())
            assert weights_move == (step == 1)
        optimizer.step()
    scaled = SkipInit(nn.Linear(3, 3).double(), init=0.25)
    assert scaled.alpha.shape == ()
    assert scaled.alpha.dtype == torch.float64
    x = randn(2, 3)
    torch.testing.assert_close(scaled(x), 0.25 * scaled.module(x))


# ------------------------------------------------------------------------------------------------- Fixup


@pytest.mark.parametrize("m", [2, 3, 4])
def test_fixup_block_equals_numpy(m: int) -> None:
    block = randomise(FixupBlock(3, 5, "gelu", num_layers=m))
    assert [tuple(layer.weight.shape) for layer in block.layers] == [(5, 3), *[(5, 5)] * (m - 2), (3, 5)]
    assert block.pre_bias.shape == (m,)
    assert block.act_bias.shape == (m - 1,)
    x = randn(4, 3)
    h = array(x)
    for j in range(m):
        h = (h + block.pre_bias[j].item()) @ array(block.layers[j].weight).T
        if j < m - 1:
            h = ACTIVATIONS["gelu"](h + block.act_bias[j].item())
    y = block.multiplier.item() * h + block.out_bias.item()
    np.testing.assert_allclose(array(block(x)), y, rtol=1e-11, atol=1e-12)


def test_convolutional_fixup_block() -> None:
    block = randomise(FixupBlock(2, 3, kernel_size=3))
    x = randn(2, 2, 4, 5)
    # the scalar is added before the padding, as in the official block
    h = F.conv2d(x + block.pre_bias[0], block.layers[0].weight, padding=1)
    h = F.conv2d(F.relu(h + block.act_bias[0]) + block.pre_bias[1], block.layers[1].weight, padding=1)
    torch.testing.assert_close(block(x), block.multiplier * h + block.out_bias)
    assert set(dict(block.named_parameters())) == {
        "pre_bias", "act_bias", "multiplier", "out_bias", "layers.0.weight", "layers.1.weight"
    }  # fmt: skip


@pytest.mark.parametrize(("m", "power"), [(2, 0.5), (3, 0.25)])
def test_fixup_standard_deviation(m: int, power: float) -> None:
    L = 27
    tower = ResidualTower([FixupBlock(16, num_layers=m, kernel_size=3) for _ in range(L)], "one")
    randomise(tower)
    assert fixup_init_(tower) is tower
    inner = torch.cat([layer.weight.flatten() for block in tower.blocks for layer in block.layers[:-1]])
    assert float(inner.detach().std()) == pytest.approx(math.sqrt(2 / 144) / L**power, rel=0.015)
    alone = torch.cat([FixupBlock(16, kernel_size=3).layers[0].weight.flatten() for _ in range(L)])
    assert float(alone.detach().std()) == pytest.approx(math.sqrt(2 / 144), rel=0.015)
    wide = FixupBlock(20, 500).layers[0].weight  # fan_out = 500, fan_in = 20
    assert float(wide.detach().std()) == pytest.approx(math.sqrt(2 / 500), rel=0.03)
    for block in tower.blocks:
        assert not block.layers[-1].weight.any()
        assert not block.pre_bias.any()
        assert not block.act_bias.any()
        assert block.out_bias == 0
        assert block.multiplier == 1


@pytest.mark.parametrize("method", ["skipinit", "fixup"])
def test_tower_is_the_identity_at_init(method: str) -> None:
    tower = build_tower(5, method=method)
    x = torch.randn(7, 64)
    stream = tower.features(x)
    assert torch.equal(stream[-1], tower.encoder(x))
    if method == "fixup":
        logits = tower(x)
        assert not logits.any()
        loss = F.cross_entropy(logits, torch.randint(10, (7,)))
        assert loss.item() == pytest.approx(math.log(10), rel=1e-6)


def test_fixup_needs_fixup_blocks_and_changes_nothing_otherwise() -> None:
    tower = ResidualTower([FixupBlock(4), MLPBlock(4)], decoder=nn.Linear(4, 2))
    before = copy.deepcopy(tower.state_dict())
    with pytest.raises(TypeError, match=r"blocks\[1\] must be a FixupBlock, got MLPBlock"):
        fixup_init_(tower)
    for key, value in tower.state_dict().items():
        assert torch.equal(value, before[key])
    unbiased = ResidualTower([FixupBlock(4)], decoder=nn.Linear(4, 2, bias=False))
    assert not fixup_init_(unbiased).decoder.weight.any()


def test_fixup_param_groups() -> None:
    tower = build_tower(3, method="fixup")
    rest, scalars = fixup_param_groups(tower, 0.5)
    assert (rest["lr"], scalars["lr"]) == (0.5, 0.05)
    names = {id(p): name for name, p in tower.named_parameters()}
    found = {names[id(p)] for p in scalars["params"]}
    assert found == {
        f"blocks.{i}.{s}" for i in range(3) for s in ("pre_bias", "act_bias", "multiplier", "out_bias")
    }
    together = [id(p) for p in rest["params"] + scalars["params"]]
    assert sorted(together) == sorted(names)
    optimizer = torch.optim.SGD(fixup_param_groups(tower, 0.5))
    x = torch.randn(8, 64)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(tower(x), torch.arange(8)).backward()
        optimizer.step()
    assert (tower.features(x)[-1] - tower.encoder(x)).abs().max() > 0
    plain = fixup_param_groups(nn.Linear(2, 2), 1)
    assert [len(group["params"]) for group in plain] == [2, 0]


# ------------------------------------------------------------------------------------------------- build_tower


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_build_tower(method: str, activation: str) -> None:
    tower = build_tower(4, dim=6, num_classes=3, method=method, activation=activation, in_dim=5, seed=1)
    lam = {"inv_sqrt": 0.5, "inv": 0.25}.get(method, 1.0)
    assert tower.scales.tolist() == [lam] * 4
    assert isinstance(tower.blocks[0], {"skipinit": SkipInit, "fixup": FixupBlock}.get(method, MLPBlock))
    again = build_tower(4, dim=6, num_classes=3, method=method, activation=activation, in_dim=5, seed=1)
    for a, b in zip(tower.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert tower(torch.randn(7, 5)).shape == (7, 3)


def test_build_tower_shares_weights_and_keeps_the_random_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    towers = {method: build_tower(3, method=method, seed=7) for method in METHODS}
    assert torch.equal(torch.get_rng_state(), before)
    plain = towers["plain"]
    for method in ("inv_sqrt", "inv", "skipinit", "batchnorm", "layernorm"):
        for ours, theirs in zip(towers[method].blocks, plain.blocks, strict=True):
            inner = ours.module if method == "skipinit" else ours
            assert torch.equal(inner.first.weight, theirs.first.weight)
            assert torch.equal(inner.last.weight, theirs.last.weight)
        assert torch.equal(towers[method].decoder.weight, plain.decoder.weight)
    for tower in towers.values():
        assert torch.equal(tower.encoder.weight, plain.encoder.weight)
    assert not torch.equal(plain.encoder.weight, build_tower(3, method="plain", seed=8).encoder.weight)


# ------------------------------------------------------------------------------------------------- contracts


@pytest.mark.parametrize("method", METHODS)
def test_vmap_over_stacked_towers_equals_the_loop(method: str) -> None:
    towers = [build_tower(3, dim=6, method=method, in_dim=5, seed=s).double() for s in range(3)]
    for tower in towers:
        randomise(tower)
    parameters, buffers = stack_module_state(towers)
    x = randn(4, 5)
    skeleton = copy.deepcopy(towers[0]).to("meta")

    def call(p: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(skeleton, (p, b), (x,))

    together = vmap(call)(parameters, buffers)
    for row, tower in zip(together, towers, strict=True):
        torch.testing.assert_close(row, tower(x))


@pytest.mark.parametrize("method", METHODS)
def test_compiled_equals_eager(method: str) -> None:
    tower = randomise(build_tower(2, dim=6, method=method, in_dim=5)).float()
    x = torch.randn(4, 5)
    compiled = torch.compile(copy.deepcopy(tower), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), tower(x))


def test_compiled_images() -> None:
    tower = randomise(ResidualTower([ConvBlock(2, norm="layer"), FixupBlock(2, kernel_size=3)])).float()
    x = torch.randn(2, 2, 4, 4)
    compiled = torch.compile(tower, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), tower(x))


def test_stream_keeps_its_precision_under_autocast() -> None:
    """1000 steps of 1/1000: in bfloat16 each would be rounded away."""
    one = nn.Linear(4, 4)
    nn.init.zeros_(one.weight)
    nn.init.ones_(one.bias)
    encoder = nn.Linear(4, 4)
    nn.init.eye_(encoder.weight)
    nn.init.zeros_(encoder.bias)
    tower = ResidualTower([one] * 1000, "inv", encoder=encoder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = tower(torch.ones(2, 4))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, torch.full((2, 4), 2.0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    for method in METHODS:
        tower = build_tower(2, method=method).to(dtype)
        assert tower.scales.dtype == dtype
        assert tower(torch.randn(4, 64, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("method", METHODS)
def test_state_dict_round_trip(method: str) -> None:
    tower = randomise(build_tower(3, method=method)).float()
    file = io.BytesIO()
    torch.save(tower.state_dict(), file)
    file.seek(0)
    other = build_tower(3, method=method, seed=9)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(4, 64)
    assert torch.equal(other(x), tower(x))
    assert torch.equal(copy.deepcopy(tower)(x), tower(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ResidualTower([]), "modules must hold at least one"),
        (lambda: ResidualTower([nn.Tanh()] * 2, [1.0]), r"scale must have one entry per module \(2\), got 1"),
        (lambda: ResidualTower([nn.Tanh()], "sqrt"), "rule must be one of"),
        (lambda: ResidualTower([nn.Tanh()], [math.nan]), r"scale\[0\] must be a number"),
        (
            lambda: ResidualTower([nn.Tanh()]).features(torch.ones(1, 2), upto=2),
            r"upto must be .* \[0, 1\], got 2",
        ),
        (lambda: ResidualTower([nn.Tanh()]).features(torch.ones(1, 2), upto=-1), "upto must be"),
        (
            lambda: ResidualTower([nn.Linear(3, 2)])(torch.ones(1, 3)),
            r"got \(1, 2\) for \(1, 3\) from module 0",
        ),
        (lambda: residual_scale(0, "one"), "n must be"),
        (lambda: MLPBlock(0), "dim must be"),
        (lambda: MLPBlock(2, 0), "hidden must be"),
        (lambda: MLPBlock(2, activation="swish"), "activation must be one of 'relu', 'tanh', 'gelu'"),
        (lambda: MLPBlock(2, norm="group"), "norm must be one of"),
        (lambda: MLPBlock(2, init="xavier"), "init must be one of"),
        (lambda: ConvBlock(2, kernel_size=4), "kernel_size must be odd, got 4"),
        (lambda: ConvBlock(2, norm="instance"), "norm must be one of"),
        (lambda: FixupBlock(2, num_layers=1), "num_layers must be an integer >= 2, got 1"),
        (lambda: FixupBlock(2, kernel_size=2), "kernel_size must be odd"),
        (lambda: FixupBlock(2, activation="elu"), "activation must be one of"),
        (lambda: SkipInit(nn.Tanh(), "zero"), "init must be a number"),
        (lambda: build_tower(0), "depth must be"),
        (lambda: build_tower(2, method="rezero"), "method must be one of"),
        (lambda: build_tower(2, activation="elu"), "activation must be one of"),
        (lambda: build_tower(2, dim=0), "dim must be"),
        (lambda: build_tower(2, seed=-1), "seed must be"),
        (lambda: fixup_param_groups(nn.Tanh(), -1.0), "lr must be"),
    ],
)
def test_bad_arguments(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
