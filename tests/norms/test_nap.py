"""Normalize-and-Project: the card's checks against NumPy and closed forms, then roles, edge cases and errors."""

from __future__ import annotations

import copy
import io
import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from normviz import norms
from normviz.module_roles import (
    dormant_units,
    is_activation,
    is_homogeneous,
    is_norm,
    plastic_weights,
    projected_weights,
)
from normviz.norms import nap
from normviz.norms.nap import (
    FeatureNorm,
    NaPConvNet,
    NaPMLP,
    NormProjector,
    dormant_fraction,
    effective_learning_rate,
    gradient_norms,
    insert_normalization,
    parameter_norms,
)

Array = np.ndarray[Any, np.dtype[Any]]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def numpy_norm(x: Array, kind: str, eps: float, axes: tuple[int, ...] = (-1,)) -> Array:
    if kind == "layer":
        x = x - x.mean(axes, keepdims=True)
    return np.asarray(x / np.sqrt((x**2).mean(axes, keepdims=True) + eps))


def mlp(seed: int = 0, **options: Any) -> NaPMLP:
    torch.manual_seed(seed)
    options = {"hidden": (7, 6), "eps": 0.0, **options}
    return NaPMLP(5, 3, **options).double()


def loss_of(model: nn.Module, seed: int = 1) -> Tensor:
    x, y = randn(16, 5, seed=seed), randn(16, 3, seed=seed + 100)
    out: Tensor = model(x)
    return (out - y).square().mean()


def hidden_weights(model: nn.Module) -> list[nn.Parameter]:
    return [m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)][:-1]


# ------------------------------------------------------------------------------------------------------- the norm


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("affine", [True, False])
def test_feature_norm_forward(kind: str, affine: bool) -> None:
    norm = FeatureNorm(6, kind, affine=affine).double()
    x = randn(4, 3, 6)
    expected = numpy_norm(x.numpy(), kind, 1e-5 if kind == "layer" else 1e-6)
    if affine:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
        expected = norm.weight.detach().numpy() * expected + norm.bias.detach().numpy()
    else:
        assert norm.weight is None
        assert norm.bias is None
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_spatial_norm_takes_channels_and_pixels_together(kind: str) -> None:
    norm = FeatureNorm(3, kind, spatial=True, eps=0.01).double()
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = randn(2, 3, 4, 5)
    z = numpy_norm(x.numpy(), kind, 0.01, (1, 2, 3))
    sigma, mu = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    expected = sigma[None, :, None, None] * z + mu[None, :, None, None]
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(norm(x[0]).detach().numpy(), expected[0], rtol=1e-12, atol=1e-12)
    if kind == "layer":
        torch.testing.assert_close(norm(x), nn.functional.group_norm(x, 1, norm.weight, norm.bias, 0.01))


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_check_9_backward_formulas(kind: str) -> None:
    x, g = randn(4, 6).requires_grad_(), randn(4, 6, seed=1)
    FeatureNorm(6, kind, eps=0.0, affine=False)(x).backward(g)
    for a, u, dx in zip(x.detach().numpy(), g.numpy(), x.grad.numpy(), strict=True):
        if kind == "layer":
            s = math.sqrt(sum((v - sum(a) / 6) ** 2 for v in a) / 6)
            xhat = (a - sum(a) / 6) / s
            expected = (u - u.mean() - xhat * (u * xhat).mean()) / s
        else:
            r = math.sqrt(sum(v * v for v in a) / 6)
            xhat = a / r
            expected = (u - xhat * (u * xhat).mean()) / r
        np.testing.assert_allclose(dx, expected, rtol=1e-10, atol=1e-12)


