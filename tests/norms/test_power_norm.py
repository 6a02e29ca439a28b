import copy
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

from normviz import norms
from normviz.norms import BatchNorm
from normviz.norms import power_norm as module
from normviz.norms.power_norm import GroupScaling, PowerNorm, PowerNormV, statistics_gap

MODES = ("official", "paper")
EPS = 1e-5
# torch's own tracer instantiates the Function while compiling
compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int, **kwargs: object) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, **kwargs)


def build(C: int = 4, *, cls: type[nn.Module] = PowerNorm, **options: object) -> nn.Module:
    """Float64, random gamma and beta, no group scaling unless asked for."""
    layer = cls(C, **{"group_scaling": False, **options}).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def step(
    layer: nn.Module, x: torch.Tensor, dy: torch.Tensor, pad: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """y and the gradients for x, gamma, beta of one training step."""
    x = x.clone().requires_grad_()
    y = layer(x) if pad is None else layer(x, pad)
    return (y.detach(), *torch.autograd.grad(y, (x, *layer.parameters()), dy))


class Algorithm2:
    """The paper's algorithm in its own notation (nu), rows and channels in plain loops."""

    def __init__(self, C: int, *, alpha_fwd: float, alpha_bkw: float, warmup: int, official: bool) -> None:
        self.phi, self.nu, self.t = [1.0] * C, [0.0] * C, 0
        self.alpha_fwd, self.alpha_bkw, self.warmup, self.official = alpha_fwd, alpha_bkw, warmup, official

    def step(
        self, x: np.ndarray, dy: np.ndarray, gamma: np.ndarray, beta: np.ndarray, real: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        n, C = x.shape
        self.t += 1
        y, dx, dgamma, dbeta = np.zeros((n, C)), np.zeros((n, C)), np.zeros(C), np.zeros(C)
        for c in range(C):
            psi = sum(x[r, c] ** 2 for r in range(n) if real[r]) / sum(real)
            D = psi if self.t <= self.warmup else self.phi[c]
            if self.t < self.warmup:
                self.phi[c] = self.phi[c] * (self.t - 1) / self.t + psi / self.t
            self.phi[c] += (1 - self.alpha_fwd) * (psi - self.phi[c])
            Gamma = Lambda = 0.0
            for r in range(n):
                z = x[r, c] / math.sqrt(D + EPS)
                u = gamma[c] * dy[r, c]
                y[r, c] = gamma[c] * z + beta[c]
                dx[r, c] = (u - self.nu[c] * z) / math.sqrt((psi if self.official else D) + EPS)
                dgamma[c] += dy[r, c] * z
                dbeta[c] += dy[r, c]
                Gamma += z * z / n
                Lambda += u * z / n
            self.nu[c] = self.nu[c] * (1 - (1 - self.alpha_bkw) * Gamma) + (1 - self.alpha_bkw) * Lambda
        return y, dx, dgamma, dbeta


# ----------------------------------------------------------------------------------------------- group scaling


def test_group_scaling_in_numpy() -> None:
    x = randn(2, 3, 6)
    for groups in (1, 2, 3):
        y = GroupScaling(groups, 1e-3)(x)
        for index in np.ndindex(2, 3):
            for part in np.split(np.arange(6), groups):
                token = x[index].numpy()[part]
                np.testing.assert_allclose(y[index].numpy()[part], token / np.sqrt((token**2).mean() + 1e-3))
    torch.testing.assert_close(GroupScaling(6)(x), x / (x * x + EPS).sqrt())


def test_group_scaling_gradcheck_and_errors() -> None:
    assert torch.autograd.gradcheck(GroupScaling(2), (randn(3, 6, requires_grad=True),))
    for x in (torch.zeros(3, 4), torch.zeros(()), torch.zeros(3, 0)):
        with pytest.raises(ValueError, match="groups = 3"):
            GroupScaling(3)(x)
    for arguments in ((0,), (1.5,), (1, -1.0)):
        with pytest.raises(ValueError, match=r"groups|eps"):
            GroupScaling(*arguments)
    with pytest.raises(TypeError, match="floating"):
        GroupScaling()(torch.zeros(2, 2, dtype=torch.long))
    half = torch.full((2, 4), 300.0, dtype=torch.float16)  # the square overflows float16
    assert torch.equal(GroupScaling()(half), torch.ones(2, 4, dtype=torch.float16))


def test_the_layers_apply_group_scaling_first_in_train_and_eval() -> None:
    x = randn(7, 6)
    for cls in (PowerNorm, PowerNormV):
        scaled, plain = build(6, cls=cls, groups=3, group_scaling=True), build(6, cls=cls)
        plain.load_state_dict(scaled.state_dict())
        torch.testing.assert_close(scaled(x), plain(GroupScaling(3)(x)))
        torch.testing.assert_close(scaled.running_phi, plain.running_phi)
        torch.testing.assert_close(scaled.eval()(x), plain.eval()(GroupScaling(3)(x)))
    assert PowerNorm(6).group_scaling
    assert not PowerNormV(6).group_scaling


# --------------------------------------------------------------------------------------------------------- PN-V


@pytest.mark.parametrize("group_scaling", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_power_norm_v_gradcheck(group_scaling: bool, masked: bool) -> None:
    layer = build(4, cls=PowerNormV, groups=2, group_scaling=group_scaling)
    pad = torch.tensor([False, True, False, False, True]) if masked else None
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: functional_call(layer, {"weight": weight, "bias": bias}, (x, pad)),
        (randn(5, 4, requires_grad=True), *layer.parameters()),
    )


def test_power_norm_v_formulas() -> None:
    layer = build(4, cls=PowerNormV, momentum=0.3)
    x, dy = randn(9, 4), randn(9, 4)
    y, dx, dgamma, dbeta = step(layer, x, dy)
    X, DY, gamma, beta = (t.detach().numpy() for t in (x, dy, layer.weight, layer.bias))
    psi = (X**2).mean(0)
    z, u = X / np.sqrt(psi + EPS), gamma * DY
    np.testing.assert_allclose(y, gamma * z + beta)
    np.testing.assert_allclose(dx, (u - z * (u * z).mean(0)) / np.sqrt(psi + EPS))
    np.testing.assert_allclose(dgamma, (DY * z).sum(0))
    np.testing.assert_allclose(dbeta, DY.sum(0))
    np.testing.assert_allclose(layer.running_phi, 0.7 + 0.3 * psi)
    layer.eval()
    np.testing.assert_allclose(layer(x).detach(), gamma * X / np.sqrt(0.7 + 0.3 * psi + EPS) + beta)
    assert list(layer.state_dict()) == ["weight", "bias", "running_phi"]


def test_gradient_norm_has_no_mean_term_to_remove() -> None:
    # |dL/dx|^2 = gamma^2 / psi (|dL/dz|^2 - <dL/dz, z>^2 / n) for L as a function of the affine's output
    layer = build(3, cls=PowerNormV, eps=0.0)
    x, dy = randn(8, 3), randn(8, 3)
    _, dx, *_ = step(layer, x, dy)
    psi = x.square().mean(0)
    z = x / psi.sqrt()
    expected = layer.weight.square() / psi * (dy.square().sum(0) - (dy * z).sum(0).square() / 8)
    torch.testing.assert_close(dx.square().sum(0), expected)


# ----------------------------------------------------------------------------------------------------------- PN


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("warmup", [0, 1, 2, 4])
@pytest.mark.parametrize("padded", [True, False])
def test_training_steps_follow_algorithm_2(mode: str, warmup: int, padded: bool) -> None:
    options = {"alpha_fwd": 0.8, "alpha_bkw": 0.7}
    layer = build(3, mode=mode, warmup_iters=warmup, **options)
    reference = Algorithm2(3, warmup=warmup, official=mode == "official", **options)
    generator = np.random.default_rng(0)
    for _ in range(7):
        x, dy = 3 * generator.normal(size=(6, 3)), generator.normal(size=(6, 3))
        real = generator.random(6) < 0.6 if padded else np.ones(6, bool)
        real[0] = True
        gamma, beta = generator.normal(size=3), generator.normal(size=3)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(gamma))
            layer.bias.copy_(torch.from_numpy(beta))
        pad = torch.from_numpy(~real) if padded else None
        ours = step(layer, torch.from_numpy(x), torch.from_numpy(dy), pad)
        for mine, wanted in zip(ours, reference.step(x, dy, gamma, beta, real), strict=True):
            np.testing.assert_allclose(mine, wanted, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(layer.running_phi, reference.phi, rtol=1e-10)
        np.testing.assert_allclose((1 - 0.7) * layer.ema_gz, reference.nu, rtol=1e-9, atol=1e-11)  # check 4
    assert layer.iters.item() == 7


@pytest.mark.parametrize("mode", MODES)
def test_first_gradient_subtracts_nothing(mode: str) -> None:
    layer = build(4, mode=mode)
    x, dy = randn(6, 4), randn(6, 4)
    _, dx, *_ = step(layer, x, dy)
    psi = x.square().mean(0)
    torch.testing.assert_close(dx, layer.weight.detach() * dy / (psi + EPS).sqrt())
    exact = build(4, cls=PowerNormV)
    exact.load_state_dict({k: v for k, v in layer.state_dict().items() if k in exact.state_dict()})
    assert (step(exact, x, dy)[1] - dx).abs().max() > 1e-2


def test_modes_differ_by_one_factor_after_warmup_and_not_before() -> None:
    official, paper = (build(3, mode=mode, warmup_iters=2) for mode in MODES)
    paper.load_state_dict(official.state_dict())
    for t in range(1, 6):
        x, dy = 2 * randn(5, 3), randn(5, 3)
        phi, psi = official.running_phi.clone(), x.square().mean(0)
        ours, theirs = step(official, x, dy), step(paper, x, dy)
        factor = 1.0 if t <= 2 else ((phi + EPS) / (psi + EPS)).sqrt()
        torch.testing.assert_close(ours[1], theirs[1] * factor)
        torch.testing.assert_close(ours[0], theirs[0])
        torch.testing.assert_close(official.ema_gz, paper.ema_gz)


@pytest.mark.parametrize("warmup", [0, 1, 2, 5])
def test_first_forward_and_first_running_value(warmup: int) -> None:
    layer = build(4, warmup_iters=warmup)
    x = 5 * randn(6, 4)
    y = layer(x)
    psi = x.square().mean(0)
    D = torch.ones_like(psi) if warmup == 0 else psi
    torch.testing.assert_close(y, layer.weight * x / (D + EPS).sqrt() + layer.bias)
    torch.testing.assert_close(layer.running_phi, psi if warmup >= 2 else 0.9 + 0.1 * psi)


def test_running_values_converge_on_stationary_data() -> None:
    layer = PowerNorm(3, group_scaling=False, warmup_iters=0, alpha_fwd=0.99, alpha_bkw=0.99).double()
    spread = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    slope = torch.tensor([0.4, -1.0, 0.0], dtype=torch.float64)
    phi, nu = [], []
    for k in range(1000):
        x = (spread * randn(64, 3)).requires_grad_()
        y = layer(x)
        y.backward(slope * y.detach() + randn(64, 3))  # E[u z] / E[z^2] = slope
        if k >= 600:
            phi.append(layer.running_phi.clone())
            nu.append(0.01 * layer.ema_gz)
    torch.testing.assert_close(torch.stack(phi).mean(0), spread**2, rtol=0.03, atol=0)
    torch.testing.assert_close(torch.stack(nu).mean(0), slope, rtol=0, atol=0.03)


def test_output_does_not_depend_on_the_rest_of_the_batch() -> None:
    layer = build(4, warmup_iters=2, group_scaling=True, groups=2)
    for _ in range(3):
        layer(randn(6, 4))
    x = randn(6, 4)
    batch = torch.nn.BatchNorm1d(4).double()
    for train in (True, False):
        layer.train(train)
        together = copy.deepcopy(layer)(x)
        for k in range(6):
            alone = copy.deepcopy(layer)(x[k : k + 1])
            torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-12)
    assert (copy.deepcopy(batch)(x[:3])[0] - copy.deepcopy(batch)(x)[0]).abs().max() > 0.1
    fresh = build(4, warmup_iters=2)  # in warm-up it does depend
    assert (copy.deepcopy(fresh)(x[:3])[0] - copy.deepcopy(fresh)(x)[0]).abs().max() > 0.05


def test_backward_state_stays_bounded() -> None:
    layer = PowerNorm(4, group_scaling=False)
    largest = 0.0
    for _ in range(3000):
        layer(torch.randn(32, 4)).backward(torch.randn(32, 4))
        largest = max(largest, float((0.1 * layer.ema_gz).abs().max()))
    assert 0 < largest < 1


@pytest.mark.parametrize("cls", [PowerNorm, PowerNormV])
def test_state_dict_round_trip_goes_on_identically(cls: type[nn.Module]) -> None:
    options = {"warmup_iters": 2} if cls is PowerNorm else {}
    layer = build(4, cls=cls, **options)
    for _ in range(3):
        step(layer, randn(5, 4), randn(5, 4))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = build(4, cls=cls, **options)
    other.load_state_dict(torch.load(file, weights_only=True))
    x, dy = randn(5, 4), randn(5, 4)
    for ours, wanted in zip(step(other, x, dy), step(layer, x, dy), strict=True):
        assert torch.equal(ours, wanted)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in layer.state_dict().items())


