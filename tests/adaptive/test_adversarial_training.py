"""The adversarial game and the robust policy: gradients against enumeration, steps against NumPy, what is learned."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from normviz.adaptive import (
    AdversarialTrainer,
    BanditProblem,
    HistoryPolicy,
    RoundRobinPolicy,
    UniformPolicy,
    complexity,
    exact_expected_loss,
    learn_robust_policy,
    project_to_class,
    sample_class,
)

F64 = torch.float64
THREE = BanditProblem.multi_armed(3, noise="bernoulli")


def policy_of(problem: BanditProblem, budget: int, seed: int = 0, **options) -> HistoryPolicy:
    torch.manual_seed(seed)
    return HistoryPolicy(problem, budget, **{"hidden": 4, **options})


# ------------------------------------------------------------------------------------------------------- gradients


def exact_objective(trainer: AdversarialTrainer, particles, logits, lhat) -> torch.Tensor:
    """J by enumeration, as a function of the policy's parameters, the particles and w."""
    floor, N = trainer.weight_floor, trainer.num_particles
    mixture = (1 - floor) * torch.softmax(logits, 0) + floor / N
    losses = exact_expected_loss(trainer.problem, trainer.policy, particles, trainer.budget)
    return (mixture * (losses - lhat)).sum()


@pytest.mark.parametrize(
    ("loss", "rollouts"), [("simple_regret", 4), ("simple_regret", 1), ("best_identification", 4)]
)
def test_gradients_are_unbiased(loss, rollouts) -> None:
    """Check 4: the average over 2e5 episodes (1e5 in the variants) is the exact gradient within 4 standard errors.

    n = 3, T = 2, with and without the leave-one-out baseline (L = 1 has none); a baseline per class, floor, weights.
    """
    problem = BanditProblem.multi_armed(3, noise="bernoulli", loss=loss)
    policy = policy_of(problem, 2, hidden=3).double()
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=F64))
    trainer = AdversarialTrainer(
        problem, policy, 2, 30.0, num_particles=4, num_samples=4000 // rollouts, num_rollouts=rollouts,
        baseline=torch.tensor([0.1, 0.4]), class_radii=[6.0, 30.0], weight_floor=0.1,
    )  # fmt: skip
    trainer.particles[:] = torch.tensor(
        [[0.9, -0.2, -0.3], [0.2, 0.5, -0.4], [-0.3, 0.1, 0.6], [-0.5, -0.9, 0.8]]
    )
    trainer.weight_logits[:] = torch.tensor([0.0, 0.7, -0.5, 0.3])
    hard = complexity(problem, trainer.particles)[0] > 6
    assert hard.any()
    assert not hard.all()
    before = copy.deepcopy(trainer.state_dict())
    calls = 50 if (loss, rollouts) == ("simple_regret", 4) else 25
    estimates = [trainer.estimate_gradients() for _ in range(calls)]
    after = trainer.state_dict()
    assert not torch.equal(before.pop("generator"), after.pop("generator"))
    assert repr(before) == repr(after), "estimating changes nothing but the generator"
    particles, logits = (
        trainer.particles.clone().requires_grad_(),
        trainer.weight_logits.clone().requires_grad_(),
    )
    lhat = torch.where(hard, 0.4, 0.1).double()
    parameters = dict(policy.named_parameters())
    exact = torch.autograd.grad(
        exact_objective(trainer, particles, logits, lhat), [*parameters.values(), particles, logits]
    )
    for name, wanted in zip([*parameters, "particles", "weights"], exact, strict=True):
        found = torch.stack([e.policy[name] if name in parameters else getattr(e, name) for e in estimates])
        error = (found.mean(0) - wanted).abs()
        assert (error <= 4 * found.std(0) / math.sqrt(calls) + 1e-12).all(), name
        assert wanted.abs().max() > 1e-4 or name == "layers.4.bias"


def test_weight_gradient_of_two_draws_is_not_shrunk() -> None:
    """The mean over the other draw leaves it unbiased; the mean over both would halve it."""
    trainer = AdversarialTrainer(
        THREE, RoundRobinPolicy(THREE, 1), 1, 30.0, num_particles=3, num_samples=2, num_rollouts=16
    )
    trainer.particles[:] = torch.tensor([[0.9, -0.8, -0.8], [0.1, 0.2, 0.9], [0.3, -0.9, 0.9]])
    found = torch.stack([trainer.estimate_gradients().weights for _ in range(250)])
    logits = trainer.weight_logits.clone().requires_grad_()
    exact = torch.autograd.grad(exact_objective(trainer, trainer.particles, logits, 0.0), logits)[0]
    error = 4 * found.std(0) / math.sqrt(250)
    assert ((found.mean(0) - exact).abs() <= error).all()
    assert ((found.mean(0) - exact / 2).abs() > error).any()