def test_gradcheck() -> None:
    for kind, spatial in itertools.product(["layer", "rms"], [False, True]):
        norm = FeatureNorm(3, kind, spatial=spatial).double()
        nn.init.normal_(norm.weight)
        x = randn(2, 3, 2, 2) if spatial else randn(2, 3)
        assert torch.autograd.gradcheck(norm, x.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_constant_input_gives_the_offset_and_a_finite_gradient(dtype: torch.dtype) -> None:
    norm = FeatureNorm(7).to(dtype)
    nn.init.constant_(norm.bias, 0.5)
    x = torch.full((2, 7), 1234.567, dtype=dtype, requires_grad=True)
    y = norm(x)
    assert torch.equal(y, torch.full_like(y, 0.5))
    y.square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_normalised_in_float32(dtype: torch.dtype) -> None:
    x = (randn(3, 8, dtype=torch.float32) * 200).to(dtype)
    for kind in ("layer", "rms"):
        y = FeatureNorm(8, kind, affine=False)(x)
        assert y.dtype == dtype
        assert torch.equal(y, FeatureNorm(8, kind, affine=False)(x.float()).to(dtype))


@pytest.mark.parametrize(
    "make", [lambda: NaPMLP(64, 3, (8, 6)), lambda: NaPConvNet(1, 3, (4, 6), norm="rms")]
)
def test_autocast_vmap_and_compile(make: Any) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    models = [make() for _ in range(3)]
    x = randn(5, 64, dtype=torch.float32)
    x = x if isinstance(models[0], NaPMLP) else x.reshape(5, 1, 8, 8)
    out = models[0](x)
    torch.testing.assert_close(torch.compile(models[0], fullgraph=True, backend="aot_eager")(x), out)
    params, buffers = stack_module_state(models)
    stacked = vmap(lambda p, b: functional_call(models[0], (p, b), (x,)))(params, buffers)
    torch.testing.assert_close(stacked, torch.stack([m(x) for m in models]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = models[0](x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), out, atol=0.05, rtol=0.05)


# ---------------------------------------------------------------------------------------------------- the networks


@pytest.mark.parametrize("norm", ["layer", "rms", None])
def test_mlp_forward(norm: str | None) -> None:
    model = mlp(norm=norm, activation="leaky_relu", eps=None)
    x = randn(4, 5)
    a = x.numpy()
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    for linear in linears[:-1]:
        a = a @ linear.weight.detach().numpy().T
        if norm is None:
            a = a + linear.bias.detach().numpy()
        else:
            assert linear.bias is None
            a = numpy_norm(a, norm, 1e-5 if norm == "layer" else 1e-6)
        a = np.where(a > 0, a, 0.01 * a)
    a = a @ linears[-1].weight.detach().numpy().T + linears[-1].bias.detach().numpy()
    np.testing.assert_allclose(model(x).detach().numpy(), a, rtol=1e-10, atol=1e-12)


def test_convnet_forward_by_hand() -> None:
    torch.manual_seed(0)
    model = NaPConvNet(2, 3, (4,), eps=0.0, activation="tanh", affine=False).double()
    x = randn(2, 2, 5, 5)
    kernel = model.layers[0].weight.detach().numpy()
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    maps = np.zeros((2, 4, 3, 3))
    for n, c, i, j in itertools.product(range(2), range(4), range(3), range(3)):
        maps[n, c, i, j] = (padded[n, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] * kernel[c]).sum()
    features = np.tanh(numpy_norm(maps, "layer", 0.0, (1, 2, 3))).mean((2, 3))
    expected = features @ model.head.weight.detach().numpy().T + model.head.bias.detach().numpy()
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "gelu", "sigmoid", "identity"])
def test_every_activation_name(activation: str) -> None:
    x = randn(4, 5)
    last = mlp(activation=activation, hidden=(7,)).layers[2](x)
    functions = {
        "relu": torch.relu,
        "leaky_relu": nn.functional.leaky_relu,
        "tanh": torch.tanh,
        "gelu": nn.functional.gelu,
        "sigmoid": torch.sigmoid,
        "identity": lambda a: a,
    }
    assert torch.equal(last, functions[activation](x))
    assert NaPConvNet(1, 2, (3,), activation=activation)(torch.zeros(2, 1, 8, 8)).shape == (2, 2)


def test_no_hidden_layers_is_a_linear_model() -> None:
    assert [type(m) for m in NaPMLP(3, 2, ()).layers] == [nn.Linear]


# ------------------------------------------------------------------------------------- facts of scale-invariant layers


@pytest.mark.parametrize("norm", ["layer", "rms"])
@settings(max_examples=10, deadline=None)
@given(c=st.floats(0.01, 100), layer=st.integers(0, 1))
def test_check_2_scaling_a_hidden_weight(norm: str, c: float, layer: int) -> None:
    model = mlp(norm=norm)
    weight = hidden_weights(model)[layer]
    out, loss = model(randn(16, 5, seed=1)), loss_of(model)
    (grad,) = torch.autograd.grad(loss, weight)
    with torch.no_grad():
        weight.mul_(c)
    torch.testing.assert_close(model(randn(16, 5, seed=1)), out, rtol=1e-9, atol=1e-9)
    (scaled,) = torch.autograd.grad(loss_of(model), weight)
    torch.testing.assert_close(scaled, grad / c, rtol=1e-7, atol=1e-12)