def test_state_dict_keys() -> None:
    state = PowerNorm(3).state_dict()
    assert list(state) == ["weight", "bias", "running_phi", "ema_gz", "iters"]
    assert state["iters"].dtype == torch.long
    assert state["iters"].shape == ()
    assert [state[k].tolist() for k in state] == [[1.0] * 3, [0.0] * 3, [1.0] * 3, [0.0] * 3, 0]
    plain = PowerNorm(3, affine=False)
    assert plain.weight is None
    assert plain.bias is None
    assert list(plain.state_dict()) == ["running_phi", "ema_gz", "iters"]


# ------------------------------------------------------------------------------------------------------ padding


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), value=st.sampled_from([0.0, -7.0, 1e8, float("inf"), float("nan")]))
def test_padded_values_never_reach_real_rows_or_running_phi(seed: int, value: float) -> None:
    torch.manual_seed(seed)
    x = randn(5, 3, 4)
    pad = torch.rand(3, 5) < 0.4
    pad[0, 0] = False
    changed = torch.where(pad.T[..., None], value, x).contiguous()  # sums in the same order as those of x
    for cls, options in (
        (PowerNorm, {"warmup_iters": 3}),
        (PowerNorm, {"warmup_iters": 0}),
        (PowerNormV, {}),
    ):
        ours = build(4, cls=cls, group_scaling=True, groups=2, **options)
        theirs = copy.deepcopy(ours)
        real = ~pad.T
        assert torch.equal(ours(x, pad)[real], theirs(changed, pad)[real])
        assert torch.equal(ours.running_phi, theirs.running_phi)