def test_gaussian_answers_give_finite_gradients() -> None:
    problem = BanditProblem.linear(5, 3, 4)
    trainer = AdversarialTrainer(
        problem, policy_of(problem, 3), 3, 100.0, num_particles=4, num_samples=1, num_rollouts=1
    )
    estimate = trainer.estimate_gradients()
    parts = [*estimate.policy.values(), estimate.particles, estimate.weights]
    assert all(torch.isfinite(part).all() for part in parts)
    assert (estimate.particles.abs().sum(1) > 0).sum() <= 1, "one draw touches one particle"


def test_a_policy_without_parameters_is_a_valid_opponent() -> None:
    trainer = AdversarialTrainer(THREE, RoundRobinPolicy(THREE, 3), 3, 6.0, 4, 4, 2)
    before = trainer.particles.clone()
    assert trainer.estimate_gradients().policy == {}
    trainer.step()
    assert not torch.equal(trainer.particles, before)


# ------------------------------------------------------------------------------------------------------------ steps


def test_steps_equal_adam_in_numpy() -> None:
    """25 steps: Adam by hand for w (ascent), the drawn particles (ascent, own counts) and one weight of the policy."""
    r, floor = 6.0, 0.05
    policy = policy_of(THREE, 2)
    trainer = AdversarialTrainer(
        THREE, policy, 2, r, 6, 3, 2, 1e-2, 0.05, 0.02, baseline=0.2, entropy_coef=0.0
    )
    name, weight = "layers.0.weight", policy.layers[0].weight
    w, x = np.zeros(6), trainer.particles.numpy().copy()
    p = weight.detach().numpy().astype(np.float64).copy()
    moments = {"w": (np.zeros(6), np.zeros(6)), "p": (np.zeros_like(p), np.zeros_like(p))}
    m, v, count = np.zeros((6, 3)), np.zeros((6, 3)), np.zeros(6, dtype=int)
    untouched = 0
    for step in range(1, 26):
        state = trainer.generator.get_state()
        estimate = trainer.estimate_gradients()
        trainer.generator.set_state(state)
        drawn = set(
            torch.multinomial(trainer.weights, 3, replacement=True, generator=trainer.generator).tolist()
        )
        trainer.generator.set_state(state)
        metrics = trainer.step()
        for key, value, rate, g in (
            ("w", w, 0.05, estimate.weights.numpy()),
            ("p", p, -1e-2, estimate.policy[name].numpy().astype(np.float64)),
        ):
            first, second = moments[key]
            first[:] = 0.9 * first + 0.1 * g
            second[:] = 0.999 * second + 0.001 * g * g
            value += rate * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        g = estimate.particles.numpy()
        for i in range(6):
            if i not in drawn:
                assert not np.any(g[i])
                untouched += 1
                np.testing.assert_array_equal(trainer.particles[i], x[i])
                continue
            count[i] += 1
            m[i] = 0.9 * m[i] + 0.1 * g[i]
            v[i] = 0.999 * v[i] + 0.001 * g[i] ** 2
            rate = 0.02 / (1 - 0.9 ** count[i])
            moved = x[i] + rate * m[i] / (np.sqrt(v[i] / (1 - 0.999 ** count[i])) + 1e-8)
            x[i] = project_to_class(THREE, torch.tensor(moved), r).numpy()
        np.testing.assert_allclose(trainer.weight_logits, w, atol=1e-10)
        np.testing.assert_allclose(trainer.particles, x, atol=1e-6)
        np.testing.assert_allclose(weight.detach(), p, atol=2e-5)
        mixture = (1 - floor) * np.exp(w) / np.exp(w).sum() + floor / 6
        np.testing.assert_allclose(trainer.weights, mixture, rtol=1e-9)
        assert metrics["effective_particles"] == pytest.approx(1 / (mixture**2).sum())
        assert metrics["weight_entropy"] == pytest.approx(-(mixture * np.log(mixture)).sum())
        assert metrics["max_gap"] == pytest.approx(metrics["max_particle_loss"] - 0.2)
        assert metrics["mean_loss"] <= metrics["max_particle_loss"] + 1e-12
        x = trainer.particles.numpy().copy()
    assert untouched > 0


