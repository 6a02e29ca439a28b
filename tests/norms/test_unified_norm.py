"""Unified Normalization against a NumPy float64 loop over steps, its bounds, its fusions."""

from __future__ import annotations

import copy
import doctest
import io
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normviz import norms
from normviz.norms import block_fusion, unified_norm
from normviz.norms.power_norm import PowerNorm, PowerNormV
from normviz.norms.unified_norm import (
    UnifiedNorm1d,
    UnifiedNorm2d,
    UnifiedNormFunction,
    fuse_into_linear,
    fuse_transformer_block,
)

C = 5
RNG = np.random.default_rng(0)


def make(cls=UnifiedNorm1d, num_features=C, window_size=4, warmup_iters=0, *args, **kwargs):
    """A float64 layer; short warm-ups warn, which is not under test here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return cls(num_features, window_size, warmup_iters, *args, **kwargs).double()


def tensor(array):
    return torch.tensor(array, dtype=torch.float64)


class Reference:
    """The card's steps 1 to 12, written as loops with Python decisions."""

    def __init__(
        self, c, m_f=4, m_b=4, warmup=0, filtration=False, start=1000, clip=5.0, eps=1e-5, m=0.9, smooth="gm"
    ):
        self.m_f, self.m_b, self.warmup, self.filtration = m_f, m_b, warmup, filtration
        self.start, self.clip, self.eps, self.m, self.smooth = start, clip, eps, m, smooth
        self.running, self.ema = np.ones(c), np.zeros(c)
        self.x2, self.gz = np.zeros((m_f, c)), np.zeros((m_b, c))
        self.t = self.skips = 0

    def forward(self, x, gamma, beta, real=None):
        self.t += 1
        t, rows = self.t, x if real is None else x[real]
        psi = (rows**2).mean(0)
        pooled = np.sqrt(self.x2).ravel()
        V = ((pooled - pooled.mean()) ** 2).sum() / (pooled.size - 1) if pooled.size > 1 else math.nan
        self.threshold = self.m_f * V
        self.x2[t % self.m_f] = psi
        self.skip = self.m_f == 1
        am, gm = self.window()
        self.filtered = (
            self.filtration and t >= self.warmup and any(am[c] - gm[c] > self.m_f * V for c in range(len(am)))
        )
        if self.filtered:
            self.x2[t % self.m_f] = self.running
            self.skip = True
            self.skips += 1
        if t <= self.m_f or t < self.warmup or self.skip:
            self.s2 = psi
        else:
            am, gm = self.window()
            self.s2 = {"gm": gm, "am": am, "none": psi, "ema": self.running.copy()}[self.smooth]
        self.r = np.sqrt(self.s2 + self.eps) / np.sqrt(self.running + self.eps)
        self.r = (
            np.ones_like(psi)
            if t <= max(self.start, self.warmup) or self.skip
            else np.clip(self.r, 1 / self.clip, self.clip)
        )
        self.z = x / np.sqrt(self.s2 + self.eps)
        self.running = self.m * self.running + (1 - self.m) * (psi if self.smooth == "ema" else self.s2)
        self.gamma = gamma
        return gamma * self.z + beta

    def window(self):
        if self.m_f == 1:
            return self.x2[0], self.x2[0]
        with np.errstate(divide="ignore"):
            return self.x2.mean(0), np.exp(np.log(self.x2).mean(0))

    def backward(self, dy):
        t = self.t
        u = self.gamma * dy * self.r
        q = (u * self.z).mean(0)
        self.gz[t % self.m_b] = self.ema if self.skip else q
        qbar = q if t <= self.m_b or t < self.warmup or self.skip else self.gz.mean(0)
        self.ema = self.m * self.ema + (1 - self.m) * qbar
        k = q if self.skip else self.ema
        return (u - k * self.z) / np.sqrt(self.s2 + self.eps), (dy * self.r * self.z).sum(0), dy.sum(0)