@pytest.mark.parametrize("mode", MODES)
def test_padded_values_do_change_the_backward_state(mode: str) -> None:
    x, dy = randn(6, 4), randn(6, 4)
    pad = torch.tensor([False, False, True, False, True, False])
    changed = torch.where(pad[:, None], 2 * x, x)
    layers = [build(4, mode=mode) for _ in range(3)]
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
    step(layers[0], x, dy, pad)
    step(layers[1], changed, dy, pad)
    assert (layers[0].ema_gz - layers[1].ema_gz).abs().min() > 1e-3
    quiet = dy.masked_fill(pad[:, None], 0)
    step(layers[2], changed, quiet, pad)
    z = x / (x[~pad].square().mean(0) + EPS).sqrt()
    torch.testing.assert_close(layers[2].ema_gz, (layers[0].weight.detach() * quiet * z).mean(0))


@pytest.mark.parametrize("cls", [PowerNorm, PowerNormV])
def test_layouts_agree(cls: type[nn.Module]) -> None:
    x = randn(5, 3, 4)  # (T, B, C)
    pad = torch.zeros(3, 5, dtype=torch.bool)
    pad[1, 3:] = True
    time_first = build(4, cls=cls)
    batch_first, flat = (build(4, cls=cls, batch_first=b) for b in (True, False))
    batch_first.load_state_dict(time_first.state_dict())
    flat.load_state_dict(time_first.state_dict())
    y = time_first(x, pad)
    torch.testing.assert_close(batch_first(x.transpose(0, 1), pad).transpose(0, 1), y)
    torch.testing.assert_close(flat(x.reshape(15, 4), pad.T.reshape(15)).reshape(5, 3, 4), y)
    torch.testing.assert_close(batch_first.running_phi, time_first.running_phi)
    torch.testing.assert_close(flat.running_phi, time_first.running_phi)
    none = copy.deepcopy(time_first)
    torch.testing.assert_close(time_first(x, torch.zeros_like(pad)), none(x))