def test_check_2_convolution() -> None:
    torch.manual_seed(0)
    model = NaPConvNet(1, 3, (4, 5), eps=0.0).double()
    x = randn(3, 1, 8, 8)
    out = model(x)
    for weight in hidden_weights(model):
        weight.data.mul_(7.0)
    torch.testing.assert_close(model(x), out, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_check_3_gradient_is_orthogonal(norm: str) -> None:
    model = mlp(norm=norm)
    loss_of(model).backward()
    for weight in hidden_weights(model):
        g, w = weight.grad.numpy().ravel(), weight.detach().numpy().ravel()
        assert abs(g @ w) / (np.linalg.norm(g) * np.linalg.norm(w)) < 1e-8
    output = model.layers[-1].weight
    assert abs(float((output.grad * output.detach()).sum())) > 1e-6  # not so for the output layer


def test_check_4_norm_growth_law() -> None:
    model, lr = mlp(), 0.5
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    start = parameter_norms(model)
    for step in range(10):
        optimizer.zero_grad()
        loss_of(model, seed=step).backward()
        before, gradients = parameter_norms(model), gradient_norms(model)
        optimizer.step()
        after = parameter_norms(model)
        for name in ("layers.0.weight", "layers.3.weight"):
            expected = before[name] ** 2 + lr**2 * gradients[name] ** 2
            assert after[name] ** 2 == pytest.approx(expected, rel=1e-10)
            assert after[name] >= before[name]
    assert after["layers.0.weight"] > 1.05 * start["layers.0.weight"]  # so the law was put to a test


@pytest.mark.parametrize("kind", ["layer", "rms", None])
def test_check_8_dead_unit_gets_a_gradient_through_the_norm(kind: str | None) -> None:
    x = torch.tensor([[-5.0, 1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    a = x if kind is None else FeatureNorm(3, kind, eps=0.0, affine=False)(x)
    assert float(a.detach()[0, 0]) < 0  # unit 0 is dead
    g = torch.tensor([[1.0, 2.0, -0.7]], dtype=torch.float64)
    torch.relu(a).backward(g)
    if kind is None:
        assert float(x.grad[0, 0]) == 0.0
        return
    z, through = a.detach().numpy()[0], np.array([0.0, 2.0, -0.7])
    if kind == "layer":
        s = x.detach().numpy().std()
        expected = -(through.mean() + z[0] * (through * z).mean()) / s
    else:
        expected = -z[0] * (through * z).mean() / np.sqrt((x.detach().numpy() ** 2).mean())
    assert float(x.grad[0, 0]) == pytest.approx(expected, rel=1e-10)
    assert abs(expected) > 1e-3


# ---------------------------------------------------------------------------------------------------- the projector


def optimizers(params: Any) -> list[torch.optim.Optimizer]:
    params = list(params)
    return [torch.optim.SGD(params, lr=0.3, momentum=0.9), torch.optim.Adam(params, lr=0.05)]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("project_output", [False, True])
def test_check_1_norms_stay_at_their_radii(which: int, project_output: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(9, 12),
        nn.Linear(12, 8, bias=False),
        nn.LayerNorm(8),
        nn.ReLU(),
        nn.Linear(8, 6, bias=False),
        nn.LayerNorm(6),
        nn.ReLU(),
        nn.Linear(6, 3),
    )
    optimizer = optimizers(model.parameters())[which]
    projector = NormProjector(model, project_output=project_output)
    keys = ["0.weight", "1.weight", "2", "4.weight"] + (["5", "7.weight"] if project_output else [])
    assert sorted(projector.radii) == keys
    start = {n: p.detach().double().norm().item() for n, p in model.named_parameters()}
    tokens = torch.randint(9, (20,), generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        optimizer.zero_grad()
        (model(tokens) - 1).square().mean().backward()
        optimizer.step()
        moved = {n: p.detach().double().norm().item() for n, p in model.named_parameters()}
        projector.project_()
        for name, p in model.named_parameters():
            norm = p.detach().double().norm().item()
            if name in projector.radii:
                assert norm == pytest.approx(start[name], rel=1e-6)
                assert abs(moved[name] / start[name] - 1) > 1e-5
        pair = math.hypot(*(p.detach().norm().item() for p in model[2].parameters()))
        assert pair == pytest.approx(math.sqrt(8), rel=1e-6)
        once = copy.deepcopy(model.state_dict())
        projector.project_()
        for name, p in model.state_dict().items():
            torch.testing.assert_close(p, once[name], rtol=1e-6, atol=0)
    if not project_output:
        assert moved["7.weight"] != pytest.approx(start["7.weight"], rel=1e-3)
        assert float(model[5].bias.detach().norm()) > 0


def test_projection_is_one_scalar_per_tensor_and_keeps_directions() -> None:
    model = mlp()
    projector = NormProjector(model)
    weight = model.layers[0].weight
    radius = float(weight.detach().norm())
    with torch.no_grad():
        weight.add_(randn(*weight.shape, seed=5))
    moved = weight.detach().clone()
    projector.project_()
    torch.testing.assert_close(weight.detach(), moved * radius / moved.norm())
    rows = weight.detach().norm(dim=1)
    assert float(rows.max() / rows.min()) > 1.2  # rows keep different norms: this is not weight norm


def test_check_7_joint_projection_of_scale_and_offset() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 8, bias=False),
        FeatureNorm(8, eps=0.0),
        nn.ReLU(),
        nn.Linear(8, 6, bias=False),
        FeatureNorm(6, eps=0.0, affine=False),
    ).double()
    first, x = model[1], randn(10, 5)
    with torch.no_grad():
        first.bias.copy_(randn(8, seed=2))
        first.weight.copy_(randn(8, seed=3))
        radius = math.hypot(float(first.weight.norm()), float(first.bias.norm()))
        projector = NormProjector(model)
        out = model(x)
        first.weight.mul_(3.0), first.bias.mul_(3.0)
        torch.testing.assert_close(model(x), out, rtol=1e-10, atol=1e-10)
        projector.project_()
        torch.testing.assert_close(model(x), out, rtol=1e-10, atol=1e-10)
        assert projector.radii["1"] == pytest.approx(radius, rel=1e-12)
        assert projector.norms()["1"] == pytest.approx(radius, rel=1e-12)
        first.weight.mul_(3.0)  # sigma alone is another function
        assert float((model(x) - out).abs().max()) > 1e-2


def test_pairs_that_no_norm_follows_are_free() -> None:
    model = mlp(hidden=(7, 6, 4))
    assert sorted(NormProjector(model).radii) == [
        "layers.0.weight",
        "layers.1",
        "layers.3.weight",
        "layers.4",
        "layers.6.weight",
    ]
    assert {"layers.7", "layers.9.weight"} < set(NormProjector(model, project_output=True).radii)
    ends_in_norm = nn.Sequential(
        nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4), nn.LayerNorm(4)
    )
    assert sorted(NormProjector(ends_in_norm).radii) == ["0.weight", "1", "3.weight"]
    assert sorted(NormProjector(ends_in_norm, project_output=True).radii) == [
        "0.weight",
        "1",
        "3.weight",
        "4",
    ]
    plain_last = nn.Sequential(
        nn.Linear(3, 4),
        nn.LayerNorm(4),
        nn.ReLU(),
        nn.Linear(4, 4),
        FeatureNorm(4, affine=False),
        nn.Linear(4, 2),
    )
    assert "1" in NormProjector(plain_last).radii


def test_fresh_radii_are_sqrt_d() -> None:
    radii = NormProjector(mlp(hidden=(9, 16)), project_output=True).radii
    assert radii["layers.1"] == pytest.approx(3.0)
    assert radii["layers.4"] == pytest.approx(4.0)
    assert all(type(radius) is float for radius in radii.values())


def test_a_norm_with_scale_only_is_projected_by_itself() -> None:
    model = nn.Sequential(
        nn.Linear(3, 4), nn.RMSNorm(4), nn.ReLU(), nn.Linear(4, 4), nn.RMSNorm(4), nn.Linear(4, 2)
    )
    projector = NormProjector(model)
    model[1].weight.data.mul_(5)
    projector.project_()
    torch.testing.assert_close(model[1].weight.data, torch.ones(4))


def test_every_counts_calls() -> None:
    model = mlp(affine=False)
    projector = NormProjector(model, every=3)
    radius = projector.radii["layers.0.weight"]
    for call in range(1, 8):
        model.layers[0].weight.data.mul_(2.0)
        projector.project_()
        norm = projector.norms()["layers.0.weight"]
        assert norm == pytest.approx(radius * 2.0 ** (call % 3), rel=1e-12)
    assert projector.calls == 7


@pytest.mark.parametrize("by_hand", [True, False])
def test_check_10_regularize_pulls_to_one_and_zero(by_hand: bool) -> None:
    model = mlp(activation="tanh")
    lr, strength = 0.5, 0.3
    projector = NormProjector(model, scale_offset="regularize", reg_strength=strength, every=50)
    norm = model.layers[1]
    optimizer = torch.optim.SGD(
        [{"params": [norm.weight], "lr": lr}, {"params": [norm.bias], "lr": 2 * lr}], lr=99.0
    )
    handle = None if by_hand else projector.attach(optimizer)
    with torch.no_grad():
        norm.weight.copy_(randn(7, seed=1)), norm.bias.copy_(randn(7, seed=2))
    sigma, mu = norm.weight.detach().numpy().copy(), norm.bias.detach().numpy().copy()
    for _ in range(3):
        if by_hand:
            projector.project_(lr=lr)
        else:
            optimizer.step()
        sigma = sigma - lr * strength * (sigma - 1)
        mu = mu - (lr if by_hand else 2 * lr) * strength * mu
    np.testing.assert_allclose(norm.weight.detach().numpy(), sigma, rtol=1e-12)
    np.testing.assert_allclose(norm.bias.detach().numpy(), mu, rtol=1e-12)
    for _ in range(300):
        projector.project_(lr=torch.tensor(lr))
    for m in (model.layers[1], model.layers[4]):
        torch.testing.assert_close(m.weight.detach(), torch.ones_like(m.weight))
        torch.testing.assert_close(m.bias.detach(), torch.zeros_like(m.bias))
    fixed = copy.deepcopy(norm.state_dict())
    projector.project_(lr=lr)
    torch.testing.assert_close(norm.state_dict(), fixed)
    assert handle is None or handle.remove() is None


def test_regularize_needs_the_learning_rate() -> None:
    projector = NormProjector(mlp(), scale_offset="regularize")
    with pytest.raises(ValueError, match="lr must be given"):
        projector.project_()
    with pytest.raises(ValueError, match="lr must be"):
        projector.project_(lr=-0.1)
    assert projector.calls == 0


def test_attach_projects_after_every_step_and_can_be_removed() -> None:
    model = mlp(affine=False)
    projector = NormProjector(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    handle = projector.attach(optimizer)
    for removed in (False, True):
        if removed:
            handle.remove()
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
        drift = max(abs(projector.norms()[name] / r - 1) for name, r in projector.radii.items())
        assert drift > 1e-4 if removed else drift < 1e-12
    assert projector.calls == 1


def test_check_11_optimizer_state_is_untouched() -> None:
    model = mlp()
    projector = NormProjector(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    loss_of(model).backward()
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    moved = model.layers[0].weight.detach().clone()
    projector.project_()
    assert not torch.equal(model.layers[0].weight, moved)
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


def test_check_11_state_dict_round_trip_resumes_bit_for_bit() -> None:
    def run(model: nn.Module, projector: NormProjector, seeds: range) -> None:
        for seed in seeds:
            model.zero_grad()
            loss_of(model, seed).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(0.3 * p.grad)
            projector.project_()

    model = mlp()
    projector = NormProjector(model, every=2)
    run(model, projector, range(5))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "projector": projector.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = mlp(seed=9)
    resumed.load_state_dict(saved["model"])
    again = NormProjector(resumed, every=2)  # radii of trained weights …
    assert again.radii != projector.radii
    again.load_state_dict(saved["projector"])  # … replaced by the saved ones
    assert (again.radii, again.calls) == (projector.radii, projector.calls)
    run(model, projector, range(5, 9))
    run(resumed, again, range(5, 9))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("wrong", ["missing", "renamed", "empty", "no calls"])
def test_loading_other_radii_raises_and_changes_nothing(wrong: str) -> None:
    projector = NormProjector(mlp())
    radii = dict(projector.radii)
    state = projector.state_dict()
    if wrong == "missing":
        del state["radii"]["layers.1"]
    elif wrong == "renamed":
        state["radii"]["other"] = state["radii"].pop("layers.1")
    elif wrong == "empty":
        state = {}
    else:
        del state["calls"]
    with pytest.raises(RuntimeError, match="radii"):
        projector.load_state_dict(state)
    assert projector.radii == radii


@pytest.mark.parametrize("activation", ["tanh", "gelu", "sigmoid"])
def test_check_12_inhomogeneous_activation_with_project(activation: str) -> None:
    with pytest.raises(ValueError, match=r"homogeneous.*layers\.2"):
        NormProjector(mlp(activation=activation))
    for fine in ({"affine": False}, {"norm": None}):
        NormProjector(mlp(activation=activation, **fine))
    for mode in ("regularize", "free"):
        assert "layers.1" not in NormProjector(mlp(activation=activation), scale_offset=mode).radii
    for homogeneous in ("relu", "leaky_relu", "identity"):
        assert "layers.1" in NormProjector(mlp(activation=homogeneous)).radii


def test_mode_none_needs_norms_without_affine() -> None:
    with pytest.raises(ValueError, match=r"scale_offset='none'.*layers\.1"):
        NormProjector(mlp(), scale_offset="none")
    assert sorted(NormProjector(mlp(affine=False), scale_offset="none").radii) == [
        "layers.0.weight",
        "layers.3.weight",
    ]
    NormProjector(mlp(), scale_offset="none", exclude=("layers.1", "layers.4"))


def test_exclude() -> None:
    model = mlp(hidden=(7, 6, 5))
    everything = set(NormProjector(model, project_output=True).radii)
    assert everything - set(NormProjector(model, project_output=True, exclude=["layers.0"]).radii) == {
        "layers.0.weight"
    }
    without_pair = NormProjector(model, project_output=True, exclude=["layers.4.weight", "layers.3.weight"])
    assert everything - set(without_pair.radii) == {"layers.4", "layers.3.weight"}
    assert NormProjector(model, exclude=["layers"]).radii == {}
    for wrong in (["layers.0.wieght"], "layers.0.wieght"):
        with pytest.raises(ValueError, match=r"exclude has 'layers.0.wieght'.*layers\.0\.weight"):
            NormProjector(model, exclude=wrong)


def test_tied_tensors_are_projected_once() -> None:
    shared = nn.Linear(4, 4, bias=False)
    model = nn.Sequential(
        shared, nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4, bias=False), nn.LayerNorm(4), nn.Linear(4, 2)
    )
    model[3].weight = shared.weight
    projector = NormProjector(model, scale_offset="free")
    assert list(projector.radii) == ["0.weight"]
    shared.weight.data.mul_(4)
    projector.project_()
    assert float(shared.weight.detach().norm()) == pytest.approx(projector.radii["0.weight"], rel=1e-6)


def test_zero_weights() -> None:
    model = mlp(affine=False)
    model.layers[0].weight.data.zero_()
    with pytest.warns(UserWarning, match=r"layers\.0\.weight is zero"):
        projector = NormProjector(model)
    assert list(projector.radii) == ["layers.3.weight"]
    model.layers[3].weight.data.zero_()
    projector.project_()
    assert float(model.layers[3].weight.detach().abs().max()) == 0.0


def test_non_finite_norm_names_the_tensor_and_changes_nothing() -> None:
    model = mlp()
    projector = NormProjector(model)
    model.layers[0].weight.data.mul_(2)
    model.layers[3].weight.data[0, 0] = math.nan
    moved = model.layers[0].weight.detach().clone()
    with pytest.raises(FloatingPointError, match=r"layers\.3\.weight"):
        projector.project_()
    assert torch.equal(model.layers[0].weight, moved)
    with pytest.raises(FloatingPointError, match=r"layers\.3\.weight"):
        NormProjector(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_norm_is_taken_in_float32(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(256, 512, bias=False), nn.ReLU(), nn.Linear(512, 2)).to(dtype)
    weight = model[0].weight
    weight.data.fill_(200.0)  # its sum of squares overflows float16, and stalls when added up in bfloat16
    projector = NormProjector(model)
    assert projector.radii["0.weight"] == pytest.approx(200 * math.sqrt(256 * 512), rel=1e-5)
    weight.data.mul_(0.5)
    projector.project_()
    assert weight.dtype == dtype
    torch.testing.assert_close(weight.detach().float(), torch.full((512, 256), 200.0), rtol=1e-2, atol=0)


def test_mixed_dtypes() -> None:
    model = nn.Sequential(
        nn.Linear(3, 4).double(), nn.ReLU(), nn.Linear(4, 4).bfloat16(), nn.ReLU(), nn.Linear(4, 2)
    )
    projector = NormProjector(model)
    expected = {f"{i}.weight": float(model[i].weight.detach().double().norm()) for i in (0, 2)}
    assert projector.radii == pytest.approx(expected, rel=1e-6)
    model[0].weight.data.mul_(3)
    projector.project_()
    assert float(model[0].weight.detach().norm()) == pytest.approx(expected["0.weight"], rel=1e-6)


def test_weights_are_found_by_module_type() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 4))

    model = nn.Sequential(
        nn.Embedding(5, 4),
        nn.Conv1d(4, 4, 1),
        nn.ConvTranspose2d(4, 4, 3),
        nn.BatchNorm2d(4),
        Own(),
        nn.Linear(4, 2),
    )
    assert list(projected_weights(model)) == ["0.weight", "1.weight", "2.weight"]
    assert list(projected_weights(model, project_output=True)) == [
        "0.weight",
        "1.weight",
        "2.weight",
        "5.weight",
    ]
    assert list(projected_weights(nn.Linear(2, 2), project_output=True)) == ["weight"]
    assert projected_weights(nn.Linear(2, 2)) == {}
    assert projected_weights(nn.ReLU()) == {}


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"every": 1.5}, {"reg_strength": -1e-9}, {"scale_offset": "projekt"}]
)
def test_projector_arguments(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        NormProjector(mlp(), **options)


def test_in_a_run_the_hidden_rate_falls_without_and_stays_with_projection() -> None:
    """Adam, random targets: the un-projected effective rate falls monotonically where the projected one is constant."""
    rates = {}
    for projected in (False, True):
        model = mlp(affine=False)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        projector = NormProjector(model)
        if projected:
            projector.attach(optimizer)
        rho = projector.radii["layers.3.weight"]
        rates[projected] = []
        for step in range(60):
            norm = parameter_norms(model)["layers.3.weight"]
            rates[projected].append(effective_learning_rate(0.05, norm, "adam", reference=rho))
            optimizer.zero_grad()
            loss_of(model, seed=step // 20).backward()
            optimizer.step()
    assert rates[True] == pytest.approx([0.05] * 60, rel=1e-10)
    assert rates[False][-1] < 0.05 / 1.3


# --------------------------------------------------------------------------------------------------------- insertion


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), nn.Tanh(), nn.Linear(6, 3)
    ).double()


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("affine", [True, False])
def test_insertion(norm: str, affine: bool) -> None:
    model = plain()
    before = copy.deepcopy(model.state_dict())
    new = insert_normalization(model, norm, affine)
    assert [type(m) for m in new] == [
        nn.Conv2d, FeatureNorm, nn.ReLU, nn.Flatten, nn.Linear, FeatureNorm, nn.Tanh, nn.Linear,
    ]  # fmt: skip
    assert all(m.kind == norm for m in new if isinstance(m, FeatureNorm))
    assert new[0].bias is None
    assert new[4].bias is None
    assert new[7].bias is not None
    torch.testing.assert_close(
        model.state_dict(), before
    )  # the input stays, and shares nothing with the copy
    assert all(
        p.data_ptr() != q.data_ptr() for p, q in itertools.product(model.parameters(), new.parameters())
    )
    x = randn(2, 1, 8, 8)
    eps = 1e-5 if norm == "layer" else 1e-6
    maps = nn.functional.conv2d(x, model[0].weight).detach().numpy()
    a = np.maximum(numpy_norm(maps, norm, eps, (1, 2, 3)), 0).reshape(2, -1)
    a = np.tanh(numpy_norm(a @ model[3].weight.detach().numpy().T, norm, eps))
    expected = a @ model[5].weight.detach().numpy().T + model[5].bias.detach().numpy()
    np.testing.assert_allclose(new(x).detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    for m in new:
        if isinstance(m, FeatureNorm):
            assert (m.weight is not None, m.bias is not None) == (affine, affine)
    if affine:
        assert new[1].weight.shape == new[1].bias.shape == (4,)
        assert new[1].weight.dtype == torch.float64


def test_insertion_keeps_biases_on_request_and_takes_eps() -> None:
    new = insert_normalization(plain(), remove_bias=False, eps=0.5)
    assert new[0].bias is not None
    assert new[4].bias is not None
    assert new[1].eps == new[5].eps == 0.5


def test_insertion_keeps_norms_that_are_there() -> None:
    model = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    new = insert_normalization(model)
    assert [type(m) for m in new] == [
        nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, FeatureNorm, nn.ReLU, nn.Linear,
    ]  # fmt: skip
    assert new[0].bias is None
    assert [type(m) for m in insert_normalization(new)] == [type(m) for m in new]
    wrapped = nn.Sequential(nn.Conv2d(1, 4, 3), norms.ChannelsLast(nn.LayerNorm(4)), nn.ReLU())
    assert [type(m) for m in insert_normalization(wrapped)] == [nn.Conv2d, norms.ChannelsLast, nn.ReLU]
    assert insert_normalization(wrapped)[0].bias is None


def test_insertion_in_nested_and_named_sequentials() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential()
            self.body.add_module("fc", nn.Linear(3, 4))
            self.body.add_module("act", nn.GELU())
            self.body.add_module("inner", nn.Sequential(nn.Linear(4, 5), nn.ReLU()))
            self.head = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.body(x))
            return out

    new = insert_normalization(Net().eval())
    assert list(new.body._modules) == ["fc", "fc_norm", "act", "inner"]
    assert [type(m) for m in new.body.inner] == [nn.Linear, FeatureNorm, nn.ReLU]
    assert not new.body.fc_norm.training
    assert new(torch.zeros(2, 3)).shape == (2, 2)


