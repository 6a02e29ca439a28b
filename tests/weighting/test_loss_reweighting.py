"""Dynamic loss-based reweighting against plain Python loops, virtual devices and real gloo processes."""

from __future__ import annotations

import copy
import io
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normviz import weighting
from normviz.weighting import loss_reweighting
from normviz.weighting.loss_reweighting import (
    STRATEGIES,
    AnnealedR,
    ConstantR,
    DynamicLossReweighter,
    apply_strategy,
    domain_sampler,
    kl_dro_value,
    normalize_losses,
    per_sample_loss,
    sample_weights,
    split_device_losses,
    weighted_gap_bound,
)

SHAPED = ["linupper", "quadratic", "extremes"]
EXAMPLE = [1.0, 2.0, 3.0, 5.0]


def some_losses(M: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.rand(M, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 4 + 0.5).to(
        dtype
    )


def reference_weights(losses: list[float], strategy: str, r: float, delta: float = 1.0) -> list[float]:
    """Steps 1-3 of the method, one sample at a time."""
    low, high = min(losses), max(losses)
    s = []
    for loss in losses:
        h = delta * (2 * loss - high - low) / (high - low) if high - low >= 1e-6 else 0.0
        s.append(
            {
                "linupper": min(h + delta, delta),
                "quadratic": 1 - h**2 / delta**2,
                "extremes": abs(h),
                "upper": (h + delta) / 2,
                "uniform": 0.0,
            }[strategy]
        )
    e = [math.exp((x - max(s)) / r) for x in s]
    return [x / sum(e) for x in e]


# ------------------------------------------------------------------------------------------------------ weights


def test_worked_example() -> None:
    """Check 11."""
    h = normalize_losses(torch.tensor(EXAMPLE))
    assert h.tolist() == [-1.0, -0.5, 0.0, 1.0]
    expected = {
        "linupper": [0.0, 0.5, 1.0, 1.0],
        "quadratic": [0.0, 0.75, 1.0, 0.0],
        "extremes": [1.0, 0.5, 0.0, 1.0],
        "upper": [0.0, 0.25, 0.5, 1.0],
        "uniform": [0.0] * 4,
    }
    assert set(expected) == set(STRATEGIES)
    for name, s in expected.items():
        assert apply_strategy(h, name).tolist() == s


@pytest.mark.parametrize("delta", [1.0, 2.5])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_equal_plain_python(strategy: str, delta: float) -> None:
    for seed, r in itertools.product(range(3), (0.4, 1.0)):
        losses = some_losses(9, seed)
        np.testing.assert_allclose(
            sample_weights(losses, strategy, r, delta).numpy(),
            reference_weights(losses.tolist(), strategy, r, delta),
            rtol=1e-10,
        )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 20), min_size=1, max_size=12), st.sampled_from(SHAPED), st.floats(0.05, 5))
def test_weights_are_a_bounded_distribution(losses: list[float], strategy: str, r: float) -> None:
    """Check 1, with the bounded maximum."""
    w = sample_weights(torch.tensor(losses, dtype=torch.float64), strategy, r)
    M, ratio = len(losses), math.exp(1 / r)
    assert float(w.sum()) == pytest.approx(1, abs=1e-12)
    assert float(w.min()) >= 0
    assert float(w.max()) <= float(w.min()) * ratio * (1 + 1e-6)
    assert float(w.max()) <= ratio / (M - 1 + ratio) * (1 + 1e-9)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_affine_invariance(strategy: str) -> None:
    """Check 2."""
    losses = some_losses(10)
    for c, d in ((3.0, 0.0), (0.01, 5.0), (100.0, -7.0)):
        torch.testing.assert_close(
            sample_weights(c * losses + d, strategy), sample_weights(losses, strategy), rtol=1e-9, atol=0
        )


def test_shapes_of_the_strategies() -> None:
    """Check 3."""
    losses = torch.linspace(0, 2, 21, dtype=torch.float64)
    lin = sample_weights(losses, "linupper")
    assert bool((lin.diff() >= 0).all())
    assert bool((lin[:11].diff() > 0).all())
    torch.testing.assert_close(lin[10:], lin[10].expand(11))
    quad, extr = sample_weights(losses, "quadratic"), sample_weights(losses, "extremes")
    torch.testing.assert_close(quad, quad.flip(0))
    assert int(quad.argmax()) == 10
    torch.testing.assert_close(extr, extr.flip(0))
    assert int(extr.argmin()) == 10
    assert bool((quad[:11].diff() > 0).all())
    assert bool((extr[:11].diff() < 0).all())


