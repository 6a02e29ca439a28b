"""SWAN: GradNorm, GradWhitening and the optimizer against NumPy and against the scalar map of singular values."""

from __future__ import annotations

import copy
import inspect
import io
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normviz import optim
from normviz.optim import swan
from normviz.optim.multinorm import RowNorm, SpectralNorm, multi_normalize
from normviz.optim.param_groups import split_matrix_params
from normviz.optim.swan import (
    SWAN,
    SWANFast,
    exact_whitening,
    grad_norm,
    grad_whitening,
    swan_update,
)

SHAPES = [(5, 8), (8, 5), (6, 6)]


def matrix(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A dense full-rank matrix with rows of different sizes."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.rand(*shape[:-1], 1, generator=g, dtype=torch.float64) * 3 + 0.2
    return (torch.randn(*shape, generator=g, dtype=torch.float64) * rows).to(dtype)


def with_singular_values(m: int, n: int, s: list[float], seed: int = 0) -> torch.Tensor:
    k = min(m, n)
    g = torch.Generator().manual_seed(seed)
    U = torch.linalg.qr(torch.randn(m, k, generator=g, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(n, k, generator=g, dtype=torch.float64)).Q
    return U @ torch.diag(torch.tensor(s, dtype=torch.float64)) @ V.T


def numpy_grad_norm(G: np.ndarray, center: bool = True) -> np.ndarray:
    N = np.zeros_like(G)
    for i, row in enumerate(G):
        mean = sum(row) / len(row) if center else 0.0
        s = (sum((x - mean) ** 2 for x in row) / len(row)) ** 0.5
        N[i] = (row - mean) / s
    return N


def numpy_whitening(N: np.ndarray, steps: int, beta: float, diagonal: bool, gram_norm: str) -> np.ndarray:
    """The recursions with explicit diagonal matrices."""
    if N.shape[0] > N.shape[1]:
        return numpy_whitening(N.T, steps, beta, diagonal, gram_norm).T
    A = N @ N.T
    c = {"frobenius": np.linalg.norm(A), "trace": np.trace(A), "correlation": np.trace(A) / len(A)}[gram_norm]
    eye = np.eye(len(A))
    Y, Z = A / c, eye
    for _ in range(steps):
        if diagonal:
            dY, dZ = np.diag(np.diag(Y)), np.diag(np.diag(Z))
            Y, Z = beta * Y @ (3 * eye - dZ @ dY), beta * (3 * eye - dZ @ Y) @ dZ
        else:
            T = 3 * eye - Z @ Y
            Y, Z = beta * Y @ T, beta * T @ Z
    return Z @ N / c**0.5


def numpy_swan(G: np.ndarray, diagonal: bool = False) -> np.ndarray:
    N = numpy_grad_norm(G)
    D = (
        numpy_whitening(N, 2, 0.4, True, "correlation")
        if diagonal
        else numpy_whitening(N, 10, 0.8, False, "frobenius")
    )
    return D * np.linalg.norm(N) / np.linalg.norm(D)


def scalar_map(x: np.ndarray, steps: int, beta: float) -> np.ndarray:
    for _ in range(steps):
        x = beta * x * (3 - x**2)
    return x


# ------------------------------------------------------------------------------------------------- GradNorm


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_grad_norm_equals_numpy(shape: tuple[int, int], center: bool) -> None:
    G = matrix(*shape) + 2.0
    np.testing.assert_allclose(
        grad_norm(G, center).numpy(), numpy_grad_norm(G.numpy(), center), rtol=0, atol=1e-12
    )


def test_grad_norm_rows_have_mean_zero_and_deviation_one() -> None:
    """Check 1."""
    N = grad_norm(matrix(7, 12) - 3.0)
    assert float(N.mean(1).abs().max()) < 1e-12
    torch.testing.assert_close(N.std(1, correction=0), torch.ones(7, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(N.norm()) == pytest.approx(84**0.5, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_constant_rows_become_exactly_zero(dtype: torch.dtype) -> None:
    # 0.1 and 1e4/3 have rounded means, so the naive formula turns the rounding into +-1.
    G = torch.tensor([[0.1], [1e4 / 3], [-7.3], [0.0]], dtype=dtype).expand(4, 7)
    assert torch.equal(grad_norm(G), torch.zeros(4, 7, dtype=dtype))
    assert torch.equal(swan_update(G), torch.zeros(4, 7, dtype=dtype))


def test_uncentred_grad_norm_is_the_row_projection() -> None:
    G = matrix(5, 8)
    torch.testing.assert_close(grad_norm(G, center=False), RowNorm().project(G), rtol=0, atol=1e-12)


def test_small_deviations_are_clamped() -> None:
    G = torch.tensor([[1e-9, -1e-9]], dtype=torch.float64)
    torch.testing.assert_close(grad_norm(G), G / 1e-8, rtol=1e-14, atol=0)
    torch.testing.assert_close(grad_norm(G, eps=1e-12), G.sign(), rtol=1e-12, atol=0)


# --------------------------------------------------------------------------------------------- GradWhitening


@pytest.mark.parametrize("gram_norm", ["frobenius", "trace", "correlation"])
@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_whitening_equals_numpy(shape: tuple[int, int], diagonal: bool, gram_norm: str) -> None:
    N = grad_norm(matrix(*shape, seed=3))
    for steps, beta in ((1, 0.5), (2, 0.4), (3, 0.8)):
        expected = numpy_whitening(N.numpy(), steps, beta, diagonal, gram_norm)
        ours = grad_whitening(N, steps, beta, diagonal, gram_norm)
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_convergent_newton_schulz_is_the_polar_factor(shape: tuple[int, int]) -> None:
    """Check 3."""
    N = grad_norm(matrix(*shape, seed=1), center=False)
    D = grad_whitening(N, steps=40, beta=0.5)
    short = D if shape[0] <= shape[1] else D.T
    torch.testing.assert_close(short @ short.T, torch.eye(min(shape), dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(D, exact_whitening(N), rtol=0, atol=1e-8)


@pytest.mark.parametrize("beta", [0.4, 0.5, 0.8])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_singular_values_follow_the_scalar_map(m: int, n: int, beta: float) -> None:
    """Check 4: with the vectors unchanged, so the whole matrix is known."""
    s = np.array([5.0, 2.0, 1.0, 0.3, 0.02, 0.001][: min(m, n)])
    N = with_singular_values(m, n, list(s), seed=4)
    c = np.sqrt((s**4).sum())
    for steps in (1, 4, 10):
        moved = scalar_map(s / np.sqrt(c), steps, beta)
        expected = with_singular_values(m, n, list(moved), seed=4)
        torch.testing.assert_close(grad_whitening(N, steps, beta), expected, rtol=0, atol=1e-9)


def test_long_runs_settle_or_wander_as_beta_says() -> None:
    """Check 5."""
    N = with_singular_values(6, 9, [4.0, 3.0, 2.5, 2.0, 1.5, 1.0])
    settled = torch.linalg.svdvals(grad_whitening(N, steps=200, beta=0.4))
    torch.testing.assert_close(settled, torch.full_like(settled, 0.5**0.5), rtol=0, atol=1e-9)
    wandering = [torch.linalg.svdvals(grad_whitening(N, steps=k, beta=0.8)) for k in range(10, 30)]
    for values in wandering:
        assert float(values.min()) >= 0.563
        assert float(values.max()) <= 1.6 + 1e-9
    movement = [float((a - b).abs().max()) for a, b in itertools.pairwise(wandering)]
    assert min(movement[-10:]) > 0.1


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("gram_norm", ["frobenius", "trace", "correlation"])
def test_transposed_whitening(diagonal: bool, gram_norm: str) -> None:
    """Check 6."""
    for shape in SHAPES[:2]:  # at a square matrix the two sides are different recursions
        G = matrix(*shape, seed=5)
        one = grad_whitening(G.T, 3, 0.5, diagonal, gram_norm)
        torch.testing.assert_close(one, grad_whitening(G, 3, 0.5, diagonal, gram_norm).T, rtol=0, atol=1e-12)
    G = matrix(6, 6, seed=5)
    torch.testing.assert_close(grad_whitening(G.T, 10, 0.8), grad_whitening(G, 10, 0.8).T, rtol=0, atol=1e-8)


def test_exact_whitening_drops_null_directions() -> None:
    for m, n in SHAPES:
        G = with_singular_values(m, n, [3.0, 0.5, 1e-15, 0.0, 0.0, 0.0][: min(m, n)], seed=2)
        expected = with_singular_values(m, n, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0][: min(m, n)], seed=2)
        torch.testing.assert_close(exact_whitening(G), expected, rtol=0, atol=1e-9)
        assert torch.equal(exact_whitening(torch.zeros(m, n)), torch.zeros(m, n))
    kept = exact_whitening(with_singular_values(5, 8, [1.0, 0.5, 0.1, 0.1, 0.1]), rtol=0.2)
    assert int(torch.linalg.matrix_rank(kept)) == 2


def test_rank_deficient_whitening_is_finite_and_bounded() -> None:
    u, v = torch.arange(1.0, 5.0, dtype=torch.float64), torch.arange(1.0, 7.0, dtype=torch.float64)
    G = torch.outer(u, v)
    for diagonal in (False, True):
        D = swan_update(G, diagonal=diagonal)
        assert bool(D.isfinite().all())
        assert float(D.norm()) == pytest.approx(24**0.5, rel=1e-9)
    s = torch.linalg.svdvals(grad_whitening(G))
    assert float(s[1]) < 1e-16 * 2.4**10 * 100  # rounding noise, grown by (3 beta)^10 at most


# ------------------------------------------------------------------------------------------------ swan_update


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_swan_update_equals_numpy(shape: tuple[int, int], diagonal: bool) -> None:
    G = matrix(*shape, seed=6)
    np.testing.assert_allclose(
        swan_update(G, diagonal=diagonal).numpy(), numpy_swan(G.numpy(), diagonal), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("settings_", [{}, {"diagonal": True}, {"center": False}, {"beta": 0.4, "steps": 3}])
@pytest.mark.parametrize("shape", SHAPES)
def test_update_has_unit_rms(shape: tuple[int, int], settings_: dict[str, object]) -> None:
    """Check 2."""
    D = swan_update(matrix(*shape, seed=7), **settings_)
    assert float(D.norm()) == pytest.approx((shape[0] * shape[1]) ** 0.5, abs=1e-9)


def test_without_rescale_the_whitened_matrix_is_returned() -> None:
    G = matrix(5, 8)
    torch.testing.assert_close(
        swan_update(G, rescale=False), grad_whitening(grad_norm(G)), rtol=0, atol=1e-14
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), center=st.booleans(), diagonal=st.booleans())
def test_row_scaling_and_offset_do_not_matter(seed: int, center: bool, diagonal: bool) -> None:
    """Check 7."""
    G = matrix(4, 9, seed=seed)
    scale = torch.rand(4, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10 + 0.1
    offset = torch.arange(4.0, dtype=torch.float64).unsqueeze(1) if center else 0.0
    # Few steps: beta = 0.8 amplifies rounding by up to 2.4 a step.
    options = {"center": center, "diagonal": diagonal, "steps": 4}
    torch.testing.assert_close(
        swan_update(scale * G + offset, **options), swan_update(G, **options), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_uncentred_exact_swan_is_multinorm_row_spectral(shape: tuple[int, int]) -> None:
    """Check 8."""
    G = matrix(*shape, seed=8)
    N = grad_norm(G, center=False)
    D = exact_whitening(N)
    D = D * N.norm() / D.norm()
    torch.testing.assert_close(D, multi_normalize(G, [RowNorm(), SpectralNorm()], 1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("diagonal", [False, True])
def test_zero_gradient_gives_exactly_zero(diagonal: bool) -> None:
    """Check 11."""
    assert torch.equal(swan_update(torch.zeros(4, 6), diagonal=diagonal), torch.zeros(4, 6))
    assert torch.equal(grad_whitening(torch.zeros(4, 6), diagonal=diagonal), torch.zeros(4, 6))


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32)])
@pytest.mark.parametrize("seed", range(3))
def test_diagonal_variant_decorrelates_between_grad_norm_and_exact(shape: tuple[int, int], seed: int) -> None:
    """Check 12, on the side that is whitened."""

    def correlation(D: torch.Tensor) -> float:
        short = D if D.shape[0] <= D.shape[1] else D.T
        A = short @ short.T
        return float((A / A.diagonal().mean() - torch.eye(len(A), dtype=A.dtype)).norm())

    N = grad_norm(matrix(*shape, seed=seed), center=False)
    exact, fast = correlation(exact_whitening(N)), correlation(grad_whitening(N, 2, 0.4, True, "correlation"))
    assert exact < fast < correlation(N)


@pytest.mark.parametrize("function", [grad_norm, grad_whitening, exact_whitening, swan_update])
def test_leading_axes_vmap_compile_and_half_types(function) -> None:
    G = matrix(2, 3, 4, 6)
    batched = function(G)
    torch.testing.assert_close(batched[1, 2], function(G[1, 2]), rtol=0, atol=1e-8)
    torch.testing.assert_close(torch.vmap(torch.vmap(function))(G), batched, rtol=0, atol=1e-8)
    torch.testing.assert_close(
        torch.compile(function, fullgraph=True, backend="aot_eager")(G), batched, rtol=0, atol=1e-8
    )
    half = G.to(torch.bfloat16)
    torch.testing.assert_close(function(half), function(half.float()).bfloat16(), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = function(G.float())
    torch.testing.assert_close(inside, function(G.float()), rtol=0, atol=0)


def test_diagonal_scheme_turns_dominant_directions_around() -> None:
    """Two steps at beta 0.4 on rows of equal length: Z = 0.96 I - 0.2048 Y, by hand."""
    N = grad_norm(matrix(6, 20, seed=4))
    U, s, Vh = np.linalg.svd(N.numpy(), full_matrices=False)
    s = s / np.sqrt(np.mean(s**2))
    by_hand = U @ np.diag(0.96 * s - 0.2048 * s**3) @ Vh
    found = grad_whitening(N, 2, 0.4, diagonal=True, gram_norm="correlation")
    np.testing.assert_allclose(found.numpy(), by_hand, atol=1e-12)
    lopsided = matrix(6, 1, seed=5) @ matrix(1, 20, seed=6) + 0.1 * matrix(6, 20)
    N = grad_norm(lopsided)
    assert float((swan_update(lopsided, diagonal=True) * N).sum()) < 0
    assert float((swan_update(lopsided) * N).sum()) > 0


# -------------------------------------------------------------------------------------------------- optimizers


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """Two matrices of equal shape, one tall, a convolution kernel, a vector and a scalar."""
    g = torch.Generator().manual_seed(100)
    shapes = [(4, 6), (4, 6), (8, 3), (5, 2, 3, 3), (7,), ()]
    return [nn.Parameter(torch.randn(s, generator=g, dtype=torch.float64).to(dtype)) for s in shapes]


def set_grads(ps: list[nn.Parameter], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for p in ps:
        p.grad = torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("make", "diagonal"), [(SWAN, False), (SWANFast, True)])
def test_step_equals_numpy(make: type[SWAN], diagonal: bool, weight_decay: float) -> None:
    ps = parameters()
    optimizer = make(ps, lr=0.3, alpha=0.2, weight_decay=weight_decay)
    W = [p.detach().numpy().copy() for p in ps[:4]]
    for seed in range(20):
        set_grads(ps, seed)
        for k, p in enumerate(ps[:4]):
            D = numpy_swan(p.grad.numpy().reshape(p.shape[0], -1), diagonal).reshape(p.shape)
            W[k] = W[k] * (1 - 0.3 * 0.2 * weight_decay) - 0.3 * 0.2 * D
        optimizer.step()
    for p, expected in zip(ps[:4], W, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=0, atol=1e-7)


def test_group_options_reach_the_update() -> None:
    p = parameters()[0]
    options = {"steps": 3, "beta": 0.5, "center": False, "rescale": False, "gram_norm": "trace", "eps": 1e-6}
    before = p.detach().clone()
    set_grads([p], 0)
    SWAN([{"params": [p], **options}], lr=1.0, alpha=1.0).step()
    N = numpy_grad_norm(p.grad.numpy(), center=False)
    np.testing.assert_allclose(
        (before - p.detach()).numpy(), numpy_whitening(N, 3, 0.5, False, "trace"), atol=1e-12
    )


def test_norm_axis_short_turns_tall_matrices_only() -> None:
    for shape in [(8, 3), (3, 8), (5, 5)]:
        G = matrix(*shape, seed=2)
        steps = {}
        for axis in ("rows", "short"):
            p = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
            p.grad = G.clone()
            SWAN([p], lr=1.0, alpha=1.0, norm_axis=axis, steps=4).step()
            steps[axis] = -p.detach()
        expected = swan_update(G.T, steps=4).T if shape == (8, 3) else swan_update(G, steps=4)
        torch.testing.assert_close(steps["short"], expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(steps["rows"], swan_update(G, steps=4), rtol=0, atol=1e-10)


def test_matrices_keep_no_state() -> None:
    """Check 9."""
    ps = parameters()
    optimizer = SWAN(ps)
    set_grads(ps, 0)
    optimizer.step()
    assert set(optimizer.state) == set(ps[4:])
    assert set(optimizer.state_dict()["state"]) == {4, 5}


def test_fallback_equals_adamw() -> None:
    """Check 10: without decay by default, with the group's own decay when it gives one."""
    for group_decay in (None, 0.3):
        ours, theirs = parameters()[3:], parameters()[3:]
        group = {"params": ours, "use_swan": False}
        if group_decay is not None:
            group["weight_decay"] = group_decay
        optimizer = SWAN([group], lr=0.05, weight_decay=0.7, betas=(0.8, 0.95), adam_eps=1e-6)
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


@pytest.mark.parametrize(
    ("shape", "options", "falls_back"),
    [
        ((6, 1), {}, True),
        ((6, 1, 1, 1), {}, True),
        ((6, 1), {"center": False}, False),
        ((6, 1), {"norm_axis": "short"}, False),
        ((1, 1), {"norm_axis": "short"}, True),
        ((1, 6), {}, False),
    ],
)
def test_single_column_falls_back_to_adamw_under_centring(
    shape: tuple[int, ...], options: dict[str, object], falls_back: bool
) -> None:
    ours = nn.Parameter(torch.ones(shape, dtype=torch.float64))
    theirs = nn.Parameter(torch.ones(shape, dtype=torch.float64))
    optimizer = SWAN([{"params": [ours], "use_swan": True}], lr=0.1, weight_decay=0.5, **options)
    set_grads([ours], 0)
    set_grads([theirs], 0)
    optimizer.step()
    torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.0).step()
    assert (ours in optimizer.state) == falls_back
    if falls_back:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_split_groups_route_a_model() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"embed": nn.Embedding(9, 4), "block": nn.Linear(4, 6), "head": nn.Linear(6, 9)})
    optimizer = SWANFast(split_matrix_params(model), lr=0.02)
    nn.functional.cross_entropy(
        model["head"](model["block"](model["embed"](torch.tensor([1, 2])))), torch.tensor([3, 4])
    ).backward()
    G, before = model["block"].weight.grad.clone(), model["block"].weight.detach().clone()
    optimizer.step()
    expected = before - 0.02 * 0.05 * swan_update(G, diagonal=True)
    torch.testing.assert_close(model["block"].weight.detach(), expected)
    assert set(optimizer.state) == set(model.parameters()) - {model["block"].weight}


@pytest.mark.parametrize("make", [SWAN, SWANFast])
def test_saved_state_resumes_bit_for_bit(make: type[SWAN]) -> None:
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
    assert copy.deepcopy(optimizer).state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_closure_runs_with_gradients_and_missing_gradients_are_skipped() -> None:
    used, unused = parameters()[0], parameters()[1]
    optimizer = SWAN([used, unused], lr=1.0)
    frozen = unused.detach().clone()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = used.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        losses = [optimizer.step(closure) for _ in range(3)]
    assert losses[2] < losses[0]
    assert torch.equal(unused.detach(), frozen)


def test_nan_gradient_reaches_the_weights_and_zero_gradient_does_not() -> None:
    ps = parameters()[:2]
    ps[0].grad = torch.full_like(ps[0], torch.nan)
    ps[1].grad = torch.zeros_like(ps[1])
    before = ps[1].detach().clone()
    SWAN(ps).step()
    assert bool(ps[0].isnan().all())
    assert torch.equal(ps[1].detach(), before)


def test_half_precision_weights_step_in_float32() -> None:
    p = parameters(torch.bfloat16)[0]
    before = p.detach().clone()
    set_grads([p], 0)
    SWAN([p], lr=1.0, alpha=1.0).step()
    torch.testing.assert_close(p.detach(), before - swan_update(p.grad.float()).bfloat16())
    assert p.dtype == torch.bfloat16


def test_fast_has_swans_arguments_without_diagonal() -> None:
    full = dict(inspect.signature(SWAN.__init__).parameters)
    assert full.pop("diagonal").default is False
    assert full == dict(inspect.signature(SWANFast.__init__).parameters)


# ------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grad_norm(torch.ones(3)), "G"),
        (lambda: grad_norm(torch.ones(2, 2, dtype=torch.int64)), "G"),
        (lambda: grad_norm(torch.ones(2, 2), eps=0.0), "eps"),
        (lambda: grad_whitening(torch.ones(3)), "G"),
        (lambda: grad_whitening(torch.ones(2, 2), steps=0), "steps"),
        (lambda: grad_whitening(torch.ones(2, 2), beta=1.0), "beta"),
        (lambda: grad_whitening(torch.ones(2, 2), beta=0.0), "beta"),
        (lambda: grad_whitening(torch.ones(2, 2), gram_norm="nuclear"), "gram_norm"),
        (lambda: grad_whitening(torch.ones(2, 2), eps=-1.0), "eps"),
        (lambda: exact_whitening(torch.ones(3)), "G"),
        (lambda: exact_whitening(torch.ones(2, 2), rtol=-1.0), "rtol"),
        (lambda: swan_update(torch.ones(3)), "G"),
        (lambda: swan_update(torch.ones(2, 2), steps=0), "steps"),
        (lambda: swan_update(torch.ones(2, 2), beta=2.0), "beta"),
        (lambda: swan_update(torch.ones(2, 2), gram_norm="none"), "gram_norm"),
        (lambda: SWAN(parameters(), lr=-0.1), "lr"),
        (lambda: SWAN(parameters(), alpha=0.0), "alpha"),
        (lambda: SWAN(parameters(), weight_decay=-1.0), "weight_decay"),
        (lambda: SWAN(parameters(), betas=(0.9, 1.0)), "betas"),
        (lambda: SWAN(parameters(), steps=0), "steps"),
        (lambda: SWAN(parameters(), beta=1.0), "beta"),
        (lambda: SWAN(parameters(), eps=0.0), "eps"),
        (lambda: SWAN(parameters(), gram_norm="nuclear"), "gram_norm"),
        (lambda: SWAN(parameters(), norm_axis="cols"), "norm_axis"),
        (lambda: SWANFast(parameters(), beta=-0.1), "beta"),
        (lambda: SWAN([{"params": parameters(), "use_swan": True}]), "use_swan"),
    ],
)
def test_bad_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_sparse_and_complex_gradients_are_refused() -> None:
    p = parameters()[0]
    p.grad = torch.ones(4, 6, dtype=torch.float64).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        SWAN([p]).step()
    z = nn.Parameter(torch.ones(2, 3, dtype=torch.complex64))
    z.grad = torch.ones_like(z)
    with pytest.raises(RuntimeError, match="complex"):
        SWAN([z]).step()


def test_public_names() -> None:
    for name in swan.__all__:
        assert name in optim.__all__
        assert getattr(optim, name) is getattr(swan, name)
