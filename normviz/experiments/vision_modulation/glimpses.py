"""What the norms of a decoder do with a picture: the change of gain and bias, and where the conditioner looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normviz.adapters import AttentionConditioner, LaViDecoder, ViLN

__all__ = ["Glimpse", "glimpses"]


@dataclass(frozen=True, eq=False)
class Glimpse:
    """One modulated norm in one forward pass.

    Attributes:
        dgamma, dbeta: change of gain and bias (B, T, d).
        weights: how much each word reads of each visual token, mean over heads (B, T, M); None: no attention.
    """

    dgamma: Tensor
    dbeta: Tensor
    weights: Tensor | None


def glimpses(model: LaViDecoder, tokens: Tensor, vision: Tensor) -> list[Glimpse]:
    """Every modulated norm of a decoder, in order, for tokens (B, T) and a picture (B, M, dv); without gradients."""
    inputs: list[tuple[ViLN, Tensor]] = []

    def keep(norm: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(norm, ViLN)
        inputs.append((norm, given[0]))

    hooks = [m.register_forward_pre_hook(keep) for m in model.modules() if isinstance(m, ViLN)]
    try:
        with torch.no_grad():
            model(tokens, vision)
    finally:
        for hook in hooks:
            hook.remove()
    if not inputs or model.projector is None:
        return []
    with torch.no_grad():
        seen = model.projector(vision)
        return [_glimpse(norm, t, seen) for norm, t in inputs]


def _glimpse(norm: ViLN, t: Tensor, vision: Tensor) -> Glimpse:
    _, dgamma, dbeta = norm(t, vision, return_delta=True)
    read = norm.conditioner
    weights = None
    if isinstance(read, AttentionConditioner):
        weights = read.weights(norm.base(t), vision).mean(1)
    return Glimpse(dgamma, dbeta, weights)
