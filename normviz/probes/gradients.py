"""Gradient norms of a network after the backward pass."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from normviz.frame import Value
from normviz.probes.probe import Probe

__all__ = ["GradientNorm"]


class GradientNorm(Probe):
    """Euclidean norm of the gradient over all parameters that have one: value ``grad_norm``.

    Args:
        every: cadence in steps.

    Reference: none, no paper.
    """

    def gradients(self, model: nn.Module) -> Mapping[str, Value]:
        """The norm over all gradients; nothing if there are none."""
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        if not grads:
            return {}
        return {"grad_norm": float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))}
