"""Group advantages that BNPO is compared with.

Formulas and constants follow ``verl/trainer/ppo/core_algos.py`` as shipped with the official BNPO code. verl whitens
over valid TOKENS, so long answers count more; ``mask`` reproduces that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normviz.weighting._rewards import check_rewards, group_deviation
from normviz.weighting._values import at_least_float32, readable

__all__ = ["BASELINES", "baseline_advantage"]

BASELINES = (
    "reinforce",
    "reinforce_baseline",
    "grpo",
    "rloo",
    "remax",
    "reinforce++",
    "reinforce++_baseline",
)
WHITENING_EPS = 1e-8  # verl's masked_whiten


def baseline_advantage(
    rewards: Tensor,
    estimator: str,
    greedy_rewards: Tensor | None,
    eps: float,
    norm_std: bool,
    mask: Tensor | None,
) -> Tensor:
    """Advantages [Q, G] of rewards [Q, G] under one of BASELINES, detached, in at least float32."""
    R = at_least_float32(rewards.detach())
    _, deviation = group_deviation(R)
    G = R.shape[1]
    if estimator == "reinforce":
        return R
    if estimator == "grpo" and norm_std:
        std = R.std(1, keepdim=True, correction=1) if G > 1 else torch.ones_like(R)
        return deviation / (std + eps)
    if estimator == "rloo":
        return deviation * (G / (G - 1)) if G > 1 else R
    if estimator == "remax":
        return R - greedy(greedy_rewards, R)
    if estimator == "reinforce++":
        return whitened(R, mask)
    if estimator == "reinforce++_baseline":
        return whitened(deviation, mask)
    return deviation


def greedy(rewards: Tensor | None, R: Tensor) -> Tensor:
    """The greedy outputs' rewards as [Q, 1].

    Raises:
        ValueError: missing, not of shape [Q] or not finite.
    """
    if rewards is None:
        raise ValueError("greedy_rewards must be given (shape [Q]) for the estimator 'remax', got None.")
    if rewards.shape != R.shape[:1]:
        raise ValueError(
            f"greedy_rewards must have shape [Q] = {tuple(R.shape[:1])}, got {tuple(rewards.shape)}."
        )
    check_rewards("greedy_rewards", rewards, 1)
    return at_least_float32(rewards.detach())[:, None]


def whitened(x: Tensor, mask: Tensor | None) -> Tensor:
    """(x - mean) / sqrt(var + 1e-8) over the batch, each output counted n_qg times (its valid tokens, or once)."""
    if mask is None:
        n = torch.ones_like(x)
    elif mask.ndim == 3 and mask.shape[:2] == x.shape:
        n = (mask.detach() != 0).sum(2).to(x.dtype)
    else:
        raise ValueError(
            f"mask must have shape [Q, G, T] = [{x.shape[0]}, {x.shape[1]}, T], got {tuple(mask.shape)}."
        )
    N = n.sum()
    if x.numel() <= 1 if mask is None else readable(n) and float(N) <= 1:
        name = "rewards must hold" if mask is None else "mask must mark"
        raise ValueError(f"{name} more than one value to be whitened, got {int(N)}.")
    centred = x - (n * x).sum() / N
    variance = (n * centred.square()).sum() / (N - 1)
    return centred / (variance + WHITENING_EPS).sqrt()
