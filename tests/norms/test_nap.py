"""Normalize-and-Project: its norm, its networks, the facts of scale-invariant layers, measurements, roles, errors."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from normviz import norms
from normviz.module_roles import dormant_units, is_activation, is_homogeneous, is_norm, plastic_weights
from normviz.norms import nap
from normviz.norms.nap import (
    FeatureNorm,
    NaPConvNet,
    NaPMLP,
    dormant_fraction,
    effective_learning_rate,
    gradient_norms,
    parameter_norms,
)
from tests.norms.nap_networks import Array, hidden_weights, loss_of, mlp, numpy_norm, randn

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