def test_insertion_takes_the_place_of_an_identity() -> None:
    block = nn.Sequential()
    block.add_module("linear", nn.Linear(3, 4))
    block.add_module("norm", nn.Identity())
    block.add_module("activation", nn.ReLU())
    new = insert_normalization(block)
    assert list(new._modules) == ["linear", "norm", "activation"]
    assert isinstance(new.norm, FeatureNorm)
    assert new.linear.bias is None


def test_insertion_with_one_activation_module_for_all_layers() -> None:
    act = nn.ReLU()
    new = insert_normalization(nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 2)))
    assert [type(m) for m in new] == [
        nn.Linear, FeatureNorm, nn.ReLU, nn.Linear, FeatureNorm, nn.ReLU, nn.Linear,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (
            nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.ReLU())),
            r"0\.2 must be preceded.*Dropout",
        ),
        (nn.Sequential(nn.ReLU(), nn.Linear(3, 4), nn.ReLU()), r"activation 0 must be preceded.*nothing"),
        (nn.Sequential(nn.Conv1d(3, 4, 1), nn.ReLU()), r"activation 1 must be preceded.*Conv1d"),
        (
            nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.ModuleDict({"act": nn.Tanh()})),
            r"activation 2\.act must",
        ),
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), r"Sequential.*no nn.Sequential"),
        (nn.Linear(3, 4), r"Linear.*no nn.Sequential"),
        (nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1)), r"no nn.Sequential"),
        (nn.Sequential(nn.Linear(3, 1), nn.ReLU()), r"0 has a single feature"),
    ],
)
def test_insertion_errors_name_the_module(model: nn.Module, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        insert_normalization(model)


def test_insertion_arguments() -> None:
    with pytest.raises(ValueError, match="norm must be one of 'layer', 'rms'"):
        insert_normalization(plain(), "batch")
    with pytest.raises(ValueError, match="eps must be"):
        insert_normalization(plain(), eps=-1.0)


# ------------------------------------------------------------------------------------------------------- measurements


def test_effective_learning_rate() -> None:
    assert effective_learning_rate(0.1, 2.0) == pytest.approx(0.1 / 4)
    assert effective_learning_rate(0.1, 2.0, "adam") == pytest.approx(0.1 / 2)
    assert effective_learning_rate(0.1, 6.0, "sgd", reference=3.0) == pytest.approx(0.1 / 4)
    assert effective_learning_rate(0.1, 6.0, kind="adam", reference=3.0) == pytest.approx(0.1 / 2)
    rates = effective_learning_rate(0.1, torch.tensor([1.0, 2.0]), reference=torch.tensor(2.0))
    torch.testing.assert_close(rates, torch.tensor([0.4, 0.1]))
    for wrong in ({"kind": "rms"}, {"norm": 0.0}, {"norm": -1.0}, {"reference": 0.0}, {"lr": -1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            effective_learning_rate(**{"lr": 0.1, "norm": 1.0, **wrong})


def test_effective_learning_rate_is_how_far_the_function_moves() -> None:
    """One small SGD step from c W moves the output as one with lr / c^2 from W does."""
    moved = []
    for c, lr in ((1.0, 1e-4), (3.0, 9e-4)):
        model = mlp(affine=False)
        weight = model.layers[0].weight
        weight.data.mul_(c)
        out = model(randn(16, 5, seed=1))
        (grad,) = torch.autograd.grad(loss_of(model), weight)
        weight.data.sub_(lr * grad)
        moved.append(model(randn(16, 5, seed=1)) - out)
        assert effective_learning_rate(lr, c) == pytest.approx(1e-4)
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-6, atol=1e-12)


def numpy_dormant(units: Array, tau: float) -> float:
    """units (samples, units)"""
    sizes = [sum(abs(v) for v in column) / len(column) for column in units.T]
    mean = sum(sizes) / len(sizes)
    return sum(1 for size in sizes if (size / mean if mean else 0.0) <= tau) / len(sizes)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), tau=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.1]))
