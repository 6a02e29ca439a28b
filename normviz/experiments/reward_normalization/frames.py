"""What is trained on the page *Reward normalization*.

A policy with 9,000 parameters (:class:`models.TokenPolicy`, two hidden layers of 64) answers questions of arithmetic in
two tokens. Before reinforcement learning it is taught by examples up to a given accuracy; all arms of a seed start from
that policy, see the same questions and draw their answers with the same random numbers. One update per batch (on
policy), with the clipped surrogate of the BNPO recipe, whose ratio is then 1.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models import TokenPolicy
from normviz.data import seeded_generator
from normviz.experiments.reward_normalization.advantages import advantages, reward_parts
from normviz.experiments.reward_normalization.arithmetic import (
    Questions,
    exact_rewards,
    new_policy,
    pretrain,
)
from normviz.experiments.reward_normalization.frozen import (
    gradient_noise,
    sample_answers,
    second_moments,
    special_case_error,
)
from normviz.experiments.reward_normalization.knobs import (
    ESTIMATOR_NAMES,
    OPERATIONS,
    UNDECOMPOSED,
    Knobs,
    arm_names,
    reference_arm,
)
from normviz.frame import Frame, Value
from normviz.training import resolve_device
from normviz.weighting import beta_moments, bnpo_parameters, clipped_policy_loss

__all__ = ["frames"]

EVALUATE_EVERY = 5
BNPO, BASELINE = ESTIMATOR_NAMES["bnpo"], ESTIMATOR_NAMES["reinforce_baseline"]


@dataclass(eq=False)
class Learner:
    """One arm with one seed."""

    arm: str
    seed: int
    policy: TokenPolicy
    optimizer: torch.optim.Optimizer
    diverged: bool = False


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train every estimator and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    arms = arm_names(knobs)
    yield from (Frame(0, arms[0], seed) for seed in knobs.seed_range())
    questions = Questions(where)
    learners: list[Learner] = []
    for seed in knobs.seed_range():
        start = _start(seed, questions, knobs.start)
        learners += [_learner(arm, seed, start, knobs) for arm in arms]
        yield from (Frame(0, arm, seed) for arm in arms)
    measure_every = max(10, knobs.steps // 10)
    for step in range(knobs.steps + 1):
        active = [learner for learner in learners if not learner.diverged]
        if step % EVALUATE_EVERY == 0 or step == knobs.steps:
            for learner in active:
                yield Frame(step, learner.arm, learner.seed, _evaluate(learner.policy, questions, knobs))
        if step % measure_every == 0 or step == knobs.steps:
            for learner in active:
                if learner.arm == reference_arm(knobs):
                    yield from _compare(learner, step, questions, knobs)
        if step == knobs.steps:
            return
        for learner in active:
            yield _step(learner, step, questions, knobs)


def _start(seed: int, questions: Questions, accuracy: float) -> TokenPolicy:
    """The policy that all arms of a seed start from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = new_policy()
    policy.to(questions.prompts.device)
    pretrain(policy, questions, accuracy)
    return policy


def _learner(arm: str, seed: int, start: TokenPolicy, knobs: Knobs) -> Learner:
    policy = copy.deepcopy(start)
    kind = torch.optim.Adam if knobs.optimizer == "adam" else torch.optim.SGD
    return Learner(arm, seed, policy, kind(policy.parameters(), lr=knobs.learning_rate))


def _rewards(knobs: Knobs) -> tuple[str, ...]:
    return ("accuracy",) if knobs.rewards == "accuracy" else ("accuracy", "format")


def _step(learner: Learner, step: int, questions: Questions, knobs: Knobs) -> Frame:
    """One batch of answers, one update."""
    policy = learner.policy
    chosen = torch.randint(
        len(questions), (knobs.questions,), generator=seeded_generator(learner.seed, 0, step)
    ).to(questions.answers.device)
    sampled = sample_answers(
        policy,
        questions.prompts[chosen],
        questions.answers[chosen],
        knobs.group,
        _rewards(knobs),
        key=(learner.seed, 1, step),
    )
    A = advantages(learner.arm, sampled.rewards, sampled.greedy).flatten()  # [Q x G]
    logp = policy.log_probs(sampled.sequences.flatten(0, 1))  # [Q x G, 2]
    loss = clipped_policy_loss(logp, logp.detach(), A, torch.ones_like(logp))
    learner.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = _gradient_norm(policy)
    if not math.isfinite(norm):
        learner.diverged = True
        why = f"the gradient's norm is {norm}"
        return Frame.diverged(step, learner.arm, learner.seed, why, lost=["grad_norm"])
    learner.optimizer.step()
    values: dict[str, Value] = {"grad_norm": norm}
    values |= {f"batch_{name}": float(reward.mean()) for name, reward in sampled.rewards.items()}
    if learner.arm in (BNPO, UNDECOMPOSED):
        parts = reward_parts(learner.arm, sampled.rewards)
        if len(sampled.rewards) > 1:
            values |= {f"part/{n}": float(r.advantages.abs().mean()) / len(parts) for n, r in parts.items()}
        first = next(iter(parts.values()))
        values |= {"alpha": float(first.alpha), "beta": float(first.beta)}
    return Frame(step, learner.arm, learner.seed, values)


def _gradient_norm(policy: TokenPolicy) -> float:
    grads: list[Tensor] = [p.grad for p in policy.parameters() if p.grad is not None]
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))


def _evaluate(policy: TokenPolicy, questions: Questions, knobs: Knobs) -> dict[str, Value]:
    """Exact rewards over all questions, and the Beta distribution of the accuracies."""
    with torch.no_grad():
        exact = exact_rewards(policy, questions)
    p = exact["accuracy"]
    a, b = beta_moments(p)
    alpha, beta = bnpo_parameters(p)
    values: dict[str, Value] = {name: float(exact[name].mean()) for name in _rewards(knobs)}
    values |= {
        f"accuracy/{name}": float(p[questions.operation == number].mean())
        for number, name in enumerate(OPERATIONS)
    }
    return values | {"p": p.cpu().numpy(), "fit": torch.stack([a, b, alpha, beta]).cpu().numpy()}


def _compare(learner: Learner, step: int, questions: Questions, knobs: Knobs) -> Iterator[Frame]:
    """All estimators at the policy of one learner, for the accuracy alone; see :mod:`.frozen`."""
    sampled = sample_answers(
        learner.policy,
        questions.prompts,
        questions.answers,
        knobs.group,
        ("accuracy",),
        key=(learner.seed, 2, step),
    )
    arms = [arm for arm in arm_names(knobs) if arm != UNDECOMPOSED]
    compared = dict.fromkeys([*arms, BASELINE])
    noise = gradient_noise(learner.policy, questions, sampled, list(compared), knobs.questions)
    moments = second_moments(learner.policy, questions, sampled)
    for arm in arms:
        values: dict[str, Value] = {"noise": noise[arm], "relative_noise": noise[arm] / noise[BASELINE]}
        values |= moments.get(arm, {})
        if arm == BNPO:
            values["special_case_error"] = special_case_error(sampled.rewards["accuracy"])
        yield Frame(step, arm, learner.seed, values)
