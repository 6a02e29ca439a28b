"""Gradient multi-normalization: norms, MultiNorm, SR-Sinkhorn, MNGD and SinkGD against NumPy loops."""

from __future__ import annotations

import copy
import io
import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normviz import optim
from normviz.optim import matrix_norms, multinorm
from normviz.optim.multinorm import (
    ColumnNorm,
    FrobeniusNorm,
    MatrixNorm,
    MaxNorm,
    MultiNormGD,
    RowNorm,
    SinkGD,
    SpectralNorm,
    multi_normalize,
    multi_normalize_fixed_point,
    sr_sinkhorn,
)
from normviz.optim.param_groups import split_matrix_params

NORMS: dict[str, MatrixNorm] = {
    "row": RowNorm(),
    "col": ColumnNorm(),
    "spectral": SpectralNorm(),
    "frobenius": FrobeniusNorm(),
    "max": MaxNorm(),
}
SHAPES = [(5, 8), (8, 5), (6, 6)]


def matrix(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A dense full-rank matrix with rows of different sizes."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.rand(*shape[:-1], 1, generator=g, dtype=torch.float64) * 3 + 0.2
    return (torch.randn(*shape, generator=g, dtype=torch.float64) * rows).to(dtype)


def numpy_reference(kind: str, X: np.ndarray) -> tuple[float, float, np.ndarray]:
    """(value, dual, projection), written out entry by entry; the spectral norm through eigenvalues of X^T X."""
    m, n = X.shape
    P = np.zeros_like(X)
    if kind == "row":
        length = [sum(X[i, j] ** 2 for j in range(n)) ** 0.5 for i in range(m)]
        for i, j in itertools.product(range(m), range(n)):
            P[i, j] = n**0.5 * X[i, j] / length[i]
        return max(length) / n**0.5, n**0.5 * sum(length), P
    if kind == "col":
        length = [sum(X[i, j] ** 2 for i in range(m)) ** 0.5 for j in range(n)]
        for i, j in itertools.product(range(m), range(n)):
            P[i, j] = m**0.5 * X[i, j] / length[j]
        return max(length) / m**0.5, m**0.5 * sum(length), P
    if kind == "spectral":
        wide = X if m <= n else X.T
        values, vectors = np.linalg.eigh(wide @ wide.T)
        inverse_root = vectors @ np.diag(values**-0.5) @ vectors.T
        polar = inverse_root @ wide
        scale = max(m, n) ** 0.5
        P = scale * (polar if m <= n else polar.T)
        return values.max() ** 0.5 / scale, scale * (values**0.5).sum(), P
    if kind == "frobenius":
        size = float((X**2).sum()) ** 0.5
        return size / (m * n) ** 0.5, size * (m * n) ** 0.5, (m * n) ** 0.5 * X / size
    return float(np.abs(X).max()), float(np.abs(X).sum()), np.sign(X)


def sinkhorn(A: np.ndarray, iters: int) -> np.ndarray:
    """Sinkhorn's iteration on a positive matrix: row sums n, then column sums m."""
    m, n = A.shape
    A = A.copy()
    for _ in range(iters):
        for i in range(m):
            A[i] *= n / sum(A[i])
        for j in range(n):
            A[:, j] *= m / sum(A[:, j])
    return A


# ---------------------------------------------------------------------------------------------- the norms


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", NORMS)
def test_norms_equal_numpy_loops(kind: str, shape: tuple[int, int]) -> None:
    X = matrix(*shape)
    value, dual, projection = numpy_reference(kind, X.numpy())
    assert float(NORMS[kind].value(X)) == pytest.approx(value, rel=1e-12)
    assert float(NORMS[kind].dual(X)) == pytest.approx(dual, rel=1e-12)
    np.testing.assert_allclose(NORMS[kind].project(X).numpy(), projection, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", NORMS)
def test_projection_is_an_oracle(kind: str, shape: tuple[int, int]) -> None:
    """Check 1: Frobenius norm sqrt(mn), idempotent, scale invariant, <X, P(X)> = dual(X), g(P(X)) = 1."""
    g, X = NORMS[kind], matrix(*shape, seed=1)
    P = g.project(X)
    assert float(P.norm()) == pytest.approx((shape[0] * shape[1]) ** 0.5, abs=1e-9)
    torch.testing.assert_close(g.project(P), P, rtol=0, atol=1e-9)
    torch.testing.assert_close(g.project(1234.5 * X), P, rtol=0, atol=1e-9)
    torch.testing.assert_close((X * P).sum(), g.dual(X), rtol=1e-10, atol=0)
    assert float(g.value(P)) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("kind", NORMS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_no_feasible_direction_beats_the_projection(kind: str, seed: int) -> None:
    """Check 2, with feasible points near the projection as well as far from it."""
    g, X = NORMS[kind], matrix(4, 7, seed=seed)
    best = (X * g.project(X)).sum()
    noise = matrix(4, 7, seed=seed + 1)
    for Z in (noise, g.project(X) + 0.01 * noise, g.project(noise)):
        assert float((X * Z / g.value(Z)).sum()) <= float(best) + 1e-9


@pytest.mark.parametrize("pair", list(itertools.permutations(NORMS, 2)), ids="-".join)
def test_successive_iterates_turn_towards_each_other(pair: tuple[str, str]) -> None:
    """Check 3: for two norms <x_t, x_{t+1}> never decreases and stays below mn."""
    _, trace = multi_normalize(
        matrix(5, 9, seed=3), [NORMS[kind] for kind in pair], iters=12, return_trace=True
    )
    products = [float((x * y).sum()) for x, y in itertools.pairwise(trace)]
    assert len(trace) == 24
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(products))
    assert max(products) <= 45 + 1e-9


def test_newton_schulz_reaches_the_polar_factor() -> None:
    for shape in SHAPES:
        X = matrix(*shape, seed=2)
        exact = SpectralNorm().project(X)
        torch.testing.assert_close(
            SpectralNorm("newton_schulz", steps=60).project(X), exact, rtol=0, atol=1e-9
        )
    # Every singular value follows its own scalar map; 30 steps carry 1e-5 ||X||_F close to one, 10 do not.
    for steps, low, high in ((30, 0.95, 1.0), (10, 0.0, 0.01)):
        x = 1e-5 / (1 + 1e-10) ** 0.5
        for _ in range(steps):
            x = 1.5 * x - 0.5 * x**3
        assert low < x < high
        P = SpectralNorm("newton_schulz", steps).project(
            torch.diag(torch.tensor([1.0, 1e-5], dtype=torch.float64))
        )
        assert float(P[1, 1]) == pytest.approx(2**0.5 * x, rel=1e-10)


def test_spectral_keeps_null_directions_null() -> None:
    X = torch.outer(torch.arange(1.0, 5.0), torch.arange(1.0, 4.0))
    P = SpectralNorm().project(X)
    assert torch.linalg.matrix_rank(P) == 1
    torch.testing.assert_close(P, 2.0 * X / X.norm())  # sqrt(max(4, 3)) times the unit rank-one matrix


@pytest.mark.parametrize("kind", NORMS)
def test_leading_axes_are_a_batch(kind: str) -> None:
    g, X = NORMS[kind], matrix(2, 3, 4, 6)
    assert g.value(X).shape == g.dual(X).shape == (2, 3)
    for index in itertools.product(range(2), range(3)):
        torch.testing.assert_close(g.project(X)[index], g.project(X[index]))
        torch.testing.assert_close(g.value(X)[index], g.value(X[index]))
        torch.testing.assert_close(g.dual(X)[index], g.dual(X[index]))
    torch.testing.assert_close(torch.vmap(torch.vmap(g.project))(X), g.project(X))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", NORMS)
def test_half_types_are_computed_in_float32(kind: str, dtype: torch.dtype) -> None:
    g, X = NORMS[kind], matrix(6, 9).to(dtype)
    assert g.project(X).dtype == g.value(X).dtype == g.dual(X).dtype == dtype
    torch.testing.assert_close(g.project(X), g.project(X.float()).to(dtype), rtol=0, atol=0)
    out, trace = multi_normalize(X, [g], return_trace=True)
    assert out.dtype == trace[0].dtype == dtype


def test_autocast_does_not_lower_the_precision() -> None:
    X = matrix(6, 9, dtype=torch.float32)
    for g in (SpectralNorm(), SpectralNorm("newton_schulz")):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = g.project(X)
        torch.testing.assert_close(inside, g.project(X), rtol=0, atol=0)


@pytest.mark.parametrize("g", [*NORMS.values(), SpectralNorm("newton_schulz")], ids=repr)
def test_zero_stays_zero(g: MatrixNorm) -> None:
    assert torch.equal(g.project(torch.zeros(3, 4)), torch.zeros(3, 4))
    assert float(g.value(torch.zeros(3, 4))) == float(g.dual(torch.zeros(3, 4))) == 0.0


def test_zero_rows_and_tiny_rows_are_clamped_not_shifted() -> None:
    X = torch.tensor([[0.0, 0.0], [3e-9, 4e-9], [3.0, 4.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 0.0], [0.3, 0.4], [0.6, 0.8]], dtype=torch.float64) * 2**0.5
    torch.testing.assert_close(RowNorm().project(X), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(ColumnNorm().project(X.T), expected.T, rtol=1e-14, atol=0)


@pytest.mark.parametrize("g", [*NORMS.values(), SpectralNorm("newton_schulz")], ids=repr)
def test_nan_is_not_hidden(g: MatrixNorm) -> None:
    X = matrix(3, 4)
    X[1, 2] = torch.nan
    try:
        assert g.project(X)[1, 2].isnan()
    except torch.linalg.LinAlgError:
        assert isinstance(g, SpectralNorm)


# ------------------------------------------------------------------------------------------ MultiNorm, SR-Sinkhorn


@pytest.mark.parametrize("iters", [1, 5, 20])
@pytest.mark.parametrize("shape", SHAPES)
def test_sr_sinkhorn_is_sinkhorn_on_the_squares(shape: tuple[int, int], iters: int) -> None:
    """Check 4, and signs are kept."""
    X = matrix(*shape, seed=5)
    S = sr_sinkhorn(X, iters)
    np.testing.assert_allclose(S.square().numpy(), sinkhorn(X.numpy() ** 2, iters), rtol=0, atol=1e-10)
    assert torch.equal(S.sign(), X.sign())
    assert float(S.norm()) == pytest.approx((shape[0] * shape[1]) ** 0.5, rel=1e-12)
    torch.testing.assert_close(
        S.square().sum(0), torch.full((shape[1],), float(shape[0]), dtype=torch.float64)
    )


@pytest.mark.parametrize("iters", [1, 2, 5])
def test_sr_sinkhorn_is_the_alternation_of_both_projections(iters: int) -> None:
    X = matrix(3, 6, 9)
    X[0, 2] = 0.0
    X[1, :, 4] = 0.0
    X[2, 1] *= 1e-11  # its norm is clamped in the first iterations
    expected = multi_normalize(X, (RowNorm(), ColumnNorm()), iters)
    torch.testing.assert_close(sr_sinkhorn(X, iters), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(sr_sinkhorn(X.float(), iters).double(), expected, rtol=1e-4, atol=1e-5)


def test_sr_sinkhorn_stays_finite_for_vanishing_rows_and_columns() -> None:
    for scale in (1e-12, 1e-20, 1e-30, 1e-38, 0.0):
        X = matrix(6, 9, dtype=torch.float32)
        X[3] *= scale
        X[:, 5] *= scale
        assert sr_sinkhorn(X, 50).isfinite().all()


def test_trace_holds_every_projection_in_order() -> None:
    X = matrix(4, 6)
    out, trace = multi_normalize(X, [RowNorm(), MaxNorm(), ColumnNorm()], 2, return_trace=True)
    current = X
    for g, iterate in zip([RowNorm(), MaxNorm(), ColumnNorm()] * 2, trace, strict=True):
        current = g.project(current)
        assert torch.equal(iterate, current)
    assert torch.equal(out, trace[-1])


@pytest.mark.parametrize("shape", SHAPES)
def test_fixed_point_has_equal_rows_and_columns(shape: tuple[int, int]) -> None:
    """Check 5."""
    m, n = shape
    X, cycles, residual = multi_normalize_fixed_point(
        matrix(m, n, seed=6), [RowNorm(), ColumnNorm()], tol=1e-10
    )
    assert isinstance(residual, float)
    assert residual <= 1e-10
    assert 1 < cycles < 1000
    np.testing.assert_allclose(X.norm(dim=1).numpy(), n**0.5, atol=1e-6)
    np.testing.assert_allclose(X.norm(dim=0).numpy(), m**0.5, atol=1e-6)


def test_fixed_point_ignores_positive_diagonals() -> None:
    """Check 6: D1 X D2 has the fixed point of X."""
    X = matrix(5, 7, seed=7)
    D1 = torch.rand(5, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(8)) * 9 + 0.1
    D2 = torch.rand(1, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) * 9 + 0.1
    pair = [RowNorm(), ColumnNorm()]
    one, _, _ = multi_normalize_fixed_point(X, pair, tol=1e-12)
    other, _, _ = multi_normalize_fixed_point(D1 * X * D2, pair, tol=1e-12)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_fixed_point_residual_is_that_of_the_last_cycle() -> None:
    X = matrix(2, 4, 6)
    out, cycles, residual = multi_normalize_fixed_point(X, [RowNorm(), SpectralNorm()], tol=0.0, max_iter=3)
    before = multi_normalize(X, [RowNorm(), SpectralNorm()], iters=2)
    after = multi_normalize(X, [RowNorm(), SpectralNorm()], iters=3)
    expected = max(float((after[i] - before[i]).norm() / after[i].norm()) for i in range(2))
    assert cycles == 3
    assert residual == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(out, after)


def test_pattern_without_total_support_returns_its_residual() -> None:
    X = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    out, cycles, residual = multi_normalize_fixed_point(X, [RowNorm(), ColumnNorm()], tol=1e-9, max_iter=50)
    assert cycles == 50
    assert residual > 1e-9
    assert bool(out.isfinite().all())


def test_zero_matrix_is_a_fixed_point() -> None:
    out, cycles, residual = multi_normalize_fixed_point(torch.zeros(2, 3), [RowNorm(), ColumnNorm()])
    assert (cycles, residual) == (1, 0.0)
    assert torch.equal(out, torch.zeros(2, 3))


def test_one_row_becomes_its_sign() -> None:
    X = torch.tensor([[0.3, -2.0, 5.0, 0.0]])
    torch.testing.assert_close(RowNorm().project(X), 2 * X / X.norm())
    torch.testing.assert_close(sr_sinkhorn(X, 1), X.sign())


def test_row_then_spectral_is_uncentred_swan() -> None:
    """Check 7, with SWAN's two operators written in NumPy."""
    for shape in SHAPES:
        X = matrix(*shape, seed=11)
        N = X.numpy() / np.sqrt((X.numpy() ** 2).mean(1, keepdims=True))
        U, _, Vh = np.linalg.svd(N, full_matrices=False)
        D = U @ Vh
        D *= np.linalg.norm(N) / np.linalg.norm(D)
        np.testing.assert_allclose(multi_normalize(X, [RowNorm(), SpectralNorm()]).numpy(), D, atol=1e-10)


def test_functions_compile_and_vmap() -> None:
    X = matrix(3, 4, 6, dtype=torch.float32)
    compiled = torch.compile(sr_sinkhorn, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X), sr_sinkhorn(X))
    torch.testing.assert_close(torch.vmap(sr_sinkhorn)(X), sr_sinkhorn(X))


# ------------------------------------------------------------------------------------------------- optimizers


def set_grads(parameters: list[nn.Parameter], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype)


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """Two matrices of equal shape, one wide, a convolution kernel, a vector and a scalar."""
    g = torch.Generator().manual_seed(100)
    shapes = [(4, 6), (4, 6), (3, 8), (5, 2, 3, 3), (7,), ()]
    return [nn.Parameter(torch.randn(s, generator=g, dtype=torch.float64).to(dtype)) for s in shapes]


def numpy_sr_sinkhorn(G: np.ndarray, iters: int) -> np.ndarray:
    return np.sign(G) * np.sqrt(sinkhorn(G**2, iters))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sinkgd_step_equals_numpy(weight_decay: float) -> None:
    """Check 10, batched over equal shapes, with decoupled decay and a flattened kernel."""
    ps = parameters()
    matrices = ps[:4]
    optimizer = SinkGD(ps, lr=0.3, iters=3, alpha=0.2, weight_decay=weight_decay)
    W = [p.detach().numpy().copy() for p in matrices]
    for seed in range(20):
        set_grads(ps, seed)
        for k, p in enumerate(matrices):
            G = p.grad.numpy().reshape(p.shape[0], -1)
            D = numpy_sr_sinkhorn(G, 3).reshape(p.shape)
            W[k] = W[k] * (1 - 0.3 * 0.2 * weight_decay) - 0.3 * 0.2 * D
        optimizer.step()
    for p, expected in zip(matrices, W, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "norms", [("row", "col"), ("row", "spectral"), ("max",), ("frobenius", "max", "col")]
)
def test_multinormgd_step_equals_numpy(norms: tuple[str, ...]) -> None:
    ps = parameters()[:4]
    optimizer = MultiNormGD(ps, lr=0.1, norms=[NORMS[kind] for kind in norms], iters=2, weight_decay=0.5)
    W = [p.detach().numpy().copy() for p in ps]
    for seed in range(20):
        set_grads(ps, seed)
        for k, p in enumerate(ps):
            D = p.grad.numpy().reshape(p.shape[0], -1)
            for kind in norms * 2:
                D = numpy_reference(kind, D)[2]
            W[k] = W[k] * (1 - 0.1 * 0.5) - 0.1 * D.reshape(p.shape)
        optimizer.step()
    for p, want in zip(ps, W, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), want, rtol=0, atol=1e-9)
    assert not optimizer.state


def test_matrices_keep_no_state() -> None:
    """Check 8."""
    ps = parameters()
    optimizer = SinkGD(ps)
    set_grads(ps, 0)
    optimizer.step()
    assert set(optimizer.state) == set(ps[4:])
    assert set(optimizer.state_dict()["state"]) == {4, 5}
    assert set(optimizer.state[ps[4]]) == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("make", [SinkGD, MultiNormGD])
def test_gradient_scale_does_not_matter(make: type[torch.optim.Optimizer]) -> None:
    """Check 9."""
    one, other = parameters()[:4], parameters()[:4]
    set_grads(one, 0)
    set_grads(other, 0)
    for p in other:
        p.grad *= 1000
    make(one).step()
    make(other).step()
    for p, q in zip(one, other, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_fallback_equals_adamw() -> None:
    """Check 11: without decay by default, with the group's own decay when it gives one."""
    for group_decay in (None, 0.3):
        ours, theirs = parameters()[4:], parameters()[4:]
        group = {"params": ours, "use_sinkgd": False}
        if group_decay is not None:
            group["weight_decay"] = group_decay
        optimizer = SinkGD([group], lr=0.05, weight_decay=0.7, betas=(0.8, 0.95), adam_eps=1e-6)
        reference = torch.optim.AdamW(
            theirs, lr=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=group_decay or 0.0
        )
        for seed in range(5):
            set_grads(ours, seed)
            set_grads(theirs, seed)
            optimizer.step()
            reference.step()
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-7)


def test_false_flag_sends_matrices_to_adamw() -> None:
    ours, theirs = parameters()[:2], parameters()[:2]
    optimizer = SinkGD([{"params": ours, "use_sinkgd": False, "use_swan": True}], lr=0.01)
    reference = torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.0)
    for seed in range(3):
        set_grads(ours, seed)
        set_grads(theirs, seed)
        optimizer.step()
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-7)