# --------------------------------------------------------------------------------------------- when state moves


def test_without_gradients_nothing_is_written() -> None:
    for cls in (PowerNorm, PowerNormV):
        layer = build(4, cls=cls, **({"warmup_iters": 1} if cls is PowerNorm else {}))
        for _ in range(2):  # in warm-up, then after it
            before = copy.deepcopy(layer.state_dict())
            x = randn(5, 4)
            with torch.no_grad():
                y = layer(x)
            with torch.inference_mode():
                layer(x)
            assert all(torch.equal(v, layer.state_dict()[k]) for k, v in before.items())
            assert torch.equal(layer(x), y)


def test_eval_touches_nothing_and_ignores_what_the_mask_says() -> None:
    layer = build(4, warmup_iters=0)
    step(layer, randn(5, 4), randn(5, 4))
    layer.eval()
    before = copy.deepcopy(layer.state_dict())
    x = randn(5, 4, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert all(torch.equal(v, layer.state_dict()[k]) for k, v in before.items())
    assert torch.equal(layer(x, torch.ones(5, dtype=torch.bool)), y)
    torch.testing.assert_close(y, layer.weight * x / (layer.running_phi + EPS).sqrt() + layer.bias)
    assert torch.autograd.gradcheck(layer, (x,))
    assert layer(torch.zeros(0, 4, dtype=torch.float64)).shape == (0, 4)


def test_reentrant_checkpoint_counts_once_and_the_other_kind_twice() -> None:
    for reentrant, count in ((True, 1), (False, 2)):
        layer, plain = build(4), build(4)
        plain.load_state_dict(layer.state_dict())
        x, dy = randn(5, 4), randn(5, 4)
        leaf = x.clone().requires_grad_()
        checkpoint(layer, leaf, use_reentrant=reentrant).backward(dy)
        _, dx, *_ = step(plain, x, dy)
        assert layer.iters.item() == count
        torch.testing.assert_close(leaf.grad, dx)
        torch.testing.assert_close(layer.ema_gz, plain.ema_gz)


@pytest.mark.parametrize("mode", MODES)
def test_backward_state_moves_once_per_backward(mode: str) -> None:
    layer = build(3, mode=mode)
    x, dy = randn(6, 3, requires_grad=True), randn(6, 3)
    y = layer(x)
    assert torch.equal(layer.ema_gz, torch.zeros(3, dtype=torch.float64))
    z = x.detach() / (x.detach().square().mean(0) + EPS).sqrt()
    u = layer.weight.detach() * dy
    y.backward(dy, retain_graph=True)
    once = (u * z).mean(0)
    torch.testing.assert_close(layer.ema_gz, once)
    y.backward(dy)  # the second starts from the first's result
    torch.testing.assert_close(layer.ema_gz, once + ((u - 0.1 * once * z) * z).mean(0))


def test_one_layer_twice_in_a_graph() -> None:
    layer = build(3, alpha_bkw=0.5)
    x1, x2 = randn(6, 3, requires_grad=True), randn(6, 3, requires_grad=True)
    (layer(x1).sum() + layer(x2).sum()).backward()
    assert layer.iters.item() == 2
    z1, z2 = (x.detach() / (x.detach().square().mean(0) + EPS).sqrt() for x in (x1, x2))
    u = layer.weight.detach()

    def after(ema: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return ema + ((u - 0.5 * ema * z) * z).mean(0)

    zero = torch.zeros(3, dtype=torch.float64)
    orders = (after(after(zero, z1), z2), after(after(zero, z2), z1))
    assert any(torch.allclose(layer.ema_gz, wanted) for wanted in orders)


def test_the_backward_state_moves_also_when_x_needs_no_gradient() -> None:
    layer = build(3)
    x, dy = randn(6, 3), randn(6, 3)
    layer(x).backward(dy)
    z = x / (x.square().mean(0) + EPS).sqrt()
    torch.testing.assert_close(layer.ema_gz, (layer.weight.detach() * dy * z).mean(0))


# --------------------------------------------------------------------------------------------------- edge cases


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("mode", MODES)
def test_state_is_not_poisoned(bad: float, mode: str) -> None:
    layer = build(3, mode=mode, warmup_iters=1)
    step(layer, randn(5, 3), randn(5, 3))
    before = copy.deepcopy(layer.state_dict())
    x = randn(5, 3)
    x[2, 1] = bad
    y, dx, *_ = step(layer, x, randn(5, 3))
    assert not y[2, 1].isfinite()
    assert not dx[:, 1].isfinite().all() or mode == "official"
    after = layer.state_dict()
    for name in ("running_phi", "ema_gz"):
        assert torch.equal(after[name][1], before[name][1])
        assert after[name].isfinite().all()
        assert (after[name] != before[name])[[0, 2]].all()
    assert after["iters"] == 2
    v = build(3, cls=PowerNormV)
    v(x)
    assert v.running_phi[1] == 1
    assert (v.running_phi != 1)[[0, 2]].all()


@pytest.mark.parametrize("cls", [PowerNorm, PowerNormV])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e200])
def test_check_finite_raises_before_anything_is_written(cls: type[nn.Module], bad: float) -> None:
    layer = build(3, cls=cls, check_finite=True)
    layer(randn(4, 3))
    before = copy.deepcopy(layer.state_dict())
    x = randn(4, 3)
    x[1, 2] = bad
    with pytest.raises(ValueError, match="finite"):
        layer(x)
    assert all(torch.equal(v, layer.state_dict()[k]) for k, v in before.items())
    layer.eval()(x)


