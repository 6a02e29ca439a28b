"""What hooks on a model and its optimizer cannot see, said before a training instead of found after it."""

from __future__ import annotations

import warnings

from torch import nn
from torch.optim import Optimizer

__all__ = ["warn_of_blind_spots"]


def warn_of_blind_spots(model: nn.Module, optimizer: Optimizer, stacklevel: int = 2) -> None:
    """Warn if hooks on ``model`` and ``optimizer`` would record nothing, or the steps of another model.

    Args:
        model: the model that is to be watched.
        optimizer: the optimizer that is to be watched.
        stacklevel: as in ``warnings.warn``, seen from this function. Default 2: its caller.

    Warns:
        UserWarning: no parameter of the optimizer is one of the model's; or ``torch.compile`` runs the model, whose
            forward pass then has no hooks.

    Example:
        >>> import torch
        >>> model = nn.Linear(4, 2)
        >>> warn_of_blind_spots(model, torch.optim.SGD(model.parameters(), lr=0.1))
    """
    name = type(model).__name__
    own = set(model.parameters())
    if not any(p in own for group in optimizer.param_groups for p in group["params"]):
        warnings.warn(
            f"optimizer steps no parameter of the model {name}: gradients and activations would be the model's, steps "
            "and updates another one's. Pass the optimizer that was built from this model's parameters (a copy or a "
            "model that was built again has others).",
            UserWarning,
            stacklevel=stacklevel,
        )
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        warnings.warn(
            f"model {name} is run by torch.compile, which leaves hooks of the forward pass out: gradients, updates and "
            "losses are recorded, activations and batch statistics are not. Watch a few steps of the model before it "
            "is compiled to see those.",
            UserWarning,
            stacklevel=stacklevel,
        )