def test_limits_of_the_temperature() -> None:
    """Check 4."""
    losses = some_losses(16, seed=3)
    for strategy in STRATEGIES:
        assert float((sample_weights(losses, strategy, r=1e6) - 1 / 16).abs().max()) < 1e-5
    cold = sample_weights(losses, "linupper", r=1e-3)
    high = losses >= (losses.min() + losses.max()) / 2
    torch.testing.assert_close(cold, high.double() / high.sum(), rtol=0, atol=1e-9)
    assert torch.equal(sample_weights(losses, "uniform"), torch.full((16,), 1 / 16, dtype=torch.float64))


@pytest.mark.parametrize("strategy", SHAPED)
def test_weights_solve_the_dro_problem(strategy: str) -> None:
    """Check 5."""
    losses, r = some_losses(7), 0.4
    s = apply_strategy(normalize_losses(losses), strategy)

    def objective(w: torch.Tensor) -> float:
        return float((w * s).sum() - r * torch.special.xlogy(w, w * 7).sum())

    w = sample_weights(losses, strategy, r)
    value = r * math.log(sum(math.exp(float(x) / r) for x in s) / 7)
    assert objective(w) == pytest.approx(value, rel=1e-12)
    assert float(kl_dro_value(s, r)) == pytest.approx(value, rel=1e-12)
    rng = np.random.default_rng(0)
    points = [rng.dirichlet(np.full(7, c)) for c in (0.1, 1.0, 50.0) for _ in range(50)]
    near = [0.99 * w.numpy() + 0.01 * p for p in points]
    assert max(objective(torch.from_numpy(p)) for p in points + near) < objective(w)


def test_dro_value_neither_overflows_nor_loses_its_gradient() -> None:
    s = torch.tensor([1000.0, 0.0, 999.0], dtype=torch.float64, requires_grad=True)
    value = kl_dro_value(s, r=1.0)
    assert float(value.detach()) == pytest.approx(1000 + math.log((1 + math.exp(-1)) / 3))
    (w,) = torch.autograd.grad(value, s)
    torch.testing.assert_close(w, torch.softmax(s.detach(), 0))


def test_equal_losses_give_uniform_weights() -> None:
    for strategy in STRATEGIES:
        for base in (0.0, 2.345, 1e4):
            losses = torch.full((5,), base) + torch.tensor([0.0, 1e-7, 0.0, 0.0, 2e-7])
            torch.testing.assert_close(
                sample_weights(losses, strategy), torch.full((5,), 0.2), rtol=1e-6, atol=0
            )
        assert sample_weights(torch.tensor([3.0]), strategy).tolist() == [1.0]


def test_own_bounds_and_callables() -> None:
    losses = torch.tensor([1.0, 2.0])
    assert normalize_losses(losses, l_min=0.0, l_max=4.0).tolist() == [-0.5, 0.0]
    assert normalize_losses(losses, l_min=torch.tensor(0.0), delta=2.0).tolist() == [0.0, 2.0]
    losses = some_losses(6)
    own = sample_weights(losses, lambda h, delta: h / delta, r=0.5)
    torch.testing.assert_close(own, torch.softmax(normalize_losses(losses) / 0.5, 0))
    with pytest.raises(ValueError, match="strategy"):
        sample_weights(losses, lambda h, delta: h.sum())


def test_weights_are_constants() -> None:
    losses = some_losses(5).requires_grad_()
    assert not sample_weights(losses).requires_grad
    assert not normalize_losses(losses).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    losses = some_losses(6).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert sample_weights(losses).dtype == wide
    torch.testing.assert_close(sample_weights(losses), sample_weights(losses.to(wide)))
    for warmup in (0, 1):
        reweight = DynamicLossReweighter(warmup_steps=warmup)
        assert reweight(losses).dtype == wide
        assert reweight.weights.dtype == wide
    reweight = DynamicLossReweighter()
    torch.testing.assert_close(
        reweight(losses), (sample_weights(losses) * losses.to(wide)).sum(), rtol=1e-6, atol=0
    )