def run_beside_reference(layer, reference, batches, pad=None):
    """Train both on the batches; outputs, gradients and every buffer must agree after each step."""
    with torch.no_grad():
        layer.weight.copy_(tensor(np.linspace(0.5, 1.5, layer.num_features)))
        layer.bias.copy_(tensor(np.linspace(-1, 1, layer.num_features)))
    gamma, beta = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    rng = np.random.default_rng(1)
    for x in batches:
        flat = x.reshape(-1, x.shape[-1])
        dy = rng.normal(size=x.shape)
        real = None if pad is None else ~pad.reshape(-1)
        leaf = tensor(x).requires_grad_()
        layer.zero_grad()
        y = layer(leaf) if pad is None else layer(leaf, pad_mask=torch.tensor(pad))
        y.backward(tensor(dy))
        expected_y = reference.forward(flat, gamma, beta, real)
        expected = reference.backward(dy.reshape(flat.shape))
        pairs = [
            (y, expected_y.reshape(x.shape)),
            (leaf.grad, expected[0].reshape(x.shape)),
            (layer.weight.grad, expected[1]),
            (layer.bias.grad, expected[2]),
            (layer.running_var, reference.running),
            (layer.ema_gz, reference.ema),
            (layer.buffer_x2, reference.x2),
            (layer.buffer_gz, reference.gz),
            (layer.last_stats["threshold"], reference.threshold),
        ]
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-10, atol=1e-12)
        assert layer.iters == reference.t
        assert layer.skip_counter == reference.skips
        assert bool(layer.last_stats["skipped"]) == reference.skip


def batches(steps, rows=(12,), c=C, seed=0):
    rng = np.random.default_rng(seed)
    spread = np.linspace(0.3, 3.0, c)  # channels of different power, so that V is not tiny
    return [rng.normal(size=(*rows, c)) * spread * math.exp(0.3 * rng.normal()) + 0.5 for _ in range(steps)]


# ---- the step -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"warmup": 6},
        {"warmup": 8, "m_f": 3, "m_b": 5, "start": 10},
        {"warmup": 6, "filtration": True, "start": 7},
        {"filtration": True},  # warm-up shorter than the window: the first steps are skipped and counted
        {"m_f": 1, "m_b": 1, "filtration": True},
        {"m_f": 1, "m_b": 4, "start": 0},
        {"m_f": 4, "m_b": 1, "start": 0, "clip": 1.1, "m": 0.5, "eps": 1e-3},
        {"smooth": "none", "start": 0},
        {"smooth": "ema", "start": 0},
        {"smooth": "am", "start": 0, "filtration": True, "warmup": 5},
    ],
    ids=str,
)
def test_every_step_equals_the_reference(options):
    reference = Reference(C, **options)
    layer = make(
        UnifiedNorm1d,
        C,
        (reference.m_f, reference.m_b),
        reference.warmup,
        reference.filtration,
        eps=reference.eps,
        momentum=reference.m,
        compensation_start=reference.start,
        compensation_clip=reference.clip,
        forward_smoothing=reference.smooth,
    )
    data = batches(16)
    data[11] = data[11] * np.array([1, 1, 40, 1, 1])
    run_beside_reference(layer, reference, data)
    if reference.filtration and reference.m_f > 1:
        assert 0 < reference.skips < 16  # both branches were taken


def test_batched_rows_with_padding_equal_the_reference():
    pad = np.zeros((3, 4), dtype=bool)
    pad[1, 2:] = pad[2, 3:] = True
    run_beside_reference(make(warmup_iters=5), Reference(C, warmup=5), batches(9, (3, 4)), pad)


def test_single_channel_window_one_has_no_threshold():
    layer = make(UnifiedNorm1d, 1, 1, 0, True)
    run_beside_reference(layer, Reference(1, 1, 1, filtration=True), batches(4, c=1))
    assert layer.last_stats["threshold"].isnan()


def test_window_one_is_uncentred_batch_norm_with_exact_gradient():  # check 1
    layer = make(window_size=1)
    x, w, b = tensor(RNG.normal(size=(6, C)) + 1), tensor(RNG.normal(size=C)), tensor(RNG.normal(size=C))

    def ours(x, w, b):
        return torch.func.functional_call(layer, {"weight": w, "bias": b}, (x,))

    def plain(x, w, b):
        return w * x / ((x**2).mean(0) + 1e-5).sqrt() + b

    inputs = tuple(t.clone().requires_grad_() for t in (x, w, b))
    assert torch.autograd.gradcheck(ours, inputs)
    torch.testing.assert_close(ours(*inputs), plain(*inputs))
    dy = tensor(RNG.normal(size=(6, C)))
    for got, expected in zip(
        torch.autograd.grad(ours(*inputs), inputs, dy),
        torch.autograd.grad(plain(*inputs), inputs, dy),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)
    assert layer.skip_counter == 0