def test_split_groups_route_a_model() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(9, 4),
            "block": nn.Linear(4, 6),
            "norm": nn.LayerNorm(6),
            "head": nn.Linear(6, 9),
        }
    )
    optimizer = SinkGD(split_matrix_params(model), lr=0.02)
    hidden = model["norm"](model["block"](model["embed"](torch.tensor([1, 2]))))
    nn.functional.cross_entropy(model["head"](hidden), torch.tensor([3, 4])).backward()
    G, before = model["block"].weight.grad.clone(), model["block"].weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(model["block"].weight, before - 0.02 * 0.05 * sr_sinkhorn(G))
    assert model["block"].weight not in optimizer.state
    assert {model["embed"].weight, model["head"].weight, model["norm"].weight} <= set(optimizer.state)


@pytest.mark.parametrize("make", [SinkGD, lambda ps: MultiNormGD(ps[:4], norms=[RowNorm(), SpectralNorm()])])
def test_saved_state_resumes_bit_for_bit(make) -> None:
    """Check 12, through torch.load(weights_only=True)."""
    ps = parameters()
    optimizer = make(ps)
    for seed in range(3):
        set_grads(ps, seed)
        optimizer.step()
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    resumed = [nn.Parameter(p.detach().clone()) for p in ps]
    again = make(resumed)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    for seed in range(3, 6):
        for some, opt in ((ps, optimizer), (resumed, again)):
            set_grads(some, seed)
            opt.step()
    for p, q in zip(ps, resumed, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_keep_their_norms(clone) -> None:
    optimizer = clone(MultiNormGD(parameters()[:1], lr=0.1, norms=[SpectralNorm()]))
    (p,) = optimizer.param_groups[0]["params"]
    before = p.detach().clone()
    set_grads([p], 0)
    optimizer.step()
    torch.testing.assert_close(p.detach(), before - 0.1 * SpectralNorm().project(p.grad))
    assert "norms" not in optimizer.state_dict()["param_groups"][0]


@pytest.mark.parametrize("make", [SinkGD, MultiNormGD])
def test_closure_runs_with_gradients_and_missing_gradients_are_skipped(make) -> None:
    used, unused = parameters()[0], parameters()[1]
    optimizer = make([used, unused], lr=0.1)
    frozen = unused.detach().clone()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = used.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        first, second = optimizer.step(closure), optimizer.step(closure)
    assert second < first
    assert torch.equal(unused.detach(), frozen)
    assert optimizer.step() is None


@pytest.mark.parametrize(("make", "factor"), [(SinkGD, 0.1 * 0.05), (MultiNormGD, 0.1)])
def test_zero_gradient_only_decays(make, factor: float) -> None:
    p = parameters()[0]
    before = p.detach().clone()
    p.grad = torch.zeros_like(p)
    make([p], lr=0.1, weight_decay=0.2).step()
    torch.testing.assert_close(p.detach(), before * (1 - factor * 0.2), rtol=1e-14, atol=0)


@pytest.mark.parametrize("make", [SinkGD, MultiNormGD])
def test_nan_gradient_reaches_the_weights(make) -> None:
    p = parameters()[0]
    set_grads([p], 0)
    p.grad[0, 0] = torch.nan
    make([p]).step()
    assert bool(p[0].isnan().all())


def test_half_precision_weights_step_in_float32() -> None:
    p = parameters(torch.bfloat16)[0]
    before = p.detach().clone()
    set_grads([p], 0)
    SinkGD([p], lr=1.0, alpha=1.0).step()
    torch.testing.assert_close(p.detach(), before - sr_sinkhorn(p.grad.float()).bfloat16())
    assert p.dtype == torch.bfloat16


@pytest.mark.parametrize("make", [SinkGD, MultiNormGD])
def test_scheduler_moves_the_rate_of_each_group(make) -> None:
    one, other = parameters()[:2]
    optimizer = make([{"params": [one]}, {"params": [other], "lr": 0.4}], lr=0.2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    step_sizes = []
    for _ in range(2):
        before = [one.detach().clone(), other.detach().clone()]
        set_grads([one, other], 0)
        optimizer.step()
        schedule.step()
        step_sizes.append([float((p.detach() - q).norm()) for p, q in zip([one, other], before, strict=True)])
    assert step_sizes[0][1] == pytest.approx(2 * step_sizes[0][0])
    assert step_sizes[1] == pytest.approx([0.5 * s for s in step_sizes[0]])


# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: multi_normalize(torch.ones(2, 2), []), "norms"),
        (lambda: multi_normalize(torch.ones(2, 2), RowNorm()), "norms"),
        (lambda: multi_normalize(torch.ones(2, 2), ["row"]), "norms"),
        (lambda: multi_normalize(torch.ones(2), [RowNorm()]), "X"),
        (lambda: multi_normalize(torch.ones(2, 2, dtype=torch.long), [RowNorm()]), "X"),
        (lambda: multi_normalize(torch.ones(2, 2), [RowNorm()], iters=0), "iters"),
        (lambda: multi_normalize(torch.ones(2, 2), [RowNorm()], iters=1.5), "iters"),
        (lambda: multi_normalize(torch.ones(2, 2), [RowNorm()], eps=0.0), "eps"),
        (lambda: sr_sinkhorn(torch.ones(2, 2), 0), "iters"),
        (lambda: sr_sinkhorn(torch.ones(3)), "X"),
        (lambda: multi_normalize_fixed_point(torch.ones(3), [RowNorm()]), "X"),
        (lambda: multi_normalize_fixed_point(torch.ones(2, 2), []), "norms"),
        (lambda: multi_normalize_fixed_point(torch.ones(2, 2), [RowNorm()], tol=-1.0), "tol"),
        (lambda: multi_normalize_fixed_point(torch.ones(2, 2), [RowNorm()], max_iter=0), "max_iter"),
        (lambda: RowNorm().value(torch.ones(3)), "X"),
        (lambda: MaxNorm().project(torch.ones(2, 2), eps=-1.0), "eps"),
        (lambda: SpectralNorm("qr"), "method"),
        (lambda: SpectralNorm(steps=0), "steps"),
        (lambda: SinkGD(parameters(), lr=-0.1), "lr"),
        (lambda: SinkGD(parameters(), iters=0), "iters"),
        (lambda: SinkGD(parameters(), iters=2.0), "iters"),
        (lambda: SinkGD(parameters(), alpha=0.0), "alpha"),
        (lambda: SinkGD(parameters(), weight_decay=-1.0), "weight_decay"),
        (lambda: SinkGD(parameters(), eps=0.0), "eps"),
        (lambda: SinkGD(parameters(), betas=(1.0, 0.9)), "betas"),
        (lambda: SinkGD([{"params": parameters(), "use_sinkgd": True}]), "use_sinkgd"),
        (lambda: SinkGD([{"params": parameters(), "alpha": -1.0}]), "alpha"),
        (lambda: MultiNormGD(parameters()), "params"),
        (lambda: MultiNormGD(parameters()[:1], norms=[]), "norms"),
        (lambda: MultiNormGD(parameters()[:1], lr=-1.0), "lr"),
        (lambda: MultiNormGD(parameters()[:1], iters=0), "iters"),
        (lambda: MultiNormGD(parameters()[:1], eps=0.0), "eps"),
        (lambda: MultiNormGD(parameters()[:1], weight_decay=-1.0), "weight_decay"),
    ],
)
def test_bad_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("make", [SinkGD, MultiNormGD])
def test_sparse_and_complex_gradients_change_nothing(make) -> None:
    good, bad = parameters()[0], parameters()[1]
    optimizer = make([good, bad])
    before = good.detach().clone()
    set_grads([good], 0)
    bad.grad = torch.ones(4, 6, dtype=torch.float64).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert torch.equal(good.detach(), before)
    z = nn.Parameter(torch.ones(2, 3, dtype=torch.complex64))
    z.grad = torch.ones_like(z)
    with pytest.raises(RuntimeError, match="complex"):
        make([z]).step()


def test_public_names() -> None:
    for name in {*multinorm.__all__, *matrix_norms.__all__}:
        assert name in optim.__all__
        assert getattr(optim, name) is getattr(multinorm, name)
