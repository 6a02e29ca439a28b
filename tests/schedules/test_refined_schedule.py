"""Refined schedules: smoothing, weights, multipliers and schedulers against loops written out here; errors."""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import median_filter
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from normviz.schedules import (
    GradientNormRecorder,
    InverseSqrtLR,
    InverseTimeLR,
    LinearDecayLR,
    RefinedScheduleLR,
    WarmupPolynomialLR,
    refine_from_norms,
    refine_schedule,
    refinement_weights,
    smooth_gradient_norms,
)

RNG = np.random.default_rng(0)
NORMS = RNG.lognormal(size=57)


def smoothed_by_hand(norms: Any, tau: float, choose: Any = np.median) -> np.ndarray:
    """Entry by entry: index < 0 reads the first norm, index >= T is mirrored at the last one."""
    T = len(norms)
    half = int(tau * T) // 2
    rows = []
    for t in range(T):
        window = [norms[max(s, 0) if s < T else 2 * (T - 1) - s] for s in range(t - half, t + half + 1)]
        rows.append(choose(window))
    return np.array(rows)


def refined_by_hand(norms: Any, p: float) -> np.ndarray:
    w = [float(g) ** -p for g in norms]
    m = [w[t] * math.fsum(w[t + 1 :]) for t in range(len(w))]
    return np.array(m) / max(m)


def close(actual: Any, expected: Any, rtol: float = 1e-12, atol: float = 0.0) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=rtol, atol=atol)


# ---------------------------------------------------------------------------------------------- smoothing


@pytest.mark.parametrize("tau", [0.0, 0.03, 0.1, 0.37, 0.5, 1.0])
@pytest.mark.parametrize("T", [2, 3, 10, 57])
def test_check_10_median_with_its_padding(T: int, tau: float) -> None:
    norms = NORMS[:T]
    smooth = smooth_gradient_norms(norms, tau)
    assert smooth.dtype == torch.float64
    close(smooth, smoothed_by_hand(norms, tau))
    half = int(tau * T) // 2
    padded = np.concatenate([np.full(half, norms[0]), np.pad(norms, (0, half), mode="reflect")])
    expected = median_filter(padded, size=2 * half + 1)[half : half + T]
    close(smooth, expected)
    close(smooth_gradient_norms(norms, tau, "min"), smoothed_by_hand(norms, tau, min))
    close(smooth_gradient_norms(norms, tau, "none"), norms)


@settings(max_examples=30, deadline=None)
@given(norms=st.lists(st.floats(0, 1e200), min_size=2, max_size=40), tau=st.floats(0, 1))
def test_median_of_any_history(norms: list[float], tau: float) -> None:
    close(smooth_gradient_norms(norms, tau), smoothed_by_hand(norms, tau))


def test_a_spike_narrower_than_half_the_window_changes_nothing() -> None:
    T, tau, half = 100, 0.2, 10
    for width in (1, 5, half):
        for start in (3, 40, T - half - width):
            norms = np.ones(T)
            norms[start : start + width] = 1e6
            close(refine_from_norms(norms, "l2", tau), refine_from_norms(np.ones(T), "l2", tau))
    norms = np.ones(T)
    norms[T - 2] = 1e6  # the mirror counts it twice, which is still less than half the window
    close(refine_from_norms(norms, "l2", tau), refine_from_norms(np.ones(T), "l2", tau))
    norms = np.ones(T)
    norms[0] = 1e6  # repeated by the padding
    assert float(refine_from_norms(norms, "l2", tau)[0]) < 1e-3


# ------------------------------------------------------------------------------- weights and multipliers


@pytest.mark.parametrize("T", [2, 3, 10, 1000])
def test_check_1_constant_norms_give_linear_decay(T: int) -> None:
    norms = [3.7] * T
    assert torch.equal(refinement_weights(norms), torch.ones(T, dtype=torch.float64))
    t = np.arange(1, T + 1)
    close(refine_from_norms(norms, "l2"), (T - t) / (T - 1), rtol=0, atol=1e-12)
    close(refine_schedule(refinement_weights(norms), normalize=False), 1 - t / T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("c", [1e-200, 1e-7, 3.0, 1e200])
@pytest.mark.parametrize("norm_type", ["l2", "l1"])
def test_check_2_the_scale_of_norms_does_not_matter(norm_type: str, c: float) -> None:
    close(refine_from_norms(NORMS * c, norm_type), refine_from_norms(NORMS, norm_type), rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    norms=st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=30),
    tau=st.floats(0, 1),
    norm_type=st.sampled_from(["l2", "l1"]),
)
def test_check_3_last_multiplier_is_0_and_the_largest_1(
    norms: list[float], tau: float, norm_type: str
) -> None:
    m = refine_from_norms(norms, norm_type, tau)
    assert float(m[-1]) == 0
    assert float(m.max()) == 1
    assert float(m.min()) >= 0
    close(m, refined_by_hand(smoothed_by_hand(norms, tau), 2 if norm_type == "l2" else 1), rtol=1e-9)


