"""Bandit problems, complexity, classes, episodes and baselines against NumPy, scipy and enumeration of paths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import brentq, minimize

from normviz import adaptive
from normviz.adaptive import (
    BanditProblem,
    GeneralizedBinarySearchPolicy,
    GreedyUncertaintyPolicy,
    HistoryPolicy,
    OracleDesignPolicy,
    RagePolicy,
    RoundRobinPolicy,
    SuccessiveEliminationPolicy,
    UniformPolicy,
    active_learning,
    complexity,
    exact_expected_loss,
    history_features,
    multi_armed_complexity,
    project_to_class,
    recommend,
    rollout,
    sample_class,
)

F64 = torch.float64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(*shape, generator=generator(seed), dtype=F64) - 1


def problems() -> dict[str, BanditProblem]:
    return {
        "arms": BanditProblem.multi_armed(5),
        "thresholds": BanditProblem.thresholds(6),
        "linear": BanditProblem.linear(9, 3, 6, seed=2),
        "questions": BanditProblem.twenty_questions(adaptive.animal_answers(0.1)[[0, 5, 8, 11, 15], :8]),
    }


def targets(problem: BanditProblem, theta: np.ndarray) -> np.ndarray:
    """(z* - z) / <z* - z, theta> of all other decisions."""
    Z = problem.decisions.numpy()
    best = int(np.argmax(Z @ theta))
    v = Z[best] - np.delete(Z, best, axis=0)
    return v / (v @ theta)[:, None]


def design_value(X: np.ndarray, U: np.ndarray, shares: np.ndarray) -> float:
    return float(max(u @ np.linalg.solve(X.T @ np.diag(shares) @ X, u) for u in U))


def least_value(X: np.ndarray, U: np.ndarray) -> float:
    """The optimal design by sequential quadratic programming, the better of two starts."""
    n, values = len(X), []
    for seed in range(2):
        start = np.random.default_rng(seed).dirichlet(np.full(n, 5.0))
        scale = design_value(X, U, np.full(n, 1 / n))

        def slack(w, scale=scale):
            return np.array([1 - u @ np.linalg.solve(X.T @ np.diag(scale * w) @ X, u) for u in U])

        found = minimize(
            lambda w: w.sum(), 2 * start, bounds=[(1e-7, None)] * n, method="SLSQP",
            constraints=[{"type": "ineq", "fun": slack}], options={"maxiter": 400, "ftol": 1e-12},
        )  # fmt: skip
        if np.isfinite(found.x).all() and found.x.sum() > 0:
            values.append(design_value(X, U, found.x / found.x.sum()))
    return min(values)


# --------------------------------------------------------------------------------------------------------- problem


def test_decisions_and_losses() -> None:
    for problem in problems().values():
        theta = uniform(7, problem.actions.shape[1], seed=1)
        values = theta.numpy() @ problem.decisions.numpy().T
        np.testing.assert_array_equal(problem.best(theta), values.argmax(1))
        z = torch.arange(7) % problem.decisions.shape[0]
        regret = values.max(1) - values[np.arange(7), z]
        wrong = (values.argmax(1) != z.numpy()).astype(float)
        expected = regret if problem.loss == "simple_regret" else wrong
        np.testing.assert_allclose(problem.loss_value(z, theta), expected, rtol=1e-12, atol=1e-12)


def test_simple_regret_is_differentiable_and_identification_is_flat() -> None:
    theta = uniform(4, 3).requires_grad_()
    z = torch.tensor([0, 1, 2, 0])
    problem = BanditProblem.multi_armed(3)
    problem.loss_value(z, theta).sum().backward()
    expected = torch.eye(3, dtype=F64)[problem.best(theta)] - torch.eye(3, dtype=F64)[z]
    torch.testing.assert_close(theta.grad, expected)
    flat = BanditProblem.multi_armed(3, loss="best_identification").loss_value(z, theta)
    assert not flat.requires_grad


def test_ties_go_to_the_lowest_index() -> None:
    problem = BanditProblem.multi_armed(4, loss="best_identification")
    theta = torch.tensor([[0.1, 0.5, 0.5, 0.0]])
    assert problem.best(theta).tolist() == [1]
    assert problem.best(theta[0]).shape == ()
    assert problem.loss_value(torch.tensor([2]), theta).tolist() == [1.0]


def test_threshold_regret_is_twice_the_expected_mistakes() -> None:
    problem, theta = BanditProblem.thresholds(5), uniform(1, 5)[0].numpy()
    mistakes = [sum((1 + theta[j] * (1 if j < k else -1)) / 2 for j in range(5)) for k in range(6)]
    losses = problem.loss_value(torch.arange(6), torch.tensor(theta).expand(6, 5))
    np.testing.assert_allclose(losses, 2 * (np.array(mistakes) - min(mistakes)), atol=1e-12)


def test_answers_have_their_distribution_and_log_density() -> None:
    theta = torch.tensor([[0.4, -0.2]], dtype=F64).expand(20000, 2)
    x = torch.zeros(20000, dtype=torch.int64)
    gauss, coin = BanditProblem.multi_armed(2), BanditProblem.multi_armed(2, noise="bernoulli")
    y = gauss.sample(x, theta, generator(0))
    assert stats.kstest(y.numpy(), stats.norm(0.4, 1).cdf).pvalue > 1e-3
    np.testing.assert_allclose(gauss.log_prob(y, x, theta), stats.norm(0.4, 1).logpdf(y), rtol=1e-12)
    y = coin.sample(x, theta, generator(0))
    assert stats.binomtest(int(y.sum()), 20000, 0.7).pvalue > 1e-3
    np.testing.assert_allclose(coin.log_prob(y, x, theta), stats.bernoulli(0.7).logpmf(y), rtol=1e-12)
    assert torch.equal(coin.sample(x, theta, generator(3)), coin.sample(x, theta, generator(3)))


def test_bernoulli_log_density_is_finite_at_the_edge_of_the_box() -> None:
    problem = BanditProblem.multi_armed(2, noise="bernoulli")
    theta = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=F64, requires_grad=True)
    value = problem.log_prob(torch.tensor([1.0, 0.0], dtype=F64), torch.tensor([0, 0]), theta)
    value.sum().backward()
    torch.testing.assert_close(value.detach(), torch.zeros(2, dtype=F64))
    torch.testing.assert_close(theta.grad, torch.tensor([[0.5, 0.0], [-0.5, 0.0]], dtype=F64))


def test_bernoulli_means_outside_are_refused_and_rounding_is_clipped() -> None:
    problem = BanditProblem.multi_armed(2, noise="bernoulli")
    x, inside = torch.tensor([0]), torch.tensor([[1 + 1e-9, 0.0]], dtype=F64)
    assert problem.sample(x, inside).tolist() == [1.0]
    outside = torch.tensor([[1.1, 0.0]], dtype=F64)
    for call in (
        lambda: problem.sample(x, outside),
        lambda: problem.log_prob(torch.ones(1), x, outside),
        lambda: rollout(RoundRobinPolicy(problem, 1), problem, outside, 1),
        lambda: exact_expected_loss(problem, UniformPolicy(problem, 1), outside, 1),
    ):
        with pytest.raises(ValueError, match=r"\btheta\b"):
            call()


def test_tables_of_questions() -> None:
    prob = adaptive.animal_answers(0.1)
    assert prob.shape == (len(adaptive.ANIMALS), len(adaptive.QUESTIONS)) == (16, 20)
    assert set(prob.unique().tolist()) == {0.1, 0.9}
    distance = torch.cdist(adaptive.animal_answers(), adaptive.animal_answers(), p=1)
    assert distance[~torch.eye(16, dtype=torch.bool)].min() >= 2, "no two animals differ in one question only"
    problem = BanditProblem.twenty_questions(prob)
    assert problem.best(2 * prob - 1).tolist() == list(range(16))
    assert (problem.noise, problem.loss) == ("bernoulli", "best_identification")
    jokes = adaptive.joke_features()
    assert jokes.shape == (len(adaptive.JOKES), len(adaptive.JOKE_TRAITS))
    torch.testing.assert_close(jokes.norm(dim=1), torch.ones(12, dtype=F64))
    taste = uniform(3, 6)
    assert torch.isfinite(complexity(BanditProblem(jokes, jokes), taste)[0]).all()


# ------------------------------------------------------------------------------------------------------ complexity


def root_complexity(gaps: np.ndarray) -> float:
    """rho from the root of sum (Delta^2 y - 1)^-2 = 1 by scipy's bracketing."""
    low = 2 / gaps.min() ** 2
    high = (1 + math.sqrt(len(gaps))) / gaps.min() ** 2
    y = brentq(lambda y: ((gaps**2 * y - 1) ** -2.0).sum() - 1, low, high * 1.0001, xtol=1e-14, rtol=1e-14)
    return float(y + (y / (gaps**2 * y - 1)).sum())


