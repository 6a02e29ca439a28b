"""Rewards of groups of sampled outputs: checks and deviations from the group's mean."""

from __future__ import annotations

import torch
from torch import Tensor

from normviz.weighting._values import readable

__all__ = ["check_rewards", "group_deviation"]


def check_rewards(name: str, rewards: Tensor, ndim: int) -> None:
    """Raise ValueError unless ``rewards`` has ``ndim`` non-empty axes and finite values (eager mode only)."""
    if rewards.ndim != ndim or 0 in rewards.shape or rewards.is_complex():
        shape = {1: "[N]", 2: "[Q, G]"}[ndim]
        raise ValueError(
            f"{name} must be real of shape {shape} with at least one entry, got {tuple(rewards.shape)}."
        )
    if readable(rewards) and not bool(rewards.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinite values.")


def group_deviation(R: Tensor) -> tuple[Tensor, Tensor]:
    """(p [Q], R - p [Q, G]) with p the mean of each row, 0 for rows of one (official code).

    A row of equal rewards deviates by exactly 0, where the rounded mean would leave noise that 1/f or 1/std blows up.
    """
    if R.shape[1] == 1:
        return torch.zeros_like(R[:, 0]), R
    p = R.mean(1)
    equal = R.amax(1, keepdim=True) == R.amin(1, keepdim=True)
    return p, torch.where(equal, 0.0, R - p[:, None])
