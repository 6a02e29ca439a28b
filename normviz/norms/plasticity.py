"""What to watch while a network loses plasticity: effective learning rate, dormant units, norms.

Lyle et al., "Normalization and effective learning rates in reinforcement learning", arXiv 2407.01800; see
:mod:`normviz.norms.nap` for the paper.

    lr_eff = lr (rho / ||W||)^2                 plain SGD     effective_learning_rate(kind="sgd")
    lr_eff = lr (rho / ||W||)                   Adam, sign or normalised-gradient updates     kind="adam"
    score_j = mean |a_j| / mean_k mean |a_k|,   dormant: score <= tau                         dormant_fraction

The first two are exact for one scale-invariant tensor whose norm does not change during the step (momentum: changes
slowly); over several tensors there is no single number.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normviz.module_roles import dormant_units, frobenius_norms
from normviz.validation import check_choice, check_real

__all__ = ["ELR_POWER", "dormant_fraction", "effective_learning_rate", "gradient_norms", "parameter_norms"]

ELR_POWER = {"sgd": 2, "adam": 1}
"""How the effective learning rate falls with the norm of a scale-invariant weight, per kind of update."""


def effective_learning_rate(
    lr: float | Tensor, norm: float | Tensor, kind: str = "sgd", reference: float | Tensor | None = None
) -> float | Tensor:
    """``lr (reference / norm)^p`` with p = 2 for SGD, 1 for Adam: the learning rate that the function feels.

    Args:
        lr: learning rate of the step.
        norm: ||W|| of a weight whose layer is scale-invariant, at the time of the step.
        kind: "sgd" (default; gradients shrink as 1/||W||) or "adam" (the size of the update does not depend on it).
        reference: norm at which the effective rate is ``lr``, e.g. the initial one. Default None: 1.

    Returns:
        A number, or a tensor of the broadcast shape if any argument is one.

    Raises:
        ValueError: unknown kind; ``norm`` or ``reference`` a number that is not positive (in a tensor, zero gives inf).

    Example:
        >>> effective_learning_rate(0.1, 2.0), effective_learning_rate(0.1, 2.0, "adam", reference=1.0)
        (0.025, 0.05)
    """
    power = ELR_POWER[check_choice("kind", kind, ELR_POWER)]
    reference = 1.0 if reference is None else reference
    for name, value in (("lr", lr), ("norm", norm), ("reference", reference)):
        if not isinstance(value, Tensor):
            check_real(name, value, 0, low_open=name != "lr")
    return lr * (reference / norm) ** power


def dormant_fraction(activations: Tensor, tau: float = 0.0) -> float:
    """Fraction of units whose score ``mean |a_j| / mean_k mean |a_k|`` is at most ``tau``.

    Args:
        activations: outputs of a nonlinearity: (N, C, H, W) with units = channels, else (..., units).
        tau: threshold, >= 0. Default 0: units that are zero on every sample.

    Returns:
        A number in [0, 1]; 1 if all activations are zero.

    Raises:
        ValueError: ``tau`` < 0, no activations.

    Example:
        >>> dormant_fraction(torch.tensor([[0.0, 1.0, 2.0, 0.0], [0.0, 3.0, 0.0, 0.0]]))
        0.5
    """
    check_real("tau", tau, 0)
    if activations.ndim == 0 or activations.numel() == 0:
        raise ValueError(f"activations must hold units, got shape {tuple(activations.shape)}.")
    axis = 1 if activations.ndim == 4 else -1
    return float(dormant_units(activations, axis, tau).float().mean())


def parameter_norms(model: nn.Module) -> dict[str, float]:
    """Frobenius norm of every parameter by name; half types are summed in float32."""
    return frobenius_norms({name: (p,) for name, p in model.named_parameters()})


def gradient_norms(model: nn.Module) -> dict[str, float]:
    """Frobenius norm of the gradient of every parameter that has one, by name; half types are summed in float32."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return frobenius_norms({name: (_dense(grad),) for name, grad in gradients.items()})


def _dense(grad: Tensor) -> Tensor:
    """The entries of a gradient; a sparse one (``nn.Embedding(sparse=True)``) has them in its values."""
    return grad.coalesce().values() if grad.layout == torch.sparse_coo else grad