def test_two_arms() -> None:
    """Check 1: C = 4 / Delta^2."""
    gaps = torch.tensor([[0.1], [0.5], [1.7]], dtype=F64)
    torch.testing.assert_close(multi_armed_complexity(gaps), 4 / gaps[:, 0] ** 2)


@pytest.mark.parametrize("n", [3, 5, 12])
def test_arms_against_scipy_and_the_bound_by_h(n) -> None:
    """Check 1: C equals the bisection's within 1e-3 (here 1e-9); H <= C <= 2 H; the general solver agrees."""
    theta = uniform(6, n, seed=n)
    value, shares = complexity(BanditProblem.multi_armed(n), theta)
    for row, c in zip(theta.numpy(), value.tolist(), strict=True):
        gaps = np.delete(row.max() - row, row.argmax())
        assert c == pytest.approx(root_complexity(gaps), rel=1e-9)
        H = gaps.min() ** -2 + (gaps**-2).sum()
        assert H * (1 - 1e-12) <= c <= 2 * H * (1 + 1e-12)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    # Doubled decisions are the same problem with C unchanged, but not recognised as arms.
    doubled = BanditProblem(torch.eye(n, dtype=F64), 2 * torch.eye(n, dtype=F64))
    torch.testing.assert_close(complexity(doubled, theta)[0], value, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", problems())
def test_complexity_is_homogeneous(name) -> None:
    """Check 1: C(2 theta) = C(theta) / 4."""
    problem = problems()[name]
    theta = uniform(5, problem.actions.shape[1], seed=3) / 2
    one, two = complexity(problem, theta)[0], complexity(problem, 2 * theta)[0]
    torch.testing.assert_close(two, one / 4, rtol=1e-9, atol=0)


def test_design_of_arms_equalises_all_constraints() -> None:
    """Check 2: in the simplex, and (1 / l_* + 1 / l_i) / Delta_i^2 = C for all i."""
    theta = uniform(8, 6, seed=1)
    value, shares = complexity(BanditProblem.multi_armed(6), theta)
    assert (shares > 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(8, dtype=F64))
    for row, c, share in zip(theta.numpy(), value.numpy(), shares.numpy(), strict=True):
        best = row.argmax()
        others = np.delete(np.arange(6), best)
        ratio = (1 / share[best] + 1 / share[others]) / (row[best] - row[others]) ** 2
        np.testing.assert_allclose(ratio, c, rtol=1e-9)


@pytest.mark.parametrize("name", ["thresholds", "linear", "questions"])
def test_complexity_against_quadratic_programming(name) -> None:
    """Never below the minimum, within 0.2 percent of it (3 percent asked), and attained by the design."""
    problem = problems()[name]
    theta = uniform(2, problem.actions.shape[1], seed=5)
    value, shares = complexity(problem, theta)
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(2, dtype=F64))
    X = problem.actions.numpy()
    for row, c, share in zip(theta.numpy(), value.tolist(), shares.numpy(), strict=True):
        U = targets(problem, row)
        assert design_value(X, U, share) == pytest.approx(c, rel=1e-6)
        least = least_value(X, U)
        assert c <= least * 1.002
        assert c >= least * (1 - 1e-3), "the reference is only an upper bound of the minimum"