def test_smoothed_statistic_is_the_geometric_mean():  # check 2
    layer = make()
    seen = []
    for x in batches(9):
        y = layer(tensor(x))
        seen.append((x**2).mean(0))
        s2 = np.exp(np.log(seen[-4:]).mean(0)) if len(seen) >= 5 else seen[-1]
        np.testing.assert_allclose(y.detach(), x / np.sqrt(s2 + 1e-5), rtol=1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1e3), min_size=2, max_size=8))
def test_threshold_bound(values):  # checks 3 and 4
    v = np.array(values)
    n = len(v)
    with np.errstate(divide="ignore"):
        gap = v.mean() - np.exp(np.log(v).mean())
    spread = np.sqrt(v).var()
    slack = 1e-9 * (1 + v.max())
    assert -slack <= spread - slack <= gap <= n * spread + slack
    window = tensor(v)[:, None]
    assert abs(float(window.mean() - unified_norm._geometric_mean(window, 0.0)) - gap) < slack


def test_geometric_mean_damps_one_large_batch():  # check 3
    layer = make(window_size=4, warmup_iters=4)
    x = RNG.normal(size=(20, C))
    for scale in (1, 1, 1, 1, 1, 10):  # 10 in x is 100 in x^2
        layer(tensor(x * scale))
    psi = (x**2).mean(0)
    np.testing.assert_allclose(layer.last_stats["gm"].numpy() / psi, 100**0.25, rtol=1e-12)
    np.testing.assert_allclose(layer.last_stats["am"].numpy() / psi, 25.75, rtol=1e-12)
    assert (layer.last_stats["gap"] >= 0).all()


# ---- outliers -------------------------------------------------------------------------------------------


def warmed(filtration, **options):
    layer = make(UnifiedNorm1d, C, 4, 6, filtration, compensation_start=0, **options)
    data = batches(10, seed=4)
    for x in data[:9]:
        layer(tensor(x)).sum().backward()
    return layer, data[9] * np.array([1, 1, 50, 1, 1])


def test_outlier_batch_is_skipped():  # check 5
    layer, x = warmed(filtration=True)
    skips, running, ema_gz = int(layer.skip_counter), layer.running_var.clone(), layer.ema_gz.clone()
    layer.weight.grad = None
    y = layer(tensor(x))
    psi = (x**2).mean(0)
    np.testing.assert_allclose(y.detach(), x / np.sqrt(psi + 1e-5), rtol=1e-12)
    assert layer.skip_counter == skips + 1
    assert bool(layer.last_stats["skipped"])
    torch.testing.assert_close(layer.buffer_x2[10 % 4], running, rtol=0, atol=0)
    torch.testing.assert_close(
        layer.running_var, 0.9 * running + 0.1 * tensor(psi)
    )  # with the outlier's psi2
    # the stored statistics are those of the window before the slot was replaced
    assert layer.last_stats["am"][2] > psi[2] / 4
    assert (layer.last_stats["gap"] > layer.last_stats["threshold"]).any()
    y.sum().backward()  # r = 1: dgamma is the plain sum of z
    np.testing.assert_allclose(layer.weight.grad, (x / np.sqrt(psi + 1e-5)).sum(0), rtol=1e-12)
    torch.testing.assert_close(layer.buffer_gz[10 % 4], ema_gz, rtol=0, atol=0)


@pytest.mark.parametrize(("step", "skipped"), [(5, False), (6, True)])
def test_filtration_starts_at_iteration_warmup_iters(step, skipped):
    layer = make(UnifiedNorm1d, C, 4, 6, True)
    for x in batches(step - 1, seed=4):
        layer(tensor(x))
    layer(tensor(batches(1)[0] * np.array([1, 1, 50, 1, 1])))
    assert (layer.last_stats["gap"] > layer.last_stats["threshold"]).any()
    assert bool(layer.last_stats["skipped"]) is skipped
    assert layer.skip_counter == skipped


