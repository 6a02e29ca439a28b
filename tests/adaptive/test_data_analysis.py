"""Adaptive data analysis against plain loops with the same draws, scipy, closed forms and Monte Carlo."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from normviz import adaptive
from normviz.adaptive import (
    BudgetExhausted,
    EmpiricalMechanism,
    GaussianMechanism,
    LaplaceMechanism,
    MedianMechanism,
    PrivateMultiplicativeWeights,
    SampleSplittingMechanism,
    SparseValidate,
    StatisticalQueryMechanism,
    Thresholdout,
    data_analysis,
)


def signs(n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.choice((-1.0, 1.0), (n, d)), rng.choice((-1.0, 1.0), n)


def accuracy(weights: np.ndarray, X: np.ndarray, y: np.ndarray) -> float:
    return float((np.where(X @ weights >= 0, 1.0, -1.0) == y).mean())


# -------------------------------------------------------------------------------------------------- noise addition


@pytest.mark.parametrize(
    "kind", [EmpiricalMechanism, lambda x: LaplaceMechanism(x, 0.0), lambda x: GaussianMechanism(x, 0.0)]
)
def test_without_noise_the_answer_is_the_mean(kind) -> None:
    data = np.random.default_rng(0).random((7, 3))
    mechanism = kind(data)
    expected = sum(data[:, 1]) / 7
    assert mechanism.answer(lambda x: x[:, 1]) == pytest.approx(expected, rel=1e-14)
    assert mechanism.answer(data[:, 1]) == pytest.approx(expected, rel=1e-14)
    assert mechanism.answer(torch.tensor(data[:, 1])) == pytest.approx(expected, rel=1e-14)
    assert mechanism.queries_answered == 3
    assert isinstance(mechanism.answer(data[:, 0]), float)


def test_tensors_stay_tensors_for_callables() -> None:
    data = torch.rand(6, 2, requires_grad=True)
    answer = EmpiricalMechanism(data).answer(lambda x: (x[:, 0] > 0.5).float())
    assert answer == pytest.approx(float((data[:, 0] > 0.5).double().mean()))


def test_laplace_noise_has_std_b_sqrt_2() -> None:
    """Check 2: b is the scale, not the standard deviation."""
    b, mechanism = 0.02, LaplaceMechanism(np.zeros(4), 0.02, rng=0)
    answers = np.array([mechanism.answer(np.full(4, 0.5)) for _ in range(20000)])
    assert answers.std() == pytest.approx(b * math.sqrt(2), rel=0.03)
    assert stats.kstest(answers, stats.laplace(0.5, b).cdf).pvalue > 1e-3


def test_gaussian_noise_has_its_std() -> None:
    mechanism = GaussianMechanism(np.zeros(4), 0.02, rng=0)
    answers = np.array([mechanism.answer(np.full(4, 0.5)) for _ in range(20000)])
    assert stats.kstest(answers, stats.norm(0.5, 0.02).cdf).pvalue > 1e-3


@pytest.mark.parametrize("kind", [LaplaceMechanism, GaussianMechanism])
def test_noisy_answers_draw_once_and_are_clipped(kind) -> None:
    mechanism, rng = kind(np.zeros(4), 0.7, rng=5), np.random.default_rng(5)
    draw = rng.laplace if kind is LaplaceMechanism else rng.normal
    answers = [mechanism.answer(np.full(4, 0.5)) for _ in range(40)]
    expected = [min(1.0, max(0.0, 0.5 + draw(0.0, 0.7))) for _ in range(40)]
    assert answers == pytest.approx(expected, rel=1e-14, abs=1e-14)
    assert {0.0, 1.0} <= set(answers)


def test_splitting_answers_are_means_of_disjoint_blocks() -> None:
    """Check 11."""
    data = np.random.default_rng(0).random(11)
    mechanism = SampleSplittingMechanism(data, 3)
    seen = []

    def query(rows: np.ndarray) -> np.ndarray:
        seen.append(rows.copy())
        return rows

    answers = [mechanism.answer(query), mechanism.answer(data), mechanism.answer(query)]
    for j, answer in enumerate(answers):
        assert answer == pytest.approx(sum(data[3 * j : 3 * j + 3]) / 3, rel=1e-14)
    np.testing.assert_array_equal(np.concatenate(seen), np.concatenate([data[0:3], data[6:9]]))
    with pytest.raises(BudgetExhausted):
        mechanism.answer(query)
    assert mechanism.queries_answered == 3
    assert len(seen) == 2, "a refused query never sees data"


# ---------------------------------------------------------------------------------------------------- Thresholdout


def test_thresholdout_without_noise() -> None:
    """Check 1: the training mean iff the means differ by at most T, else the holdout mean and budget - 1."""
    rng = np.random.default_rng(0)
    mechanism = Thresholdout(np.zeros(50), np.zeros(30), threshold=0.05, sigma=0.0, budget=100)
    left, both = 100, set()
    for _ in range(60):
        train, holdout = rng.random(50), rng.random(30)
        answer = mechanism.answer((train, holdout))
        over = abs(train.mean() - holdout.mean()) > 0.05
        left -= over
        both.add(bool(over))
        assert answer == (holdout.mean() if over else train.mean(), over, left)
    assert both == {True, False}
    assert mechanism.budget_left == left
    assert mechanism.queries_answered == 60


def loop_thresholdout(pairs, T, sigma, budget, noise, seed):
    """The mechanism as a loop over draws of the same generator."""
    rng, answers = np.random.default_rng(seed), []
    noisy_T = T + rng.laplace(0, 2 * sigma) if noise == "laplace" else T
    for train, holdout in pairs:
        if budget is not None and budget < 1:
            answers.append(None)
            continue
        g, m = math.fsum(train) / len(train), math.fsum(holdout) / len(holdout)
        over = abs(m - g) > noisy_T + (
            rng.laplace(0, 4 * sigma) if noise == "laplace" else rng.normal(0, sigma)
        )
        if over:
            g = m + (rng.laplace(0, sigma) if noise == "laplace" else rng.normal(0, sigma))
            budget = None if budget is None else budget - 1
            if noise == "laplace":
                noisy_T = T + rng.laplace(0, 2 * sigma)
        answers.append((g, over))
    return answers


@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
@pytest.mark.parametrize("budget", [None, 7])
def test_thresholdout_equals_a_loop_with_the_same_draws(noise, budget) -> None:
    rng = np.random.default_rng(1)
    pairs = [(rng.random(20), rng.random(30)) for _ in range(60)]
    mechanism = Thresholdout(np.zeros(20), np.zeros(30), 0.05, 0.02, budget, noise, rng=9)
    expected = loop_thresholdout(pairs, 0.05, 0.02, budget, noise, 9)
    for pair, wanted in zip(pairs, expected, strict=True):
        if wanted is None:
            with pytest.raises(BudgetExhausted):
                mechanism.answer(pair)
            continue
        answer = mechanism.answer(pair)
        assert answer.value == pytest.approx(wanted[0], abs=1e-13)
        assert answer.overfit == wanted[1]
    overs = sum(bool(wanted and wanted[1]) for wanted in expected)
    assert 5 < overs < 60
    assert (None in expected) == (budget is not None)


def test_threshold_is_redrawn_only_after_an_over_threshold_answer() -> None:
    """Check 6, and under-threshold queries leave the budget unchanged."""
    mechanism = SparseValidate(np.zeros(10), np.zeros(10), 0.1, 0.02, budget=40, rng=0)
    rng = np.random.default_rng(2)
    kinds = set()
    for _ in range(80):
        before, left = mechanism._test.noisy_threshold, mechanism.budget_left
        overfit = mechanism.answer((rng.random(10), rng.random(10)))
        assert (mechanism._test.noisy_threshold != before) == overfit
        assert mechanism.budget_left == left - overfit
        kinds.add(overfit)
        if left - overfit < 1:
            break
    assert kinds == {True, False}


def test_sparse_validate_equals_a_loop_without_answer_draws() -> None:
    rng = np.random.default_rng(4)
    pairs = [(rng.random(15), rng.random(15)) for _ in range(50)]
    mechanism = SparseValidate(np.zeros(15), np.zeros(15), 0.06, 0.02, rng=11)
    noise = np.random.default_rng(11)
    noisy_T, overfits = 0.06 + noise.laplace(0, 0.04), 0
    for train, holdout in pairs:
        over = abs(math.fsum(train) - math.fsum(holdout)) / 15 > noisy_T + noise.laplace(0, 0.08)
        if over:
            noisy_T, overfits = 0.06 + noise.laplace(0, 0.04), overfits + 1
        assert mechanism.answer((train, holdout)) is bool(over)
    assert mechanism.overfits == overfits
    assert 0 < overfits < 50
    assert mechanism.budget_left == math.inf


def test_value_range_of_thresholdout() -> None:
    mechanism = Thresholdout(np.zeros(4), np.zeros(4), 0.1, 0.0, value_range=(-1.0, 1.0))
    assert mechanism.answer(([-1.0, -1, -1, -1], [1.0, 1, 1, 1])).value == 1.0
    with pytest.raises(ValueError, match=r"range \[-1, 1\]"):
        mechanism.answer(([0.0, 0, 0, 0], [0.0, 0, 0, 1.1]))


def test_callables_see_both_sets() -> None:
    answer = Thresholdout(np.full(4, 0.25), np.full(6, 0.75), sigma=0.0).answer(lambda x: x)
    assert answer == (0.75, True, math.inf)


# --------------------------------------------------------------------------------------------- PMW and the median


def reference_pmw(index, size, T, sigma, queries, seed, budget):
    rng, x, out = np.random.default_rng(seed), [1.0 / size] * size, []
    noisy_T = T + rng.laplace(0, 2 * sigma)
    for phi in queries:
        if budget < 1:
            break
        guess = math.fsum(p * v for p, v in zip(x, phi, strict=True))
        mean = math.fsum(phi[i] for i in index) / len(index)
        if abs(mean - guess) > noisy_T + rng.laplace(0, 4 * sigma):
            a = mean + rng.laplace(0, sigma)
            budget, noisy_T = budget - 1, T + rng.laplace(0, 2 * sigma)
            x = [p * math.exp(T / 2 * (1 if a > guess else -1) * v) for p, v in zip(x, phi, strict=True)]
            x = [p / math.fsum(x) for p in x]
            out.append(a)
        else:
            out.append(guess)
    return out, x, budget


@pytest.mark.parametrize("sigma", [0.0, 0.01])
def test_pmw_equals_a_loop_with_the_same_draws(sigma) -> None:
    rng = np.random.default_rng(0)
    index, queries = rng.integers(0, 3, 40), list(rng.integers(0, 2, (60, 12)).astype(float))
    mechanism = PrivateMultiplicativeWeights(index, 12, 0.2, sigma, rng=3)
    budget = math.ceil(4 * math.log(12) / 0.04)
    assert mechanism.budget_left == budget
    out, x, left = reference_pmw(index, 12, 0.2, sigma, queries, 3, budget)
    np.testing.assert_allclose([mechanism.answer(q) for q in queries], out, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(mechanism.hypothesis, x, rtol=1e-11)
    assert mechanism.budget_left == left
    assert mechanism.updates == budget - left > 3


def test_pmw_answers_adversarial_queries_and_its_potential_falls() -> None:
    """Checks 4 and 5: |X| = 64, 2000 queries chosen where hypothesis and sample differ most."""
    rng = np.random.default_rng(0)
    index, T = rng.choice(64, 500, p=rng.dirichlet(np.full(64, 0.2))), 0.05
    sample = np.bincount(index, minlength=64) / 500
    mechanism = PrivateMultiplicativeWeights(index, 64, T, 0.0)

    def divergence() -> float:
        return float(stats.entropy(sample, mechanism.hypothesis))

    kl = divergence()
    assert kl <= math.log(64)
    for j in range(2000):
        gap = sample - mechanism.hypothesis
        phi = (gap > 0).astype(float) if j % 3 else np.clip(gap * 40 + rng.random(64), 0, 1)
        updates = mechanism.updates
        assert abs(mechanism.answer(phi) - sample @ phi) <= T + 1e-12
        if mechanism.updates > updates:
            drop, kl = kl - divergence(), divergence()
            assert drop >= mechanism.eta * T - mechanism.eta**2 / 8 - 1e-12
    assert 10 < mechanism.updates <= 4 * math.log(64) / T**2


def test_pmw_answers_are_not_clipped() -> None:
    answers = [
        PrivateMultiplicativeWeights([0] * 4, 50, 0.1, 0.2, rng=seed).answer(np.eye(50)[0])
        for seed in range(30)
    ]
    assert max(answers) > 1


def test_median_equals_a_loop_with_the_same_draws() -> None:
    rng = np.random.default_rng(1)
    index = rng.integers(0, 4, 60)
    candidates = rng.dirichlet(np.full(9, 0.5), 40)
    mechanism = MedianMechanism(index, candidates, 0.03, 0.004, rng=5)
    noise = np.random.default_rng(5)
    noisy_T, left = 0.03 + noise.laplace(0, 0.008), list(range(40))
    updates = 0
    for _ in range(30):
        phi = rng.random(9)
        if not left:
            with pytest.raises(BudgetExhausted):
                mechanism.answer(phi)
            continue
        means = {h: math.fsum(candidates[h] * phi) for h in left}
        ordered = sorted(means.values())
        lower, upper = ordered[(len(left) - 1) // 2], ordered[len(left) // 2]
        answer, mean = (lower + upper) / 2, math.fsum(phi[index]) / 60
        if abs(mean - answer) > noisy_T + noise.laplace(0, 0.016):
            a = mean + noise.laplace(0, 0.004)
            # a mean equal to the median up to rounding is the median itself
            keep = (lambda v, m=lower: v > m + 1e-12) if a > answer else (lambda v, m=upper: v < m - 1e-12)
            kept = [h for h in left if keep(means[h])]
            assert len(kept) <= len(left) / 2
            left, answer, updates = kept, a, updates + 1
            noisy_T = 0.03 + noise.laplace(0, 0.008)
        assert mechanism.answer(phi) == pytest.approx(answer, abs=1e-12)
        assert mechanism.candidates_left == len(left)
        assert mechanism.updates == updates
    assert updates >= 3


def test_median_needs_at_most_log2_updates_with_an_accurate_candidate() -> None:
    rng = np.random.default_rng(0)
    index = rng.integers(0, 5, 100)
    truth = np.bincount(index, minlength=16) / 100
    candidates = np.vstack([rng.dirichlet(np.full(16, 0.3), 127), truth])
    mechanism = MedianMechanism(index, candidates, 0.02, 0.0)
    for _ in range(300):
        phi = rng.random(16)
        assert abs(mechanism.answer(phi) - truth @ phi) <= 0.02 + 1e-12
    assert 1 <= mechanism.updates <= math.log2(128)
    assert mechanism.candidates_left >= 1


def test_median_gives_the_answer_that_empties_it() -> None:
    mechanism = MedianMechanism([0, 0, 1], np.array([[0.0, 1.0]]), 0.1, 0.0)
    assert mechanism.answer([1.0, 0.0]) == pytest.approx(2 / 3)
    assert (mechanism.candidates_left, mechanism.budget_left) == (0, 0)
    with pytest.raises(BudgetExhausted):
        mechanism.answer([1.0, 0.0])
    assert mechanism.queries_answered == 1


# --------------------------------------------------------------------------------------------------------- privacy


def test_privacy_sums() -> None:
    """Check 7, and the other closed forms."""
    assert adaptive.sparse_privacy(10, 0.05, 1000) == pytest.approx(0.4)
    expected = math.sqrt(32 * 10 * math.log(2 / 1e-6)) / (0.05 * 1000)
    assert adaptive.sparse_privacy(10, 0.05, 1000, 1e-6) == pytest.approx(expected)
    assert adaptive.laplace_privacy(20, 100, 0.5) == pytest.approx(0.4)
    rho = 20 / (2 * 100**2 * 0.3**2)
    expected = rho + 2 * math.sqrt(rho * math.log(1e5))
    assert adaptive.gaussian_privacy(20, 100, 0.3, 1e-5) == pytest.approx(expected)
    assert adaptive.sparse_privacy(1, 0.0, 5) == math.inf
    assert adaptive.laplace_privacy(1, 5, 0.0) == math.inf
    assert adaptive.gaussian_privacy(1, 5, 0.0, 0.1) == math.inf
    assert adaptive.gaussian_privacy(1, 5, 0.1, 0.0) == math.inf
    assert adaptive.laplace_privacy(0, 5, 0.0) == adaptive.gaussian_privacy(0, 5, 0.1, 0.0) == 0.0


def test_sample_sizes_and_parameters() -> None:
    """Check 8 and the bounds: the sizes solve the inequalities that they come from."""
    threshold, sigma = adaptive.thresholdout_parameters(0.1, 100, 0.05)
    assert (threshold, sigma) == pytest.approx((0.075, 0.1 / (96 * math.log(8000))), rel=1e-14)
    n = adaptive.sample_size("nonadaptive", 100, 0.1, 0.05)
    assert 100 * 2 * math.exp(-2 * n * 0.01) == pytest.approx(0.05)
    assert adaptive.sample_size("splitting", 100, 0.1, 0.05) == pytest.approx(100 * n)
    assert adaptive.transfer_sample_size(0.1, 0.05) == pytest.approx(1200 * math.log(80))
    assert adaptive.transfer_sample_size(0.1, 0.05, delta_form=True) == pytest.approx(4800 * math.log(80))


def test_privacy_spent_of_the_mechanisms() -> None:
    x, half = np.zeros(10), np.full(10, 0.5)
    pair = (half, half)
    pmw = PrivateMultiplicativeWeights([0] * 10, 4, 0.5, 0.1, budget=3, rng=0)
    median = MedianMechanism([0] * 10, np.full((8, 4), 0.25), 0.5, 0.1, rng=0)
    expected = {
        EmpiricalMechanism(x): math.inf,
        SampleSplittingMechanism(x, 2): math.inf,
        LaplaceMechanism(x, 0.1): 1 / (10 * 0.1),
        LaplaceMechanism(x, 0.0): math.inf,
        GaussianMechanism(x, 0.1): math.inf,
        Thresholdout(x, x, sigma=0.1, budget=4): 2 * 4 / (0.1 * 10),
        Thresholdout(x, np.zeros(10), sigma=0.0, budget=4): math.inf,
        Thresholdout(x, x, sigma=0.1, budget=4, noise="gaussian"): math.inf,
        SparseValidate(x, x, sigma=0.1, budget=4): 2 * 4 / (0.1 * 10),
    }
    for mechanism, eps in expected.items():
        assert mechanism.privacy_spent() == (0.0, 0.0), "nothing is spent before the first answer"
        mechanism.answer(half if isinstance(mechanism, StatisticalQueryMechanism) else pair)
        assert mechanism.privacy_spent() == (pytest.approx(eps), 0.0), mechanism
    for mechanism in (pmw, median):
        assert mechanism.privacy_spent() == (0.0, 0.0)
        mechanism.answer([0.5] * 4)
    assert pmw.privacy_spent()[0] == pytest.approx(2 * 3 / (0.1 * 10))
    assert median.privacy_spent()[0] == pytest.approx(2 * (median.updates + 1) / (0.1 * 10))
    gaussian = GaussianMechanism(x, 0.1, rng=0)
    for _ in range(3):
        gaussian.answer(half)
    assert gaussian.privacy_spent(1e-3) == (pytest.approx(adaptive.gaussian_privacy(3, 10, 0.1, 1e-3)), 1e-3)
    laplace = LaplaceMechanism(x, 0.1, rng=0)
    laplace.answer(half)
    assert laplace.privacy_spent(1e-3)[0] == laplace.privacy_spent()[0]


def test_privacy_without_a_budget_counts_over_threshold_answers() -> None:
    mechanism = Thresholdout(np.zeros(4), np.zeros(8), 0.2, 1e-6, rng=0)
    for values, overs in ((0.5, 0), (0.9, 1), (0.5, 1), (1.0, 2)):
        mechanism.answer((np.full(4, 0.5), np.full(8, values)))
        assert mechanism.privacy_spent()[0] == pytest.approx(2 * (overs + 1) / (1e-6 * 8))


def test_a_wider_range_costs_more_privacy() -> None:
    """A mean of values in [-1, 1] moves twice as far when one row changes."""
    mechanism = Thresholdout(np.zeros(4), np.zeros(8), 0.2, 0.1, budget=3, value_range=(-1, 1), rng=0)
    mechanism.answer((np.zeros(4), np.zeros(8)))
    assert mechanism.privacy_spent()[0] == pytest.approx(2 * 2 * 3 / (0.1 * 8))


def test_laplace_privacy_bounds_the_density_ratio() -> None:
    """Two samples that differ in one row of n: the log ratio of the densities of an answer is at most 1 / (n b)."""
    n, b, a = 10, 0.3, np.linspace(-2, 3, 1001)
    ratio = stats.laplace.logpdf(a, 0.4, b) - stats.laplace.logpdf(a, 0.4 + 1 / n, b)
    assert np.abs(ratio).max() == pytest.approx(adaptive.laplace_privacy(1, n, b), rel=1e-9)


# --------------------------------------------------------------------------------------------------------- attacks


def test_sign_aggregation_overfits_the_sample_as_the_closed_form_says() -> None:
    """Check 3, n = d = 1000: without noise, and with s = 5 / sqrt(n) on the scale of c (half of it on that of a)."""
    X, y = signs(1000, 1000, 0)
    fresh, labels = signs(2000, 1000, 1)
    weights = adaptive.sign_aggregation_attack(EmpiricalMechanism(X), X, y)
    np.testing.assert_array_equal(weights, np.where(X.T @ y >= 0, 1.0, -1.0))
    assert accuracy(weights, X, y) == pytest.approx(0.788, abs=0.03)
    assert accuracy(weights, fresh, labels) == pytest.approx(0.5, abs=0.03)
    s = 5 / math.sqrt(1000)
    noisy = adaptive.sign_aggregation_attack(GaussianMechanism(X, s / 2, rng=0), X, y)
    expected = adaptive.expected_attack_accuracy(1000, 1000, s)
    assert expected == pytest.approx(
        stats.norm.cdf(math.sqrt(2000 / math.pi) / 1000 / math.sqrt(1e-3 + s * s))
    )
    assert expected < 0.6
    assert accuracy(noisy, X, y) == pytest.approx(expected, abs=0.04)


def test_expected_attack_accuracy() -> None:
    assert adaptive.expected_attack_accuracy(1000, 1000) == pytest.approx(0.788, abs=5e-4)


def test_attack_on_thresholdout_asks_pairs_in_order() -> None:
    (X, y), (Z, t) = signs(60, 25, 0), signs(80, 25, 1)
    weights = adaptive.sign_aggregation_attack(Thresholdout(X, Z, 0.05, 0.03, rng=2), (X, Z), (y, t))
    pairs = [((1 + X[:, j] * y) / 2, (1 + Z[:, j] * t) / 2) for j in range(25)]
    expected = loop_thresholdout(pairs, 0.05, 0.03, None, "laplace", 2)
    assert list(weights) == [1.0 if value >= 0.5 else -1.0 for value, _ in expected]


def test_attack_passes_exhaustion_on_and_ties_are_positive() -> None:
    X, y = signs(20, 6, 0)
    with pytest.raises(BudgetExhausted):
        adaptive.sign_aggregation_attack(SampleSplittingMechanism(X, 5), X, y)
    X, y = np.array([[1.0], [1.0]]), np.array([1.0, -1.0])
    assert adaptive.sign_aggregation_attack(EmpiricalMechanism(X), X, y) == [1.0]


def test_attack_on_a_universe_mechanism() -> None:
    X, y = signs(32, 4, 0)
    index = np.random.default_rng(0).integers(0, 32, 200)
    weights = adaptive.sign_aggregation_attack(PrivateMultiplicativeWeights(index, 32, 1e-3, 0.0), X, y)
    c = (X * y[:, None])[index].mean(axis=0)
    sure = np.abs(c) > 0.01
    np.testing.assert_array_equal(weights[sure], np.sign(c[sure]))


def reference_selection(train, holdout, fresh, ks, gaussian, seed):
    """Experiment (c) feature by feature and row by row."""
    (X, y), (Z, t), d = train, holdout, train[0].shape[1]
    rng, tol_t, tol = np.random.default_rng(seed), len(y) ** -0.5, len(t) ** -0.5
    a = [math.fsum(X[:, j] * y) / len(y) for j in range(d)]
    h = [math.fsum(Z[:, j] * t) / len(t) for j in range(d)]
    if gaussian:
        test, noise = rng.normal(0, tol, d), rng.normal(0, tol, d)
        h = [h[j] + noise[j] if abs(a[j] - h[j]) > 4 * tol + test[j] else a[j] for j in range(d)]
    a = [
        p if np.sign(p) == np.sign(q) and abs(p) > tol_t and abs(q) > tol else 0.0
        for p, q in zip(a, h, strict=True)
    ]
    order = sorted(range(d), key=lambda j: -abs(a[j]))
    rows = []
    for k in ks:
        if k == 0:
            rows.append([0.5] * 3)
            continue
        scores = []
        for points, labels in (train, holdout, fresh):
            right = 0
            for x, label in zip(points, labels, strict=True):
                total = math.fsum(np.sign(a[j]) * x[j] for j in order[:k])
                right += total != 0 and np.sign(total) == label
            scores.append(right / len(labels))
        if gaussian:
            if abs(scores[0] - scores[1]) < 4 * tol + rng.normal(0, tol):
                scores[1] = scores[0]
            else:
                scores[1] += rng.normal(0, tol)
        rows.append(scores)
    return np.array(rows)


@pytest.mark.parametrize("gaussian", [False, True])
def test_holdout_selection_equals_a_loop_with_the_same_draws(gaussian) -> None:
    rng = np.random.default_rng(3)
    sets = []
    for n in (60, 50, 70):
        y = rng.choice((-1.0, 1.0), n)
        sets.append((rng.normal(size=(n, 30)) + 0.2 * y[:, None] * (np.arange(30) < 6), y))
    ks = [0, 1, 4, 10, 30]
    scores = adaptive.holdout_selection(*sets, ks, "gaussian" if gaussian else None, rng=8)
    assert scores.shape == (5, 3)
    np.testing.assert_allclose(scores, reference_selection(*sets, ks, gaussian, 8), rtol=0, atol=1e-12)


def test_a_sign_of_zero_is_an_error() -> None:
    X, y = np.array([[1.0], [-1.0]] * 4), np.array([1.0, 1.0] * 4)
    scores = adaptive.holdout_selection((X, y), (X, y), (X, y), [1])
    np.testing.assert_array_equal(scores, np.zeros((1, 3)))


def test_reused_holdout_overstates_accuracy_without_signal() -> None:
    """Check 10: the standard holdout is above fresh for large k; Thresholdout's report is nearer to it."""
    standard, guarded = [], []
    for seed in range(3):
        result = adaptive.reusable_holdout_experiment(600, 600, [0, 100, 300], seed=seed)
        assert result.ks == (0, 100, 300)
        np.testing.assert_array_equal(result.standard[0], [0.5] * 3)
        standard.append(result.standard[2, 1] - result.standard[2, 2])
        guarded.append(result.thresholdout[2, 1] - result.thresholdout[2, 2])
    assert min(standard) > 0.05
    assert np.mean(guarded) < np.mean(standard)


