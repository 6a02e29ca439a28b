"""SELU, LeCun initialisation, alpha dropout and the moment map against independent derivations."""

from __future__ import annotations

import copy
import doctest
import itertools
import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normviz import norms
from normviz.norms import self_normalizing, selu_moments
from normviz.norms.self_normalizing import (
    ALPHA01,
    ALPHA_PRIME,
    LAMBDA01,
    SELU,
    AlphaDropout,
    SelfNormalizingMLP,
    alpha_dropout_affine,
    fixed_point,
    init_snn_,
    is_contraction,
    iterate_moment_map,
    lecun_normal_,
    moment_map,
    moment_map_jacobian,
    selu,
    selu_parameters,
    weight_moments,
)

GAUSS_LEGENDRE = np.polynomial.legendre.leggauss(400)
THEOREM1 = {"mu": (-0.1, 0.1), "omega": (-0.1, 0.1), "nu": (0.8, 1.5), "tau": (0.95, 1.1)}


def numpy_selu(z, alpha=ALPHA01, scale=LAMBDA01):
    return scale * np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0)))


def integrated_moments(m, v, alpha=ALPHA01, scale=LAMBDA01):
    """Mean and variance of SELU(z), z ~ N(m, v), by Gauss-Legendre on each side of 0 (f is smooth there)."""
    nodes, weights = GAUSS_LEGENDRE
    s = math.sqrt(v)

    def integrate(function):
        total = 0.0
        for low, high in ((m - 12 * s, min(0.0, m + 12 * s)), (max(0.0, m - 12 * s), m + 12 * s)):
            if low < high:
                z = 0.5 * (high - low) * nodes + 0.5 * (high + low)
                density = np.exp(-0.5 * ((z - m) / s) ** 2) / (s * math.sqrt(2 * math.pi))
                total += 0.5 * (high - low) * float(np.sum(weights * density * function(z)))
        return total

    mean = integrate(lambda z: numpy_selu(z, alpha, scale))
    return mean, integrate(lambda z: (numpy_selu(z, alpha, scale) - mean) ** 2)


def grid(n, **sides):
    return np.meshgrid(*(np.linspace(*sides[k], n) for k in ("mu", "nu", "omega", "tau")), indexing="ij")


# ---- SELU -----------------------------------------------------------------------------------------------


def test_selu_equals_torch_in_float64():  # check 1
    x = torch.linspace(-30, 30, 20001, dtype=torch.float64)
    assert (selu(x) - torch.selu(x)).abs().max() < 1e-12
    assert (SELU()(x) - nn.SELU()(x)).abs().max() < 1e-12


def test_constants_are_the_closed_forms():
    r = math.erfc(1 / math.sqrt(2)) * math.exp(0.5)
    assert pytest.approx(-math.sqrt(2 / math.pi) / (r - 1), abs=1e-14) == ALPHA01
    inner = 2 * math.erfc(math.sqrt(2)) * math.exp(2) + math.pi * r * r - 2 * (2 + math.pi) * r + math.pi + 2
    assert pytest.approx((1 - r) * math.sqrt(2 * math.pi) / math.sqrt(inner), abs=1e-14) == LAMBDA01
    assert pytest.approx(-1.7580993408473766, abs=1e-15) == ALPHA_PRIME


