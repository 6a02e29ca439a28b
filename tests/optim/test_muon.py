"""Newton-Schulz and Muon against NumPy, against singular values, and against torch.optim.Muon."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import normviz.optim
import normviz.optim.normuon
from normviz.optim import Muon, newton_schulz

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SHAPES = [(5, 9), (9, 5), (6, 6), (1, 7), (7, 1)]


def scalar_map(s: np.ndarray, steps: int = 5) -> np.ndarray:
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return s


def reference_orthogonalize(
    G: np.ndarray, steps: int = 5, eps: float = 1e-7, clamp: bool = False
) -> np.ndarray:
    """U p(S) V^T from an SVD: no matrix iteration, so independent of the code under test."""
    norm = np.sqrt((G**2).sum())
    U, s, Vt = np.linalg.svd(G, full_matrices=False)
    result: np.ndarray = (U * scalar_map(s / (max(norm, eps) if clamp else norm + eps), steps)) @ Vt
    return result


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ------------------------------------------------------------------------------------------ Newton-Schulz


@pytest.mark.parametrize("shape", [*SHAPES, (64, 256), (256, 64)])
def test_singular_values_follow_the_scalar_map(shape: tuple[int, int]) -> None:
    G = gaussian(*shape)
    s = torch.linalg.svdvals(G).numpy()
    expected = np.sort(scalar_map(s / (np.linalg.norm(s) + 1e-7)))[::-1]
    np.testing.assert_allclose(torch.linalg.svdvals(newton_schulz(G)).numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_singular_vectors_are_kept(shape: tuple[int, int], steps: int) -> None:
    G = gaussian(*shape)
    expected = reference_orthogonalize(G.numpy(), steps)
    np.testing.assert_allclose(newton_schulz(G, steps).numpy(), expected, rtol=0, atol=1e-9)


def test_the_scalar_map_stays_in_the_documented_intervals() -> None:
    well = scalar_map(np.linspace(0.003, 1, 100_001))
    assert 0.681 < well.min() < 0.683
    assert 1.202 < well.max() < 1.204
    assert scalar_map(np.array([0.001]))[0] == pytest.approx(0.47, abs=0.01)
    # More steps do not converge to one.
    assert np.abs(scalar_map(np.linspace(0.1, 1, 1001), 50) - 1).max() > 0.1


@pytest.mark.parametrize("seed", range(3))
def test_wide_gaussians_land_near_one(seed: int) -> None:
    s = torch.linalg.svdvals(newton_schulz(gaussian(64, 256, seed=seed)))
    assert s.min() >= 0.68
    assert s.max() <= 1.14


@pytest.mark.parametrize("shape", [(5, 9), (6, 6)])
def test_transposition(shape: tuple[int, int]) -> None:
    G = gaussian(*shape)
    torch.testing.assert_close(newton_schulz(G.mT), newton_schulz(G).mT, rtol=0, atol=1e-12)


def test_zero_padding_of_rows_changes_nothing() -> None:
    G = gaussian(5, 9)
    padded = newton_schulz(torch.cat([G, torch.zeros(7, 9, dtype=G.dtype)]))
    torch.testing.assert_close(padded[:5], newton_schulz(G), rtol=0, atol=1e-12)
    assert not padded[5:].any()


def test_batch_equals_loop_and_vmap() -> None:
    G = gaussian(2, 3, 5, 9)
    batched = newton_schulz(G)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(batched[i, j], newton_schulz(G[i, j]), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.func.vmap(newton_schulz)(G), batched, rtol=0, atol=1e-12)
    assert newton_schulz(G[:0]).shape == (0, 3, 5, 9)


def test_compiled_equals_eager() -> None:
    G = gaussian(3, 9, 5)
    compiled = torch.compile(newton_schulz, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(G), newton_schulz(G), rtol=0, atol=1e-12)


def test_zero_stays_zero() -> None:
    for mode in ("add", "clamp"):
        assert not newton_schulz(torch.zeros(4, 6), eps_mode=mode).any()


def test_eps_modes() -> None:
    G = gaussian(4, 6) * 1e-7
    for mode, clamp in (("add", False), ("clamp", True)):
        expected = reference_orthogonalize(G.numpy(), eps=1e-6, clamp=clamp)
        np.testing.assert_allclose(
            newton_schulz(G, eps=1e-6, eps_mode=mode).numpy(), expected, rtol=0, atol=1e-10
        )


def test_dtypes() -> None:
    G = gaussian(8, 12)
    exact = newton_schulz(G)
    assert exact.dtype == torch.float64
    single = newton_schulz(G.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-5)
    # Half input of this size is iterated in float32 on the CPU: only the rounding of input and output is left.
    half = newton_schulz(G.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), newton_schulz(G.bfloat16().float()), rtol=2**-8, atol=0)
    coarse = newton_schulz(G.float(), dtype=torch.bfloat16)
    assert coarse.dtype == torch.float32
    assert 1e-4 < (coarse - single).abs().max() < 0.1


def test_autocast_does_not_lower_the_precision() -> None:
    G = gaussian(8, 12, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = newton_schulz(G)
    assert torch.equal(inside, newton_schulz(G))


@settings(max_examples=20, deadline=None)
@given(m=st.integers(1, 8), n=st.integers(1, 8), seed=st.integers(0, 1000))
def test_orthogonal_equivariance(m: int, n: int, seed: int) -> None:
    G = gaussian(m, n, seed=seed)
    Q = torch.linalg.qr(gaussian(m, m, seed=seed + 1))[0]
    torch.testing.assert_close(newton_schulz(Q @ G), Q @ newton_schulz(G), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 100}, "steps"),
        ({"steps": 2.0}, "steps"),
        ({"coefficients": (1.0, 2.0)}, "coefficients"),
        ({"coefficients": 3.0}, "coefficients"),
        ({"eps": -1.0}, "eps"),
        ({"eps_mode": "max"}, "eps_mode"),
        ({"dtype": torch.int32}, "dtype"),
    ],
)
def test_newton_schulz_refuses(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        newton_schulz(torch.ones(2, 2), **arguments)


def test_newton_schulz_refuses_vectors_and_integers() -> None:
    with pytest.raises(ValueError, match="axes"):
        newton_schulz(torch.ones(3))
    with pytest.raises(ValueError, match="floating"):
        newton_schulz(torch.ones(3, 3, dtype=torch.int64))


# --------------------------------------------------------------------------------------------------- Muon


def train(
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], dtype: torch.dtype, steps: int
) -> list[Tensor]:
    """Steps on fixed gradients; four matrices of two shapes and a third shape."""
    shapes = [(5, 9), (9, 5), (5, 9), (6, 6)]
    params = [nn.Parameter(gaussian(*shape, seed=i, dtype=dtype)) for i, shape in enumerate(shapes)]
    optimizer = make(params)
    for step in range(steps):
        for i, p in enumerate(params):
            p.grad = gaussian(*p.shape, seed=100 * step + i, dtype=dtype)
        optimizer.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
def test_muon_step_equals_the_formulas(nesterov: bool, adjust: str | None) -> None:
    lr, wd, mu = 0.03, 0.2, 0.9
    got = train(
        lambda params: Muon(
            params, lr=lr, weight_decay=wd, momentum=mu, nesterov=nesterov, adjust_lr_fn=adjust, ns_steps=4
        ),
        torch.float64,
        steps=20,
    )
    for i, W in enumerate(got):
        m, n = W.shape
        factor = 0.2 * max(m, n) ** 0.5 if adjust == "match_rms_adamw" else max(1.0, m / n) ** 0.5
        expected, M = gaussian(m, n, seed=i).numpy(), np.zeros((m, n))
        for step in range(20):
            g = gaussian(m, n, seed=100 * step + i).numpy()
            M = mu * M + (1 - mu) * g
            u = (1 - mu) * g + mu * M if nesterov else M
            expected = expected - lr * wd * expected
            expected = expected - lr * factor * reference_orthogonalize(u, 4, clamp=True)
        np.testing.assert_allclose(W.numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize("ns_dtype", [None, torch.bfloat16])
def test_muon_equals_torch(nesterov: bool, adjust: str | None, ns_dtype: torch.dtype | None) -> None:
    options: dict[str, Any] = {"lr": 0.1, "nesterov": nesterov, "adjust_lr_fn": adjust}
    start = train(lambda params: Muon(params, lr=0.0), torch.float32, steps=1)
    ours = train(lambda params: Muon(params, ns_dtype=ns_dtype, **options), torch.float32, steps=1)
    theirs = train(lambda params: torch.optim.Muon(params, **options), torch.float32, steps=1)
    for a, b, W in zip(ours, theirs, start, strict=True):
        difference = torch.linalg.norm(a - b) / torch.linalg.norm(b - W)
        # torch iterates in bfloat16 (2^-9 per rounding); in float32 its error is what is seen.
        assert difference < (0.02 if ns_dtype is None else 0.01)


def test_muon_has_torchs_arguments_and_defaults() -> None:
    p, q = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 3))
    ours, theirs = Muon([p]).defaults, torch.optim.Muon([q]).defaults
    assert {k: v for k, v in ours.items() if k != "ns_dtype"} == theirs
    positional = (0.1, 0.2, 0.3, False, (3.0, -4.0, 2.0), 1e-6, 4, "original")
    ours, theirs = Muon([p], *positional).defaults, torch.optim.Muon([q], *positional).defaults
    assert {k: v for k, v in ours.items() if k != "ns_dtype"} == theirs


def test_decay_uses_the_unadjusted_lr() -> None:
    p = nn.Parameter(torch.full((8, 2), 3.0, dtype=torch.float64))
    p.grad = torch.zeros_like(p)
    Muon([p], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(p.detach(), torch.full((8, 2), 3.0 * 0.95, dtype=torch.float64))


def test_momentum_starts_at_zero_and_parameters_without_gradient_are_skipped() -> None:
    p, q = nn.Parameter(gaussian(3, 4)), nn.Parameter(gaussian(3, 4, seed=1))
    before = q.detach().clone()
    p.grad = gaussian(3, 4, seed=2)
    optimizer = Muon([p, q], momentum=0.9)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[p]["momentum_buffer"], 0.1 * p.grad)
    assert torch.equal(q, before)
    assert q not in optimizer.state


def test_state_dict_resumes_bit_for_bit() -> None:
    def grads(params: list[nn.Parameter], step: int) -> None:
        for i, p in enumerate(params):
            p.grad = gaussian(*p.shape, seed=10 * step + i, dtype=torch.float32)

    params = [
        nn.Parameter(gaussian(4, 6, dtype=torch.float32)),
        nn.Parameter(gaussian(6, 4, dtype=torch.float32)),
    ]
    optimizer = Muon(params, ns_dtype=torch.bfloat16)
    for step in range(3):
        grads(params, step)
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = Muon(twins)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for step in range(3, 6):
        grads(params, step)
        grads(twins, step)
        optimizer.step()
        resumed.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


def test_closure_scheduler_and_deepcopy() -> None:
    layer = nn.Linear(6, 4, bias=False)
    optimizer = Muon(layer.parameters(), lr=0.1)
    x = gaussian(8, 6, dtype=torch.float32)

    def closure() -> float:
        optimizer.zero_grad()
        loss = layer(x).square().mean()
        loss.backward()
        return float(loss.detach())

    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.0)
    first = optimizer.step(closure)
    assert isinstance(first, float)
    scheduler.step()
    before = layer.weight.detach().clone()
    second = optimizer.step(closure)
    assert second is not None
    assert second < first
    assert torch.equal(layer.weight, before)  # lr is 0 now
    assert copy.deepcopy(optimizer).param_groups[0]["lr"] == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -0.1},
        {"lr": float("nan")},
        {"weight_decay": -0.1},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"ns_steps": 0},
        {"ns_steps": 100},
        {"adjust_lr_fn": "rms"},
        {"ns_coefficients": (1.0, 2.0)},
        {"ns_dtype": torch.complex64},
        {"eps": -1e-7},
    ],
)
def test_muon_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Muon([nn.Parameter(torch.ones(2, 2))], **options)


@pytest.mark.parametrize("shape", [(3,), (), (2, 3, 4)])
def test_muon_only_takes_matrices(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="2 axes"):
        Muon([nn.Parameter(torch.ones(shape))])


def test_muon_refuses_a_group_meant_for_a_fallback() -> None:
    with pytest.raises(ValueError, match="use_muon"):
        Muon([{"params": [nn.Parameter(torch.ones(2, 2))], "use_muon": False}])


def test_muon_refuses_sparse_and_complex() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    p.grad = torch.eye(2).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        Muon([p]).step()
    q = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    q.grad = torch.ones_like(q)
    with pytest.raises(RuntimeError, match="complex"):
        Muon([q]).step()


def test_names() -> None:
    for name in normviz.optim.normuon.__all__:
        assert getattr(normviz.optim, name) is getattr(normviz.optim.normuon, name)