def test_outlier_enters_without_filtration():  # check 6
    layer, x = warmed(filtration=False)
    y = layer(tensor(x))
    np.testing.assert_allclose(layer.buffer_x2[10 % 4], (x**2).mean(0), rtol=1e-12)
    assert layer.skip_counter == 0
    assert not layer.last_stats["skipped"]
    assert (layer.last_stats["gap"] > layer.last_stats["threshold"]).any()  # seen, but not acted upon
    gm = np.exp(np.log(layer.buffer_x2.numpy()).mean(0))
    np.testing.assert_allclose(y.detach(), x / np.sqrt(gm + 1e-5), rtol=1e-12)


def test_channel_threshold():
    layer, x = warmed(filtration=True, threshold_scope="channel")
    window = layer.buffer_x2.numpy().copy()
    layer(tensor(x))
    np.testing.assert_allclose(layer.last_stats["threshold"], 4 * np.sqrt(window).var(0), rtol=1e-12)
    assert layer.last_stats["threshold"].shape == (C,)
    assert bool(layer.last_stats["skipped"])


@pytest.mark.parametrize("scope", ["layer", "channel"])
def test_filtration_skips_most_steps_of_stationary_data(scope):
    torch.manual_seed(0)
    layer = make(UnifiedNorm1d, 6, 4, 30, True, threshold_scope=scope)
    for _ in range(60):
        layer(torch.randn(64, 6, dtype=torch.float64))
    assert layer.skip_counter > 15  # of 31


# ---- gradient compensation ------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "warmup", "last_plain"), [(6, 5, 6), (5, 8, 8)])
def test_compensation(start, warmup, last_plain):  # check 7
    layer = make(warmup_iters=warmup, compensation_start=start)
    plain = make(warmup_iters=warmup, compensation_start=10**6)
    for step, x in enumerate(batches(last_plain + 4, seed=5), 1):
        x = x * (30 if step > last_plain + 1 else 0.05 if step == last_plain + 1 else 1)
        running = layer.running_var.clone()
        for module in (layer, plain):
            module.zero_grad()
        y, y_plain = layer(tensor(x)), plain(tensor(x))
        torch.testing.assert_close(y, y_plain, rtol=0, atol=0)  # r never enters y
        (y.square().sum() + y.sum()).backward()
        (y_plain.square().sum() + y_plain.sum()).backward()
        s2 = (tensor(x)[0] / y[0].detach()) ** 2 - 1e-5
        r = ((s2 + 1e-5) / (running + 1e-5)).sqrt().clamp(0.2, 5)
        expected = torch.ones(C, dtype=torch.float64) if step <= last_plain else r
        torch.testing.assert_close(layer.weight.grad, plain.weight.grad * expected)
        assert step <= last_plain or (expected != 1).all()


def test_first_step_gradient():  # check 8
    layer = make(warmup_iters=10)
    x, dy = RNG.normal(size=(2, 7, C))
    leaf = tensor(x).requires_grad_()
    layer(leaf).backward(tensor(dy))
    psi = (x**2).mean(0)
    z = x / np.sqrt(psi + 1e-5)
    np.testing.assert_allclose(leaf.grad, (dy - 0.1 * (dy * z).mean(0) * z) / np.sqrt(psi + 1e-5), rtol=1e-12)


# ---- inference ------------------------------------------------------------------------------------------


def trained(cls=UnifiedNorm1d, num_features=C, **options):
    layer = make(cls, num_features, **options)
    torch.manual_seed(3)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.normal_()
    shape = (4, num_features, 3, 3) if cls is UnifiedNorm2d else (20, num_features)
    for _ in range(6):
        layer(2 * torch.randn(shape, dtype=torch.float64)).sum().backward()
    return layer.eval()


