"""Playing a policy: sampled episodes, and the expected loss by enumeration.

Zhang, Jain, Jamieson, arXiv 2010.15382: step t picks x_t from the history and observes y_t ~ f(. | x_t, theta); after T
steps a decision is made and its loss is taken.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normviz.adaptive.bandit_problem import BanditProblem
from normviz.adaptive.history_policy import Policy, decide, num_features
from normviz.validation import check_integer

__all__ = ["MAX_PATHS", "Rollout", "exact_expected_loss", "play", "rollout"]

MAX_PATHS = 200_000


class Rollout(NamedTuple):
    """B episodes of T steps (arXiv 2010.15382).

    Attributes:
        actions: indices [B, T].
        rewards: answers [B, T].
        features: [B, T, n, f], what the policy saw before each query.
        log_prob: sum over t of log pi(x_t | history) [B], with graph to the policy's parameters.
        obs_log_prob_grad: sum over t of the gradient of log f(y_t | x_t, theta) by theta [B, d].
        decision: index [B].
        loss: [B]; differentiable in theta for simple regret if theta has a graph.
    """

    actions: Tensor
    rewards: Tensor
    features: Tensor
    log_prob: Tensor
    obs_log_prob_grad: Tensor
    decision: Tensor
    loss: Tensor


def rollout(
    policy: Policy,
    problem: BanditProblem,
    theta: Tensor,
    budget: int,
    generator: torch.Generator | None = None,
    greedy: bool = False,
) -> Rollout:
    """Play one episode per row of theta.

    Args:
        policy: features [B, n, f] -> logits [B, n]; decides by its own ``recommend`` if it has one.
        problem: what is asked and judged.
        theta: [B, d]; features and answers have its dtype and device.
        budget: T, at least 1.
        generator: of actions and answers.
        greedy: take the most probable action (the lowest index of equal ones) instead of sampling.

    Raises:
        ValueError: budget below 1; theta of another shape or, for Bernoulli noise, with a mean outside [0, 1].
    """
    return play(policy, problem, theta, budget, generator, greedy)[0]


def play(
    policy: Policy,
    problem: BanditProblem,
    theta: Tensor,
    budget: int,
    generator: torch.Generator | None = None,
    greedy: bool = False,
) -> tuple[Rollout, Tensor]:
    """``rollout`` and the mean over steps of the policy's entropy [B], with graph."""
    budget = check_integer("budget", budget, 1)
    if problem.check_theta(theta).ndim != 2:
        raise ValueError(f"theta must be [B, d], got shape {tuple(theta.shape)}.")
    batch, n = theta.shape[0], problem.actions.shape[0]
    given = theta.detach()
    counts = given.new_zeros(batch, n, num_features(problem))
    slopes = given.new_zeros(batch, n)
    log_prob, entropy = given.new_zeros(batch), given.new_zeros(batch)
    actions, rewards, features = [], [], []
    for _ in range(budget):
        features.append(counts / budget)
        logits = policy(features[-1]).log_softmax(-1)
        x = _pick(logits.detach(), generator, greedy)
        y = problem.sample(x, given, generator)
        log_prob = log_prob + logits.gather(-1, x[:, None]).squeeze(-1)
        # An action that is never taken adds 0, not 0 times minus infinity.
        entropy = entropy - (logits.exp() * logits.masked_fill(torch.isinf(logits), 0.0)).sum(-1) / budget
        slopes.scatter_add_(1, x[:, None], problem.log_prob_slope(y, x, given)[:, None])
        powers = [torch.ones_like(y), y, y * y][: counts.shape[-1] - 1]
        counts = counts.clone()
        counts[torch.arange(batch, device=x.device), x, :-1] += torch.stack(powers, dim=-1)
        counts[..., -1] += 1
        actions.append(x)
        rewards.append(y)
    decision = decide(policy, problem, counts / budget, budget)
    episode = Rollout(
        torch.stack(actions, dim=1),
        torch.stack(rewards, dim=1),
        torch.stack(features, dim=1),
        log_prob,
        slopes @ problem.actions.to(given),
        decision,
        problem.loss_value(decision, theta),
    )
    return episode, entropy


def _pick(log_probs: Tensor, generator: torch.Generator | None, greedy: bool) -> Tensor:
    if greedy:
        return log_probs.argmax(-1)
    return torch.multinomial(log_probs.exp(), 1, generator=generator).squeeze(-1)


def exact_expected_loss(problem: BanditProblem, policy: Policy, theta: Tensor, budget: int) -> Tensor:
    """E[loss] of a policy over all actions and Bernoulli answers, without sampling.

    Histories with the same counts are one: the policy and the decision see the counts alone. Differentiable in theta
    and in the policy's parameters.

    Args:
        problem: with Bernoulli noise.
        policy: features -> logits, a function of its input alone.
        theta: [B, d], or [d] for a 0-dim result.
        budget: T with n^T 2^T at most 200000.

    Returns:
        [B], or 0-dim, in theta's dtype.

    Raises:
        ValueError: Gaussian noise (names ``noise``); budget below 1 or with too many paths; theta of another width or
            with a mean outside [0, 1].
    """
    budget, n = check_integer("budget", budget, 1), problem.actions.shape[0]
    if problem.noise != "bernoulli":
        raise ValueError(f"noise must be 'bernoulli' for an enumeration of answers, got {problem.noise!r}.")
    if (2 * n) ** budget > MAX_PATHS:
        raise ValueError(
            f"budget must give at most {MAX_PATHS} paths, got {budget}: {(2 * n) ** budget} paths."
        )
    rows = problem.check_theta(theta) if theta.ndim > 1 else problem.check_theta(theta)[None]
    every = torch.arange(n, device=rows.device).expand(rows.shape[0], n)
    ones = torch.ones_like(every).to(rows)
    # exp(log_prob) would be infinitely steep where an answer is impossible; the probabilities themselves are linear.
    mean = problem.checked_means(every, rows[:, None])
    answer = torch.stack([(ones - mean) / 2, (ones + mean) / 2], dim=-1)  # [B, n, 2]
    states = torch.zeros(1, n, 2, dtype=torch.int64, device=rows.device)  # zeros and ones of each action
    reach = rows.new_ones(rows.shape[0], 1)
    step = torch.eye(2 * n, dtype=torch.int64, device=rows.device).view(2 * n, n, 2)
    for t in range(budget):
        choice = policy(_features(states, t, budget, rows)).softmax(-1).to(rows)  # [S, n]
        spread = (reach[:, :, None, None] * choice[None, :, :, None] * answer[:, None]).flatten(1)
        following = (states[:, None] + step).flatten(0, 1)  # [S 2 n, n, 2]
        states, merged = torch.unique(following, dim=0, return_inverse=True)
        reach = rows.new_zeros(rows.shape[0], states.shape[0]).index_add(1, merged, spread)
    decision = decide(policy, problem, _features(states, budget, budget, rows), budget)
    losses = problem.all_losses(rows).index_select(1, decision)  # [B, S]
    total = (reach * losses).sum(1)
    return total if theta.ndim > 1 else total[0]


def _features(states: Tensor, t: int, budget: int, like: Tensor) -> Tensor:
    """Features [S, n, 3] of counts [S, n, 2]."""
    pulls, ones = states.sum(-1), states[..., 1]
    return torch.stack([pulls, ones, torch.full_like(pulls, t)], dim=-1).to(like) / budget
