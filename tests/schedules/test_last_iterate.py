"""Last-iterate conversion, guarantees and bounds: the inequalities themselves, loops written out here, errors."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from normviz.schedules import (
    ScheduledIterates,
    last_iterate_bound,
    last_iterate_conversion,
    optimize_schedule_bound,
    theory_learning_rates,
)

Array = np.ndarray[Any, np.dtype[np.float64]]


def converted_by_hand(z: Array, w: Array) -> Array:
    x = [z[0]]
    for t in range(len(z) - 1):
        x.append(x[-1] + math.fsum(w[t + 1 :]) / math.fsum(w) * (z[t + 1] - z[t]))
    return np.array(x)


class PiecewiseLinear:
    """f(x) = max_i (a_i . x + b_i), convex, with a subgradient; its minimum value is known by construction.

    Slopes sum to zero and all planes meet at ``minimiser``, so f >= f(minimiser) = 0.
    """

    def __init__(self, seed: int, d: int = 4, planes: int = 9) -> None:
        rng = np.random.default_rng(seed)
        self.slopes = rng.normal(size=(planes, d))
        self.slopes -= self.slopes.mean(0)
        self.minimiser = rng.normal(size=d)
        self.bound = float(np.linalg.norm(self.slopes, axis=1).max())

    def __call__(self, x: Array) -> float:
        return float((self.slopes @ (x - self.minimiser)).max())

    def gradient(self, x: Array) -> Array:
        row: Array = self.slopes[int((self.slopes @ (x - self.minimiser)).argmax())]
        return row

    def descend(self, lrs: Array) -> tuple[list[Array], list[float]]:
        """Points before each step and the norms of the subgradients there, from the origin."""
        x = np.zeros(self.slopes.shape[1])
        points, norms = [], []
        for lr in lrs:
            points.append(x.copy())
            g = self.gradient(x)
            norms.append(float(np.linalg.norm(g)))
            x = x - lr * g
        return points, norms


# -------------------------------------------------------------------------------------------- conversion


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), T=st.integers(1, 30))
def test_check_4_conversion_inequality(seed: int, T: int) -> None:
    """f(x_T) - f(u) <= sum_t w_t <g_t, z_t - u> / sum w for arbitrary z, w >= 0 and u."""
    rng = np.random.default_rng(seed)
    f = PiecewiseLinear(seed)
    z, w = rng.normal(size=(T, 4)), rng.random(T) + (np.arange(T) == 0)
    x = last_iterate_conversion(torch.from_numpy(z), w).numpy()
    np.testing.assert_allclose(x, converted_by_hand(z, w), rtol=1e-11, atol=1e-12)
    for u in (f.minimiser, rng.normal(size=4), z[0]):
        right = sum(w[t] * f.gradient(x[t]) @ (z[t] - u) for t in range(T)) / w.sum()
        assert right - (f(x[-1]) - f(u)) >= -1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_conversion_keeps_dtype_and_takes_any_shape(dtype: torch.dtype) -> None:
    z = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = z.clone()
    w = [1.0, 2.0, 0.5, 1.0, 3.0, 0.25]
    x = last_iterate_conversion(z, w)
    assert (x.dtype, x.shape) == (dtype, z.shape)
    assert torch.equal(z, before)
    exact = converted_by_hand(z.double().numpy(), np.array(w))
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype]
    np.testing.assert_allclose(x.double().numpy(), exact, rtol=tolerance, atol=tolerance)


def test_conversion_is_differentiable_and_maps_over_batches() -> None:
    z = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    assert torch.autograd.gradcheck(lambda z: last_iterate_conversion(z, w), z.clone().requires_grad_())
    batch = torch.stack([z, 2 * z, z - 1])
    mapped = torch.vmap(lambda z: last_iterate_conversion(z, w))(batch)
    for got, one in zip(mapped, batch, strict=True):
        torch.testing.assert_close(got, last_iterate_conversion(one, w))


# ------------------------------------------------------------------------------------ ScheduledIterates


def quadratic() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    A = torch.randn(5, 5, dtype=torch.float64, generator=generator)
    return A @ A.T + torch.eye(5, dtype=torch.float64), torch.randn(
        5, dtype=torch.float64, generator=generator
    )


A, B = quadratic()


def loss_of(p: Tensor) -> Tensor:
    return 0.5 * p @ A @ p - B @ p


def test_check_5_sgd_with_weights_is_sgd_with_eta_t() -> None:
    T, eta = 30, 0.02
    w = np.random.default_rng(1).random(T) + 0.1
    p = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    inner = torch.optim.SGD([p], lr=eta)
    scheduled = ScheduledIterates(inner, w)
    x = np.zeros(5)
    for t in range(T):
        scheduled.zero_grad()
        loss_of(p).backward()
        inner.param_groups[0]["lr"] = eta * w[t]
        scheduled.step()
        x = x - eta * w[t] * w[t + 1 :].sum() / w.sum() * (A.numpy() @ x - B.numpy())
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=0, atol=1e-12)


def test_adam_inside_equals_adam_written_out() -> None:
    T, lr = 25, 0.1
    w = np.random.default_rng(2).random(T)
    p = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    scheduled = ScheduledIterates(torch.optim.Adam([p], lr=lr), torch.from_numpy(w))
    x, z, m, v = np.zeros(5), np.zeros(5), np.zeros(5), np.zeros(5)
    for t in range(1, T + 1):
        scheduled.zero_grad()
        loss_of(p).backward()
        scheduled.step()
        g = A.numpy() @ x - B.numpy()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        z, x = z - step, x - w[t:].sum() / w.sum() * step
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=0, atol=1e-10)


def test_x_rests_from_step_t_on_while_z_goes_on() -> None:
    p = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    scheduled = ScheduledIterates(torch.optim.SGD([p], lr=0.05), [1.0, 2.0, 1.0])
    history = []
    for _ in range(6):
        scheduled.zero_grad()
        loss_of(p).backward()
        scheduled.step()
        history.append((p.detach().clone(), scheduled.state_dict()["z"][0]))
    assert not torch.equal(history[0][0], history[1][0])
    assert all(torch.equal(x, history[1][0]) for x, _ in history[2:])
    assert not torch.equal(history[4][1], history[5][1])
    assert scheduled.t == 6


def test_the_closure_is_evaluated_once_at_x_and_its_loss_returned() -> None:
    p = nn.Parameter(torch.ones(5, dtype=torch.float64))
    scheduled = ScheduledIterates(torch.optim.SGD([p], lr=0.05), [1.0] * 4)
    seen: list[Tensor] = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        scheduled.zero_grad()
        seen.append(p.detach().clone())
        loss = loss_of(p)
        loss.backward()
        return loss

    for step in range(3):
        before = p.detach().clone()
        loss = scheduled.step(closure)
        assert len(seen) == step + 1
        assert torch.equal(seen[-1], before)
        assert float(loss.detach()) == pytest.approx(float(loss_of(before)))


def test_an_optimizer_that_needs_a_closure_can_be_inside() -> None:
    p = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    scheduled = ScheduledIterates(torch.optim.LBFGS([p], lr=0.5, max_iter=1), [1.0] * 40)

    def closure() -> Tensor:
        scheduled.zero_grad()
        loss = loss_of(p)
        loss.backward()
        return loss

    first = float(scheduled.step(closure).detach())
    for _ in range(30):
        last = float(scheduled.step(closure).detach())
    best = float(loss_of(torch.linalg.solve(A, B)))
    assert last - best < 0.3 * (first - best)


def test_other_parameters_join_and_those_without_gradient_stay() -> None:
    p, q = (nn.Parameter(torch.ones(2)) for _ in range(2))
    inner = torch.optim.SGD([p], lr=1.0)
    scheduled = ScheduledIterates(inner, [1.0] * 4)
    p.grad = torch.ones(2)
    scheduled.step()
    inner.add_param_group({"params": [q], "lr": 2.0})
    p.grad, q.grad = None, torch.ones(2)
    scheduled.step()
    assert p.tolist() == [0.25, 0.25]
    assert q.tolist() == [0.0, 0.0]
    assert len(scheduled.param_groups) == 2


def test_an_error_inside_leaves_x_and_z() -> None:
    class Failing(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            raise RuntimeError("inner step")

    p = nn.Parameter(torch.ones(2))
    scheduled = ScheduledIterates(Failing([p], lr=1.0), [1.0] * 4)
    p.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match="inner step"):
        scheduled.step()
    assert p.tolist() == [1.0, 1.0]
    state = scheduled.state_dict()
    assert state["z"][0].tolist() == [1.0, 1.0]
    assert state["t"] == 0


def advance(scheduled: ScheduledIterates, steps: int) -> Tensor:
    (p,) = scheduled.param_groups[0]["params"]
    for _ in range(steps):
        scheduled.zero_grad()
        loss_of(p).backward()
        scheduled.step()
    result: Tensor = p.detach().clone()
    return result


def make_scheduled(weights: Any) -> ScheduledIterates:
    p = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    return ScheduledIterates(torch.optim.Adam([p], lr=0.1), weights)


def test_a_fresh_wrapper_continues_from_the_state() -> None:
    original = make_scheduled(np.linspace(1, 2, 12))
    advance(original, 5)
    state = copy.deepcopy(original.state_dict())
    fresh = make_scheduled([1.0, 1.0])
    advance(fresh, 1)
    fresh.load_state_dict(state)
    (p,) = fresh.param_groups[0]["params"]
    assert torch.equal(p.detach(), state["x"][0])
    assert torch.equal(advance(fresh, 9), advance(original, 9))
    with pytest.raises(RuntimeError, match="shapes"):
        ScheduledIterates(torch.optim.Adam([nn.Parameter(torch.zeros(4))]), [1.0]).load_state_dict(state)


def test_copies_go_on_alone() -> None:
    original = make_scheduled(np.linspace(1, 2, 12))
    advance(original, 3)
    copies = [copy.deepcopy(original), pickle.loads(pickle.dumps(original))]
    results = [advance(other, 4) for other in copies]
    expected = advance(original, 4)
    assert all(torch.equal(result, expected) for result in results)


# ---------------------------------------------------------------------------- guarantees and learning rates


def test_theory_by_hand() -> None:
    lrs, guarantee = theory_learning_rates(10, D=3.0, G=2.0)
    t = np.arange(1, 11)
    np.testing.assert_allclose(lrs, 3 / (2 * math.sqrt(10)) * (1 - t / 10), rtol=0, atol=1e-12)
    assert guarantee == pytest.approx(3 * 2 / math.sqrt(10), rel=1e-12)
    assert isinstance(guarantee, float)
    assert theory_learning_rates(np.int64(4))[1] == pytest.approx(0.5)
    G = np.random.default_rng(0).lognormal(size=20)
    for w in (None, np.random.default_rng(1).random(20)):
        lrs, guarantee = theory_learning_rates(G, D=1.5, weights=w)
        v = G**-2.0 if w is None else w
        eta = 1.5 / math.sqrt(math.fsum(v**2 * G**2))
        expected = [eta * v[i] * math.fsum(v[i + 1 :]) / v.sum() for i in range(20)]
        np.testing.assert_allclose(lrs, expected, rtol=1e-10, atol=1e-15)
        assert guarantee == pytest.approx(1.5 * math.sqrt(math.fsum(v**2 * G**2)) / v.sum(), rel=1e-12)
    lrs, _ = theory_learning_rates(20, weights=v)
    eta = 1 / math.sqrt((v**2).sum())
    np.testing.assert_allclose(lrs, [eta * v[i] * v[i + 1 :].sum() / v.sum() for i in range(20)], atol=1e-14)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("T", [10, 300])
def test_check_6_the_last_point_keeps_the_guarantee(seed: int, T: int) -> None:
    f = PiecewiseLinear(seed)
    D = float(np.linalg.norm(f.minimiser))
    lrs, guarantee = theory_learning_rates(T, D, f.bound)
    points, _ = f.descend(lrs.numpy())
    assert guarantee == pytest.approx(D * f.bound / math.sqrt(T))
    assert f(points[-1]) <= guarantee + 1e-9


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), T=st.integers(2, 40))
def test_check_7_inverse_squares_are_the_best_weights(seed: int, T: int) -> None:
    rng = np.random.default_rng(seed)
    G = rng.lognormal(sigma=2, size=T)
    best = theory_learning_rates(G, D=2.0)[1]
    assert best == pytest.approx(2 / math.sqrt((G**-2.0).sum()), rel=1e-12)
    for _ in range(5):
        assert theory_learning_rates(G, D=2.0, weights=rng.random(T))[1] >= best * (1 - 1e-12)


def test_the_scales_of_norms_and_weights() -> None:
    G = np.random.default_rng(0).lognormal(size=9)
    lrs, guarantee = theory_learning_rates(G)
    for c in (1e-100, 1e150):
        other, scaled = theory_learning_rates(G * c)
        np.testing.assert_allclose(other * c, lrs, rtol=1e-11)
        assert scaled / c == pytest.approx(guarantee, rel=1e-11)
        by_weights, same = theory_learning_rates(G, weights=c * G**-2.0)
        np.testing.assert_allclose(by_weights, lrs, rtol=1e-11)
        assert same == pytest.approx(guarantee, rel=1e-11)
    with pytest.warns(UserWarning, match="zeros"):
        lrs, guarantee = theory_learning_rates([1.0, 0.0, 1.0])
    assert bool(torch.isfinite(lrs).all())
    assert 0 < guarantee < 1e-11


# --------------------------------------------------------------------------------- bound of arbitrary steps


def bound_by_hand(steps: Any, G: Any, D: float) -> float:
    """The paper's three terms with explicit sums, 1-based."""
    T = len(steps)
    total = math.fsum(steps)

    def energy(k: int) -> float:
        return math.fsum(steps[t - 1] ** 2 * G[t - 1] ** 2 for t in range(k, T + 1))

    value = D**2 / (2 * total) + energy(1) / (2 * total)
    for k in range(1, T):
        after, here = math.fsum(steps[k:]), math.fsum(steps[k - 1 :])
        value += 0.5 * steps[k - 1] / (after * here) * energy(k)
    return value


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), T=st.integers(2, 30))
def test_bound_equals_its_three_terms(seed: int, T: int) -> None:
    rng = np.random.default_rng(seed)
    steps, G, D = rng.random(T) + 1e-3, rng.lognormal(size=T), float(rng.random() + 0.1)
    assert last_iterate_bound(steps, G, D) == pytest.approx(bound_by_hand(steps, G, D), rel=1e-10)