def test_eval_is_row_wise_and_reads_only():  # check 12
    layer = trained()
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(9, C, dtype=torch.float64)
    y = layer(x)
    # One row may take another path through the vector unit than nine.
    torch.testing.assert_close(layer(x[3:4]), y[3:4], rtol=1e-14, atol=1e-14)
    expected = layer.weight * x / (layer.running_var + 1e-5).sqrt() + layer.bias
    torch.testing.assert_close(y, expected)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])
    fresh = make().eval()
    torch.testing.assert_close(fresh(x), x / math.sqrt(1 + 1e-5))


@pytest.mark.parametrize("bias", [True, False])
def test_fusion_in_both_orders(bias):  # check 9
    norm = trained().train()  # fusing uses eval statistics whatever the mode
    x = torch.randn(2, 7, C, dtype=torch.float64)
    before, after = nn.Linear(3, C, bias=bias).double(), nn.Linear(C, 4, bias=bias).double()
    x3 = torch.randn(7, 3, dtype=torch.float64)
    state = copy.deepcopy(norm.state_dict())
    forward, backward = fuse_into_linear(norm, after), fuse_into_linear(before, norm)
    assert norm.training
    assert all(torch.equal(norm.state_dict()[name], value) for name, value in state.items())
    assert forward.bias is not None
    norm.eval()
    assert (forward(x) - after(norm(x))).abs().max() < 1e-10
    assert (backward(x3) - norm(before(x3))).abs().max() < 1e-10


def test_fusion_refusals():
    with pytest.raises(ValueError, match="channels"):
        fuse_into_linear(trained(), nn.Linear(C + 1, 2))
    with pytest.raises(ValueError, match="channels"):
        fuse_into_linear(nn.Linear(2, C + 1), trained())
    for first, second in [
        (trained(), trained()),
        (nn.Linear(C, C), nn.Linear(C, C)),
        (nn.LayerNorm(C), nn.Linear(C, C)),
        (trained(UnifiedNorm2d), nn.Linear(C, C)),
    ]:
        with pytest.raises(TypeError):
            fuse_into_linear(first, second)


class Attention(nn.Module):
    def __init__(self, dim, joint):
        super().__init__()
        if joint:
            self.qkv = nn.Linear(dim, 3 * dim)
        else:
            self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1) if hasattr(self, "qkv") else (self.q(x), self.k(x), self.v(x))
        return self.proj(torch.softmax(q @ k.mT, -1) @ v)


class Block(nn.Module):
    """A transformer block with the attribute names that the fusion looks for."""

    def __init__(self, norm, joint=True, norm_first=None, dim=C):
        super().__init__()
        self.norm1, self.norm2 = norm(dim), norm(dim)
        self.attn = Attention(dim, joint)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(dim, 2 * dim))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(2 * dim, dim))
        if norm_first is not None:
            self.norm_first = norm_first

    def forward(self, x):
        if getattr(self, "norm_first", True):
            x = x + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("norm_first", [None, True, False])
def test_block_fusion(joint, norm_first):
    torch.manual_seed(0)
    block = Block(lambda dim: make(UnifiedNorm1d, dim), joint, norm_first).double()
    x = torch.randn(2, 6, C, dtype=torch.float64)
    for _ in range(6):
        block(3 * x).square().sum().backward()
    with torch.no_grad():
        block.norm1.bias.normal_()
        block.norm2.weight.uniform_(0.5, 2)
    state = copy.deepcopy(block.state_dict())
    fused = fuse_transformer_block(block)
    assert block.training
    assert not fused.training
    assert all(not m.training for m in fused.modules())
    assert isinstance(block.norm1, UnifiedNorm1d)
    assert all(torch.equal(block.state_dict()[name], value) for name, value in state.items())
    assert not any(isinstance(m, UnifiedNorm1d) for m in fused.modules())
    assert isinstance(fused.norm1, nn.Identity) is (norm_first is not False)
    assert (fused(x) - block.eval()(x)).abs().max() < 1e-10


def test_block_fusion_of_the_projects_own_block():
    from normviz.models.transformer import FeedForward, SelfAttention, TransformerBlock

    torch.manual_seed(0)
    block = TransformerBlock(
        8, SelfAttention(8, 2), FeedForward(8, 16), norm=lambda dim: make(UnifiedNorm1d, dim)
    ).double()
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    pad = torch.zeros(2, 6, dtype=torch.bool)
    pad[1, 4:] = True
    block(x, pad_mask=pad)
    fused = fuse_transformer_block(block)
    assert (fused(x, pad_mask=pad) - block.eval()(x, pad_mask=pad)).abs().max() < 1e-10