# ---------------------------------------------------------------------------------------------- per-sample losses


@pytest.mark.parametrize("shift", [True, False])
def test_per_sample_loss_equals_loops(shift: bool) -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 4, generator=g, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (3, 5), generator=g)
    labels[0, 2], labels[2, :] = -1, -1
    losses, n_tokens = per_sample_loss(logits, labels, ignore_index=-1, shift=shift)
    x = logits.detach().numpy()
    for b in range(3):
        total, count = 0.0, 0
        for t in range(5 - shift):
            y = int(labels[b, t + shift])
            if y != -1:
                total += math.log(sum(math.exp(v) for v in x[b, t])) - x[b, t, y]
                count += 1
        assert int(n_tokens[b]) == count
        assert float(losses[b].detach()) == pytest.approx(total / count if count else 0.0, rel=1e-10)
    assert n_tokens.dtype == torch.long
    losses.sum().backward()
    assert bool(logits.grad.isfinite().all())
    assert float(logits.grad[2].abs().max()) == 0.0
    assert per_sample_loss(logits.detach().bfloat16(), labels, -1)[0].dtype == torch.float32


# ------------------------------------------------------------------------------------------------------ schedules


def test_schedules_by_hand() -> None:
    linear = AnnealedR(2.0, 1.0, warmup=10, anneal_steps=4)
    assert [linear(t) for t in (0, 10, 11, 12, 14, 99)] == [2.0, 2.0, 1.75, 1.5, 1.0, 1.0]
    cosine = AnnealedR(2.0, 1.0, 10, 4, mode="cosine")
    expected = [1 + (1 + math.cos(math.pi * u)) / 2 for u in (0, 0.25, 0.5, 1)]
    assert [cosine(t) for t in (10, 11, 12, 14)] == pytest.approx(expected)
    step = AnnealedR(0.9, 0.1, 10, 4, mode="step")
    assert [step(t) for t in (10, 13, 14, 15)] == [0.9, 0.9, 0.1, 0.1]
    assert ConstantR()(7) == 0.4
    assert ConstantR(0.7, 3).warmup == 3


@pytest.mark.parametrize(
    "schedule", [ConstantR(0.7, 2), *(AnnealedR(2.0, 0.3, 1, 5, m) for m in ("linear", "cosine", "step"))]
)
def test_schedules_answer_in_kind(schedule: ConstantR | AnnealedR) -> None:
    for t in range(9):
        number, tensor = schedule(t), schedule(torch.tensor(t))
        assert isinstance(number, float)
        assert isinstance(tensor, torch.Tensor)
        assert tensor.ndim == 0
        assert float(tensor) == number


# --------------------------------------------------------------------------------------------------------- module


@pytest.mark.parametrize("strategy", [*STRATEGIES, lambda h, delta: h])
def test_gradient_of_the_loss_is_the_weight(strategy) -> None:
    """Check 6."""
    losses = some_losses(8).requires_grad_()
    reweight = DynamicLossReweighter(strategy, r=0.7)
    loss = reweight(losses)
    (gradient,) = torch.autograd.grad(loss, losses)
    assert torch.equal(gradient, sample_weights(losses, strategy, 0.7))
    assert torch.equal(reweight.weights, gradient)
    torch.testing.assert_close(loss, (gradient * losses).sum())


@pytest.mark.parametrize("strategy", SHAPED)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_virtual_devices_average_to_the_global_loss(world_size: int, strategy: str) -> None:
    """Check 7."""
    losses = some_losses(10).requires_grad_()
    parts = split_device_losses(losses, world_size, strategy, 0.3)
    w = torch.tensor(reference_weights(losses.tolist(), strategy, 0.3), dtype=torch.float64)
    torch.testing.assert_close(parts.mean(), (w * losses).sum())
    (gradient,) = torch.autograd.grad(parts.mean(), losses)
    torch.testing.assert_close(gradient, w)
    slices = np.array_split(np.arange(10), world_size)
    for k, part in enumerate(slices):
        torch.testing.assert_close(parts[k], world_size * (w * losses)[part].sum())


