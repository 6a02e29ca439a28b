"""How large attention scores can be, without forming them, and when a low rank gains nothing."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

__all__ = ["score_radius", "warn_if_no_gain"]


def score_radius(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """``R = |scale| max_i ||q_i|| max_j ||k_j|| >= |scale <q_i, k_j>|`` (Cauchy-Schwarz), the largest over batch axes.

    Args:
        q: [..., Lq, d].
        k: [..., Lk, d].
        scale: tau.

    Returns:
        float64, no axes.
    """
    longest_q, longest_k = (
        torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64).amax(-1) for x in (q.detach(), k.detach())
    )
    radius: Tensor = abs(scale) * (longest_q * longest_k).amax()
    return radius


def warn_if_no_gain(rank: int, length: int) -> None:
    """One UserWarning if factors of this rank are not narrower than the L x L matrix."""
    if rank >= length and not torch.compiler.is_compiling():
        warnings.warn(
            f"no gain: the low-rank factors have {rank} columns, the sequence {length} tokens; use the exact method.",
            UserWarning,
            stacklevel=3,
        )
