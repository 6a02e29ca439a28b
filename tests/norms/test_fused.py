"""The layers' short way on the CPU against their formulas.

A layer that takes its short way is compared with the same layer within a level of forward-mode derivatives, where the
formulas of the module's docstring run as they stand.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from normviz.norms import (
    GroupScaling,
    PowerNorm,
    UnifiedNorm1d,
    UnifiedNorm2d,
    _fused,
    make_evonorm,
)

STEPS = 6
Build = Callable[[], nn.Module]


class Padded(nn.Module):
    """A norm of (B, T, C) with a mask: the last tokens of every second sequence are padding."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        pad = torch.zeros(x.shape[:2], dtype=torch.bool)
        pad[::2, -2:] = True
        y: Tensor = self.norm(x, pad)
        return y


LAYERS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "UnifiedNorm1d": (lambda: UnifiedNorm1d(6, 2, 3), (7, 5, 6)),
    "UnifiedNorm1d, rows": (lambda: UnifiedNorm1d(6, (3, 2), 4, outlier_filtration=True), (40, 6)),
    "UnifiedNorm1d, window 1": (lambda: UnifiedNorm1d(6, 1, 1), (7, 5, 6)),
    "UnifiedNorm1d, padded": (lambda: Padded(UnifiedNorm1d(6, 2, 3)), (7, 5, 6)),
    "PowerNorm": (lambda: PowerNorm(6, warmup_iters=3, groups=2), (7, 5, 6)),
    "PowerNorm, paper": (
        lambda: PowerNorm(6, warmup_iters=2, mode="paper", affine=False, group_scaling=False),
        (40, 6),
    ),
    "PowerNorm, padded": (lambda: Padded(PowerNorm(6, warmup_iters=3, batch_first=True)), (7, 5, 6)),
    "GroupScaling": (lambda: GroupScaling(3), (7, 5, 6)),
    "EvoNorm-B0": (lambda: make_evonorm("B0", 6), (5, 6, 4, 3)),
    "EvoNorm-B1": (lambda: make_evonorm("B1", 6), (5, 6, 4, 3)),
    "EvoNorm-B2": (lambda: make_evonorm("B2", 6), (5, 6, 4, 3)),
    "EvoNorm-B0, eval": (lambda: make_evonorm("B0", 6).eval(), (5, 6, 4, 3)),
    "EvoNorm-B1, eval": (lambda: make_evonorm("B1", 6).eval(), (5, 6, 4, 3)),
    "UnifiedNorm2d": (lambda: UnifiedNorm2d(6, 2, 2, forward_smoothing="am"), (5, 6, 4, 3)),
}


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def train(layer: nn.Module, shape: tuple[int, ...]) -> list[Tensor]:
    """Outputs, gradients and buffers of some steps on inputs of changing size; gradients in a layout of their own."""
    found: list[Tensor] = []
    for step in range(STEPS):
        x = (gaussian(*shape, seed=step) * (1 + step) + 0.3).requires_grad_()
        layer.zero_grad()
        y = layer(x)
        dy = gaussian(*reversed(shape), seed=100 + step).permute(*reversed(range(len(shape))))
        y.backward(dy)
        found += [y.detach(), x.grad, *(p.grad for p in layer.parameters()), *layer.buffers()]  # type: ignore[list-item]
    return [t.clone() for t in found]


def seeded(build: Build) -> nn.Module:
    """The layer in float64, its parameters away from one and zero."""
    layer = build().double()
    for i, p in enumerate(layer.parameters()):
        p.data += 0.5 * gaussian(*p.shape, seed=50 + i)
    return layer