def test_block_fusion_takes_power_norm_without_group_scaling():
    torch.manual_seed(0)
    x = torch.randn(2, 6, C, dtype=torch.float64)
    for norm in (lambda d: PowerNorm(d, group_scaling=False), PowerNormV):
        block = Block(norm).double()
        block(2 * x)
        assert (fuse_transformer_block(block)(x) - block.eval()(x)).abs().max() < 1e-10


@pytest.mark.parametrize("norm_first", [None, False])
@pytest.mark.parametrize(
    "norm", [nn.LayerNorm, PowerNorm, UnifiedNorm2d], ids=["LayerNorm", "scaled PN", "2d"]
)
def test_block_fusion_refuses_other_norms(norm, norm_first):
    with pytest.raises(TypeError, match="norm1"):
        fuse_transformer_block(Block(norm, norm_first=norm_first))


def test_block_fusion_refuses_missing_parts():
    block = Block(UnifiedNorm1d)
    del block.attn.qkv
    with pytest.raises(TypeError, match="'q'"):
        fuse_transformer_block(block)
    with pytest.raises(TypeError, match="norm1"):
        fuse_transformer_block(nn.Linear(2, 2))


# ---- state ----------------------------------------------------------------------------------------------


def test_state_dict_round_trip_gives_the_same_next_step():  # check 10
    layer, x = warmed(filtration=True)
    names = {"weight", "bias", "running_var", "ema_gz", "buffer_x2", "buffer_gz", "iters", "skip_counter"}
    assert set(layer.state_dict()) == names
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = make(UnifiedNorm1d, C, 4, 6, True, compensation_start=0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for module in (layer, other):
        module.zero_grad()
        module(tensor(x)).square().sum().backward()
    assert torch.equal(layer.weight.grad, other.weight.grad)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    torch.save(copy.deepcopy(layer), io.BytesIO())


def test_padding_changes_neither_real_rows_nor_forward_state():  # check 11
    pad = torch.zeros(3, 4, dtype=torch.bool)
    pad[1, 2:] = True
    layers = make(), make()
    outcomes = []
    for layer, junk in zip(layers, (0.0, math.inf), strict=True):
        for x in batches(6, (3, 4)):
            x = tensor(x).masked_fill(pad[..., None], junk)
            y = layer(x, pad_mask=pad)
        outcomes.append(y[~pad])
    assert torch.equal(*outcomes)
    assert torch.equal(layers[0].buffer_x2, layers[1].buffer_x2)
    assert torch.equal(layers[0].running_var, layers[1].running_var)


def test_no_grad_uses_the_same_numbers_and_writes_nothing():
    layer, x = warmed(filtration=True)
    before = copy.deepcopy(layer.state_dict())
    with torch.no_grad():
        y = layer(tensor(x))
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in before.items())
    assert torch.equal(y, layer(tensor(x)))


def test_backward_state_moves_in_backward_only_and_twice_is_allowed():
    layer = make(warmup_iters=10)
    x = tensor(RNG.normal(size=(8, C))).requires_grad_()
    y = layer(x).square().sum()
    assert not layer.ema_gz.any()
    y.backward(retain_graph=True)
    first = layer.ema_gz.clone()
    assert first.any()
    y.backward()
    torch.testing.assert_close(layer.ema_gz, 1.9 * first)  # 0.9 first + first


def test_dead_channel_and_log_floor():
    data = batches(8)
    data[6][:, 1] = 0.0
    plain, floored = make(warmup_iters=4), make(warmup_iters=4, log_floor=0.25)
    for x in data:
        y, y_floored = plain(tensor(x)), floored(tensor(x))
    assert plain.last_stats["gm"][1] == 0
    np.testing.assert_allclose(y.detach()[:, 1], data[7][:, 1] / math.sqrt(1e-5), rtol=1e-12)
    window = np.maximum([(x**2).mean(0) for x in data[4:]], 0.25)
    gm = np.exp(np.log(window).mean(0))
    np.testing.assert_allclose(y_floored.detach(), data[7] / np.sqrt(gm + 1e-5), rtol=1e-12)
    assert (floored.buffer_x2[:, 1] == 0).any()  # the floor is for the mean, not for the buffer