@pytest.mark.parametrize("name", ["arms", "thresholds"])
def test_weights_stay_a_distribution_and_particles_in_their_class(name) -> None:
    """Check 7."""
    problem = THREE if name == "arms" else BanditProblem.thresholds(4)
    r = 8.0
    trainer = AdversarialTrainer(
        problem, policy_of(problem, 3), 3, r, 6, 6, 3, lr_particles=0.1, lr_weights=0.3
    )
    start = trainer.particles.clone()
    for _ in range(10):
        trainer.step()
        assert trainer.weights.sum() == pytest.approx(1)
        assert (trainer.weights >= 0.05 / 6 * (1 - 1e-12)).all()
        value, _ = complexity(problem, trainer.particles)
        assert (value <= r * (1 + (1e-6 if name == "arms" else 1e-2))).all()
        assert (trainer.particles.abs() <= 1).all()
    assert (trainer.particles != start).any(1).all()


def test_idle_particles_are_drawn_anew() -> None:
    trainer = AdversarialTrainer(
        THREE, policy_of(THREE, 1), 1, 6.0, 4, 2, 2, lr_weights=1e-6, lr_particles=1e-6
    )
    trainer.weight_logits[:] = torch.tensor([0.0, -20.0, 0.5, 0.2])
    before = trainer.particles.clone()
    for step in range(50):
        assert torch.allclose(trainer.particles, before, atol=1e-3), step
        trainer.step()
    assert torch.allclose(trainer.particles[[0, 2, 3]], before[[0, 2, 3]], atol=1e-3)
    assert (trainer.particles[1] - before[1]).abs().max() > 0.01
    assert trainer.weight_logits.softmax(0)[1] == pytest.approx(0.25, rel=1e-3)


def test_fixed_prior_moves_nothing_but_the_policy() -> None:
    policy = policy_of(THREE, 2)
    trainer = AdversarialTrainer(THREE, policy, 2, 6.0, 4, 4, 2, lr_weights=0.0, lr_particles=0.0)
    trainer.weight_logits[:] = torch.tensor([0.0, -20.0, 0.5, 0.2])
    particles, logits, weight = (
        trainer.particles.clone(),
        trainer.weight_logits.clone(),
        policy.layers[0].weight.clone(),
    )
    for _ in range(55):
        trainer.step()
    assert torch.equal(trainer.particles, particles)
    assert torch.equal(trainer.weight_logits, logits)
    assert not torch.equal(policy.layers[0].weight, weight)