def test_dormant_fraction(seed: int, tau: float) -> None:
    random = np.random.default_rng(seed)
    a = (
        np.maximum(random.normal(size=(3, 4, 2, 5)), 0)
        * random.integers(0, 2, size=(1, 4, 1, 5))
        * random.gamma(1, 1, 5)
    )
    t = torch.from_numpy(a)
    assert dormant_fraction(t, tau) == pytest.approx(numpy_dormant(a.swapaxes(1, -1).reshape(-1, 4), tau))
    assert dormant_fraction(t[0], tau) == pytest.approx(numpy_dormant(a[0].reshape(-1, 5), tau))
    assert dormant_fraction(t[0, 0], tau) == pytest.approx(numpy_dormant(a[0, 0], tau))


def test_dormant_fraction_edges() -> None:
    assert dormant_fraction(torch.zeros(4, 3)) == 1.0
    assert dormant_fraction(torch.tensor([0.0, -2.0])) == 0.5  # one sample; the size counts, not the sign
    assert dormant_fraction(torch.ones(4, 3, dtype=torch.bfloat16)) == 0.0
    for bad in (torch.tensor(1.0), torch.zeros(0, 3)):
        with pytest.raises(ValueError, match="activations must"):
            dormant_fraction(bad)
    with pytest.raises(ValueError, match="tau must be"):
        dormant_fraction(torch.ones(2, 2), tau=-0.1)
    assert dormant_units(torch.tensor([[0.0, 1.0]]), -1, 0.0).tolist() == [True, False]