def test_two_dimensional_layer_is_the_one_dimensional_on_pixels():
    options = {"warmup_iters": 5, "compensation_start": 4}
    flat, images = make(UnifiedNorm1d, C, **options), make(UnifiedNorm2d, C, **options)
    for x in batches(8, (2, 3, 4)):
        rows = tensor(x.reshape(-1, C)).requires_grad_()
        pixels = tensor(x).movedim(-1, 1).detach().requires_grad_()  # (B, C, H, W)
        dy = torch.randn(rows.shape, dtype=torch.float64)
        y_rows, y_pixels = flat(rows), images(pixels)
        torch.testing.assert_close(y_pixels.movedim(1, -1).reshape(-1, C), y_rows)
        y_rows.backward(dy)
        y_pixels.backward(dy.reshape(2, 3, 4, C).movedim(-1, 1))
        torch.testing.assert_close(pixels.grad.movedim(1, -1).reshape(-1, C), rows.grad)
    for name, value in flat.state_dict().items():
        torch.testing.assert_close(images.state_dict()[name], value)
    assert trained(UnifiedNorm2d)(torch.ones(1, C, 2, 2, dtype=torch.float64)).shape == (1, C, 2, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_compute_in_float32(dtype):
    layer = UnifiedNorm1d(C)
    x = (300 * torch.randn(64, C)).to(dtype)  # squares overflow float16
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    y.sum().backward()
    assert y.dtype == leaf.grad.dtype == dtype
    assert layer.running_var.dtype == layer.ema_gz.dtype == torch.float32
    expected = UnifiedNorm1d(C)(x.float())
    torch.testing.assert_close(y, expected.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(UnifiedNorm1d(C)(x)).all()
    half = UnifiedNorm1d(C).to(dtype)
    half(leaf).sum().backward()
    assert half.buffer_x2.dtype == dtype
    assert half.eval()(leaf).dtype == dtype


# ---- transforms -----------------------------------------------------------------------------------------


def test_vmap_of_grad_over_stacked_state_equals_the_loop():
    members = [make(UnifiedNorm1d, C, 4, 5, True, compensation_start=6) for _ in range(3)]
    loop = copy.deepcopy(members)
    params, state = torch.func.stack_module_state(members)
    params = {name: value.detach() for name, value in params.items()}

    def loss(p, b, x):
        return torch.func.functional_call(members[0], (p, b), (x,)).pow(3).sum()

    step = torch.func.vmap(torch.func.grad(loss))
    data = np.stack([batches(10, seed=s) for s in range(3)])  # (member, step, row, C)
    data[1, 7] *= np.array([1, 1, 40, 1, 1])
    for t in range(10):
        grads = step(params, state, tensor(data[:, t]))
        for i, layer in enumerate(loop):
            layer.zero_grad()
            layer(tensor(data[i, t])).pow(3).sum().backward()
            torch.testing.assert_close(grads["weight"][i], layer.weight.grad)
            for name, buffer in layer.named_buffers():
                torch.testing.assert_close(state[name][i], buffer)
    assert len({int(layer.skip_counter) for layer in loop}) > 1  # members decided differently
    assert not members[0].last_stats  # nothing batched leaks out of vmap


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own doing
def test_compiled_equals_eager():
    eager = make(UnifiedNorm1d, C, 4, 5, True, compensation_start=6)
    module = copy.deepcopy(eager)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for x in batches(8, (2, 5)):
        grads = []
        for call in (eager, compiled):
            leaf = tensor(x).requires_grad_()
            y = call(leaf)
            y.pow(3).sum().backward()
            grads.append(leaf.grad)
        torch.testing.assert_close(*grads)
        for name, buffer in eager.named_buffers():
            torch.testing.assert_close(module.get_buffer(name), buffer)
        for name, value in eager.last_stats.items():
            torch.testing.assert_close(module.last_stats[name], value)
    compiled.eval()
    torch.testing.assert_close(compiled(leaf), eager.eval()(leaf))


# ---- arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [True, 2.0, "4", None, [4, 4], (4, 2.0), (True, 4)])
def test_window_of_wrong_type(bad):
    with pytest.raises(TypeError, match="window_size"):
        UnifiedNorm1d(C, bad)


@pytest.mark.parametrize("bad", [0, -1, (4,), (4, 4, 4), (0, 4), (4, 0), ()])
def test_window_of_wrong_value(bad):
    with pytest.raises(ValueError, match="window_size"):
        UnifiedNorm1d(C, bad)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("momentum", 0.0),
        ("momentum", 1.0),
        ("warmup_iters", -1),
        ("eps", -1e-5),
        ("compensation_clip", 0.5),
        ("compensation_start", -1),
        ("log_floor", -1.0),
        ("forward_smoothing", "mean"),
        ("threshold_scope", "token"),
        ("num_features", 0),
    ],
)
@pytest.mark.parametrize("cls", [UnifiedNorm1d, UnifiedNorm2d])
def test_arguments_out_of_range(cls, name, bad):
    with pytest.raises(ValueError, match=name):
        cls(**({"num_features": C} | {name: bad}))