def test_bound_without_a_last_step_is_infinite() -> None:
    assert last_iterate_bound([1.0, 0.5, 0.0], [1.0, 1.0, 1.0]) == math.inf
    assert last_iterate_bound([0.0, 0.5], [1.0, 0.0], 2.0) == pytest.approx(4.0)
    assert last_iterate_bound([1e-200, 1e-200], [1e200, 1e200]) == pytest.approx(1.25e200, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), T=st.integers(2, 60))
def test_check_12_bound_holds_for_random_steps(seed: int, T: int) -> None:
    f = PiecewiseLinear(seed)
    lrs = np.random.default_rng(seed).random(T) * 0.5 + 1e-3
    points, norms = f.descend(lrs)
    D = float(np.linalg.norm(f.minimiser))
    assert last_iterate_bound(lrs, norms, D) >= f(points[-1]) - 1e-9


def test_the_optimum_for_constant_norms() -> None:
    lrs, bound = optimize_schedule_bound([1.0] * 50)
    assert bound == pytest.approx(0.281, abs=5e-4)
    t = torch.arange(1, 51) / 50
    assert float((lrs / lrs.max() - (1 - t)).abs().max()) == pytest.approx(0.20, abs=0.005)
    assert theory_learning_rates(50)[1] == pytest.approx(0.141, abs=5e-4)
    assert float(lrs[-1]) > 0


