"""Entropy of next-token distributions, in bits by default."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normviz.validation import check_real

__all__ = ["token_entropy"]


def token_entropy(logits: Tensor, base: float = 2.0) -> Tensor:
    """Entropy of softmax(logits) over the last dimension: ``H = -sum_i p_i log_base p_i``, with 0 log 0 = 0.

    The logits are taken as the model gives them: a sampling temperature, top-k or top-p has no part in it.

    Args:
        logits: (..., V). Entries of -inf are tokens of probability 0.
        base: of the logarithm, above 1; 2 (default) gives bits, e gives nats. The paper measures in bits.

    Returns:
        (...), between 0 and log_base V; float64 for float64 logits and float32 for all others. Differentiable, also
        where logits are -inf.

    Raises:
        ValueError: base not above 1, no last dimension or an empty one.
        FloatingPointError: a NaN or +inf among the logits, or a row of only -inf. Where values cannot be looked at
            (compiled, in ``torch.func`` transforms, on meta) the entropy is NaN instead.

    References:
        Simonds, "Entropy Adaptive Decoding", arXiv 2502.06833 (entropy as the measure of a token's difficulty).

    Example:
        >>> import torch
        >>> token_entropy(torch.zeros(8)).item()
        3.0
    """
    base = check_real("base", base, 1, low_open=True, high_open=True)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have shape (..., V) with V >= 1, got {tuple(logits.shape)}.")
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    log_p = torch.log_softmax(logits.to(dtype), dim=-1)  # (..., V)
    # -inf times 0 is NaN, in the gradient too, hence the mask before the product.
    surprise = -log_p.masked_fill(log_p == -math.inf, 0.0) / math.log(base)
    entropy = (log_p.exp() * surprise).sum(-1).clamp_min(0.0)
    if _readable(entropy) and bool(torch.isnan(entropy).any()):
        raise FloatingPointError("logits hold NaN or +inf, or a row of only -inf: no distribution.")
    return entropy


def _readable(x: Tensor) -> bool:
    """Whether Python may look at values: not while compiling, inside torch.func transforms or on meta."""
    inside = torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None
    return not inside and not x.is_meta
