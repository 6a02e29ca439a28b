"""The clipped policy loss that BNPO trains with: PPO's surrogate with asymmetric and dual clipping.

Schulman et al., arXiv 1707.06347 (clip); Ye et al., arXiv 1912.09729 (dual clip); Yu et al., arXiv 2503.14476
(asymmetric range); as in ``verl/trainer/ppo/core_algos.py`` with the settings of the BNPO recipe (arXiv 2506.02864).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normviz.validation import check_choice, check_real
from normviz.weighting._values import at_least_float32

__all__ = ["clipped_policy_loss"]

AGGREGATIONS = ("seq-mean-token-sum", "token-mean", "seq-mean-token-mean")


def clipped_policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    clip_c: float = 10.0,
    agg: str = "seq-mean-token-sum",
    ref_logp: Tensor | None = None,
    kl_coef: float = 0.0,
) -> Tensor:
    """PPO's clipped surrogate per token, aggregated to a scalar to be minimised.

    With r = exp(logp - old_logp): L = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)); where A < 0 also
    L = min(L, -A clip_c) (dual clip). A KL term kl_coef (exp(d) - d - 1), d = ref_logp - logp, is added per token,
    unclamped, before the aggregation.

    Args:
        logp: log-probabilities of the sampled tokens under the policy [N, T]; the only argument with gradient.
        old_logp: the same under the policy that sampled [N, T], detached inside.
        advantages: [N] (one per sequence) or [N, T], detached inside.
        mask: valid tokens [N, T], bool or 0/1. What stands at the other tokens, NaN included, changes nothing.
        clip_low, clip_high: range of the ratio (0.2 and 0.28, BNPO recipe).
        clip_c: bound of the loss in units of -A where A < 0 (10, BNPO recipe; verl's default is 3).
        agg: "seq-mean-token-sum" (recipe: sum over valid tokens, mean over the N sequences), "token-mean" (mean
            over all valid tokens) or "seq-mean-token-mean" (mean over valid tokens, mean over sequences). A fully
            masked sequence contributes 0 and counts in N.
        ref_logp: reference policy's log-probabilities [N, T], detached inside.
        kl_coef: weight of the KL term (0, recipe).

    Returns:
        0-dim loss in at least float32.

    Raises:
        ValueError: shapes that do not match, clip_low outside [0, 1], clip_high < 0, clip_c <= 1, unknown agg,
            kl_coef < 0 or kl_coef != 0 without ref_logp.

    Example:
        >>> logp = torch.zeros(1, 3, requires_grad=True)
        >>> mask = torch.tensor([[1, 1, 0]])
        >>> clipped_policy_loss(logp, torch.zeros(1, 3), torch.tensor([2.0]), mask).backward()
        >>> logp.grad
        tensor([[-2., -2.,  0.]])
    """
    check_real("clip_low", clip_low, 0.0, 1.0)
    check_real("clip_high", clip_high, 0.0)
    check_real("clip_c", clip_c, 1.0, low_open=True)
    check_choice("agg", agg, AGGREGATIONS)
    check_real("kl_coef", kl_coef, 0.0, math.inf, high_open=True)
    if kl_coef != 0.0 and ref_logp is None:
        raise ValueError(f"ref_logp must be given when kl_coef = {kl_coef:g} != 0, got None.")
    if logp.ndim != 2 or logp.shape[0] == 0:
        raise ValueError(f"logp must have shape [N, T] with N >= 1, got {tuple(logp.shape)}.")
    for name, tensor in (("old_logp", old_logp), ("mask", mask), ("ref_logp", ref_logp)):
        if tensor is not None and tensor.shape != logp.shape:
            raise ValueError(f"{name} must have logp's shape {tuple(logp.shape)}, got {tuple(tensor.shape)}.")
    if advantages.shape not in (logp.shape, logp.shape[:1]):
        raise ValueError(
            f"advantages must have shape [N] or [N, T] with [N, T] = {tuple(logp.shape)}, "
            f"got {tuple(advantages.shape)}."
        )

    valid = mask != 0
    A = advantages if advantages.ndim == 2 else advantages[:, None].expand_as(logp)
    # Replaced before any arithmetic, not multiplied by 0 after it: NaN * 0 is NaN, in the gradient too.
    logp, old_logp, A = (at_least_float32(t).where(valid, 0.0) for t in (logp, old_logp.detach(), A.detach()))
    ratio = torch.exp(logp - old_logp)  # [N, T]
    loss = torch.maximum(-A * ratio, -A * ratio.clamp(1 - clip_low, 1 + clip_high))
    loss = torch.where(A < 0, torch.minimum(loss, -A * clip_c), loss)
    if ref_logp is not None and kl_coef != 0.0:
        d = at_least_float32(ref_logp.detach()).where(valid, 0.0) - logp
        loss = loss + kl_coef * (torch.exp(d) - d - 1)
    loss = loss.where(valid, 0.0)

    tokens = valid.sum(1).to(loss.dtype)  # [N]
    if agg == "token-mean":
        return loss.sum() / tokens.sum().clamp(min=1)
    per_sequence = loss.sum(1)  # [N]
    if agg == "seq-mean-token-mean":
        per_sequence = per_sequence / tokens.clamp(min=1)
    return per_sequence.mean()
