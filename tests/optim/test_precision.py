"""In which dtype Newton-Schulz iterates by default: by the processor, by the matrix, and for good."""

from __future__ import annotations

import copy
import platform
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from normviz.optim import DistributedNorMuon, Muon, NorMuon, _precision, newton_schulz
from normviz.optim._precision import native_bfloat16, product_seconds

SIDE = 128
OPTIMIZERS = pytest.mark.parametrize("build", [Muon, NorMuon, DistributedNorMuon])
Build = Callable[[list[nn.Parameter]], Optimizer]


@pytest.fixture(params=[True, False], ids=["native", "emulated"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A processor with or without bfloat16 products, whatever the machine has."""
    set_native(monkeypatch, request.param)
    return bool(request.param)


def set_native(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(sys.modules[newton_schulz.__module__], "native_bfloat16", lambda: has)


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def parameters(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(gaussian(*shape, seed=i, dtype=dtype)) for i, shape in enumerate(shapes)]


def step(optimizer: Optimizer, params: list[nn.Parameter], seed: int = 7) -> None:
    for i, p in enumerate(params):
        p.grad = gaussian(*p.shape, seed=seed + i, dtype=p.dtype)
    optimizer.step()


# ----------------------------------------------------------------------------------------- the processor


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("avx512", [True, False])
def test_an_x86_processor_says_what_it_has(monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch._C, "_has_mkldnn", True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert native_bfloat16.__wrapped__() is (amx or avx512)
    monkeypatch.setattr(torch._C, "_has_mkldnn", False)
    assert native_bfloat16.__wrapped__() is False


@pytest.mark.parametrize(
    "seconds", [{torch.bfloat16: 1.0, torch.float32: 3.0}, {torch.bfloat16: 9.0, torch.float32: 3.0}]
)
def test_another_processor_is_timed(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[torch.dtype, float]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(torch._C, "_has_mkldnn", True)
    monkeypatch.setattr(_precision, "product_seconds", seconds.__getitem__)
    assert native_bfloat16.__wrapped__() is (seconds[torch.bfloat16] < seconds[torch.float32])


def test_a_product_takes_time_in_each_dtype_and_the_answer_is_kept() -> None:
    assert (
        product_seconds(torch.bfloat16, size=8, repeats=1)
        > 0
        < product_seconds(torch.float32, size=8, repeats=1)
    )
    assert native_bfloat16() is native_bfloat16()


# -------------------------------------------------------------------------------------------- the matrix


def test_large_matrices_follow_the_processor(native: bool) -> None:
    G = gaussian(SIDE, SIDE + 8)
    coarse = newton_schulz(G, dtype=torch.bfloat16)
    fine = newton_schulz(G, dtype=torch.float32)
    assert (coarse - fine).abs().max() > 1e-4
    assert torch.equal(newton_schulz(G), coarse if native else fine)
    for small in (G[:-1], G.T[:, :-1]):
        assert torch.equal(newton_schulz(small), newton_schulz(small, dtype=torch.float32))
    assert torch.equal(newton_schulz(G.double()), newton_schulz(G.double(), dtype=torch.float64))


def test_a_compiler_asks_the_processor_too(native: bool) -> None:
    torch.compiler.reset()
    compiled = torch.compile(newton_schulz, backend="eager", fullgraph=True)
    G = gaussian(SIDE, SIDE)
    expected = newton_schulz(G, dtype=torch.bfloat16 if native else torch.float32)
    torch.testing.assert_close(compiled(G), expected, rtol=0, atol=1e-5)


# --------------------------------------------------------------------------------------------- the group


@OPTIMIZERS
def test_a_group_chooses_once_by_its_largest_matrix(build: Build, native: bool) -> None:
    params = parameters((4, 6), (SIDE, SIDE))
    optimizer, named = build(params), build(twins := [nn.Parameter(p.detach().clone()) for p in params])
    assert optimizer.param_groups[0]["ns_dtype"] is None
    chosen = torch.bfloat16 if native else torch.float32
    named.param_groups[0]["ns_dtype"] = chosen
    step(optimizer, params)
    step(named, twins)
    assert optimizer.param_groups[0]["ns_dtype"] is chosen
    assert f"ns_dtype: {chosen}" in repr(optimizer)
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


@OPTIMIZERS
def test_small_and_double_matrices_do_not_ask(build: Build, native: bool) -> None:
    for dtype in (torch.float32, torch.float64):
        params = parameters((4, 6), (SIDE - 1, SIDE), dtype=dtype)
        optimizer = build(params)
        step(optimizer, params)
        assert optimizer.param_groups[0]["ns_dtype"] is dtype


def test_a_group_of_two_precisions_leaves_the_choice_to_each(native: bool) -> None:
    params = [*parameters((SIDE, SIDE)), *parameters((SIDE, SIDE), dtype=torch.float64)]
    optimizer = Muon(params, weight_decay=0.0)
    before = [p.detach().clone() for p in params]
    step(optimizer, params)
    assert optimizer.param_groups[0]["ns_dtype"] is None
    for p, old, dtype in zip(
        params, before, (torch.bfloat16 if native else torch.float32, torch.float64), strict=True
    ):
        assert p.grad is not None
        u = 0.0975 * p.grad  # (1 - mu) g + mu (1 - mu) g
        expected = old - 1e-3 * newton_schulz(u, dtype=dtype, eps_mode="clamp")
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=2e-5)


@OPTIMIZERS
@pytest.mark.parametrize("first", [True, False])
def test_a_resumed_run_keeps_the_choice_on_another_processor(
    build: Build, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_native(monkeypatch, first)
    params = parameters((SIDE, SIDE))
    optimizer = build(params)
    step(optimizer, params)
    set_native(monkeypatch, not first)
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = build(twins)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(optimizer, params, seed=20)
    step(resumed, twins, seed=20)
    assert resumed.param_groups[0]["ns_dtype"] is (torch.bfloat16 if first else torch.float32)
    assert torch.equal(params[0], twins[0])


@OPTIMIZERS
def test_a_compiled_step_chooses_before_it_is_compiled(build: Build, native: bool) -> None:
    torch.compiler.reset()
    params = parameters((SIDE, SIDE))
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    optimizer, eager = build(params), build(twins)
    compiled = torch.compile(optimizer.step, backend="eager")
    for seed in (1, 2):
        for p, q in zip(params, twins, strict=True):
            p.grad, q.grad = gaussian(*p.shape, seed=seed), gaussian(*p.shape, seed=seed)
        compiled()
        eager.step()
    assert optimizer.param_groups[0]["ns_dtype"] is (torch.bfloat16 if native else torch.float32)
    assert eager.param_groups[0]["ns_dtype"] is optimizer.param_groups[0]["ns_dtype"]
    torch.testing.assert_close(params[0], twins[0], rtol=0, atol=1e-6)
