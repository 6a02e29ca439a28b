"""From an arm's name and the rewards of a batch to its advantages."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from normviz.experiments.reward_normalization.knobs import ESTIMATOR_NAMES, SUM, UNDECOMPOSED
from normviz.weighting import BNPOResult, bnpo_advantage, decomposed_advantage, group_advantage

__all__ = ["advantages", "reward_parts"]

ESTIMATORS = {name: estimator for estimator, name in ESTIMATOR_NAMES.items()} | {UNDECOMPOSED: "bnpo"}


def advantages(arm: str, rewards: Mapping[str, Tensor], greedy: Mapping[str, Tensor]) -> Tensor:
    """Advantages [Q, G] under an arm.

    With several rewards the arm "BNPO" decomposes; every other arm gets their sum.

    Args:
        arm: an arm's name.
        rewards: named rewards [Q, G] in [0, 1].
        greedy: the rewards [Q] of the greedy answers, for ReMax.
    """
    estimator = ESTIMATORS[arm]
    if arm == ESTIMATOR_NAMES["bnpo"]:
        return decomposed_advantage(rewards, "bnpo")
    total = torch.stack(list(rewards.values())).sum(0)
    if estimator == "bnpo":
        return group_advantage(total, "bnpo", max_value=float(len(rewards)))
    if estimator == "remax":
        baseline = torch.stack(list(greedy.values())).sum(0)
        return group_advantage(total, "remax", greedy_rewards=baseline)
    return group_advantage(total, estimator)


def reward_parts(arm: str, rewards: Mapping[str, Tensor]) -> dict[str, BNPOResult]:
    """What BNPO makes of each reward by itself, or of the sum in the arm that does not take them apart.

    Args:
        arm: "BNPO" or its variant on the sum.
        rewards: named rewards [Q, G] in [0, 1].

    Returns:
        Results by the name of the reward (``SUM`` for the sum), each with its own Beta. BNPO's advantage is their mean.
    """
    if arm == ESTIMATOR_NAMES["bnpo"]:
        return {name: bnpo_advantage(reward) for name, reward in rewards.items()}
    total = torch.stack(list(rewards.values())).sum(0)
    return {SUM: bnpo_advantage(total, max_value=float(len(rewards)))}