def test_complexity_is_certified_by_its_lower_bound() -> None:
    """The minimum is at least 2 sum p f - max_j sum p <x_j, A^-1 u>^2 for any p: no weights get above the value."""
    problem, rng = BanditProblem.linear(9, 3, 6, seed=2), np.random.default_rng(0)
    theta = uniform(1, 3, seed=5)[0]
    value, shares = complexity(problem, theta)
    X, U = problem.actions.numpy(), targets(problem, theta.numpy())
    A = X.T @ np.diag(shares.numpy()) @ X
    for _ in range(200):
        p = rng.dirichlet(np.full(len(U), 0.3))
        S = np.linalg.solve(A, U.T)
        bound = 2 * p @ (U.T * S).sum(0) - ((X @ S) ** 2 @ p).max()
        assert bound <= float(value) * (1 + 1e-9)


def test_infinite_and_zero_complexity() -> None:
    arms = BanditProblem.multi_armed(3)
    value, shares = complexity(arms, torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.4, 0.0]], dtype=F64))
    assert value[0] == math.inf
    assert math.isfinite(value[1])
    torch.testing.assert_close(shares[0], torch.full((3,), 1 / 3, dtype=F64))
    flat = BanditProblem([[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    assert complexity(flat, torch.tensor([0.5, 0.1]))[0] == math.inf, (
        "no action measures the second direction"
    )
    within = BanditProblem([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]])
    assert complexity(within, torch.tensor([0.5, 0.0, 0.9], dtype=F64))[0] == pytest.approx(16, rel=1e-3)
    single = BanditProblem(torch.eye(2), torch.ones(1, 2))
    value, shares = complexity(single, torch.tensor([0.3, 0.2]))
    assert (value, shares.tolist()) == (0, [0.5, 0.5])
    assert single.loss_value(torch.tensor([0]), torch.tensor([[0.3, 0.2]])) == 0
    assert multi_armed_complexity(torch.tensor([0.0, 1.0])) == math.inf


# --------------------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("name", problems())
def test_projection_gives_members_in_the_box(name) -> None:
    """Check 3."""
    problem = problems()[name]
    r = 3 * float(min(complexity(problem, sample_class(problem, 1e4, 30, generator(2)))[0]))
    theta = 1.5 * uniform(40, problem.actions.shape[1], seed=4)
    theta[0] = 0.5  # tied arms
    projected = project_to_class(problem, theta, r)
    value, _ = complexity(problem, projected)
    assert (value <= r * (1 + (1e-6 if problem.is_multi_armed else 1e-2))).all()
    assert (projected.abs() <= 1).all()
    clipped = theta.clamp(-1, 1)
    before, _ = complexity(problem, clipped)
    inside = before <= r
    torch.testing.assert_close(projected[inside], clipped[inside], rtol=0, atol=0)
    grown = clipped * (before / r).sqrt()[:, None]
    fits = ~inside & torch.isfinite(before) & (grown.abs() <= 1).all(1)
    torch.testing.assert_close(projected[fits], grown[fits])
    moved = ~inside & ~fits
    assert moved.any()
    if problem.is_multi_armed:
        torch.testing.assert_close(value[moved], torch.full_like(value[moved], r), rtol=1e-5, atol=0)
        assert torch.equal(problem.best(projected), problem.best(clipped))
    torch.testing.assert_close(project_to_class(problem, projected, r), projected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        project_to_class(problem, projected[3], r), projected[3], rtol=1e-12, atol=1e-12
    )


def test_projection_in_float32_keeps_the_bound() -> None:
    problem, theta = BanditProblem.multi_armed(5), uniform(300, 5, seed=6).float()
    for r in (8.0, 300.0):
        projected = project_to_class(problem, theta, r)
        assert projected.dtype == torch.float32
        assert (complexity(problem, projected.double())[0] <= r * (1 + 1e-6)).all()


def test_least_complexity_in_the_box() -> None:
    two = BanditProblem.multi_armed(2)
    for call in (
        lambda: project_to_class(two, torch.zeros(1, 2), 0.9),
        lambda: sample_class(two, 0.9, 3),
        lambda: adaptive.AdversarialTrainer(two, HistoryPolicy(two, 2), 2, 0.9),
    ):
        with pytest.raises(ValueError, match=r"\br must be at least 1, the least"):
            call()
    corner = project_to_class(two, torch.zeros(1, 2, dtype=F64), 1.0)
    torch.testing.assert_close(corner.abs(), torch.ones(1, 2, dtype=F64))
    four = BanditProblem.multi_armed(4, box=(0.0, 1.0))
    with pytest.raises(ValueError, match=f"{(1 + math.sqrt(3)) ** 2:g}"):
        sample_class(four, 5.0, 1)


def test_least_complexity_of_a_linear_problem_against_random_search() -> None:
    """No point of the box is easier than the minimum, and the minimum is attained."""
    problem = problems()["linear"]
    with pytest.raises(ValueError, match="least complexity") as caught:
        sample_class(problem, 1e-3, 1)
    least = float(str(caught.value).split("at least ")[1].split(",")[0])
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=F64)
    theta = torch.cat(
        [corners, uniform(500, 3), 1.0 * torch.sign(uniform(500, 3)) * uniform(500, 3, seed=1).abs().sqrt()]
    )
    assert complexity(problem, theta, iters=50)[0].min() >= least * (1 - 1e-5)
    easiest = sample_class(problem, least * 1.001, 1, generator(0))
    assert complexity(problem, easiest)[0] <= least * 1.012


def test_samples_are_members_and_reproducible() -> None:
    problem = BanditProblem.thresholds(6)
    sample = sample_class(problem, 20.0, 12, generator(1))
    assert sample.shape == (12, 6)
    assert (complexity(problem, sample)[0] <= 20 * 1.01).all()
    assert torch.equal(sample, sample_class(problem, 20.0, 12, generator(1)))


# --------------------------------------------------------------------------------- features, recommendation, network


def loop_features(problem: BanditProblem, actions, rewards, T: int) -> np.ndarray:
    n, out = problem.actions.shape[0], []
    for xs, ys in zip(actions.tolist(), rewards.tolist(), strict=True):
        rows = []
        for j in range(n):
            mine = [y for x, y in zip(xs, ys, strict=True) if x == j]
            sums = [len(mine), sum(mine), sum(y * y for y in mine), len(xs)]
            rows.append([v / T for v in (sums if problem.noise == "gaussian" else sums[:2] + sums[3:])])
        out.append(rows)
    return np.array(out)


@pytest.mark.parametrize("noise", ["gaussian", "bernoulli"])
def test_features_and_recommendation_equal_a_loop(noise) -> None:
    problem = BanditProblem.linear(5, 3, 7, seed=1, noise=noise, box=(-0.5, 0.5))
    theta = uniform(30, 3, seed=2) / 2
    run = rollout(UniformPolicy(problem, 6), problem, theta, 6, generator(0))
    for t in range(6):
        expected = loop_features(problem, run.actions[:, :t], run.rewards[:, :t], 6)
        np.testing.assert_allclose(run.features[:, t], expected.reshape(30, 5, -1), atol=1e-14)
        features = history_features(problem, run.actions[:, :t], run.rewards[:, :t], 6)
        np.testing.assert_allclose(features, expected.reshape(30, 5, -1), atol=1e-14)
    features = history_features(problem, run.actions, run.rewards, 6)
    X, Z = problem.actions.numpy(), problem.decisions.numpy()
    for b in range(30):
        A, total = 0.1 * np.eye(3), np.zeros(3)
        for x, y in zip(run.actions[b].tolist(), run.rewards[b].tolist(), strict=True):
            A += np.outer(X[x], X[x])
            total += X[x] * (y if noise == "gaussian" else 2 * y - 1)
        assert recommend(problem, features, 6)[b] == int(np.argmax(Z @ np.linalg.solve(A, total)))
    torch.testing.assert_close(run.decision, recommend(problem, features, 6))
    torch.testing.assert_close(run.loss, problem.loss_value(run.decision, theta))


def test_recommendation_of_ties_is_the_lowest_index() -> None:
    problem = BanditProblem.multi_armed(4, noise="bernoulli")
    assert recommend(problem, torch.zeros(1, 4, 3), 5).tolist() == [0]
    features = history_features(problem, torch.tensor([[3, 1, 0]]), torch.tensor([[1.0, 1.0, 0.0]]), 5)
    assert recommend(problem, features, 5).tolist() == [1]


def test_symmetric_network_is_equivariant() -> None:
    problem = BanditProblem.multi_armed(5)
    torch.manual_seed(0)
    network = HistoryPolicy(problem, 4, hidden=8, symmetric=True).double()
    features, order = torch.rand(3, 5, 4, dtype=F64), torch.randperm(5)
    torch.testing.assert_close(network(features[:, order]), network(features)[:, order])
    plain = HistoryPolicy(problem, 4, hidden=8)
    assert plain(features).dtype == torch.float32
    assert "symmetric=True" in repr(network)


# -------------------------------------------------------------------------------------------------------- episodes


@pytest.mark.parametrize("noise", ["gaussian", "bernoulli"])
def test_log_probabilities_of_an_episode(noise) -> None:
    problem = BanditProblem.linear(4, 2, 3, seed=0, noise=noise, box=(-0.5, 0.5))
    torch.manual_seed(0)
    policy = HistoryPolicy(problem, 5, hidden=6).double()
    theta = (uniform(8, 2) / 2).requires_grad_()
    run = rollout(policy, problem, theta, 5, generator(0))
    logits = policy(run.features.flatten(0, 1)).view(8, 5, 4).log_softmax(-1)
    expected = logits.gather(-1, run.actions[..., None]).sum((1, 2))
    torch.testing.assert_close(run.log_prob, expected)
    likelihood = sum(problem.log_prob(run.rewards[:, t], run.actions[:, t], theta).sum() for t in range(5))
    torch.testing.assert_close(run.obs_log_prob_grad, torch.autograd.grad(likelihood, theta)[0])
    assert torch.autograd.grad(run.log_prob.sum(), list(policy.parameters()))[0].abs().sum() > 0
    assert torch.autograd.grad(run.loss.sum(), theta, allow_unused=True)[0] is not None
    again = rollout(policy, problem, theta, 5, generator(0))
    assert torch.equal(again.actions, run.actions)
    assert torch.equal(again.rewards, run.rewards)


def test_greedy_episodes_take_the_most_probable_action() -> None:
    problem = BanditProblem.multi_armed(4)
    policy = HistoryPolicy(problem, 3, hidden=6)
    run = rollout(policy, problem, uniform(6, 4), 3, generator(0), greedy=True)
    np.testing.assert_array_equal(run.actions, policy(run.features.flatten(0, 1)).view(6, 3, 4).argmax(-1))


def path_loss(problem: BanditProblem, policy, theta: list[float], T: int, xs=(), ys=()) -> float:
    """E[loss] as a sum over every path, one history after the other."""
    n = problem.actions.shape[0]
    actions, rewards = (torch.tensor([list(v)], dtype=d) for v, d in ((xs, torch.int64), (ys, F64)))
    features = history_features(problem, actions, rewards, T)
    if len(xs) == T:
        z = (
            policy.recommend(features) if hasattr(policy, "recommend") else recommend(problem, features, T)
        ).item()
        values = problem.decisions.numpy() @ np.array(theta)
        if problem.loss == "simple_regret":
            return float(values.max() - values[z])
        return float(z != values.argmax())
    choice = policy(features).softmax(-1)[0].tolist()
    total = 0.0
    for x in range(n):
        p = (1 + float(problem.actions[x] @ torch.tensor(theta, dtype=F64))) / 2
        for y, q in ((1.0, p), (0.0, 1 - p)):
            if choice[x] * q:
                total += choice[x] * q * path_loss(problem, policy, theta, T, (*xs, x), (*ys, y))
    return total


@pytest.mark.parametrize("loss", ["simple_regret", "best_identification"])
def test_exact_loss_equals_the_sum_over_paths(loss) -> None:
    problem = BanditProblem.thresholds(2, loss=loss)
    torch.manual_seed(1)
    theta = torch.tensor([[0.3, -0.6], [1.0, -1.0], [-0.2, 0.9]], dtype=F64)
    for policy in (
        HistoryPolicy(problem, 3, hidden=5).double(),
        RoundRobinPolicy(problem, 3),
        GeneralizedBinarySearchPolicy(problem, 3, eps=0.2),
    ):
        exact = exact_expected_loss(problem, policy, theta, 3)
        expected = [path_loss(problem, policy, row, 3) for row in theta.tolist()]
        np.testing.assert_allclose(exact.detach(), expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(exact_expected_loss(problem, policy, theta[0], 3), exact[0])


def test_exact_loss_matches_monte_carlo() -> None:
    """Check 5."""
    problem = BanditProblem.multi_armed(3, noise="bernoulli")
    torch.manual_seed(0)
    policy = HistoryPolicy(problem, 4, hidden=8)
    theta = uniform(3, 3, seed=8)
    loss = rollout(policy, problem, theta.repeat_interleave(20000, 0), 4, generator(1)).loss.view(3, -1)
    error = loss.mean(1) - exact_expected_loss(problem, policy, theta, 4).detach()
    assert (error.abs() <= 4 * loss.std(1) / math.sqrt(20000)).all()


def test_exact_loss_has_the_right_gradients() -> None:
    problem = BanditProblem.multi_armed(2, noise="bernoulli")
    torch.manual_seed(0)
    policy = HistoryPolicy(problem, 2, hidden=3).double()
    for p in policy.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator(1), dtype=F64)
    theta = torch.tensor([[0.3, -0.4]], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: exact_expected_loss(problem, policy, t, 2), theta)
    weight = policy.layers[0].weight
    grad = torch.autograd.grad(exact_expected_loss(problem, policy, theta, 2).sum(), weight)[0]
    with torch.no_grad():
        for i, j in ((0, 0), (2, 3)):
            weight[i, j] += 1e-5
            above = path_loss(problem, policy, [0.3, -0.4], 2)
            weight[i, j] -= 2e-5
            slope = (above - path_loss(problem, policy, [0.3, -0.4], 2)) / 2e-5
            weight[i, j] += 1e-5
            assert grad[i, j] == pytest.approx(slope, rel=1e-5, abs=1e-9)


# ------------------------------------------------------------------------------------------------------- baselines


def histories(problem: BanditProblem, T: int, B: int = 12, seed: int = 0):
    low, high = problem.box
    theta = uniform(B, problem.actions.shape[1], seed=seed) * min(-low, high)
    return rollout(UniformPolicy(problem, T), problem, theta, T, generator(seed))


def chosen(logits: torch.Tensor) -> list[int]:
    assert ((logits == 0).sum(1) == 1).all()
    assert (torch.isinf(logits).sum(1) == logits.shape[1] - 1).all()
    return logits.argmax(1).tolist()


def test_uniform_and_round_robin() -> None:
    problem = BanditProblem.multi_armed(3)
    run = histories(problem, 5)
    assert torch.equal(UniformPolicy(problem, 5)(run.features[:, 2]), torch.zeros(12, 3, dtype=F64))
    for t in range(5):
        assert chosen(RoundRobinPolicy(problem, 5)(run.features[:, t])) == [t % 3] * 12


def elimination_loop(problem: BanditProblem, xs, ys, delta: float):
    """Survivors and A + 0.1 I of one history, as in the text."""
    X, Z = problem.actions.numpy(), problem.decisions.numpy()
    d = X.shape[1]
    A, total = 0.1 * np.eye(d), np.zeros(d)
    for x, y in zip(xs, ys, strict=True):
        A += np.outer(X[x], X[x])
        total += X[x] * (y if problem.noise == "gaussian" else 2 * y - 1)
    theta = np.linalg.solve(A, total)
    lead = Z[int(np.argmax((Z @ theta) >= (Z @ theta).max() - 1e-9))]
    alive = []
    for z in Z:
        width = (
            2 * (lead - z) @ np.linalg.solve(A, lead - z) * math.log(len(Z) * max(len(xs), 1) ** 2 / delta)
        )
        alive.append((lead - z) @ theta <= math.sqrt(width))
    return np.array(alive), A


@pytest.mark.parametrize("name", ["arms", "thresholds", "linear"])
def test_elimination_and_greedy_equal_a_loop(name) -> None:
    problem = problems()[name]
    if name == "linear":
        problem = BanditProblem.linear(5, 2, 4, seed=3)
    T, delta = 150, 0.9
    run = histories(problem, T)
    X, Z = problem.actions.numpy(), problem.decisions.numpy()
    policy, greedy = SuccessiveEliminationPolicy(problem, T, delta), GreedyUncertaintyPolicy(problem, T)
    dropped = 0
    for t in (0, 1, 7, 149):
        features = run.features[:, t]
        alive, queries, certain = (
            policy.survivors(features),
            chosen(policy(features)),
            chosen(greedy(features)),
        )
        for b in range(12):
            xs, ys = run.actions[b, :t].tolist(), run.rewards[b, :t].tolist()
            expected, A = elimination_loop(problem, xs, ys, delta)
            np.testing.assert_array_equal(alive[b], expected)
            dropped += (~expected).sum()
            pulls = np.bincount(xs, minlength=len(X))
            left = Z[expected]
            useful = [len(left) == 1 or any(abs(x @ (p - q)) > 1e-12 for p in left for q in left) for x in X]
            assert queries[b] == min((j for j in range(len(X)) if useful[j]), key=lambda j: (pulls[j], j))
            spread = np.array([x @ np.linalg.solve(A, x) for x in X])
            assert certain[b] == int(np.argmax(spread >= spread.max() - 1e-9))
    assert dropped > 0


def test_elimination_never_drops_the_best_arm_without_noise() -> None:
    """Check 11."""
    problem, T = BanditProblem.multi_armed(4), 200
    theta = uniform(50, 4, seed=1)
    for t in (0, 3, 8, 40, 200):
        pulls = torch.full((50, 4), t // 4, dtype=F64)
        sums = pulls * theta
        parts = [pulls, sums, pulls * theta**2, torch.full_like(pulls, t)]
        alive = SuccessiveEliminationPolicy(problem, T).survivors(torch.stack(parts, -1) / T)
        assert alive.gather(1, problem.best(theta)[:, None]).all()
    assert not alive.all(), "at the end something is known"


def test_rage_follows_the_pair_design() -> None:
    """Arms: uniform over survivors by symmetry. Linear: its design is as good as scipy's on all pairs."""
    arms, T = BanditProblem.multi_armed(4), 12
    policy = RagePolicy(arms, T)
    run = histories(arms, T)
    for t in (0, 5, 11):
        alive, queries = policy.survivors(run.features[:, t]), chosen(policy(run.features[:, t]))
        for b in range(12):
            share = alive[b].double().numpy() if alive[b].sum() > 1 else np.ones(4)
            score = (t + 1) * share / share.sum() - np.bincount(run.actions[b, :t], minlength=4)
            assert queries[b] == int(np.argmax(score >= score.max() - 1e-9))
    linear = BanditProblem.linear(6, 2, 4, seed=3)
    shares = RagePolicy(linear, 5)._design((True, True, False, True))
    Z = linear.decisions.numpy()[[0, 1, 3]]
    U = np.array([p - q for p, q in itertools.combinations(Z, 2)])
    X = linear.actions.numpy()
    assert design_value(X, U, shares.numpy() + 1e-12) <= 1.002 * least_value(X, U)


def test_binary_search_identifies_in_four_queries() -> None:
    """Check 6: 15 points, 16 thresholds, no noise."""
    problem = BanditProblem.thresholds(15)
    theta = problem.decisions.clone()
    run = rollout(GeneralizedBinarySearchPolicy(problem, 4), problem, theta, 4, generator(0))
    assert run.decision.tolist() == list(range(16))
    assert run.loss.tolist() == [0.0] * 16


@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_binary_search_equals_a_loop(eps) -> None:
    problem = BanditProblem.thresholds(6)
    run = histories(problem, 8, seed=3)
    policy = GeneralizedBinarySearchPolicy(problem, 8, eps)
    signs = np.sign(problem.decisions.numpy() @ problem.actions.numpy().T)
    for t in (0, 4, 7):
        for b in range(12):
            xs, ys = run.actions[b, :t].tolist(), run.rewards[b, :t].tolist()
            wrong = np.array([sum(h[x] != 2 * y - 1 for x, y in zip(xs, ys, strict=True)) for h in signs])
            w = (1 - eps) ** (t - wrong) * eps**wrong if eps else (wrong == wrong.min()).astype(float)
            w /= w.sum()
            features = run.features[b : b + 1, t]
            np.testing.assert_allclose(policy.posterior(features)[0], w, rtol=1e-9)
            tilt = np.abs(w @ signs)
            assert chosen(policy(features)) == [int(np.argmax(tilt <= tilt.min() + 1e-9))]
            assert policy.recommend(features).tolist() == [int(np.argmax(w >= w.max() - 1e-9))]


def test_oracle_samples_from_the_optimal_design() -> None:
    problem, theta = BanditProblem.multi_armed(4), uniform(1, 4, seed=2)[0]
    logits = OracleDesignPolicy(problem, 3, theta)(torch.zeros(2, 4, 4, dtype=F64))
    torch.testing.assert_close(logits.exp(), complexity(problem, theta)[1].expand(2, 4))


# ---------------------------------------------------------------------------------------------------------- errors


ARMS = BanditProblem.multi_armed(2, noise="bernoulli")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: BanditProblem(torch.eye(2), torch.zeros(0, 2)), "decisions"),
        (lambda: BanditProblem(torch.eye(2), torch.eye(3)), "decisions"),
        (lambda: BanditProblem(torch.eye(2), torch.eye(2), noise="coin"), "noise"),
        (lambda: BanditProblem(torch.eye(2), torch.eye(2), loss="regret"), "loss"),
        (lambda: BanditProblem(torch.eye(2), torch.eye(2), box=(1, -1)), "box"),
        (lambda: BanditProblem.twenty_questions([[0.5, 0.5]]), "prob"),
        (lambda: BanditProblem.twenty_questions([[1.5, 0.5]]), "prob"),
        (lambda: complexity(ARMS, torch.zeros(2, 3)), "theta"),
        (lambda: multi_armed_complexity(torch.tensor([-1.0])), "gaps"),
        (lambda: history_features(ARMS, torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1), 0), "budget"),
        (lambda: recommend(ARMS, torch.zeros(1, 2, 3), 0), "budget"),
        (lambda: rollout(UniformPolicy(ARMS, 1), ARMS, torch.zeros(1, 2), 0), "budget"),
        (lambda: rollout(UniformPolicy(ARMS, 1), ARMS, torch.zeros(2), 1), "theta"),
        (lambda: HistoryPolicy(ARMS, 0), "budget"),
        (lambda: UniformPolicy(ARMS, 0), "budget"),
        (lambda: GeneralizedBinarySearchPolicy(ARMS, 1, 0.5), "eps"),
        (lambda: GeneralizedBinarySearchPolicy(ARMS, 1, -0.1), "eps"),
        (lambda: GeneralizedBinarySearchPolicy(BanditProblem.multi_armed(2), 1), "noise"),
        (lambda: SuccessiveEliminationPolicy(ARMS, 1, 0.0), "delta"),
        (lambda: OracleDesignPolicy(ARMS, 1, torch.zeros(1, 2)), "theta"),
        (lambda: exact_expected_loss(ARMS, UniformPolicy(ARMS, 9), torch.zeros(2), 9), "budget"),
        (lambda: exact_expected_loss(BanditProblem.multi_armed(2), UniformPolicy(ARMS, 1), torch.zeros(2), 1), "noise"),
        (lambda: sample_class(ARMS, 5.0, 0), "n"),
        (lambda: adaptive.animal_answers(0.5), "noise"),
    ],
)  # fmt: skip
def test_arguments_are_named(call, name) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        call()


def test_public_names() -> None:
    assert set(active_learning.__all__) <= set(adaptive.__all__)
    assert all(getattr(adaptive, n) is getattr(active_learning, n) for n in active_learning.__all__)