def test_a_single_token_is_a_legal_batch() -> None:
    x = randn(1, 4)
    v = PowerNormV(4).double()
    torch.testing.assert_close(v(x), x.sign(), rtol=1e-2, atol=0)
    layer = build(4, warmup_iters=0)
    assert layer(x).isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_all_zero_input(mode: str) -> None:
    layer = build(3, mode=mode, warmup_iters=0, alpha_fwd=0.6)
    dy = randn(5, 3)
    for k in (1, 2, 3):
        y, dx, *_ = step(layer, torch.zeros(5, 3, dtype=torch.float64), dy)
        assert torch.equal(y, layer.bias.detach().expand(5, 3))
        torch.testing.assert_close(layer.running_phi, torch.full((3,), 0.6**k, dtype=torch.float64))
        D = 0.0 if mode == "official" else 0.6 ** (k - 1)
        torch.testing.assert_close(dx, layer.weight.detach() * dy / math.sqrt(D + EPS))
    scaled = build(3, mode=mode, group_scaling=True)
    _, dx, *_ = step(scaled, torch.zeros(5, 3, dtype=torch.float64), dy)
    torch.testing.assert_close(dx, scaled.weight.detach() * dy / EPS)


@pytest.mark.parametrize("cls", [PowerNorm, PowerNormV])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_compute_in_float32(cls: type[nn.Module], dtype: torch.dtype) -> None:
    layer = cls(4, group_scaling=False)
    reference = copy.deepcopy(layer)
    x = (300 * torch.randn(64, 4)).to(dtype)  # squares overflow float16
    y = layer(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, reference(x.float()).to(dtype))
    assert layer.running_phi.dtype == torch.float32
    torch.testing.assert_close(layer.running_phi, reference.running_phi)
    y.sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        assert cls(4)(nn.Linear(3, 4)(torch.randn(6, 3))).isfinite().all()