def test_check_8_l1_norms_have_exponent_1() -> None:
    median = sorted(NORMS)[len(NORMS) // 2]
    close(refinement_weights(NORMS, "l1"), median / NORMS)
    close(refinement_weights(NORMS, "l2"), (median / NORMS) ** 2)
    close(refinement_weights(NORMS, "l2", exponent=0.7), (median / NORMS) ** 0.7)
    close(refine_from_norms(NORMS, "l1", tau=0), refined_by_hand(NORMS, 1))
    close(refine_from_norms(NORMS, "l2", tau=0), refined_by_hand(NORMS, 2))


def test_check_9_warm_up_and_fast_annealing() -> None:
    norms = np.concatenate([np.linspace(4, 1, 30), np.ones(70)])
    m = refine_from_norms(norms, "l2", tau=0)
    assert int(m.argmax()) == 29
    assert float(m[0]) < 0.1
    rising = np.concatenate([np.ones(70), np.linspace(1, 4, 30)])
    late = refine_from_norms(rising, "l2", tau=0)
    linear = refine_from_norms(np.ones(100), "l2", tau=0)
    assert bool((late[70:-1] < linear[70:-1]).all())


def test_weights_of_the_multiplier_are_taken_as_they_are() -> None:
    w = [1.0, 3.0, 0.0, 2.0]
    close(refine_schedule(w), np.array([5.0, 6.0, 0.0, 0.0]) / 6)
    close(refine_schedule(w, normalize=False), np.array([5.0, 6.0, 0.0, 0.0]) / 6)
    close(refine_schedule(np.array(w) * 2, normalize=False), np.array([10.0, 12.0, 0.0, 0.0]) / 6)
    close(refine_schedule(np.array(w) * 1e200), np.array([5.0, 6.0, 0.0, 0.0]) / 6)
    assert refine_schedule([0.0, 0.0, 2.0]).tolist() == [0, 0, 0]  # the only step with weight is the last
    assert refine_schedule([5.0]).tolist() == [0]


def test_small_last_sums_keep_their_digits() -> None:
    """Total minus prefix would leave nothing of tails 1e-20 below the total."""
    w = np.geomspace(1, 1e-40, 30)
    expected = [w[t] * math.fsum(w[t + 1 :]) for t in range(30)]
    close(refine_schedule(w), np.array(expected) / max(expected))


def test_norms_over_many_decades() -> None:
    norms = np.geomspace(1e-140, 1e140, 41)
    w = refinement_weights(norms)
    assert bool(torch.isfinite(w).all())
    close(w[0] / w[1], (norms[1] / norms[0]) ** 2, rtol=1e-9)
    far = refinement_weights([1e-300, 1.0, 1.0])  # 1e600 is no float: in units of the smallest norm
    assert far.tolist() == [1, 0, 0]
    close(refine_from_norms(norms, "l1", tau=0), refined_by_hand(norms, 1), rtol=1e-9, atol=1e-290)


def test_zero_norms_are_clamped_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="norms has 1 zeros"):
        w = refinement_weights([0.0, 1.0, 2.0, 4.0, 1.0])
    close(w / w[1], [(4e-12) ** -2, 1, 0.25, 1 / 16, 1])
    with pytest.warns(UserWarning, match="zeros"):  # the lower median itself is zero
        w = refinement_weights([0.0, 0.0, 0.0, 1.0], "l1")
    close(w / w[3], [1e12, 1e12, 1e12, 1])
    with pytest.warns(UserWarning, match="zeros") as caught:
        m = refine_from_norms([0.0, 0.0, 0.0, 1.0, 2.0], "l2", tau=0)
    assert len(caught) == 1
    assert bool(torch.isfinite(m).all())
    with pytest.raises(ValueError, match=r"norms.*zeros"):
        refinement_weights([0.0, 0.0])
    with pytest.raises(ValueError, match=r"norms.*zeros"):
        refine_from_norms([0.0, 0.0, 0.0], "l2")