def test_selu_gradient_away_from_zero():  # check 10
    x = torch.tensor([-20.0, -3.0, -0.5, -0.01, 0.01, 0.7, 4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(selu, (x,))
    assert torch.autograd.gradgradcheck(lambda t: selu(t, 0.7, 1.3), (x,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_selu_extremes_stay_finite_and_keep_dtype(dtype):
    x = torch.tensor([1e4, -1e4, 0.0], dtype=dtype, requires_grad=True)
    y = selu(x)
    y.sum().backward()
    assert y.dtype == dtype
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()
    assert x.grad[1] == 0
    assert x.grad[2].item() == pytest.approx(-ALPHA_PRIME, rel=1e-2)  # torch's choice at exactly 0


def test_selu_custom_parameters():
    x = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    got = SELU(alpha=0.5, scale=3.0)(x)
    assert got.tolist() == pytest.approx([3 * 0.5 * (math.exp(-1) - 1), 6.0], abs=1e-15)
    assert "alpha=0.5" in repr(SELU(alpha=0.5))


def test_integer_tensors_are_refused():
    whole = torch.arange(3)
    with pytest.raises(TypeError, match="int64"):
        selu(whole)
    with pytest.raises(TypeError, match="int64"):
        AlphaDropout()(whole)
    with pytest.raises(TypeError, match="int64"):
        AlphaDropout().eval()(whole)
    with pytest.raises(ValueError, match="alpha"):
        SELU(alpha=math.nan)


# ---- moment map -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha_scale", [(ALPHA01, LAMBDA01), (1.0, 1.0), (0.0, 1.4), (2.5, 0.7)])
def test_moment_map_equals_integration(alpha_scale):  # check 2
    cases = itertools.product(
        [-3.0, -0.5, 0.0, 0.2, 2.0], [0.01, 0.5, 1.0, 4.0, 30.0], [-1.0, 0.3], [0.7, 1.2]
    )
    for mu, nu, omega, tau in cases:
        got = moment_map(mu, nu, omega, tau, *alpha_scale)
        assert got == pytest.approx(integrated_moments(mu * omega, nu * tau, *alpha_scale), abs=1e-9)


def test_moment_map_equals_monte_carlo():  # check 2
    z = np.random.default_rng(0).normal(0.3 * 0.5, math.sqrt(1.2 * 0.9), 2_000_000)
    f = numpy_selu(z)
    assert moment_map(0.3, 1.2, 0.5, 0.9) == pytest.approx((f.mean(), f.var()), abs=5e-3)


def test_fixed_point_zero_one():  # check 3
    assert moment_map(0, 1, 0, 1) == pytest.approx((0, 1), abs=1e-12)


def test_moment_map_large_variance_limit_and_no_overflow():
    limit = LAMBDA01**2 * (0.5 - 0.5 / math.pi)
    nu = np.array([1e6, 1e9, 1e15])
    mean, var = moment_map([[-1e3], [0.0], [1e3]], nu, 1.0)
    assert mean.shape == (3, 3)
    assert np.isfinite(mean).all()
    assert np.isfinite(var).all()
    # the correction to the limit is of order 1/sqrt(nu): f's negative side is bounded, not 0
    assert (np.abs(var[1] / nu - limit) < 2 / np.sqrt(nu)).all()


def test_variance_keeps_its_digits_far_from_zero():
    getcontext().prec = 50
    mean, var = moment_map(1e6, 1.0, 1.0)  # everything on the linear side
    assert mean == pytest.approx(LAMBDA01 * 1e6, rel=1e-15)
    assert var == pytest.approx(LAMBDA01**2, rel=1e-12)
    mean, var = moment_map(-30.0, 1.0, 1.0)  # everything on the exponential: a lognormal's variance
    e, a2 = Decimal(1).exp(), Decimal(LAMBDA01 * ALPHA01) ** 2
    assert var == pytest.approx(float(a2 * (e - 1) * e * Decimal(-60).exp()), rel=1e-10)
    assert moment_map(-1e4, 1.0, 1.0)[1] == 0.0  # underflow, never negative


def test_jacobian_at_zero_one():  # check 4
    J = moment_map_jacobian(0.0, 1.0)
    assert pytest.approx(np.array([[0.0, 0.088835], [0.0, 0.782648]]), abs=1e-6) == J
    assert np.linalg.norm(J, 2) == pytest.approx(0.7877, abs=5e-4)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    mu=st.floats(-3, 3),
    nu=st.floats(0.05, 20),
    omega=st.floats(-2, 2),
    tau=st.floats(0.2, 3),
    alpha=st.floats(0.1, 3),
    scale=st.floats(0.3, 2),
)
def test_jacobian_equals_differences(mu, nu, omega, tau, alpha, scale):  # check 4
    h = 1e-5
    by_mu = np.subtract(
        moment_map(mu + h, nu, omega, tau, alpha, scale), moment_map(mu - h, nu, omega, tau, alpha, scale)
    )
    k = h * nu
    by_nu = np.subtract(
        moment_map(mu, nu + k, omega, tau, alpha, scale), moment_map(mu, nu - k, omega, tau, alpha, scale)
    )
    numeric = np.stack([by_mu / (2 * h), by_nu / (2 * k)], axis=-1)
    J = moment_map_jacobian(mu, nu, omega, tau, alpha, scale)
    assert np.abs(J - numeric).max() < 2e-6 * (1 + np.abs(J).max())


def test_jacobian_broadcasts():
    J = moment_map_jacobian(np.zeros((4, 1)), np.ones(3), omega=0.1)
    assert J.shape == (4, 3, 2, 2)
    assert J.dtype == np.float64


def test_theorem_1_contraction():  # check 5
    report = is_contraction(THEOREM1)
    assert report["contraction"] is True
    assert report["max_norm"] == pytest.approx(0.898, abs=1e-3)
    assert report["image"][0] == pytest.approx((-0.03106, 0.06773), abs=1e-5)
    assert report["image"][1] == pytest.approx((0.8037, 1.4816), abs=1e-4)
    he = is_contraction(THEOREM1 | {"tau": (2.0, 2.0)})  # He initialisation leaves the box
    assert he["contraction"] is False
    assert he["image"][1][1] > 1.5


def test_theorem_2_large_variance_shrinks():  # check 5
    mu, nu, omega, tau = grid(9, mu=(-1, 1), omega=(-0.1, 0.1), nu=(3, 16), tau=(0.8, 1.25))
    assert (moment_map(mu, nu, omega, tau)[1] - nu).max() == pytest.approx(-0.1197, abs=1e-4)


@pytest.mark.parametrize(
    ("nu", "tau", "least"), [((0.02, 0.16), (0.8, 1.25), 0.0077), ((0.02, 0.24), (0.9, 1.25), 0.011)]
)
def test_theorem_3_small_variance_grows(nu, tau, least):  # check 5
    mu, nu, omega, tau = grid(9, mu=(-0.1, 0.1), omega=(-0.1, 0.1), nu=nu, tau=tau)
    assert (moment_map(mu, nu, omega, tau)[1] - nu).min() == pytest.approx(least, abs=1e-4)


def test_iteration_reaches_the_fixed_point():  # check 11
    mu, nu = np.meshgrid(np.linspace(-0.1, 0.1, 7), np.linspace(0.8, 1.5, 7))
    for omega, tau in [(0.0, 1.0), (0.1, 1.1), (-0.1, 0.95)]:
        path = iterate_moment_map(mu, nu, 100, omega, tau)
        assert path.shape == (101, 7, 7, 2)
        assert (path[0, ..., 0] == mu).all()
        assert (path[0, ..., 1] == nu).all()
        distance = np.linalg.norm(path - np.array(fixed_point(omega, tau)), axis=-1)
        assert distance[-1].max() < 1e-6
        assert (np.diff(distance, axis=0)[distance[:-1] > 1e-9] < 0).all()


def test_iterate_shapes_and_divergence():
    assert iterate_moment_map(0.0, 1.0, 5).shape == (6, 2)
    assert iterate_moment_map(0.0, 1.0, 0).tolist() == [[0.0, 1.0]]
    assert iterate_moment_map(np.zeros(2), 1.0, 3, tau=np.ones((4, 1))).shape == (4, 4, 2, 2)
    step = moment_map(0.2, 1.3, 0.1, 1.1)
    assert iterate_moment_map(0.2, 1.3, 2, 0.1, 1.1)[1].tolist() == list(step)
    assert iterate_moment_map(0.2, 1.3, 2, 0.1, 1.1)[2].tolist() == list(moment_map(*step, 0.1, 1.1))
    assert np.isfinite(iterate_moment_map([0.0, 1.0, -1.0], 1.0, 600, 30.0, 100.0)).all()


def test_fixed_points_of_other_weights():
    assert fixed_point() == pytest.approx((0, 1), abs=1e-12)
    assert fixed_point(0.1, 1.1) == pytest.approx((0.0547, 1.4103), abs=5e-5)
    assert fixed_point(-0.1, 0.95) == pytest.approx((-0.0167, 0.8307), abs=5e-5)
    mean, var = fixed_point(tau=2.0)
    assert (mean, var) == pytest.approx((1.78, 18.5), abs=0.05)
    assert moment_map(mean, var, 0.0, 2.0) == pytest.approx((mean, var), rel=1e-13)
    assert all(type(value) is float for value in fixed_point())


def test_fixed_point_failures_name_the_residual():
    with pytest.raises(RuntimeError, match="residual"):  # tau above 2.66: the variance grows for ever
        fixed_point(tau=2.7)
    with pytest.raises(RuntimeError, match="residual"):  # exists, but 1000 steps do not reach it
        fixed_point(tau=2.6)
    with pytest.raises(RuntimeError, match="repels"):
        fixed_point(omega=2.0)


def test_published_parameters():  # check 6
    assert selu_parameters() == pytest.approx((ALPHA01, LAMBDA01), abs=1e-12)
    assert selu_parameters(-0.1, 2.0) == pytest.approx((1.9769021954242014, 1.073851239616046), abs=1e-8)
    assert all(type(value) is float for value in selu_parameters())


def test_parameters_are_a_fixed_point_for_their_omega_only():  # check 12
    alpha, scale = selu_parameters(-0.1, 2.0)
    assert moment_map(-0.1, 2.0, 1.0, 1.0, alpha, scale) == pytest.approx((-0.1, 2.0), abs=1e-12)
    assert abs(moment_map(-0.1, 2.0, 0.0, 1.0, alpha, scale)[0] + 0.1) > 0.05
    J = moment_map_jacobian(-0.1, 2.0, 1.0, 1.0, alpha, scale)
    assert np.linalg.norm(J, 2) == pytest.approx(1.240, abs=1e-3)
    assert np.abs(np.linalg.eigvals(J)).max() == pytest.approx(1.108, abs=1e-3)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(mean=st.floats(-0.5, 0.4), var=st.floats(0.5, 10), omega=st.floats(-0.5, 0.5), tau=st.floats(0.5, 2))
def test_parameters_round_trip_through_integration(mean, var, omega, tau):
    try:
        alpha, scale = selu_parameters(mean, var, omega=omega, tau=tau)
    except RuntimeError:
        return
    assert alpha > 0 < scale
    assert integrated_moments(mean * omega, var * tau, alpha, scale) == pytest.approx((mean, var), abs=1e-8)


def test_unreachable_parameters():
    for mean in (-1.0, 1.0):  # -1: no root at all; 1: the only root has alpha = -0.498
        with pytest.raises(RuntimeError, match="residual"):
            selu_parameters(mean, 1.0, omega=0.0)
    with pytest.raises(RuntimeError, match="residual"):
        selu_parameters(60.0, 1.0)  # nothing of the Gaussian is left of 0
    with pytest.raises(RuntimeError, match="residual"):
        selu_parameters(0.0, 1e-14)  # below float64's resolution
    # Just inside the reachable band, mean / sd > -0.81 for omega = 0, a root exists and is a fixed point.
    alpha, scale = selu_parameters(-0.78, 1.0, omega=0.0)
    assert moment_map(-0.78, 1.0, 0.0, 1.0, alpha, scale) == pytest.approx((-0.78, 1.0), abs=1e-10)
    # for mean 0, omega is irrelevant
    assert selu_parameters(0.0, 2.0, omega=0.0) == selu_parameters(0.0, 2.0, omega=7.0)


@pytest.mark.parametrize(
    "call", [moment_map, moment_map_jacobian, lambda *a: iterate_moment_map(*a[:2], 3, *a[2:])]
)
def test_closed_forms_refuse_impossible_variances(call):
    for bad in ([1.0, 0.0], -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="nu"):
            call(0.0, bad, 0.0, 1.0)
        with pytest.raises(ValueError, match="tau"):
            call(0.0, 1.0, 0.0, bad)
    with pytest.raises(ValueError, match="omega"):
        call(0.0, 1.0, math.nan, 1.0)


def test_solver_and_grid_arguments():
    for bad in (0.0, -1.0):
        with pytest.raises(ValueError, match="var"):
            selu_parameters(0.0, bad)
        with pytest.raises(ValueError, match="tau"):
            selu_parameters(tau=bad)
        with pytest.raises(ValueError, match="tau"):
            fixed_point(tau=bad)
    with pytest.raises(ValueError, match="steps"):
        iterate_moment_map(0.0, 1.0, -1)
    with pytest.raises(ValueError, match="n must be"):
        is_contraction(THEOREM1, n=1)
    with pytest.raises(ValueError, match="keys"):
        is_contraction({"mu": (0, 1)})
    with pytest.raises(ValueError, match="low <= high"):
        is_contraction(THEOREM1 | {"mu": (0.1, -0.1)})


# ---- alpha dropout --------------------------------------------------------------------------------------


def test_alpha_dropout_keeps_the_moments():  # check 7
    torch.manual_seed(0)
    x = selu(torch.randn(1_000_000, dtype=torch.float64))
    for p in (0.05, 0.2, 0.5):
        y = AlphaDropout(p)(x)
        assert abs(y.mean().item()) < 5e-3
        assert abs(y.var().item() - 1) < 5e-3
        assert abs(nn.Dropout(p)(x).var().item() - 1) > 0.04


def test_alpha_dropout_keeps_other_moments():
    torch.manual_seed(1)
    x = 0.7 + 1.5 * torch.randn(1_000_000, dtype=torch.float64)
    y = AlphaDropout(0.3, fixed_mean=0.7, fixed_var=2.25, alpha_prime=-2.0)(x)
    assert y.mean().item() == pytest.approx(0.7, abs=1e-2)
    assert y.var().item() == pytest.approx(2.25, abs=2e-2)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_affine_equals_torch(p):  # check 8
    # torch's layer on a constant input takes two values: a alpha' + b (dropped) and a + b (kept).
    torch.manual_seed(2)
    theirs = torch.nn.AlphaDropout(p)(torch.ones(200, dtype=torch.float64)).unique()
    a, b = alpha_dropout_affine(p)
    assert theirs.tolist() == pytest.approx(sorted([a * ALPHA_PRIME + b, a + b]), abs=1e-9)
    q, ap = 1 - p, ALPHA_PRIME
    assert a == pytest.approx((q + ap * ap * q * (1 - q)) ** -0.5, abs=1e-14)
    assert b == pytest.approx(-a * (1 - q) * ap, abs=1e-14)


def test_alpha_dropout_values_and_rate():
    layer = AlphaDropout(0.25, generator=torch.Generator().manual_seed(3))
    x = torch.randn(100, 400)
    y = layer(x)
    a, b = alpha_dropout_affine(0.25)
    dropped = (y - (a * ALPHA_PRIME + b)).abs() < 1e-6
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.allclose(y[~dropped], a * x[~dropped] + b)
    conv = AlphaDropout(0.5)(torch.zeros(1, 1, 64, 64))
    assert len(conv.unique()) == 2  # a draw per element, not per map


def test_alpha_dropout_identity_and_generators():
    x = torch.randn(50)
    assert AlphaDropout(0.5).eval()(x) is x
    assert AlphaDropout(0.0)(x) is x
    one, two = (AlphaDropout(0.5, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one(x), two(x))
    assert not torch.equal(one(x), one(x))
    torch.manual_seed(5)
    first = AlphaDropout(0.5)(x)
    torch.manual_seed(5)
    assert torch.equal(first, AlphaDropout(0.5)(x))
    assert not AlphaDropout().state_dict()


def test_alpha_dropout_is_nan_safe():
    layer = AlphaDropout(0.5, generator=torch.Generator().manual_seed(0))
    x = torch.full((1000,), math.nan, requires_grad=True)
    y = layer(x)
    assert 400 < y.isnan().sum() < 600
    y.nan_to_num().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_everything_dropped_is_legal():
    a, b = alpha_dropout_affine(0.999)
    y = AlphaDropout(0.999, generator=torch.Generator().manual_seed(0))(torch.randn(3).double())
    assert y.tolist() == pytest.approx([a * ALPHA_PRIME + b] * 3, rel=1e-12)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, math.nan])
def test_dropout_rate_range(p):
    for build in (AlphaDropout, alpha_dropout_affine):
        with pytest.raises(ValueError, match=r"p must be .*\[0, 1\)"):
            build(p)
    with pytest.raises(ValueError, match=r"dropout must be .*\[0, 1\)"):
        SelfNormalizingMLP(2, 2, 2, 1, p)
    for bad in (0.0, -1.0):
        with pytest.raises(ValueError, match="fixed_var"):
            AlphaDropout(fixed_var=bad)


# ---- initialisation and network -------------------------------------------------------------------------


def test_lecun_normal_variance():
    weight = torch.empty(64, 8, 5, 5)
    assert lecun_normal_(weight, torch.Generator().manual_seed(0)) is weight
    assert weight.var().item() == pytest.approx(1 / 200, rel=0.05)
    again = lecun_normal_(torch.empty(64, 8, 5, 5), torch.Generator().manual_seed(0))
    assert torch.equal(weight, again)
    with pytest.raises(ValueError, match="dimensions"):
        lecun_normal_(torch.empty(5))
    assert lecun_normal_(torch.empty(0, 3)).shape == (0, 3)


def test_init_snn_touches_only_linear_and_conv():
    net = nn.Sequential(
        nn.Linear(300, 200),
        nn.Conv2d(8, 64, 5, groups=2),
        nn.ConvTranspose2d(4, 4, 3),
        nn.LayerNorm(5),
        nn.Conv1d(4, 4, 3, bias=False),
    )
    before = copy.deepcopy(net)
    assert init_snn_(net) is net
    assert net[0].weight.var().item() == pytest.approx(1 / 300, rel=0.05)
    assert net[1].weight.var().item() == pytest.approx(1 / (4 * 25), rel=0.1)  # in_channels/groups * kernel
    assert not net[0].bias.any()
    assert not net[1].bias.any()
    assert not torch.equal(net[4].weight, before[4].weight)
    for index in (2, 3):
        for new, old in zip(net[index].parameters(), before[index].parameters(), strict=True):
            assert torch.equal(new, old)
    assert net[0].weight.requires_grad


def test_weight_moments():
    layer = nn.Conv2d(4, 6, 3, groups=2).double()
    omega, tau = weight_moments(layer)
    for unit in range(6):
        values = layer.weight[unit].detach().numpy().ravel()
        assert omega[unit].item() == pytest.approx(values.sum(), abs=1e-14)
        assert tau[unit].item() == pytest.approx((values**2).sum(), abs=1e-14)
    assert not omega.requires_grad
    assert weight_moments(nn.Linear(3, 5))[1].shape == (5,)
    with pytest.raises(TypeError, match="LayerNorm"):
        weight_moments(nn.LayerNorm(3))


def test_deep_random_network_self_normalizes():  # check 9
    torch.manual_seed(0)
    x = relu_x = 1.2 * torch.randn(1024, 256)
    for _ in range(64):
        weight = lecun_normal_(torch.empty(256, 256))
        x = selu(x @ weight.T)
        relu_x = torch.relu(relu_x @ weight.T)
    assert abs(x.mean().item()) < 0.1
    assert 0.8 < x.var().item() < 1.25
    assert relu_x.var().item() < 1e-12


def test_mlp_structure():
    net = SelfNormalizingMLP(7, 16, 3, 4, 0.1, alpha=1.5, scale=1.2)
    linears = [m for m in net.modules() if isinstance(m, nn.Linear)]
    drops = [m for m in net.modules() if isinstance(m, AlphaDropout)]
    assert [(m.in_features, m.out_features) for m in linears] == [(7, 16)] + [(16, 16)] * 3 + [(16, 3)]
    assert len(drops) == len([m for m in net.modules() if isinstance(m, SELU)]) == 4
    assert all(m.alpha_prime == pytest.approx(-1.8) and m.p == 0.1 for m in drops)
    assert all(not m.bias.any() for m in linears)
    x = torch.randn(5, 7)
    expected = x
    for layer in linears[:-1]:
        expected = selu(layer(expected), 1.5, 1.2)
    assert torch.allclose(net.eval()(x), linears[-1](expected))
    with pytest.raises(ValueError, match="depth"):
        SelfNormalizingMLP(7, 16, 3, 0)


def test_network_compiles_vmaps_and_autocasts():
    net = SelfNormalizingMLP(4, 8, 2, 2, 0.2)
    x = torch.randn(16, 4)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    compiled(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    net.eval()
    assert torch.allclose(compiled(x), net(x), atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(x).dtype == torch.bfloat16

    members = [SelfNormalizingMLP(4, 8, 2, 2, 0.2) for _ in range(3)]
    params, buffers = torch.func.stack_module_state(members)
    call = torch.func.vmap(
        lambda p, b: torch.func.functional_call(members[0], (p, b), (x,)), randomness="different"
    )
    assert call(params, buffers).shape == (3, 16, 2)
    y = torch.func.vmap(AlphaDropout(0.5), randomness="different")(torch.zeros(4, 100))
    assert not torch.equal(y[0], y[1])
    for member in members:
        member.eval()
    expected = torch.stack([member(x) for member in members])
    assert torch.allclose(call(params, buffers), expected, atol=1e-6)


def test_public_names_and_examples():
    for name in self_normalizing.__all__:
        assert getattr(norms, name) is getattr(self_normalizing, name)
    for module in (self_normalizing, selu_moments):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0