def test_double_layer_keeps_double_precision_in_the_cumulative_mean() -> None:
    layer = PowerNorm(1, group_scaling=False, warmup_iters=10, alpha_fwd=1.0).double()
    values = [0.1, 0.7, 1.9]
    for value in values:
        layer(torch.full((2, 1), value, dtype=torch.float64))
    exact = sum(v**2 for v in values) / 3
    assert abs(layer.running_phi.item() - exact) < 1e-15


def test_bad_arguments() -> None:
    for options in (
        {"alpha_fwd": 1.1},
        {"alpha_bkw": -0.1},
        {"warmup_iters": -1},
        {"warmup_iters": 1.5},
        {"eps": -1e-5},
        {"groups": 3},
        {"groups": 0},
        {"mode": "oficial"},
    ):
        (name,) = options
        with pytest.raises(ValueError, match=name):
            PowerNorm(4, **options)
    for options in ({"momentum": 1.1}, {"momentum": -0.1}, {"eps": float("nan")}, {"groups": 3}):
        (name,) = options
        with pytest.raises(ValueError, match=name):
            PowerNormV(4, **options)
    for value in (0, 2.0, True):
        with pytest.raises(ValueError, match="num_features"):
            PowerNorm(value)
    for edge in (0.0, 1.0):
        PowerNorm(4, alpha_fwd=edge, alpha_bkw=edge)
        PowerNormV(4, momentum=edge)
    with pytest.raises(TypeError):
        PowerNorm(4, 1e-5)


@pytest.mark.parametrize("cls", [PowerNorm, PowerNormV])
@pytest.mark.parametrize("train", [True, False])
def test_bad_inputs(cls: type[nn.Module], train: bool) -> None:
    layer = cls(4).train(train)
    for shape in ((4,), (3, 5), (2, 2, 2, 4), ()):
        with pytest.raises(ValueError, match="num_features"):
            layer(torch.zeros(shape))
    with pytest.raises(TypeError, match="floating"):
        layer(torch.zeros(3, 4, dtype=torch.long))
    x = torch.ones(5, 3, 4)
    for shape in ((5, 3), (3, 4), (15,), (3, 5, 1)):
        with pytest.raises(ValueError, match="pad_mask"):
            layer(x, torch.zeros(shape, dtype=torch.bool))
    with pytest.raises(ValueError, match="pad_mask"):
        cls(4, batch_first=True)(x, torch.zeros(3, 5, dtype=torch.bool))
    for mask in (torch.zeros(3, 5), torch.zeros(3, 5, dtype=torch.long), [[False]]):
        with pytest.raises(TypeError, match="pad_mask"):
            layer(x, mask)