def test_short_warmup_warns():
    for options in ({"warmup_iters": 3}, {"window_size": (2, 6), "warmup_iters": 5}):
        with pytest.warns(UserWarning, match="warmup_iters"):
            UnifiedNorm1d(C, **options)
    UnifiedNorm1d(C, 4, 4)  # warnings are errors here


def test_inputs_that_do_not_fit():
    layer = UnifiedNorm1d(C)
    x = torch.randn(2, 3, C)
    for bad in (torch.randn(2, 3, C + 1), torch.randn(C), torch.randn(2, 2, 2, C)):
        with pytest.raises(ValueError, match="shape"):
            layer(bad)
    for bad_mask in (torch.zeros(3, 2), torch.zeros(2), torch.zeros(2, 3, C)):
        with pytest.raises(ValueError, match="pad_mask"):
            layer(x, pad_mask=bad_mask.bool())
    with pytest.raises(TypeError, match="pad_mask"):
        layer(x, pad_mask=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="pad_mask"):
        layer(x, pad_mask=torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="row"):
        layer(torch.zeros(0, C))
    with pytest.raises(TypeError, match="int64"):
        layer(torch.ones(2, C, dtype=torch.long))
    for bad in (torch.randn(2, C, 3), torch.randn(2, 3, 4, C)):
        with pytest.raises(ValueError, match="shape"):
            UnifiedNorm2d(C)(bad)
    assert layer.iters == 0  # nothing was counted


def test_presets():
    for cls in (UnifiedNorm1d, UnifiedNorm2d):
        vision, text = cls.for_vision(C), cls.for_text(C)
        assert type(vision) is cls
        assert vision.window_size == text.window_size == (4, 4)
        assert vision.warmup_iters == text.warmup_iters == 4000
        assert vision.outlier_filtration
        assert not text.outlier_filtration
        assert cls.for_vision(C, warmup_iters=30, outlier_filtration=False).warmup_iters == 30
    assert "window_size=(4, 4)" in repr(UnifiedNorm1d(C))


def test_factory_builds_it_by_name():
    norm = norms.make_norm("unified", C, outlier_filtration=True, warmup_iters=30)
    assert isinstance(norm, UnifiedNorm1d)
    assert (norm.num_features, norm.warmup_iters, norm.outlier_filtration) == (C, 30, True)
    assert norm(torch.randn(2, 3, C)).shape == (2, 3, C)
    with pytest.raises(TypeError, match="warmup_iters"):
        norms.make_norm("unified", C, warmup_iter=30)


def test_public_names_and_examples():
    for name in unified_norm.__all__:
        assert getattr(norms, name) is getattr(unified_norm, name)
    assert norms.fuse_into_linear is fuse_into_linear
    assert issubclass(UnifiedNormFunction, torch.autograd.Function)
    assert doctest.testmod(unified_norm).attempted > 0
    for module in (unified_norm, block_fusion):
        assert doctest.testmod(module).failed == 0