NORM_SHAPES = {
    "constant": np.full(60, 2.5),
    "falling": np.geomspace(10, 1, 60),
    "rising": np.linspace(1, 3, 60),
    "noisy": np.random.default_rng(5).lognormal(sigma=0.5, size=60),
}


@pytest.mark.parametrize("name", NORM_SHAPES)
def test_the_optimum_is_one(name: str) -> None:
    """Stationary in every direction, never beaten nearby, and what the numeric minimisation reaches."""
    G, D = NORM_SHAPES[name], 3.0
    lrs, bound = optimize_schedule_bound(G, D)
    assert bound == pytest.approx(bound_by_hand(lrs.tolist(), G, D), rel=1e-10)
    rng = np.random.default_rng(0)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(20):
            other = lrs.numpy() * np.exp(size * rng.normal(size=60))
            assert last_iterate_bound(other, G, D) >= bound * (1 - 1e-12)
    for t in range(60):
        up, down = lrs.numpy().copy(), lrs.numpy().copy()
        up[t] *= 1 + 1e-4
        down[t] *= 1 - 1e-4
        slope = (bound_by_hand(up, G, D) - bound_by_hand(down, G, D)) / (2e-4 * bound)
        assert abs(slope) < 1e-6
    numeric, reached = optimize_schedule_bound(G, D, max_iter=20000)
    assert reached == pytest.approx(bound, rel=1e-6)
    assert reached >= bound * (1 - 1e-12)
    assert reached == pytest.approx(last_iterate_bound(numeric, G, D), rel=1e-12)