def test_token_form() -> None:
    """Check 8."""
    losses = some_losses(5)
    equal = torch.full((5,), 12)
    for warmup in (0, 1):
        plain = DynamicLossReweighter(warmup_steps=warmup)(losses)
        token = DynamicLossReweighter(warmup_steps=warmup, token_weighted=True)(losses, equal)
        torch.testing.assert_close(token, plain)
    n = torch.tensor([3, 10, 1, 7, 4])
    token_mean = (n * losses).sum() / n.sum()
    for reweight in (
        DynamicLossReweighter("uniform", token_weighted=True),
        DynamicLossReweighter(token_weighted=True, warmup_steps=5),
        DynamicLossReweighter(token_weighted=True).eval(),
    ):
        torch.testing.assert_close(reweight(losses, n), token_mean)
    w = torch.tensor(reference_weights(losses.tolist(), "linupper", 0.4), dtype=torch.float64)
    t = n / n.sum().double()
    torch.testing.assert_close(
        DynamicLossReweighter(token_weighted=True)(losses, n), 5 * (w * t * losses).sum()
    )


@pytest.mark.parametrize("M", [1, 3, 7, 64, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_warm_up_is_the_uniform_loss_bit_for_bit(M: int, dtype: torch.dtype) -> None:
    """Check 9, first half."""
    losses = some_losses(M).to(dtype)
    mean = (losses if dtype == torch.float64 else losses.float()).mean()
    reweight = DynamicLossReweighter(warmup_steps=2)
    assert torch.equal(reweight(losses), mean)
    assert torch.equal(reweight.weights, torch.ones_like(mean).expand(M) / M)
    assert torch.equal(reweight(losses), mean)
    third = reweight(losses)
    if M > 1:
        assert not torch.equal(third, mean)
    assert int(reweight.step_count) == 3
    n = torch.arange(1, M + 1)
    token = DynamicLossReweighter(warmup_steps=1, token_weighted=True)
    assert torch.equal(token(losses, n), token.eval()(losses, n))


def test_state_dict_restores_counter_and_schedule() -> None:
    """Check 9, second half, through torch.load(weights_only=True)."""
    schedule = AnnealedR(2.0, 0.5, warmup=2, anneal_steps=4, mode="cosine")
    saved = DynamicLossReweighter(r_schedule=schedule)
    for seed in range(4):
        saved(some_losses(6, seed))
    buffer = io.BytesIO()
    torch.save(saved.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    assert all(isinstance(v, int | float | str) for v in state["_extra_state"].values())
    for receiver in (
        DynamicLossReweighter(),
        DynamicLossReweighter(warmup_steps=100),
        DynamicLossReweighter(r_schedule=lambda step: 1.0),
    ):
        receiver.load_state_dict(state)
        assert receiver.r_schedule == schedule
        assert int(receiver.step_count) == 4
        assert receiver.step_count.dtype == torch.long
        for seed in range(4, 8):
            assert torch.equal(
                copy.deepcopy(saved)(some_losses(6, seed)), copy.deepcopy(receiver)(some_losses(6, seed))
            )
    own = DynamicLossReweighter(r_schedule=lambda step: 1.0)
    keeps = DynamicLossReweighter(warmup_steps=3)
    keeps.load_state_dict(own.state_dict())
    assert keeps.r_schedule == ConstantR(0.4, 3)


def test_annealing_reaches_the_weights() -> None:
    reweight = DynamicLossReweighter(r_schedule=AnnealedR(2.0, 0.5, warmup=1, anneal_steps=2))
    losses = some_losses(6)
    for r in (None, 2.0, 1.25, 0.5, 0.5):
        reweight(losses)
        want = torch.full((6,), 1 / 6, dtype=torch.float64) if r is None else sample_weights(losses, r=r)
        torch.testing.assert_close(reweight.weights, want)


def test_own_schedule_sees_the_step() -> None:
    class Halving:
        warmup = 1

        def __call__(self, step: torch.Tensor) -> torch.Tensor:
            return 2.0 ** -step.double()

    losses = some_losses(6)
    reweight = DynamicLossReweighter(r_schedule=Halving())
    for r in (None, 0.5, 0.25):
        reweight(losses)
        if r is not None:
            torch.testing.assert_close(reweight.weights, sample_weights(losses, r=r))
    for bad in (lambda step: 0.0, lambda step: torch.tensor(-1.0)):
        with pytest.raises(ValueError, match="r_schedule"):
            DynamicLossReweighter(r_schedule=bad)(losses)


def test_evaluation_is_uniform_and_does_not_count() -> None:
    losses = some_losses(6)
    reweight = DynamicLossReweighter().eval()
    assert torch.equal(reweight(losses), losses.mean())
    torch.testing.assert_close(reweight.weights, torch.full((6,), 1 / 6, dtype=torch.float64))
    assert int(reweight.step_count) == 0


@pytest.mark.parametrize("token_weighted", [False, True])
@pytest.mark.parametrize("phase", ["train", "warm-up", "eval"])
def test_samples_without_tokens_do_not_exist(phase: str, token_weighted: bool) -> None:
    losses = torch.tensor([2.0, torch.nan, 1.0, 100.0, 4.0], dtype=torch.float64, requires_grad=True)
    n = torch.tensor([3, 0, 5, 0, 2])
    kept = torch.tensor([0, 2, 4])

    def make() -> DynamicLossReweighter:
        reweight = DynamicLossReweighter(
            "quadratic", token_weighted=token_weighted, warmup_steps=9 if phase == "warm-up" else 0
        )
        return reweight.train(phase != "eval")

    reweight, alone = make(), make()
    loss = reweight(losses, n)
    clean = losses.detach()[kept].requires_grad_()
    expected = alone(clean, n[kept])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(reweight.weights[kept], alone.weights)
    assert reweight.weights[[1, 3]].tolist() == [0.0, 0.0]
    loss.backward()
    expected.backward()
    torch.testing.assert_close(losses.grad[kept], clean.grad)
    assert losses.grad[[1, 3]].tolist() == [0.0, 0.0]
    nothing = make()
    assert float(nothing(torch.ones(3), torch.zeros(3, dtype=torch.long))) == 0.0
    assert nothing.weights.tolist() == [0.0, 0.0, 0.0]


def test_vmap_over_losses_and_counters_equals_a_loop() -> None:
    losses = torch.stack([some_losses(5, seed) for seed in range(3)])
    base = DynamicLossReweighter(r_schedule=AnnealedR(2.0, 0.5, warmup=2, anneal_steps=4))
    counts = torch.tensor([0, 2, 4])
    expected = []
    for k in range(3):
        member = copy.deepcopy(base)
        member.step_count.fill_(counts[k])
        expected.append(member(losses[k]))
    buffers = {"step_count": counts.clone()}
    ours = torch.vmap(lambda b, x: torch.func.functional_call(base, b, (x,)))(buffers, losses)
    torch.testing.assert_close(ours, torch.stack(expected))
    assert buffers["step_count"].tolist() == [1, 3, 5]
    assert base.weights is None
    module = DynamicLossReweighter()
    for mode in (True, False):
        module.train(mode)
        gradient = torch.func.grad(
            lambda x: torch.func.functional_call(module, {"step_count": torch.tensor(7)}, (x,))
        )(losses[0])
        want = sample_weights(losses[0], "linupper" if mode else "uniform")
        torch.testing.assert_close(gradient, want)
    torch.testing.assert_close(torch.vmap(sample_weights)(losses)[1], sample_weights(losses[1]))


def test_compiles_without_graph_break() -> None:
    losses, n = some_losses(6, dtype=torch.float32), torch.tensor([1, 2, 3, 0, 1, 1])
    for token_weighted in (False, True):
        eager = DynamicLossReweighter(
            r_schedule=AnnealedR(2.0, 0.5, 1, 3, "cosine"), token_weighted=token_weighted
        )
        compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, backend="aot_eager")
        for _ in range(3):
            torch.testing.assert_close(compiled(losses, n), eager(losses, n))
        assert int(compiled.step_count) == 3


# --------------------------------------------------------------------------------------------------------- theory


@pytest.mark.parametrize("strategy", [*SHAPED, "upper", "uniform"])
@pytest.mark.parametrize("seed", range(3))
def test_gap_bound_on_interpolated_least_squares(strategy: str, seed: int) -> None:
    """Check 10."""
    rng = np.random.default_rng(seed)
    M, d, T = 24, 6, 60
    X = rng.normal(size=(M, d)) * rng.lognormal(0, 1, (M, 1))
    star = rng.normal(size=d)
    y = X @ star
    eta = 1 / max((row**2).sum() for row in X)  # f_i = (x_i theta - y_i)^2 / 2 is |x_i|^2-smooth
    theta, gaps, weights = np.zeros(d), [], []
    for _ in range(T):
        residual = X @ theta - y
        gaps.append(residual**2 / 2)
        weights.append(sample_weights(torch.from_numpy(gaps[-1]), strategy).numpy())
        theta = theta - eta * (weights[-1] * residual) @ X
    gaps, weights = torch.from_numpy(np.array(gaps)), torch.from_numpy(np.array(weights))
    distance = float(star @ star)
    for t in range(1, T + 1):
        lhs, rhs = weighted_gap_bound(gaps[:t], weights[:t], eta, distance)
        assert lhs.ndim == rhs.ndim == 0
        assert float(lhs) <= float(rhs) * (1 + 1e-12)
        covariance = sum(float(((weights[s] - 1 / M) * gaps[s]).sum()) for s in range(t)) / t
        assert float(rhs) == pytest.approx(distance / (2 * eta * t) - covariance, rel=1e-9)
        assert float(lhs) == pytest.approx(float(gaps[:t].mean()), rel=1e-12)
        if strategy in {"linupper", "upper"}:
            _, plain = weighted_gap_bound(gaps[:t], torch.full_like(gaps[:t], 1 / M), eta, distance)
            assert float(rhs) <= float(plain) * (1 + 1e-12)


# -------------------------------------------------------------------------------------------------- domain sampler


def test_domain_sampler_draws_domains_by_weight() -> None:
    domains = torch.tensor([0] * 50 + [2] * 5 + [1] * 20)
    g = torch.Generator().manual_seed(0)
    sampler = domain_sampler(domains, torch.tensor([1.0, 3.0, 4.0, 2.0]), num_samples=40_000, generator=g)
    drawn = domains[list(sampler)]
    shares = torch.bincount(drawn, minlength=4) / 40_000
    for share, p in zip(shares.tolist(), (1 / 8, 3 / 8, 4 / 8, 0.0), strict=True):
        assert abs(share - p) <= 4 * (p * (1 - p) / 40_000) ** 0.5
    assert len(domain_sampler(domains, torch.ones(3))) == 75
    assert sampler.replacement
    torch.testing.assert_close(sampler.weights[[0, 50, 55]], torch.tensor([1 / 50, 4 / 5, 3 / 20]).double())


# ---------------------------------------------------------------------------------------------------- distributed

SIZES = [3, 1, 4]


def global_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs [8, 2], targets [8] and token counts [8] of the whole batch."""
    g = torch.Generator().manual_seed(5)
    X = torch.randn(8, 2, generator=g, dtype=torch.float64)
    return X, torch.randn(8, generator=g, dtype=torch.float64), torch.tensor([4, 0, 2, 7, 1, 3, 0, 5])


def model_losses(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (model(X).squeeze(1) - y).square()


def new_model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, 1, dtype=torch.float64)


def raises(match: str, call) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def assert_near(a: torch.Tensor, b: torch.Tensor) -> None:
    """torch.testing would import half of torch.compile in each process."""
    assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def on_rank(rank: int, folder: str) -> None:
    """What each of three gloo processes does; compared with one process that holds the whole batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3)
    X, y, n = global_batch()
    slices = [slice(0, 3), slice(3, 4), slice(4, 8)]
    mine = slices[rank]

    # Equal and unequal local batches, warm-up, ignored samples: the average of the ranks' gradients (what DDP computes)
    # is the gradient of the global loss.
    for options, tokens in (
        ({}, None),
        ({"warmup_steps": 1}, None),
        ({"strategy": "extremes"}, n),
        ({"warmup_steps": 1}, n),
    ):
        single = new_model()
        whole = model_losses(single, X, y)
        counted = torch.ones(8, dtype=torch.bool) if tokens is None else tokens > 0
        strategy = options.get("strategy", "linupper")
        w = torch.zeros(8, dtype=torch.float64)
        w[counted] = (
            torch.full_like(w[counted], 1 / int(counted.sum()))
            if "warmup_steps" in options
            else torch.tensor(reference_weights(whole[counted].tolist(), strategy, 0.4), dtype=torch.float64)
        )
        (w * whole).sum().backward()

        replica = new_model()
        reweight = DynamicLossReweighter(**options)
        assert reweight.world_size == 3
        loss = reweight(model_losses(replica, X[mine], y[mine]), None if tokens is None else tokens[mine])
        loss.backward()
        assert_near(reweight.weights, w[mine])
        for p, q in zip(replica.parameters(), single.parameters(), strict=True):
            dist.all_reduce(p.grad)
            assert_near(p.grad / 3, q.grad)
        total = loss.detach().clone()
        dist.all_reduce(total)
        assert_near(total / 3, (w * whole).sum().detach())

    # Token form: L_k = W M_k sum_i w_i t_i l_i with the shares t of this rank's own tokens.
    losses = model_losses(new_model(), X, y).detach()
    counted = n > 0
    w = torch.zeros(8, dtype=torch.float64)
    w[counted] = torch.tensor(
        reference_weights(losses[counted].tolist(), "linupper", 0.4), dtype=torch.float64
    )
    local = DynamicLossReweighter(token_weighted=True)(losses[mine], n[mine])
    M_k = int(counted[mine].sum())
    t = n[mine].double() / n[mine].sum()
    assert_near(local, 3 * M_k * (w[mine] * t * losses[mine]).sum())
    warm = DynamicLossReweighter(token_weighted=True, warmup_steps=1)(losses[mine], n[mine])
    assert_near(warm, 3 * M_k * (t * losses[mine]).sum() / int(counted.sum()))

    # Evaluation runs no collective: rank 0 alone can call it.
    if rank == 0:
        assert torch.equal(DynamicLossReweighter().eval()(losses[mine]), losses[mine].mean())

    # One rank's NaN, empty batch or wrong shape raises on every rank.
    bad = losses[mine].clone()
    if rank == 1:
        bad[0] = torch.nan
    raises("losses must be finite", lambda: DynamicLossReweighter()(bad))
    part = losses[mine][:0] if rank == 2 else losses[mine]
    raises("losses must have shape" if rank == 2 else "rank 2", lambda: DynamicLossReweighter()(part))
    tokens = n[:1] if rank == 0 else n[mine]
    raises(
        "n_tokens must have" if rank == 0 else "rank 0", lambda: DynamicLossReweighter()(losses[mine], tokens)
    )

    # A group of two of the three ranks; the third one is told so.
    pair = dist.new_group([0, 2])
    grouped = DynamicLossReweighter(process_group=pair)
    if rank == 1:
        raises("process_group", lambda: grouped(losses[mine]))
    else:
        both = torch.cat([losses[slices[0]], losses[slices[2]]])
        w = sample_weights(both)
        own = slice(0, 3) if rank == 0 else slice(3, 7)
        assert_near(grouped(losses[mine]), 2 * (w * both)[own].sum())
    dist.barrier()
    dist.destroy_process_group()


def test_gloo_processes_agree_with_one_process(tmp_path: Path) -> None:
    mp.spawn(on_rank, args=(str(tmp_path),), nprocs=3, join=True)


# --------------------------------------------------------------------------------------------------------- errors

L4 = torch.tensor(EXAMPLE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: normalize_losses(torch.ones(2, 2)), "losses"),
        (lambda: normalize_losses(torch.ones(0)), "losses"),
        (lambda: normalize_losses(torch.tensor([1.0, torch.inf])), "losses"),
        (lambda: normalize_losses(L4, delta=0.0), "delta"),
        (lambda: normalize_losses(L4, eps=0.0), "eps"),
        (lambda: apply_strategy(L4, "linuper"), "linupper"),
        (lambda: apply_strategy(L4, "upper", delta=-1.0), "delta"),
        (lambda: sample_weights(torch.tensor(1.0)), "losses"),
        (lambda: sample_weights(torch.tensor([torch.nan])), "losses"),
        (lambda: sample_weights(L4, r=0.0), "r must"),
        (lambda: sample_weights(L4, delta=-1.0), "delta"),
        (lambda: sample_weights(L4, "mid"), "strategy"),
        (lambda: per_sample_loss(torch.ones(2, 3), torch.ones(2, 3)), "logits"),
        (lambda: per_sample_loss(torch.ones(2, 3, 4), torch.ones(2, 4)), "labels"),
        (lambda: ConstantR(0.0), "r must"),
        (lambda: ConstantR(0.4, -1), "warmup"),
        (lambda: AnnealedR(0.0, 1.0, 0, 1), "r_start"),
        (lambda: AnnealedR(1.0, -1.0, 0, 1), "r_end"),
        (lambda: AnnealedR(1.0, 1.0, -1, 1), "warmup"),
        (lambda: AnnealedR(1.0, 1.0, 0, 0), "anneal_steps"),
        (lambda: AnnealedR(1.0, 1.0, 0, 1, "exp"), "mode"),
        (lambda: DynamicLossReweighter("lin"), "strategy"),
        (lambda: DynamicLossReweighter(r=0.0), "r must"),
        (lambda: DynamicLossReweighter(delta=0.0), "delta"),
        (lambda: DynamicLossReweighter(warmup_steps=-1), "warmup_steps"),
        (lambda: DynamicLossReweighter(r_schedule=ConstantR(), warmup_steps=2), "warmup_steps"),
        (lambda: DynamicLossReweighter(r_schedule=0.4), "r_schedule"),
        (lambda: DynamicLossReweighter()(torch.ones(2, 2)), "losses"),
        (lambda: DynamicLossReweighter()(torch.ones(0)), "losses"),
        (lambda: DynamicLossReweighter()(torch.tensor([1.0, torch.nan])), "losses"),
        (lambda: DynamicLossReweighter(warmup_steps=5)(torch.tensor([1.0, torch.inf])), "losses"),
        (lambda: DynamicLossReweighter().eval()(torch.tensor([torch.nan])), "losses"),
        (lambda: DynamicLossReweighter()(L4, torch.ones(3)), "n_tokens"),
        (lambda: DynamicLossReweighter(token_weighted=True)(L4), "n_tokens"),
        (lambda: DynamicLossReweighter(token_weighted=True).eval()(L4), "n_tokens"),
        (lambda: split_device_losses(L4, 0), "world_size"),
        (lambda: split_device_losses(L4, 5), "world_size"),
        (lambda: split_device_losses(L4, 2, r=-1.0), "r must"),
        (lambda: kl_dro_value(L4, 0.0), "r must"),
        (lambda: kl_dro_value(torch.ones(2, 2), 1.0), "s must"),
        (lambda: weighted_gap_bound(torch.ones(3), torch.ones(3), 0.1, 1.0), "delta_hist"),
        (lambda: weighted_gap_bound(torch.ones(2, 3), torch.ones(3, 3), 0.1, 1.0), "w_hist"),
        (lambda: weighted_gap_bound(torch.ones(2, 3), torch.ones(2, 3), 0.0, 1.0), "eta"),
        (lambda: weighted_gap_bound(torch.ones(2, 3), torch.ones(2, 3), 0.1, -1.0), "dist0_sq"),
        (lambda: domain_sampler(torch.ones(3), torch.ones(2)), "domains"),
        (lambda: domain_sampler(torch.tensor([0, 2]), torch.ones(2)), "domains"),
        (lambda: domain_sampler(torch.tensor([0, -1]), torch.ones(2)), "domains"),
        (lambda: domain_sampler(torch.tensor([0, 1]), torch.tensor([1.0, -1.0])), "domain_weights"),
        (lambda: domain_sampler(torch.tensor([0, 0]), torch.tensor([0.0, 1.0])), "domain_weights"),
        (lambda: domain_sampler(torch.tensor([0, 1]), torch.ones(2), num_samples=0), "num_samples"),
    ],
)
def test_bad_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_failed_forward_does_not_count() -> None:
    reweight = DynamicLossReweighter()
    with pytest.raises(ValueError, match="losses"):
        reweight(torch.tensor([torch.nan]))
    assert int(reweight.step_count) == 0


def test_public_names() -> None:
    for name in loss_reweighting.__all__:
        assert name in weighting.__all__
        assert getattr(weighting, name) is getattr(loss_reweighting, name)