def test_one_class_is_plain_minimax() -> None:
    """Check 9: a baseline that is the same for all particles changes no gradient, because it cancels."""
    plain, robust = (
        AdversarialTrainer(THREE, policy_of(THREE, 3), 3, 6.0, 5, 6, 3, **options)
        for options in ({}, {"baseline": torch.tensor([0.3]), "class_radii": [6.0]})
    )
    for _ in range(5):
        one, two = plain.step(), robust.step()
        assert two["max_gap"] == pytest.approx(one["max_gap"] - 0.3)
    torch.testing.assert_close(plain.particles, robust.particles)
    torch.testing.assert_close(plain.weight_logits, robust.weight_logits)
    for a, b in zip(plain.policy.parameters(), robust.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_entropy_bonus_makes_the_policy_more_random() -> None:
    """A bonus far above the losses drives the policy to uniform."""
    policy = policy_of(THREE, 2)
    with torch.no_grad():
        policy.layers[-1].bias.copy_(torch.tensor([2.0, 0.0, -2.0]))
    trainer = AdversarialTrainer(THREE, policy, 2, 6.0, 4, 4, 2, lr_policy=5e-2, entropy_coef=100.0)
    for _ in range(80):
        trainer.step()
    spread = policy(torch.zeros(1, 3, 3)).softmax(-1)
    torch.testing.assert_close(spread, torch.full((1, 3), 1 / 3), rtol=0, atol=0.05)


def test_worst_loss_is_the_largest_expected_loss() -> None:
    trainer = AdversarialTrainer(THREE, policy_of(THREE, 3), 3, 6.0, 3, 2, 2, baseline=5.0)
    exact = exact_expected_loss(THREE, trainer.policy, trainer.particles, 3).max().item()
    assert trainer.worst_loss(20000) == pytest.approx(exact, abs=0.02)


def test_particles_start_spread_over_the_classes() -> None:
    radii = [4.0, 12.0, 40.0]
    trainer = AdversarialTrainer(
        THREE, UniformPolicy(THREE, 2), 2, 40.0, 30, baseline=torch.zeros(3), class_radii=radii
    )
    value, _ = complexity(THREE, trainer.particles)
    counts = [int((value <= r * (1 + 1e-6)).sum()) for r in radii]
    assert counts[0] >= 10
    assert counts[1] >= 20
    assert counts[2] == 30
    assert counts[0] < 30


def test_a_resumed_game_forgets_nothing_about_the_classes() -> None:
    problem = BanditProblem.thresholds(3)
    options = {"baseline": torch.tensor([0.1, 0.6]), "class_radii": [5.0, 12.0]}
    one, two = (
        AdversarialTrainer(problem, policy_of(problem, 2, s), 2, 12.0, 5, 4, 2, seed=s, **options)
        for s in (0, 1)
    )
    for _ in range(3):
        one.step()
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for _ in range(4):
        assert one.step() == two.step()
    assert torch.equal(one.particles, two.particles)


# ------------------------------------------------------------------------------------------------- what is learned


@pytest.mark.parametrize("seed", [0, 1])
def test_learned_policy_beats_uniform_on_problems_it_has_not_seen(seed) -> None:
    """Check 10, in small: n = 3, T = 4, r = 6, the exact worst loss over 120 fresh members.

    Measured over 3 seeds: .380 to .389 after 80 steps, uniform .419, round robin .588.
    """
    fresh = sample_class(THREE, 6.0, 120, torch.Generator().manual_seed(5))
    policy = policy_of(THREE, 4, seed, hidden=32, symmetric=True)
    trainer = AdversarialTrainer(THREE, policy, 4, 6.0, num_samples=32, lr_policy=1e-2, seed=seed)
    for _ in range(60):
        trainer.step()
    with torch.no_grad():
        learned, uniform = (
            exact_expected_loss(THREE, p, fresh, 4).max() for p in (policy, UniformPolicy(THREE, 4))
        )
    assert learned < uniform - 0.01


def test_robust_policy_of_all_classes() -> None:
    """Check 8, and stages, shapes, seeds."""
    calls: list[tuple[int, int]] = []
    radii, options = [3.0, 6.0, 20.0], {"num_particles": 6, "num_samples": 4, "num_rollouts": 2, "hidden": 8}

    def note(stage, iteration, metrics) -> None:
        assert {"mean_loss", "max_particle_loss", "max_gap"} <= metrics.keys()
        calls.append((stage, iteration))

    result = learn_robust_policy(THREE, radii, 3, 2, 3, note, symmetric=True, **options)
    assert calls == [(k, i) for k in range(3) for i in range(2)] + [(3, i) for i in range(3)]
    assert len(result.class_policies) == 3
    assert (result.class_losses.diff() >= 0).all()
    assert result.gaps.shape == (3,)
    assert torch.isfinite(result.gaps).all()
    weights = [p.layers[0].weight for p in (*result.class_policies, result.policy)]
    assert not any(torch.equal(a, b) for a, b in pairwise(weights))
    again = learn_robust_policy(THREE, radii, 3, 2, 3, symmetric=True, **options)
    assert torch.equal(again.gaps, result.gaps)
    other = learn_robust_policy(THREE, radii, 3, 2, 3, seed=1, symmetric=True, **options)
    assert not torch.equal(other.gaps, result.gaps)


def test_entropy_bonus_falls_to_zero_in_each_stage() -> None:
    seen: list[float] = []

    class Watched(AdversarialTrainer):
        def step(self) -> dict[str, float]:
            seen.append(self.entropy_coef)
            return super().step()

    from normviz.adaptive import robust_policy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robust_policy, "AdversarialTrainer", Watched)
        learn_robust_policy(
            THREE, [6.0], 2, 4, 2, hidden=4, num_particles=2, num_samples=2, num_rollouts=1, entropy_coef=0.2
        )
    assert seen == pytest.approx([0.2, 0.15, 0.1, 0.05, 0.2, 0.1])


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"budget": 0}, "budget"),
        ({"r": 0.5}, "r"),
        ({"num_particles": 0}, "num_particles"),
        ({"num_samples": 0}, "num_samples"),
        ({"num_rollouts": 0}, "num_rollouts"),
        ({"lr_policy": -1.0}, "lr_policy"),
        ({"baseline": torch.zeros(2)}, "baseline"),
        ({"baseline": torch.zeros(2), "class_radii": [6.0]}, "baseline"),
        ({"baseline": float("nan")}, "baseline"),
        ({"class_radii": [6.0, 6.0]}, "class_radii"),
        ({"class_radii": []}, "class_radii"),
        ({"weight_floor": 1.0}, "weight_floor"),
        ({"entropy_coef": -1.0}, "entropy_coef"),
    ],
)
def test_arguments_are_named(options, name) -> None:
    given = {"problem": THREE, "policy": UniformPolicy(THREE, 2), "budget": 2, "r": 6.0, **options}
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        AdversarialTrainer(**given)


def test_radii_must_increase() -> None:
    for radii in ([6.0, 3.0], [3.0, 3.0], [], [-1.0]):
        with pytest.raises(ValueError, match=r"\bradii\b"):
            learn_robust_policy(THREE, radii, 2, 1, 1)
    with pytest.raises(ValueError, match="n_rollouts"):
        AdversarialTrainer(THREE, UniformPolicy(THREE, 2), 2, 6.0, 2).worst_loss(0)
