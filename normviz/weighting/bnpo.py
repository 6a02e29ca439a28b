"""BNPO: Beta Normalization Policy Optimization.

Xiao, Zhang, Cao, "BNPO: Beta Normalization Policy Optimization", arXiv 2506.02864, 2025. (Not TRL's
``loss_type="bnpo"``, which divides a token loss by the number of tokens in the batch.)

With a 0/1 reward the expected reward p of a question is a probability, and over the questions it is close to a
Beta(a, b) variable. Policy gradients differ in what they divide R - p by: nothing (REINFORCE with baseline) or
sqrt(p (1 - p)) (GRPO). BNPO divides by a Beta(alpha, beta) density that follows the present distribution of p.

Equations -> code (Q questions, G sampled outputs each, rewards R [Q, G]):

=======================================================  =====================================================
p_q = mean_g R_qg; Beta(a, b) fitted by moments           ``beta_moments`` (beta_normalizer.py)
alpha = max(1 + a/3, 1), beta = max(1 + b/3, 1)           ``bnpo_parameters``
A_qg = (R_qg - p_q) / f(p_q), f = Beta(alpha, beta) pdf   ``bnpo_advantage``, ``BNPO``
E[(R - p)^2 / f(p)^2]                                     ``gradient_second_moment``
(1/K) sum_k A^(k) for K rewards                           ``decomposed_advantage``
clipped surrogate with dual clip                          ``clipped_policy_loss`` (policy_loss.py)
REINFORCE, GRPO, RLOO, ReMax, REINFORCE++                 ``group_advantage``
=======================================================  =====================================================

Special cases: alpha = beta = 1 is R - p; alpha = beta = 3/2 is pi/8 times GRPO with the population deviation.

The official code (changyi7231/BNPO, on verl) is followed: unbiased variance, clamping at 1, cap of 1/f at 1e6, no
running average, p = 0 for a group of one. Ours: if all p are equal the code gives NaN or raises, here alpha = beta = 1;
a group of equal rewards has exactly zero advantage, where a rounded mean would leave noise times 1/f. Nothing here
carries gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normviz.validation import check_choice, check_real
from normviz.weighting._group_baselines import BASELINES, baseline_advantage
from normviz.weighting._rewards import check_rewards, group_deviation
from normviz.weighting._values import at_least_float32, readable
from normviz.weighting.beta_normalizer import (
    beta_moments,
    bnpo_parameters,
    gradient_second_moment,
    inverse_density,
)
from normviz.weighting.policy_loss import clipped_policy_loss

__all__ = [
    "BNPO",
    "BNPOResult",
    "beta_moments",
    "bnpo_advantage",
    "bnpo_advantage_from_index",
    "bnpo_parameters",
    "clipped_policy_loss",
    "decomposed_advantage",
    "gradient_second_moment",
    "group_advantage",
]

SLACK = 1e-6  # by which rounding may carry a rescaled reward outside [0, 1]


class BNPOResult(NamedTuple):
    """What one batch of rewards gives.

    Attributes:
        advantages: A [Q, G].
        p: mean rescaled reward of each question [Q], 0 for groups of one.
        weight: min(1/f(p), max_weight) [Q].
        a, b: moment fit of the p, unclamped, 0-dim.
        alpha, beta: parameters of the normalising density, 0-dim.

    Reference: Xiao, Zhang, Cao, "BNPO: Beta Normalization Policy Optimization", arXiv 2506.02864; equations in the
        module's docstring.
    """

    advantages: Tensor
    p: Tensor
    weight: Tensor
    a: Tensor
    b: Tensor
    alpha: Tensor
    beta: Tensor


def bnpo_advantage(
    rewards: Tensor,
    *,
    min_value: float = 0.0,
    max_value: float = 1.0,
    alpha: float | None = None,
    beta: float | None = None,
    max_weight: float = 1e6,
) -> BNPOResult:
    """BNPO's advantages A_qg = min(1/f(p_q), max_weight) (R_qg - p_q), detached.

    R is first rescaled to (R - min_value) / (max_value - min_value). For p in {0, 1} the advantage is exactly 0
    although 1/f may hit the cap. With one output per question p = 0 throughout: alpha = beta = 1 and A = R.

    Args:
        rewards: R [Q, G]; 0/1 in the theory, any bounded reward through the rescaling.
        min_value, max_value: bounds of the reward (0 and 1, official code).
        alpha, beta: both fix the density instead of fitting it (1, 1: R - p; 3/2, 3/2: pi/8 GRPO); a, b still
            report the fit.
        max_weight: cap of 1/f (1e6, official code).

    Returns:
        BNPOResult in float32, or float64 for float64 rewards.

    Raises:
        ValueError: max_value <= min_value, max_weight <= 0, one of alpha and beta alone or <= 0, rewards not 2-D, empty
            or not finite, a reward outside [min_value, max_value].

    Example:
        >>> R = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> bnpo_advantage(R, alpha=1.5, beta=1.5).advantages / (math.pi / 8)
        tensor([[ 1., -1.],
                [ 0.,  0.]])
    """
    check_configuration(min_value, max_value, alpha, beta, max_weight)
    check_rewards("rewards", rewards, 2)
    R = rescaled("rewards", rewards, min_value, max_value)
    p, deviation = group_deviation(R)
    p = p.clamp(0.0, 1.0)
    weight, *parameters = inverse_density(p, alpha, beta, max_weight)
    return BNPOResult(weight[:, None] * deviation, p, weight, *parameters)


def bnpo_advantage_from_index(
    scores: Tensor,
    index: Tensor,
    *,
    min_value: float = 0.0,
    max_value: float = 1.0,
    alpha: float | None = None,
    beta: float | None = None,
    max_weight: float = 1e6,
) -> Tensor:
    """BNPO's advantages for groups of different sizes; the shapes depend on the data, so not under vmap or fullgraph.

    A group of one has p = 0, which enters the fit like any other p.

    Args:
        scores: rewards [N].
        index: integer [N], equal entries mark one question; any integers in any order.
        min_value, max_value, alpha, beta, max_weight: of :func:`bnpo_advantage`.

    Returns:
        Advantages [N] in the order of ``scores``, detached.

    Raises:
        ValueError: as bnpo_advantage; index not integer or of another shape than scores.
    """
    check_configuration(min_value, max_value, alpha, beta, max_weight)
    check_rewards("scores", scores, 1)
    if index.shape != scores.shape or index.is_floating_point() or index.is_complex():
        raise ValueError(
            f"index must hold integers of scores' shape {tuple(scores.shape)}, got {index.dtype} of shape "
            f"{tuple(index.shape)}."
        )
    R = rescaled("scores", scores, min_value, max_value)
    _, group, count = torch.unique(index, return_inverse=True, return_counts=True)
    total = R.new_zeros(count.shape[0]).index_add(0, group, R)
    p = torch.where(count == 1, 0.0, total / count)
    low = R.new_zeros(count.shape[0]).scatter_reduce(0, group, R, "amin", include_self=False)
    high = R.new_zeros(count.shape[0]).scatter_reduce(0, group, R, "amax", include_self=False)
    equal = (low == high) & (count > 1)
    deviation = torch.where(equal[group], 0.0, R - p[group])
    p = p.clamp(0.0, 1.0)
    weight = inverse_density(p, alpha, beta, max_weight)[0]
    return weight[group] * deviation


def group_advantage(
    rewards: Tensor,
    estimator: str = "bnpo",
    *,
    greedy_rewards: Tensor | None = None,
    eps: float = 1e-6,
    norm_std: bool = True,
    mask: Tensor | None = None,
    **bnpo_kw: Any,
) -> Tensor:
    """Advantages [Q, G] of rewards [Q, G] under one estimator, detached. p_q is the mean of question q, 0 if G = 1.

    ======================  =======================================================================================
    "bnpo"                  min(1/f(p), max_weight) (R - p) of the rescaled rewards; no other one rescales
    "reinforce"             R
    "reinforce_baseline"    R - p
    "grpo"                  (R - p) / (std_g R + eps), unbiased std, 1 if G = 1 (arXiv 2402.03300);
                            ``norm_std=False`` is Dr.GRPO, R - p (arXiv 2503.20783)
    "rloo"                  R minus the mean of the other outputs, G/(G-1) (R - p); R if G = 1 (arXiv 2402.14740)
    "remax"                 R - reward of the greedy output (arXiv 2310.10505)
    "reinforce++"           R whitened over the batch, (x - mean) / sqrt(var + 1e-8) (arXiv 2501.03262, gamma = 1)
    "reinforce++_baseline"  R - p whitened over the batch
    ======================  =======================================================================================

    Args:
        rewards: R [Q, G].
        estimator: a name of the table ("bnpo").
        greedy_rewards: [Q], "remax" only and required there.
        eps: added to the standard deviation, "grpo" only (1e-6, verl).
        norm_std: False is Dr.GRPO, "grpo" only.
        mask: valid tokens [Q, G, T], the two whitened estimators only: each output counts as often as it has valid
            tokens, with N = their number and the variance divided by N - 1. None: every output counts once.
        **bnpo_kw: min_value, max_value, alpha, beta, max_weight of bnpo_advantage, "bnpo" only.

    Returns:
        Advantages in float32, or float64 for float64 rewards.

    Raises:
        ValueError: unknown estimator, rewards not 2-D, empty or not finite, remax without greedy_rewards or with
            another shape than [Q], mask of another shape than [Q, G, T], a whitened estimator with N <= 1, eps < 0.
        TypeError: bnpo_kw with another estimator.

    Example:
        >>> group_advantage(torch.tensor([[1.0, 0.0, 0.0]]), "rloo")
        tensor([[ 1.0000, -0.5000, -0.5000]])
    """
    check_choice("estimator", estimator, ("bnpo", *BASELINES))
    if estimator == "bnpo":
        return bnpo_advantage(rewards, **bnpo_kw).advantages
    if bnpo_kw:
        raise TypeError(f"estimator {estimator!r} takes no argument {', '.join(map(repr, bnpo_kw))}.")
    check_real("eps", eps, 0.0, math.inf, high_open=True)
    check_rewards("rewards", rewards, 2)
    return baseline_advantage(rewards, estimator, greedy_rewards, eps, norm_std, mask)


def decomposed_advantage(
    rewards: Tensor | Mapping[str, Tensor], estimator: str = "bnpo", **kw: Any
) -> Tensor:
    """Advantage decomposition for K rewards: (1/K) sum_k A^(k), each A^(k) from its own p, a, b, alpha, beta.

    The mean of the advantages, not the advantage of the mean reward.

    Args:
        rewards: [K, Q, G] or a mapping of K named rewards [Q, G], all in the same range (rescale them before).
        estimator: of :func:`group_advantage`.
        **kw: of :func:`group_advantage`, the same for all rewards.

    Returns:
        Advantages [Q, G].

    Raises:
        ValueError: no rewards, a tensor that is not 3-D, rewards of different shapes, or as group_advantage.

    Example:
        >>> accuracy, form = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
        >>> decomposed_advantage({"accuracy": accuracy, "format": form}, "reinforce_baseline")
        tensor([[ 0.2500, -0.2500]])
    """
    if isinstance(rewards, Mapping):
        parts = list(rewards.values())
    elif rewards.ndim == 3:
        parts = list(rewards.unbind(0))
    else:
        raise ValueError(f"rewards must have shape [K, Q, G] or be a mapping, got {tuple(rewards.shape)}.")
    shapes = {tuple(part.shape) for part in parts}
    if len(shapes) != 1:
        raise ValueError(
            f"rewards must hold at least one reward, all of one shape [Q, G], got shapes {sorted(shapes)}."
        )
    return torch.stack([group_advantage(part, estimator, **kw) for part in parts]).mean(0)


class BNPO(nn.Module):
    """BNPO's advantages as a module: forward(rewards [Q, G]) -> advantages [Q, G], see :func:`bnpo_advantage`.

    No buffers and an empty state_dict: a and b are fitted anew to each batch. ``last`` holds the last BNPOResult for
    plots (None before the first forward; not stored inside torch.func transforms).

    Args:
        min_value, max_value, alpha, beta, max_weight: of :func:`bnpo_advantage`.

    Raises:
        ValueError: at construction, max_value <= min_value, max_weight <= 0, one of alpha and beta alone or <= 0.

    Example:
        >>> normalise = BNPO()
        >>> A = normalise(torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]))
        >>> A.shape, normalise.last.alpha.ndim
        (torch.Size([2, 3]), 0)

    Reference: Xiao, Zhang, Cao, "BNPO: Beta Normalization Policy Optimization", arXiv 2506.02864; equations in the
        module's docstring.
    """

    last: BNPOResult | None

    def __init__(
        self,
        *,
        min_value: float = 0.0,
        max_value: float = 1.0,
        alpha: float | None = None,
        beta: float | None = None,
        max_weight: float = 1e6,
    ) -> None:
        super().__init__()
        check_configuration(min_value, max_value, alpha, beta, max_weight)
        self.min_value = min_value
        self.max_value = max_value
        self.alpha = alpha
        self.beta = beta
        self.max_weight = max_weight
        self.last = None

    def forward(self, rewards: Tensor) -> Tensor:
        """Advantages [Q, G] of rewards [Q, G], detached."""
        result = bnpo_advantage(
            rewards,
            min_value=self.min_value,
            max_value=self.max_value,
            alpha=self.alpha,
            beta=self.beta,
            max_weight=self.max_weight,
        )
        if torch._C._functorch.maybe_current_level() is None:
            self.last = result
        return result.advantages

    def extra_repr(self) -> str:
        """The configuration."""
        return (
            f"min_value={self.min_value}, max_value={self.max_value}, alpha={self.alpha}, beta={self.beta}, "
            f"max_weight={self.max_weight:g}"
        )


def rescaled(name: str, rewards: Tensor, min_value: float, max_value: float) -> Tensor:
    """(R - min_value) / (max_value - min_value) in at least float32, detached.

    Raises:
        ValueError: an entry of ``rewards`` (called ``name``) is outside [min_value, max_value] by more than rounding
            (eager mode only). A mean can lie inside while its rewards do not, and theory needs the rewards inside.
    """
    R = (at_least_float32(rewards.detach()) - min_value) / (max_value - min_value)
    if readable(R):
        kind = rewards.dtype if rewards.is_floating_point() else R.dtype
        stored = torch.finfo(kind).eps * max(abs(min_value), abs(max_value)) / (max_value - min_value)
        slack = SLACK + 2 * stored
        if float((R - 0.5).abs().max()) > 0.5 + slack:
            raise ValueError(
                f"{name} must lie between min_value = {min_value:g} and max_value = {max_value:g}, got values from "
                f"{float(rewards.min()):g} to {float(rewards.max()):g}; give min_value and max_value of this reward."
            )
    return R


def check_configuration(
    min_value: object, max_value: object, alpha: object, beta: object, max_weight: object
) -> None:
    """Raise ValueError if an option of bnpo_advantage is out of range."""
    low = check_real("min_value", min_value, -math.inf, math.inf, low_open=True, high_open=True)
    check_real("max_value", max_value, low, math.inf, low_open=True, high_open=True)
    check_real("max_weight", max_weight, 0.0, low_open=True)
    if (alpha is None) != (beta is None):
        raise ValueError(
            f"alpha and beta must be given together or not at all, got alpha={alpha!r}, beta={beta!r}."
        )
    if alpha is not None:
        check_real("alpha", alpha, 0.0, math.inf, low_open=True, high_open=True)
        check_real("beta", beta, 0.0, math.inf, low_open=True, high_open=True)