def test_signal_is_found() -> None:
    for seed in range(2):
        result = adaptive.reusable_holdout_experiment(600, 100, [20], signal=True, seed=seed)
        assert result.standard[0, 2] > 0.65
    with_signal, without = (
        adaptive.reusable_holdout_experiment(400, 10, [10], signal=signal, seed=5).standard[0, 2]
        for signal in (True, False)
    )
    assert with_signal > without + 0.1


def test_freedman_against_scipy() -> None:
    result = adaptive.freedman_paradox(60, 20, seed=4)
    p = [stats.linregress(result.X[:, j], result.y).pvalue for j in range(20)]
    np.testing.assert_allclose(result.p_values, p, rtol=1e-9)
    np.testing.assert_array_equal(result.selected, np.flatnonzero(np.array(p) < 0.25))
    design = np.column_stack([np.ones(60), result.X[:, result.selected]])
    beta = np.linalg.solve(design.T @ design, design.T @ result.y)
    rss, k = ((result.y - design @ beta) ** 2).sum(), len(result.selected)
    f = (((result.y - result.y.mean()) ** 2).sum() - rss) / k / (rss / (60 - k - 1))
    assert result.f_statistic == pytest.approx(f, rel=1e-9)
    assert result.f_p_value == pytest.approx(stats.f.sf(f, k, 60 - k - 1), rel=1e-9)