def test_a_single_zero_is_smoothed_away() -> None:
    norms = np.ones(40)
    norms[20] = 0
    close(refine_from_norms(norms, "l2", tau=0.1), refine_from_norms(np.ones(40), "l2"))


def test_nonfinite_norms_are_dropped_and_the_length_kept() -> None:
    kept = NORMS[:40]
    norms = np.insert(kept, [3, 17, 17], [np.inf, np.nan, np.inf])
    with pytest.warns(UserWarning, match="norms has 3 infinite or NaN"):
        m = refine_from_norms(norms, "l2")
    assert len(m) == 43
    old, new = np.arange(40) / 39, np.arange(43) / 42
    close(m, np.interp(new, old, refine_from_norms(kept, "l2").numpy()))
    with pytest.raises(ValueError, match="norms"):
        refine_from_norms(norms, "l2", drop_nonfinite=False)
    with pytest.warns(UserWarning, match="norms"), pytest.raises(ValueError, match="norms"):
        refine_from_norms([1.0, np.inf, np.nan], "l2")


@pytest.mark.parametrize("total_steps", [2, 30, 57, 200])
def test_another_number_of_steps_interpolates_over_relative_time(total_steps: int) -> None:
    m = refine_from_norms(NORMS, "l1", 0.2)
    other = refine_from_norms(NORMS, "l1", 0.2, total_steps)
    for i, value in enumerate(other.tolist()):
        place = i * 56 / (total_steps - 1)
        low = min(int(place), 55)
        expected = float(m[low]) + (place - low) * float(m[low + 1] - m[low])
        assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "kind", [list, np.asarray, torch.tensor, lambda v: torch.tensor(v, dtype=torch.float32)]
)
def test_any_kind_of_history_is_taken_and_left_as_it_is(kind: Any) -> None:
    given = kind([1.0, 2.0, 0.5, 4.0])
    before = list(given)
    for result in (
        smooth_gradient_norms(given, 1.0),
        refinement_weights(given),
        refine_schedule(given),
        refine_from_norms(given, "l2"),
        smooth_gradient_norms(given, 0.0),
    ):
        assert (result.dtype, result.ndim, result.device.type) == (torch.float64, 1, "cpu")
        result.mul_(0)
    assert list(given) == before


BAD_NORMS = [[], [1.0], [[1.0, 2.0], [3.0, 4.0]], [1.0, -1.0], [1.0, math.nan], [1.0, math.inf], 3.0]


@pytest.mark.parametrize("norms", BAD_NORMS)
def test_bad_norms(norms: Any) -> None:
    for call in (smooth_gradient_norms, refinement_weights):
        with pytest.raises(ValueError, match="norms"):
            call(norms)
    with pytest.raises(ValueError, match="norms"):
        refine_from_norms(norms, "l2", drop_nonfinite=False)


@pytest.mark.parametrize("weights", [[], [[1.0]], [1.0, -1.0], [0.0, 0.0], [1.0, math.nan], [math.inf]])
def test_bad_weights(weights: Any) -> None:
    with pytest.raises(ValueError, match="weights"):
        refine_schedule(weights)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: smooth_gradient_norms([1.0, 2.0], 1.1), "tau"),
        (lambda: smooth_gradient_norms([1.0, 2.0], -0.1), "tau"),
        (lambda: smooth_gradient_norms([1.0, 2.0], method="mean"), "method"),
        (lambda: refinement_weights([1.0, 2.0], "l3"), "norm_type"),
        (lambda: refinement_weights([1.0, 2.0], exponent=0.0), "exponent"),
        (lambda: refinement_weights([1.0, 2.0], exponent=-1.0), "exponent"),
        (lambda: refine_from_norms([1.0, 2.0], "max"), "norm_type"),
        (lambda: refine_from_norms([1.0, 2.0], "l2", 2.0), "tau"),
        (lambda: refine_from_norms([1.0, 2.0], "l2", total_steps=1), "total_steps"),
    ],
)
def test_bad_arguments(call: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        call()


# ---------------------------------------------------------------------------------------------- recorder


def test_l1_norm_of_a_gradient_with_many_entries() -> None:
    p = nn.Parameter(torch.zeros(3, 2**17 + 5).t().contiguous().t())
    p.grad = (
        torch.arange(p.numel(), dtype=torch.float64).reshape(p.shape).sub(1000).remainder(7).sub(3).float()
    )
    recorder = GradientNormRecorder([p], "l1")
    recorder.record()
    close(recorder.norms, [math.fsum(abs(v) for v in p.grad.double().flatten().tolist())], rtol=1e-6)


def test_the_recorder_takes_the_norm_of_the_whole_gradient() -> None:
    a, b, c = (nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (5,)))
    half = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    params = [a, b, c, half]
    l2, l1 = GradientNormRecorder(iter(params)), GradientNormRecorder(params, "l1")
    expected: list[list[float]] = [[], []]
    for step in range(5):
        torch.manual_seed(step)
        for p in params:
            p.grad = torch.randn_like(p)
        if step % 2:
            c.grad = None
        entries = [float(v) for p in params if p.grad is not None for v in p.grad.flatten()]
        expected[0].append(math.sqrt(math.fsum(v * v for v in entries)))
        expected[1].append(math.fsum(abs(v) for v in entries))
        l2.record()
        l1.record()
    close(l2.norms, expected[0], rtol=1e-5)
    close(l1.norms, expected[1], rtol=1e-5)
    assert all(isinstance(norm, float) for norm in l2.norms)
    other = GradientNormRecorder(params)
    other.load_state_dict(l1.state_dict())
    other.record()
    l1.record()
    assert other.norms == l1.norms


