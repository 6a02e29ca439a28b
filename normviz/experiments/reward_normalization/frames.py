"""What is trained on the page *Reward normalization*.

A policy with 9,000 parameters (:class:`normviz.models.TokenPolicy`, two hidden layers of 64) answers questions of
arithmetic in two tokens. Before reinforcement learning it is taught by examples up to a given accuracy; all arms of a
seed start from that policy, see the same questions and draw their answers with the same random numbers. One update per
batch (on policy), with the clipped surrogate of the BNPO recipe, whose ratio is then 1.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor

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
    reference_arm,
)
from normviz.frame import Frame, Value
from normviz.models import TokenPolicy
from normviz.training import resolve_device
from normviz.training.interleave import Diverged, interleave
from normviz.training.seeding import seeded
from normviz.weighting import beta_moments, bnpo_parameters, clipped_policy_loss

__all__ = ["frames"]

EVALUATE_EVERY = 5
"""Steps between two evaluations of a policy."""

COMPARISONS = 10
"""Comparisons of all estimators at one policy in a run, about."""

BNPO, BASELINE = ESTIMATOR_NAMES["bnpo"], ESTIMATOR_NAMES["reinforce_baseline"]


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train every estimator and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    arms, reference = knobs.shown_arms(), reference_arm(knobs)
    yield from (Frame(0, arms.names[0], seed) for seed in knobs.seed_range())
    questions = Questions(where)
    learners: list[Learner] = []
    for seed in knobs.seed_range():
        start = _start(seed, questions, knobs.start)
        learners += [Learner(arm, seed, start, questions, knobs) for arm in arms]
        yield from (Frame(0, arm, seed) for arm in arms)
    compared = {learner.seed: learner for learner in learners if learner.arm == reference}
    compare_every = EVALUATE_EVERY * max(2, round(knobs.steps / COMPARISONS / EVALUATE_EVERY))
    for frame in interleave(
        learners,
        until=knobs.steps,
        evaluate=lambda learner, _: learner.evaluate(),  # type: ignore[attr-defined]
        eval_every=EVALUATE_EVERY,
    ):
        yield frame
        at_moment = frame.step % compare_every == 0 or frame.step == knobs.steps
        if at_moment and frame.arm == reference and "p" in frame.values:
            yield from _compare(compared[frame.seed], frame.step, questions, knobs)


class Learner:
    """One arm with one seed.

    Args:
        arm: its name.
        seed: its seed.
        start: the policy that it goes on from, which is left as it is.
        questions: all questions.
        knobs: the setting.
    """

    def __init__(self, arm: str, seed: int, start: TokenPolicy, questions: Questions, knobs: Knobs) -> None:
        self.arm, self.seed = arm, seed
        self.policy = copy.deepcopy(start)
        kind = torch.optim.Adam if knobs.optimizer == "adam" else torch.optim.SGD
        self._optimizer = kind(self.policy.parameters(), lr=knobs.learning_rate)
        self._questions, self._knobs = questions, knobs

    def step(self, at: int) -> dict[str, Value]:
        """One batch of answers, one update."""
        policy, questions, knobs = self.policy, self._questions, self._knobs
        chosen = torch.randint(
            len(questions), (knobs.questions,), generator=seeded_generator(self.seed, 0, at)
        ).to(questions.answers.device)
        sampled = sample_answers(
            policy,
            questions.prompts[chosen],
            questions.answers[chosen],
            knobs.group,
            _rewards(knobs),
            key=(self.seed, 1, at),
        )
        A = advantages(self.arm, sampled.rewards, sampled.greedy).flatten()  # [Q x G]
        logp = policy.log_probs(sampled.sequences.flatten(0, 1))  # [Q x G, 2]
        loss = clipped_policy_loss(logp, logp.detach(), A, torch.ones_like(logp))
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = _gradient_norm(policy)
        if not math.isfinite(norm):
            raise Diverged(f"the gradient's norm is {norm}", lost=["grad_norm"])
        self._optimizer.step()
        values: dict[str, Value] = {"grad_norm": norm}
        values |= {f"batch_{name}": float(reward.mean()) for name, reward in sampled.rewards.items()}
        if self.arm in (BNPO, UNDECOMPOSED):
            parts = reward_parts(self.arm, sampled.rewards)
            if len(sampled.rewards) > 1:
                share = 1 / len(parts)
                values |= {f"part/{n}": share * float(r.advantages.abs().mean()) for n, r in parts.items()}
            first = next(iter(parts.values()))
            values |= {"alpha": float(first.alpha), "beta": float(first.beta)}
        return values

    def evaluate(self) -> dict[str, Value]:
        """Exact rewards over all questions, and the Beta distribution of the accuracies."""
        with torch.no_grad():
            exact = exact_rewards(self.policy, self._questions)
        p = exact["accuracy"]
        a, b = beta_moments(p)
        alpha, beta = bnpo_parameters(p)
        values: dict[str, Value] = {name: float(exact[name].mean()) for name in _rewards(self._knobs)}
        values |= {
            f"accuracy/{name}": float(p[self._questions.operation == number].mean())
            for number, name in enumerate(OPERATIONS)
        }
        return values | {"p": p.cpu().numpy(), "fit": torch.stack([a, b, alpha, beta]).cpu().numpy()}


def _start(seed: int, questions: Questions, accuracy: float) -> TokenPolicy:
    """The policy that all arms of a seed start from."""
    with seeded(seed):
        policy = new_policy()
    policy.to(questions.prompts.device)
    pretrain(policy, questions, accuracy)
    return policy


def _rewards(knobs: Knobs) -> tuple[str, ...]:
    return ("accuracy",) if knobs.rewards == "accuracy" else ("accuracy", "format")


def _gradient_norm(policy: TokenPolicy) -> float:
    grads: list[Tensor] = [p.grad for p in policy.parameters() if p.grad is not None]
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))


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
    arms = [arm for arm in knobs.shown_arms() if arm != UNDECOMPOSED]
    compared = dict.fromkeys([*arms, BASELINE])
    noise = gradient_noise(learner.policy, questions, sampled, list(compared), knobs.questions)
    moments = second_moments(learner.policy, questions, sampled)
    for arm in arms:
        values: dict[str, Value] = {"noise": noise[arm], "relative_noise": noise[arm] / noise[BASELINE]}
        values |= moments.get(arm, {})
        if arm == BNPO:
            values["special_case_error"] = special_case_error(sampled.rewards["accuracy"])
        yield Frame(step, arm, learner.seed, values)