@pytest.mark.parametrize("block", [1, 50, 2**16], ids=["rows", "blocks", "whole"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_short_way_equals_the_formulas(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    build, shape = LAYERS[name]
    monkeypatch.setattr(_fused, "BLOCK", block)
    monkeypatch.setattr(_fused, "SMALL", block)
    layer = seeded(build)
    twin = copy.deepcopy(layer)
    short = train(layer, shape)
    with monkeypatch.context() as formulas:
        formulas.setattr(forward_ad, "_current_level", 0)
        long = train(twin, shape)
    for a, b in zip(short, long, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", LAYERS)
def test_the_short_way_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, shape = LAYERS[name]
    monkeypatch.setattr(_fused, "SMALL", 0)
    layer = seeded(build)
    x = gaussian(*shape, seed=0).requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.autograd.backward(layer(x).sum())
    names = {event.key for event in profile.key_averages()}
    assert "aten::addcmul_" in names


@pytest.mark.parametrize("name", LAYERS)
def test_second_derivatives_are_those_of_the_formulas(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, shape = LAYERS[name]
    layer = seeded(build)

    def penalty(own: nn.Module) -> list[Tensor]:
        x = gaussian(*shape, seed=1).requires_grad_()
        (slope,) = torch.autograd.grad(own(x).square().sum(), x, create_graph=True)
        torch.autograd.backward(slope.square().sum())
        return [x.grad, *(p.grad for p in own.parameters())]  # type: ignore[list-item]

    twin = copy.deepcopy(layer)
    short = penalty(layer)
    with monkeypatch.context() as formulas:
        formulas.setattr(forward_ad, "_current_level", 0)
        long = penalty(twin)
    for a, b in zip(short, long, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_what_is_plain() -> None:
    x = torch.ones(3)
    assert _fused.plain(x)
    assert _fused.plain(nn.Parameter(x))
    assert not _fused.fusible(x)  # gradients are recorded
    assert not _fused.plain(x.half())
    assert not _fused.plain(x.to("meta"))
    assert not _fused.plain(x.as_subclass(type("Own", (Tensor,), {})))
    with torch.no_grad():
        assert _fused.fusible(x)
    seen: list[bool] = []

    def look(t: Tensor) -> Tensor:
        seen.append(_fused.plain(t))
        return t

    torch.func.vmap(look)(torch.ones(2, 3))
    torch.func.grad(lambda t: look(t).sum())(x)
    with forward_ad.dual_level():
        look(x)
    assert seen == [False, False, False]


@pytest.mark.parametrize("shape", [(6, 4), (3, 5, 4), (2, 3, 5, 4)])
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("block", [1, 30, 1000])
def test_sums_and_combinations_of_rows(
    shape: tuple[int, ...], strided: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fused, "BLOCK", block)
    monkeypatch.setattr(_fused, "SMALL", block)
    x, y = gaussian(*shape, seed=1), gaussian(*shape, seed=2)
    if strided:
        x = x.movedim(-1, 1).contiguous().movedim(1, -1)
    a, b = gaussian(4, seed=3), gaussian(4, seed=4)
    rows_x, rows_y = x.reshape(-1, 4).numpy(), y.reshape(-1, 4).numpy()
    for first, second, own in ((x, y, rows_x), (y, x, rows_y)):
        products, total = _fused.channel_sums(first, second)
        torch.testing.assert_close(products.numpy(), (rows_x * rows_y).sum(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(total.numpy(), own.sum(0), rtol=1e-12, atol=1e-12)
    shifted = _fused.scale_shift(x, a, b).reshape(-1, 4).numpy()
    torch.testing.assert_close(shifted, a.numpy() * rows_x + b.numpy(), rtol=1e-12, atol=1e-12)
    mixed = _fused.blend(a, y, b, x)
    assert mixed.stride() == x.stride()
    expected = a.numpy() * rows_y - b.numpy() * rows_x
    torch.testing.assert_close(mixed.reshape(-1, 4).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_evonorm_halves_the_gradient_where_both_sides_of_the_maximum_are_equal() -> None:
    """One sample and v1 = 0: the batch's root and the instance's are the same number everywhere."""
    layer = make_evonorm("B0", 6).double()
    nn.init.zeros_(layer.get_parameter("v"))
    x = gaussian(1, 6, 4, 3, seed=1)
    dy = gaussian(1, 6, 4, 3, seed=2)
    variance = x.var((2, 3), correction=0, keepdim=True)
    root = (variance + 1e-5).sqrt()
    centred = x - x.mean((2, 3), keepdim=True)
    own = x.clone().requires_grad_()
    layer(own).backward(dy)
    along = (dy * x).mean((2, 3), keepdim=True)
    torch.testing.assert_close(own.grad, dy / root - centred * along / root**3, rtol=1e-12, atol=1e-12)
    half = -0.5 * (dy * x.square() / root.square()).sum((0, 2, 3))
    torch.testing.assert_close(layer.get_parameter("v").grad, half, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["B0", "B1", "B2"])
def test_evonorm_of_channels_that_do_not_vary(kind: str) -> None:
    layer = make_evonorm(kind, 3)
    x = torch.zeros(4, 3, 5, 5)
    x[:, 1] = 7.0
    x.requires_grad_()
    y = layer(x)
    torch.autograd.backward(y.sum())
    assert torch.equal(y[:, [0, 2]], torch.zeros(4, 2, 5, 5))
    assert x.grad is not None
    assert bool(torch.isfinite(y).all() & torch.isfinite(x.grad).all())
    assert bool(torch.isfinite(layer.get_buffer("running_var")).all())