def test_freedman_paradox_is_a_paradox() -> None:
    """Honest p values would be below 0.05 in one of 20 runs."""
    small = [adaptive.freedman_paradox(seed=seed).f_p_value < 0.05 for seed in range(20)]
    assert sum(small) >= 8


def test_freedman_edges() -> None:
    nothing = next(r for seed in range(50) if not len((r := adaptive.freedman_paradox(10, 1, seed)).selected))
    assert (nothing.f_statistic, nothing.f_p_value) == (0.0, 1.0)
    with pytest.raises(ValueError, match=r"\bn must be above"):
        adaptive.freedman_paradox(5, 200)


# ------------------------------------------------------------------------------------------------ same seed, errors


@pytest.mark.parametrize("kind", ["laplace", "gaussian", "validate", "pmw", "median"])
def test_same_seed_same_answers(kind) -> None:
    """Check 9; a generator and its seed are the same thing."""

    def run(rng) -> list:
        x, index = np.zeros(6), [0, 1, 1, 2, 0, 3]
        many = np.random.default_rng(0).dirichlet(np.ones(6), 999)
        mechanism = {
            "laplace": lambda: Thresholdout(x, x, 0.05, 0.05, rng=rng),
            "gaussian": lambda: Thresholdout(x, x, 0.05, 0.05, noise="gaussian", rng=rng),
            "validate": lambda: SparseValidate(x, x, 0.05, 0.05, rng=rng),
            "pmw": lambda: PrivateMultiplicativeWeights(index, 6, 0.05, 0.05, rng=rng),
            "median": lambda: MedianMechanism(index, many, 0.5, 0.05, rng),
        }[kind]()
        values = np.random.default_rng(1).random((20, 2, 6))
        if kind in ("pmw", "median"):
            return [mechanism.answer(v[0]) for v in values]
        return [mechanism.answer(tuple(v)) for v in values]

    assert run(7) == run(7) == run(np.random.default_rng(7))
    if kind != "validate":
        assert run(7) != run(8)