@pytest.mark.parametrize("cls", [PowerNorm, PowerNormV])
def test_no_real_row(cls: type[nn.Module]) -> None:
    layer = cls(4)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match="at least one row"):
        layer(torch.zeros(5, 3, 4), torch.ones(3, 5, dtype=torch.bool))
    for shape in ((0, 4), (0, 3, 4)):
        with pytest.raises(ValueError, match="at least one row"):
            layer(torch.zeros(shape))
    assert all(torch.equal(v, layer.state_dict()[k]) for k, v in before.items())


def test_repr() -> None:
    assert "4, eps=1e-05, alpha_fwd=0.9, alpha_bkw=0.9, warmup_iters=10000" in repr(PowerNorm(4))
    assert "momentum=0.1" in repr(PowerNormV(4))


# ------------------------------------------------------------------------------------------- vmap and compile

VARIANTS = [
    (PowerNorm, {"warmup_iters": 2}),
    (PowerNorm, {"warmup_iters": 2, "mode": "paper", "group_scaling": True, "groups": 2}),
    (PowerNorm, {"warmup_iters": 1, "affine": False}),
    (PowerNormV, {}),
]


@pytest.mark.parametrize(("cls", "options"), VARIANTS)
@pytest.mark.parametrize("outside", [False, True])
def test_vmap_updates_each_members_state(
    cls: type[nn.Module], options: dict[str, object], outside: bool
) -> None:
    members = [build(4, cls=cls, **options) for _ in range(3)]
    singles = copy.deepcopy(members)
    buffers = {
        k: torch.stack([dict(m.named_buffers())[k] for m in members]) for k, _ in members[0].named_buffers()
    }
    parameters = (
        {k: v.detach().requires_grad_(outside) for k, v in stack_module_state(members)[0].items()}
        if singles[0].affine
        else {}
    )
    pad = torch.tensor([[False, False, True], [False, False, False]])

    def loss(
        x: torch.Tensor, parameters: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        return functional_call(members[0], (parameters, buffers), (x, pad)).pow(3).sum()

    dims = (0, 0 if parameters else None, 0)
    for _ in range(4):
        x = randn(3, 3, 2, 4, requires_grad=outside)
        if outside:  # forward under vmap, backward outside
            leaves = (x, *parameters.values())
            dx, *rest = torch.autograd.grad(vmap(loss, in_dims=dims)(x, parameters, buffers).sum(), leaves)
            dp = dict(zip(parameters, rest, strict=True))
        else:
            dx, dp = vmap(grad(loss, argnums=(0, 1)), in_dims=dims)(x, parameters, buffers)
        for i, member in enumerate(singles):
            leaf = x[i].detach().requires_grad_()
            member.zero_grad()
            member(leaf, pad).pow(3).sum().backward()
            torch.testing.assert_close(dx[i], leaf.grad)
            for name, parameter in member.named_parameters():
                torch.testing.assert_close(dp[name][i], parameter.grad)
            for name, buffer in member.named_buffers():
                torch.testing.assert_close(buffers[name][i], buffer)


def test_vmap_over_masks_cannot_look_at_them() -> None:
    members = [build(4, warmup_iters=0) for _ in range(2)]
    parameters, buffers = stack_module_state(members)
    pads = torch.tensor([[True, True, True], [False, True, False]])
    x = randn(2, 3, 4)
    y = vmap(lambda p, b, x, pad: functional_call(members[0], (p, b), (x, pad)))(parameters, buffers, x, pads)
    torch.testing.assert_close(y[1], members[1](x[1], pads[1]))
    assert torch.equal(
        buffers["running_phi"][0], torch.ones(4, dtype=torch.float64)
    )  # no real row: nothing learnt
    with pytest.raises(ValueError, match="at least one row"):  # under grad alone the values can be read
        grad(lambda x, pad: functional_call(members[0], {}, (x, pad)).sum())(x[0], pads[0])


@compiles
@pytest.mark.parametrize(("cls", "options"), VARIANTS)
def test_compiled_steps_equal_eager_ones(cls: type[nn.Module], options: dict[str, object]) -> None:
    # Past the warm-up: a compiler that computes the denominator again in the backward, from the buffers as they are
    # then, is right until there and wrong from there on.
    eager = build(4, cls=cls, **options)
    layer = copy.deepcopy(eager)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    pad = torch.tensor([[False, False, True], [False, False, False]])
    for _ in range(4):
        x, dy = 3 * randn(3, 2, 4), randn(3, 2, 4)
        for ours, wanted in zip(step(compiled, x, dy, pad), step(eager, x, dy, pad), strict=True):
            torch.testing.assert_close(ours, wanted)
        for name, buffer in eager.named_buffers():
            torch.testing.assert_close(dict(layer.named_buffers())[name], buffer)
    torch.testing.assert_close(compiled.eval()(x), eager.eval()(x))


# -------------------------------------------------------------------------------------------- statistics_gap


@pytest.mark.parametrize("cls", [PowerNorm, PowerNormV])
@pytest.mark.parametrize("masked", [True, False])
def test_statistics_gap_of_power_norms(cls: type[nn.Module], masked: bool) -> None:
    layer = build(4, cls=cls, group_scaling=True, groups=2)
    layer(randn(5, 3, 4))
    x = randn(5, 3, 4)
    pad = torch.rand(3, 5) < 0.4 if masked else None
    rows = GroupScaling(2)(x).numpy().reshape(15, 4)
    if masked:
        rows = rows[~pad.T.numpy().reshape(15)]
    expected = np.abs((rows**2).mean(0) - layer.running_phi.numpy()).mean()
    before = copy.deepcopy(layer.state_dict())
    for train in (True, False):
        gap = statistics_gap(layer.train(train), x, pad)
        assert list(gap) == ["quadratic_mean"]
        assert type(gap["quadratic_mean"]) is float
        assert gap["quadratic_mean"] == pytest.approx(expected, rel=1e-10)
    assert all(torch.equal(v, layer.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("ours", [True, False])
def test_statistics_gap_of_batch_norms(masked: bool, ours: bool) -> None:
    layer = (BatchNorm(4) if ours else nn.BatchNorm1d(4)).double()
    layer(randn(20, 4))
    x = 2 + randn(3, 5, 4)
    pad = torch.rand(3, 5) < 0.4 if masked else None
    rows = x.numpy().reshape(15, 4)
    if masked:
        rows = rows[~pad.numpy().reshape(15)]
        x = torch.where(pad[..., None], float("nan"), x)
    before = copy.deepcopy(layer.state_dict())
    for train in (True, False):
        gap = statistics_gap(layer.train(train), x, pad)
        assert list(gap) == ["mean", "var"]
        assert gap["mean"] == pytest.approx(
            np.abs(rows.mean(0) - layer.running_mean.numpy()).mean(), rel=1e-10
        )
        assert gap["var"] == pytest.approx(np.abs(rows.var(0) - layer.running_var.numpy()).mean(), rel=1e-10)
    assert all(torch.equal(v, layer.state_dict()[k]) for k, v in before.items())


def test_statistics_gap_layouts_and_errors() -> None:
    pad = torch.tensor([[False, True, True], [False, False, False]])
    x = torch.randn(3, 2, 4)  # (T, B, C)
    a, b = BatchNorm(4, batch_first=False), BatchNorm(4)
    assert statistics_gap(a, x, pad) == pytest.approx(statistics_gap(b, x.transpose(0, 1), pad))
    for other in (nn.LayerNorm(4), nn.Linear(4, 4)):
        with pytest.raises(TypeError, match="norm must be"):
            statistics_gap(other, x)
    with pytest.raises(ValueError, match="running statistics"):
        statistics_gap(nn.BatchNorm1d(4, track_running_stats=False), x)
    for norm in (nn.BatchNorm1d(4), PowerNorm(4)):
        for bad in (torch.zeros(4), torch.zeros(3, 5)):
            with pytest.raises(ValueError, match="x must"):
                statistics_gap(norm, bad)
        with pytest.raises(ValueError, match="row"):
            statistics_gap(norm.eval(), torch.zeros(0, 4))
        with pytest.raises(ValueError, match="pad_mask"):
            statistics_gap(norm.eval(), torch.zeros(3, 4), torch.ones(3, dtype=torch.bool))
        with pytest.raises(TypeError, match="pad_mask"):
            statistics_gap(norm, torch.zeros(3, 4), torch.ones(3))


def test_every_name_is_exported() -> None:
    assert all(getattr(norms, name) is getattr(module, name) for name in module.__all__)
    assert set(module.__all__) <= set(norms.__all__)
