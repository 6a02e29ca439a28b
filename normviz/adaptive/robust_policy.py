"""The outer algorithm: one policy close to the best policy of every class of difficulty.

Algorithm A of Zhang, Jain, Jamieson, arXiv 2010.15382. The plain worst case is no guide, because problems that
nobody can solve dominate it. So for every class Theta^(r_k) the loss lhat_k of the best policy for that class alone is
found, and the robust policy minimises the largest of l(pi, Theta^(r_k)) - lhat_k.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from normviz.adaptive.adversarial_trainer import AdversarialTrainer, check_radii
from normviz.adaptive.bandit_problem import BanditProblem
from normviz.adaptive.complexity_classes import MEMBER_SLACK
from normviz.adaptive.design_complexity import solve
from normviz.adaptive.history_policy import HistoryPolicy
from normviz.validation import check_integer

__all__ = ["RobustResult", "learn_robust_policy"]

SCREENING, CONFIRMING, HARDEST = 100, 2000, 5
"""Episodes per particle to find the hardest five, and fresh ones for those: the largest of noisy means is biased."""

Callback = Callable[[int, int, dict[str, float]], object]


class RobustResult(NamedTuple):
    """What ``learn_robust_policy`` found (arXiv 2010.15382, Algorithm A).

    Attributes:
        policy: the robust policy.
        class_policies: the policy trained for each class alone, K of them.
        class_losses: lhat [K], their worst losses, as a running maximum.
        gaps: [K], worst loss of ``policy`` over the particles of classes up to k, minus lhat_k.
    """

    policy: HistoryPolicy
    class_policies: list[HistoryPolicy]
    class_losses: Tensor
    gaps: Tensor


def learn_robust_policy(
    problem: BanditProblem,
    radii: Sequence[float],
    budget: int,
    iters_per_class: int,
    final_iters: int,
    callback: Callback | None = None,
    *,
    seed: int = 0,
    hidden: int = 128,
    symmetric: bool = False,
    **trainer_options: Any,
) -> RobustResult:
    """Train the policies of all classes, then the robust one (Algorithm A of arXiv 2010.15382).

    For k = 1..K: Algorithm B on Theta^(r_k), started from the policy of the class before; lhat_k is its worst loss on
    its particles, over fresh episodes, and at least lhat_{k-1}. Then Algorithm B on Theta^(r_K) with the baseline
    lhat_{k(i)}, started from the last class's policy. In each stage the entropy bonus falls linearly to 0. Worst losses
    are taken in two rounds: 100 episodes per particle, then 2000 fresh ones for the five worst.

    Rates: with the default network (``symmetric=False``) Adam at 1e-3 and lr_weights 0.1 may drive the mixture onto one
    particle; slower rates (2e-3, 0.02) hold it. Where actions are exchangeable use ``symmetric=True``.

    Args:
        problem: what is asked and judged.
        radii: r_1 < .. < r_K.
        budget: T, at least 1.
        iters_per_class: steps of each of the K first stages, at least 0 (the paper's scale: hundreds).
        final_iters: steps of the last stage, at least 0.
        callback: called as callback(stage, iteration, metrics) after each step, stages 0..K-1 and then K.
        seed: of everything drawn, network included.
        hidden: width of the network (128).
        symmetric: network that is equivariant under permutations of the actions.
        **trainer_options: of ``AdversarialTrainer``, except policy, r, baseline, class_radii and seed.

    Returns:
        Policies, lhat [K] and gaps [K] (float64). Where no particle of the last stage is in a class up to k, the gap
        is over the particles of stage k.

    Raises:
        ValueError: radii that do not increase, or below the least complexity in the box; a number outside its range.

    Example:
        >>> problem = BanditProblem.multi_armed(2, noise="bernoulli")
        >>> options = {"num_particles": 4, "num_samples": 4, "num_rollouts": 2, "hidden": 8}
        >>> learn_robust_policy(problem, [2.0, 8.0], 3, 1, 1, **options).gaps.shape
        torch.Size([2])
    """
    classes = check_radii("radii", radii)
    check_integer("iters_per_class", iters_per_class, 0)
    check_integer("final_iters", final_iters, 0)
    check_integer("seed", seed, 0)
    entropies = [int(s) for s in np.random.SeedSequence(seed).generate_state(len(classes) + 2)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropies[-1])
        policy = HistoryPolicy(problem, budget, hidden, symmetric)
    policies: list[HistoryPolicy] = []
    members: list[Tensor] = []
    losses: list[float] = []
    for k, r in enumerate(classes):
        policy = copy.deepcopy(policy)
        trainer = AdversarialTrainer(problem, policy, budget, r, seed=entropies[k], **trainer_options)
        _train(trainer, iters_per_class, k, callback)
        losses.append(max([_worst(trainer, trainer.particles), *losses[-1:]]))
        policies.append(policy)
        members.append(trainer.particles.clone())
    lhat = torch.tensor(losses, dtype=torch.float64)
    policy = copy.deepcopy(policy)
    trainer = AdversarialTrainer(
        problem,
        policy,
        budget,
        classes[-1],
        baseline=lhat,
        class_radii=classes,
        seed=entropies[len(classes)],
        **trainer_options,
    )
    _train(trainer, final_iters, len(classes), callback)
    hardness = solve(problem, trainer.particles).value
    gaps = []
    for k, r in enumerate(classes):
        inside = trainer.particles[hardness <= r * (1 + MEMBER_SLACK)]
        gaps.append(_worst(trainer, inside if len(inside) else members[k]) - losses[k])
    return RobustResult(policy, policies, lhat, torch.tensor(gaps, dtype=torch.float64))


def _train(trainer: AdversarialTrainer, iters: int, stage: int, callback: Callback | None) -> None:
    bonus = trainer.entropy_coef
    for iteration in range(iters):
        trainer.entropy_coef = bonus * (1 - iteration / iters)
        metrics = trainer.step()
        if callback is not None:
            callback(stage, iteration, metrics)
    trainer.entropy_coef = bonus


@torch.no_grad()
def _worst(trainer: AdversarialTrainer, theta: Tensor) -> float:
    """The largest mean loss of the trainer's policy over theta [B, d], in two rounds."""
    screened = trainer.mean_losses(theta, SCREENING)
    hardest = theta[screened.topk(min(HARDEST, len(theta))).indices]
    return float(trainer.mean_losses(hardest, CONFIRMING).max())