BAD_VALUES = {
    "too large": ([0.5, 1.1, 0.5], "range"),
    "too small": ([0.5, -0.1, 0.5], "range"),
    "NaN": ([0.5, float("nan"), 0.5], "range"),
    "wrong length": ([0.5, 0.5], "query"),
    "a table": ([[0.5, 0.5, 0.5]], "query"),
    "words": (["a", "b", "c"], "query"),
}


@pytest.mark.parametrize(("values", "word"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_bad_values_are_refused_before_anything_changes(values, word) -> None:
    x, good = np.zeros(3), [0.5, 0.5, 0.5]
    mechanisms = [
        EmpiricalMechanism(x),
        SampleSplittingMechanism(x, 3),
        LaplaceMechanism(x, 0.1, rng=0),
        GaussianMechanism(x, 0.1, rng=0),
        PrivateMultiplicativeWeights([0, 1], 3, 0.1, 0.1, rng=0),
        MedianMechanism([0, 1], np.full((3, 3), 1 / 3), 0.1, 0.1, rng=0),
        Thresholdout(x, x, rng=0),
        SparseValidate(x, x, rng=0),
    ]
    for mechanism in mechanisms:
        single = isinstance(mechanism, StatisticalQueryMechanism)
        before = repr(mechanism.state_dict())
        for query in [values] if single else [(values, good), (good, values)]:
            with pytest.raises(ValueError, match=word):
                mechanism.answer(query)
        assert repr(mechanism.state_dict()) == before


def test_rounding_outside_the_range_is_accepted() -> None:
    assert EmpiricalMechanism([0.0]).answer([1 + 5e-10]) == pytest.approx(1)


def test_an_exhausted_mechanism_does_not_change() -> None:
    x = np.zeros(3)
    for mechanism, query in (
        (Thresholdout(x, x, sigma=0.0, budget=1, rng=0), ([0.0] * 3, [1.0] * 3)),
        (SparseValidate(x, x, sigma=0.0, budget=1, rng=0), ([0.0] * 3, [1.0] * 3)),
        (PrivateMultiplicativeWeights([0], 3, 0.1, 0.0, budget=1, rng=0), [1.0, 0.0, 0.0]),
    ):
        mechanism.answer(query)
        before = repr(mechanism.state_dict())
        with pytest.raises(BudgetExhausted):
            mechanism.answer(query)
        assert repr(mechanism.state_dict()) == before
        assert mechanism.budget_left == 0
    assert issubclass(BudgetExhausted, RuntimeError)


def test_queries_of_another_kind() -> None:
    with pytest.raises(ValueError, match="query"):
        Thresholdout([0.0], [0.0]).answer([0.5])
    with pytest.raises(ValueError, match="query"):
        PrivateMultiplicativeWeights([0], 2, 0.1, 0.0).answer(lambda x: x)


def test_large_universe_is_refused_with_advice() -> None:
    with pytest.raises(ValueError, match=r"universe_size must be at most 10000000.*coarser"):
        PrivateMultiplicativeWeights([0], 10_000_001, 0.1, 0.1)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: adaptive.sample_size("adaptive", 1, 0.1, 0.1), "kind"),
        (lambda: adaptive.sample_size("splitting", 0, 0.1, 0.1), "m"),
        (lambda: adaptive.transfer_sample_size(0.0, 0.1), "tau"),
        (lambda: adaptive.thresholdout_parameters(0.1, 1, 1.0), "beta"),
        (lambda: adaptive.sparse_privacy(0, 0.1, 1), "budget"),
        (lambda: adaptive.sparse_privacy(1, -0.1, 1), "sigma"),
        (lambda: adaptive.gaussian_privacy(1, 1, 0.1, 1.0), "delta"),
        (lambda: adaptive.laplace_privacy(1, 0, 0.1), "n"),
        (lambda: EmpiricalMechanism([0.0]).privacy_spent(1.0), "delta"),
        (lambda: adaptive.expected_attack_accuracy(0, 1), "n"),
        (lambda: adaptive.reusable_holdout_experiment(5, 5, [6]), "ks"),
        (lambda: adaptive.reusable_holdout_experiment(5, 5, [1], noise="laplace"), "noise"),
        (lambda: adaptive.freedman_paradox(2), "n"),
        (lambda: adaptive.sign_aggregation_attack(EmpiricalMechanism([0.0]), [0.0], [0.0]), "X"),
        (lambda: adaptive.sign_aggregation_attack(Thresholdout([0.0], [0.0]), [[0.0]], [0.0]), "X"),
        (lambda: adaptive.holdout_selection(([[1.0]], [1.0]), ([[1.0, 2.0]], [1.0]), ([[1.0]], [1.0]), [1]), "holdout"),
        (lambda: adaptive.holdout_selection([[1.0]], None, None, [1]), "train"),
    ],
)  # fmt: skip
def test_arguments_are_named(call, name) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        call()


def test_public_names() -> None:
    assert set(data_analysis.__all__) <= set(adaptive.__all__)
    assert all(getattr(adaptive, name) is getattr(data_analysis, name) for name in data_analysis.__all__)