def test_the_recorder_in_float64_with_sparse_gradients() -> None:
    table = nn.Embedding(7, 3, sparse=True).double()
    table(torch.tensor([1, 1, 4])).square().sum().backward()
    assert table.weight.grad is not None
    recorder = GradientNormRecorder(table.parameters())
    recorder.record()
    close(recorder.norms, [float(table.weight.grad.to_dense().square().sum().sqrt())])


def test_what_the_recorder_refuses() -> None:
    with pytest.raises(ValueError, match="params"):
        GradientNormRecorder([])
    with pytest.raises(ValueError, match="norm_type"):
        GradientNormRecorder([nn.Parameter(torch.zeros(1))], "l0")
    with pytest.raises(RuntimeError, match="backward"):
        GradientNormRecorder([nn.Parameter(torch.zeros(1))]).record()


# -------------------------------------------------------------------------------------------- schedulers


def sgd() -> torch.optim.SGD:
    torch.manual_seed(0)
    groups = [{"params": [nn.Parameter(torch.randn(3))], "lr": lr} for lr in (1.0, 0.25)]
    return torch.optim.SGD(groups, lr=1.0, momentum=0.9)


def rates(scheduler: LRScheduler, steps: int) -> list[float]:
    """The first group's rate at each step; the second group's is a quarter of it."""
    found = []
    for _ in range(steps):
        first, second = (float(group["lr"]) for group in scheduler.optimizer.param_groups)
        assert second == pytest.approx(first / 4)
        found.append(first)
        scheduler.optimizer.step()
        scheduler.step()
    return found


def test_multipliers_of_linear_decay() -> None:
    close(rates(LinearDecayLR(sgd(), 5), 7), [0.8, 0.6, 0.4, 0.2, 0, 0, 0], atol=1e-15)
    close(rates(LinearDecayLR(sgd(), 6, warmup_steps=2), 8), [0.5, 1, 0.75, 0.5, 0.25, 0, 0, 0], atol=1e-15)


def test_multipliers_of_the_inverse_schedules() -> None:
    close(rates(InverseTimeLR(sgd(), 2.0), 4), [2 / 3, 2 / 4, 2 / 5, 2 / 6])
    close(rates(InverseSqrtLR(sgd(), 2.0), 4), [(2 / (2 + t)) ** 0.5 for t in (1, 2, 3, 4)])


def test_multipliers_of_warm_up_and_polynomial() -> None:
    expected = [1 / 3, 2 / 3, 1.0, *((1 - k / 7) ** 2 for k in range(7)), (1 / 7) ** 2, (1 / 7) ** 2]
    close(rates(WarmupPolynomialLR(sgd(), 10, 0.34, 2.0), 12), expected, atol=1e-15)
    close(rates(WarmupPolynomialLR(sgd(), 4), 5), [1, 0.75, 0.5, 0.25, 0.25])
    close(rates(WarmupPolynomialLR(sgd(), 3, 0.99), 4), [1 / 3, 2 / 3, 1, 1])
    for fraction in np.linspace(0, 0.999, 50):
        assert max(rates(WarmupPolynomialLR(sgd(), 11, fraction, 0.5), 13)) <= 1