def test_few_iterations_are_better_than_the_start_and_worse_than_the_optimum() -> None:
    G = NORM_SHAPES["noisy"]
    exact = optimize_schedule_bound(G)[1]
    start = last_iterate_bound(np.full(60, 1 / (G.max() * math.sqrt(60))), G)
    after = [optimize_schedule_bound(G, max_iter=n)[1] for n in (1, 5, 50)]
    assert start > after[0] > after[1] > after[2] > exact


def test_norms_over_decades_are_minimised_too() -> None:
    G = np.random.default_rng(1).lognormal(sigma=3, size=500)
    lrs, bound = optimize_schedule_bound(G)
    assert bool((lrs > 0).all())
    rng = np.random.default_rng(2)
    for _ in range(20):
        assert last_iterate_bound(lrs.numpy() * np.exp(rng.normal(size=500) * 0.01), G) >= bound * (1 - 1e-12)
    with pytest.warns(UserWarning, match="zeros"):
        lrs, bound = optimize_schedule_bound([1.0, 0.0, 1.0, 0.5])
    assert bool(torch.isfinite(lrs).all())
    assert bound > 0


# ---------------------------------------------------------------------------------------------- refusals

Z = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: last_iterate_conversion(Z, [1.0, 1.0]), "weights"),
        (lambda: last_iterate_conversion(Z, []), "weights"),
        (lambda: last_iterate_conversion(Z, [[1.0, 1.0, 1.0]]), "weights"),
        (lambda: last_iterate_conversion(Z, [1.0, -1.0, 1.0]), "weights"),
        (lambda: last_iterate_conversion(Z, [0.0, 0.0, 0.0]), "weights"),
        (lambda: last_iterate_conversion(torch.tensor(1.0), [1.0]), "z"),
        (lambda: last_iterate_conversion(torch.ones(2, dtype=torch.int64), [1.0, 1.0]), "z"),
        (lambda: theory_learning_rates(1), "norms_or_T"),
        (lambda: theory_learning_rates(5.0), "norms_or_T"),
        (lambda: theory_learning_rates(True), "norms_or_T"),
        (lambda: theory_learning_rates([1.0]), "norms"),
        (lambda: theory_learning_rates([0.0, 0.0]), "norms"),
        (lambda: theory_learning_rates([1.0, math.nan]), "norms"),
        (lambda: theory_learning_rates([0.0, 1.0], weights=[1.0, 0.0]), "norms"),
        (lambda: theory_learning_rates([1.0, 1.0], weights=[1.0]), "weights"),
        (lambda: theory_learning_rates(3, weights=[1.0, 1.0]), "weights"),
        (lambda: theory_learning_rates([1.0, 1.0], G=2.0), "G"),
        (lambda: theory_learning_rates(3, G=0.0), "G"),
        (lambda: theory_learning_rates(3, D=0.0), "D"),
        (lambda: last_iterate_bound([1.0], [1.0, 1.0]), "lrs"),
        (lambda: last_iterate_bound([1.0, -1.0], [1.0, 1.0]), "lrs"),
        (lambda: last_iterate_bound([1.0, 1.0], [1.0, -1.0]), "norms"),
        (lambda: last_iterate_bound([1.0, 1.0], [1.0, 1.0], D=-1.0), "D"),
        (lambda: optimize_schedule_bound([1.0]), "norms"),
        (lambda: optimize_schedule_bound([0.0, 0.0]), "norms"),
        (lambda: optimize_schedule_bound([1.0, 1.0], D=0.0), "D"),
        (lambda: optimize_schedule_bound([1.0, 1.0], max_iter=0), "max_iter"),
        (lambda: ScheduledIterates(torch.optim.SGD([nn.Parameter(Z)]), [0.0]), "weights"),
        (lambda: ScheduledIterates(torch.optim.SGD([nn.Parameter(Z)]), []), "weights"),
    ],
)
def test_bad_arguments(call: Any, word: str) -> None:
    with pytest.raises(ValueError, match=rf"\b{word}\b"):
        call()


def test_only_optimizers_are_wrapped() -> None:
    with pytest.raises(TypeError, match="optimizer"):
        ScheduledIterates(nn.Linear(2, 2), [1.0])  # type: ignore[arg-type]