def test_parameter_and_gradient_norms() -> None:
    model = nn.Sequential(nn.Embedding(4, 3, sparse=True), nn.Linear(3, 2), nn.Linear(2, 2).bfloat16())
    model[0](torch.tensor([1, 1, 2])).sum().backward()
    model[1](torch.ones(1, 3)).sum().backward()
    expected = {n: float(p.detach().double().norm()) for n, p in model.named_parameters()}
    assert parameter_norms(model) == pytest.approx(expected, rel=1e-6)
    gradients = gradient_norms(model)
    assert gradients == pytest.approx(
        {"0.weight": math.sqrt(3 * 2**2 + 3), "1.weight": math.sqrt(6), "1.bias": math.sqrt(2)}
    )
    assert all(type(v) is float for v in gradients.values())
    assert gradient_norms(nn.Linear(2, 2)) == parameter_norms(nn.ReLU()) == {}


# --------------------------------------------------------------------------------------------------------------- roles


def test_roles() -> None:
    for norm in (nn.LayerNorm(2), nn.BatchNorm1d(2), nn.InstanceNorm2d(2), nn.GroupNorm(1, 2), nn.RMSNorm(2)):
        assert is_norm(norm)
    for own in (
        norms.LayerNorm(2),
        norms.PowerNorm(2),
        norms.UnifiedNorm1d(2),
        norms.EvoNorm2dS0(8, groups=2),
        FeatureNorm(2),
    ):
        assert is_norm(own)
    for other in (nn.Linear(2, 2), nn.ReLU(), norms.LayerNormLinear(2, 2), norms.LayerNormLSTMCell(2, 2)):
        assert not is_norm(other)
    for f in (nn.ReLU(), nn.SiLU(), norms.SELU()):
        assert is_activation(f)
    for other in (nn.Identity(), nn.Dropout(), nn.Softmax(-1), nn.Linear(2, 2)):
        assert not is_activation(other)
    assert [is_homogeneous(f) for f in (nn.ReLU(), nn.LeakyReLU(), nn.PReLU(), nn.ReLU6(), nn.Tanh())] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_plastic_weights_leave_norms_and_frozen_parameters_out() -> None:
    model = nn.Sequential(
        nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2, bias=False), nn.Linear(2, 2).requires_grad_(False)
    )
    assert list(plastic_weights(model)) == ["0.weight", "0.bias", "2.weight"]
    with pytest.raises(ValueError, match="trainable parameters outside"):
        plastic_weights(nn.LayerNorm(2))


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: NaPMLP(0, 2), "in_dim"),
        (lambda: NaPMLP(2, 0), "out_dim"),
        (lambda: NaPMLP(2, 2, (4, 0)), "hidden"),
        (lambda: NaPMLP(2, 2, (1,)), "num_features"),
        (lambda: NaPMLP(2, 2, norm="batch"), "norm"),
        (lambda: NaPMLP(2, 2, activation="rleu"), "activation"),
        (lambda: NaPMLP(2, 2, eps=-1.0), "eps"),
        (lambda: NaPConvNet(0, 2), "in_channels"),
        (lambda: NaPConvNet(1, 0), "out_dim"),
        (lambda: NaPConvNet(1, 2, (0,)), "channels"),
        (lambda: NaPConvNet(1, 2, norm="group"), "norm"),
        (lambda: FeatureNorm(4, "batch"), "kind"),
        (lambda: FeatureNorm(0), "num_features"),
        (lambda: FeatureNorm(4, eps=math.nan), "eps"),
        (lambda: FeatureNorm(4)(torch.zeros(2, 3)), "x"),
        (lambda: FeatureNorm(4, spatial=True)(torch.zeros(4, 3)), "x"),
    ],
)
def test_arguments(make: Any, argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must"):
        make()


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="floating point"):
        FeatureNorm(3)(torch.ones(2, 3, dtype=torch.long))


def test_width_one_is_fine_where_something_is_left() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert NaPMLP(3, 2, (1,), norm="rms")(torch.ones(2, 3)).isfinite().all()
        assert NaPConvNet(1, 2, (1,))(randn(2, 1, 8, 8, dtype=torch.float32)).isfinite().all()


def test_every_public_name_is_in_its_package() -> None:
    for name in nap.__all__:
        assert getattr(norms, name) is getattr(nap, name)
        assert name in norms.__all__