def test_refined_scheduler() -> None:
    norms = NORMS[:9]
    m = refine_from_norms(norms, "l2", 0.3).tolist()
    close(rates(RefinedScheduleLR(sgd(), norms=norms, tau=0.3), 11), [*m, 0, 0])
    close(rates(RefinedScheduleLR(sgd(), multipliers=[0.5, 2.0, 1.0]), 5), [0.5, 2.0, 1.0, 1.0, 1.0])
    close(rates(RefinedScheduleLR(sgd(), [0.0, 1.0], total_steps=5), 5), [0, 0.25, 0.5, 0.75, 1])
    l1 = RefinedScheduleLR(sgd(), norms=norms, norm_type="l1", total_steps=20)
    close(rates(l1, 20), refine_from_norms(norms, "l1", total_steps=20))


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: LinearDecayLR(optimizer, 12, 3),
        lambda optimizer: RefinedScheduleLR(optimizer, norms=NORMS[:12]),
        lambda optimizer: InverseTimeLR(optimizer, 4.0),
        lambda optimizer: InverseSqrtLR(optimizer, 4.0),
        lambda optimizer: WarmupPolynomialLR(optimizer, 12, 0.3, 0.8),
    ],
)
def test_check_11_round_trip_in_the_middle_is_bitwise(make: Any) -> None:
    def step(scheduler: LRScheduler, i: int) -> list[Tensor]:
        params = [p for group in scheduler.optimizer.param_groups for p in group["params"]]
        for p in params:
            p.grad = torch.randn(3, generator=torch.Generator().manual_seed(i))
        scheduler.optimizer.step()
        scheduler.step()
        return [p.detach().clone() for p in params]

    first = make(sgd())
    for i in range(5):
        values = step(first, i)
    file = io.BytesIO()
    torch.save([first.state_dict(), first.optimizer.state_dict()], file)
    file.seek(0)
    second = make(sgd())
    for group, value in zip(second.optimizer.param_groups, values, strict=True):
        group["params"][0].data.copy_(value)
    schedule_state, optimizer_state = torch.load(file, weights_only=True)
    second.optimizer.load_state_dict(optimizer_state)
    second.load_state_dict(schedule_state)
    for i in range(5, 14):
        for a, b in zip(step(second, i), step(first, i), strict=True):
            assert torch.equal(a, b)


def test_loading_restores_the_schedule_whatever_it_was_built_with() -> None:
    first = RefinedScheduleLR(sgd(), norms=NORMS[:9])
    expected = rates(first, 3)
    second = RefinedScheduleLR(sgd(), multipliers=[1.0, 0.5])
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.multipliers, first.multipliers)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert rates(second, 8) == rates(first, 8)
    assert len(expected) == 3
    short, long = LinearDecayLR(sgd(), 4), LinearDecayLR(sgd(), 40, 7)
    long.load_state_dict(short.state_dict())
    assert (long.total_steps, long.warmup_steps) == (4, 0)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: LinearDecayLR(sgd(), 1), "total_steps"),
        (lambda: LinearDecayLR(sgd(), 5, 5), "warmup_steps"),
        (lambda: LinearDecayLR(sgd(), 5, -1), "warmup_steps"),
        (lambda: WarmupPolynomialLR(sgd(), 1), "total_steps"),
        (lambda: WarmupPolynomialLR(sgd(), 5, 1.0), "warmup_fraction"),
        (lambda: WarmupPolynomialLR(sgd(), 5, -0.1), "warmup_fraction"),
        (lambda: WarmupPolynomialLR(sgd(), 5, power=0.0), "power"),
        (lambda: InverseTimeLR(sgd(), 0.0), "offset"),
        (lambda: InverseSqrtLR(sgd(), -1.0), "offset"),
        (lambda: RefinedScheduleLR(sgd()), "neither"),
        (lambda: RefinedScheduleLR(sgd(), [1.0], [1.0, 2.0]), "both"),
        (lambda: RefinedScheduleLR(sgd(), [-1.0, 1.0]), "multipliers"),
        (lambda: RefinedScheduleLR(sgd(), []), "multipliers"),
        (lambda: RefinedScheduleLR(sgd(), [[1.0]]), "multipliers"),
        (lambda: RefinedScheduleLR(sgd(), norms=[1.0]), "norms"),
        (lambda: RefinedScheduleLR(sgd(), [1.0, 0.0], norm_type="l3"), "norm_type"),
        (lambda: RefinedScheduleLR(sgd(), [1.0, 0.0], tau=2.0), "tau"),
        (lambda: RefinedScheduleLR(sgd(), [1.0, 0.0], total_steps=1), "total_steps"),
    ],
)
def test_what_schedulers_refuse(call: Any, word: str) -> None:
    with warnings.catch_warnings(), pytest.raises(ValueError, match=word):
        call()
