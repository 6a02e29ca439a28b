"""Weights of the samples of a batch from their losses: normalise, shape, softmax.

Sow et al., "Dynamic Loss-Based Sample Reweighting for Improved Large Language Model Pretraining", ICLR 2025,
arXiv 2502.06733. Losses l_i -> h_i in [-delta, delta] -> scores s_i = f(h_i) -> weights w_i = softmax(s / r)_i.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from normviz.validation import check_choice, check_integer, check_real
from normviz.weighting._values import at_least_float32, readable

__all__ = [
    "STRATEGIES",
    "Strategy",
    "apply_strategy",
    "check_delta",
    "check_strategy",
    "normalize_losses",
    "per_sample_loss",
    "sample_weights",
    "scalar_like",
    "split_device_losses",
    "weights_where",
]

Strategy = Callable[[Tensor, float], Tensor]


def linupper(h: Tensor, delta: float) -> Tensor:
    """min(h + delta, delta): linear up to the mid-range loss, capped above."""
    return (h + delta).clamp(max=delta)


def quadratic(h: Tensor, delta: float) -> Tensor:
    """1 - h^2 / delta^2: favours losses in the middle ("mid" in the official code)."""
    return 1 - (h / delta).square()


def extremes(h: Tensor, delta: float) -> Tensor:  # noqa: ARG001
    """|h|: favours both ends."""
    return h.abs()


def upper(h: Tensor, delta: float) -> Tensor:
    """(h + delta) / 2: fully linear, without LinUpper's cap."""
    return (h + delta) / 2


def uniform(h: Tensor, delta: float) -> Tensor:  # noqa: ARG001
    """0: weights 1/M."""
    return torch.zeros_like(h)


STRATEGIES: dict[str, Strategy] = {
    "linupper": linupper,
    "quadratic": quadratic,
    "extremes": extremes,
    "upper": upper,
    "uniform": uniform,
}


def normalize_losses(
    losses: Tensor,
    delta: float = 1.0,
    l_min: float | Tensor | None = None,
    l_max: float | Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """h_i = delta (2 l_i - l_max - l_min) / (l_max - l_min), from -delta at the lowest to delta at the highest loss.

    Args:
        losses: l [M].
        delta: half-width of h (1, paper).
        l_min, l_max: replace the minimum and maximum of ``losses``, e.g. those of the batch on all devices.
        eps: a smaller range l_max - l_min counts as "all equal" and gives h = 0 (1e-6, the code's lower bound of the
            denominator).

    Returns:
        h [M], detached, in at least float32.

    Raises:
        ValueError: losses not 1-D, empty or not finite; delta <= 0; eps <= 0.

    Example:
        >>> normalize_losses(torch.tensor([1.0, 2.0, 3.0, 5.0]))
        tensor([-1.0000, -0.5000,  0.0000,  1.0000])
    """
    check_delta(delta)
    check_real("eps", eps, 0.0, low_open=True)
    check_losses(losses)
    losses = at_least_float32(losses.detach())
    low = losses.amin() if l_min is None else scalar_like(losses, l_min)
    high = losses.amax() if l_max is None else scalar_like(losses, l_max)
    return normalized(losses, delta, low, high, eps)


def scalar_like(losses: Tensor, value: float | Tensor) -> Tensor:
    """``value`` as a detached 0-dim tensor of losses' dtype and device."""
    return value.detach().to(losses) if isinstance(value, Tensor) else torch.full_like(losses[0], value)


def normalized(losses: Tensor, delta: float, low: Tensor, high: Tensor, eps: float = 1e-6) -> Tensor:
    """normalize_losses without its checks."""
    spread = high - low
    h = delta * (2 * losses - high - low) / spread.clamp(min=eps)
    return torch.where(spread < eps, 0.0, h)


def apply_strategy(h: Tensor, strategy: str | Strategy, delta: float = 1.0) -> Tensor:
    """s = f(h): the shape that turns normalised losses into scores.

    Args:
        h: normalised losses.
        strategy: a name of STRATEGIES or a callable f(h, delta) that keeps h's shape.
        delta: half-width of h (1, paper).

    Raises:
        ValueError: unknown strategy, delta <= 0, or a callable that changes the shape.

    Example:
        >>> apply_strategy(torch.tensor([-1.0, -0.5, 0.0, 1.0]), "linupper")
        tensor([0.0000, 0.5000, 1.0000, 1.0000])
    """
    check_delta(delta)
    f = check_strategy(strategy)
    s = f(h, delta)
    if s.shape != h.shape:
        raise ValueError(
            f"strategy must keep the shape {tuple(h.shape)}, got {tuple(s.shape)} from {strategy!r}."
        )
    return s


def sample_weights(
    losses: Tensor, strategy: str | Strategy = "linupper", r: float = 0.4, delta: float = 1.0
) -> Tensor:
    """w = softmax(f(h) / r), the weights of the samples of one batch.

    Args:
        losses: l [M].
        strategy: a name of STRATEGIES ("linupper", best on average in the paper) or a callable f(h, delta).
        r: temperature > 0 (0.4, official configs). Large: uniform; small: uniform over the largest scores.
        delta: half-width of h (1, paper).

    Returns:
        w [M], detached, >= 0, summing to 1, in at least float32.

    Raises:
        ValueError: losses not 1-D, empty or not finite; r <= 0; delta <= 0; unknown strategy.
    """
    check_real("r", r, 0.0, math.inf, low_open=True, high_open=True)
    check_delta(delta)
    check_losses(losses)
    losses = at_least_float32(losses.detach())
    return weights_where(losses, torch.ones_like(losses, dtype=torch.bool), strategy, r, delta)


def weights_where(
    losses: Tensor, valid: Tensor, strategy: str | Strategy, r: float | Tensor, delta: float
) -> Tensor:
    """sample_weights over the entries marked ``valid`` (any shape); the others get weight 0."""
    low = torch.where(valid, losses, torch.inf).amin()
    high = torch.where(valid, losses, -torch.inf).amax()
    # Entries that do not count must not carry NaN into the scores.
    h = normalized(torch.where(valid, losses, low), delta, low, high)
    scores = torch.where(valid, apply_strategy(h, strategy, delta) / r, -torch.inf)
    return torch.where(valid, scores.flatten().softmax(0).view_as(scores), 0.0)


def per_sample_loss(
    logits: Tensor, labels: Tensor, ignore_index: int = -100, shift: bool = True
) -> tuple[Tensor, Tensor]:
    """Mean token cross-entropy of each sample, l_i = (sum over non-ignored tokens) / n_i.

    Args:
        logits: [B, T, V].
        labels: [B, T], token ids or ``ignore_index``.
        ignore_index: label of tokens that do not count (-100, PyTorch).
        shift: pair logits[:, :-1] with labels[:, 1:] (next-token prediction); False: pair as they stand.

    Returns:
        (losses [B] in at least float32, differentiable; n_tokens [B] long). n_i = 0 gives loss 0.

    Raises:
        ValueError: logits not [B, T, V] or labels not [B, T].
    """
    if logits.ndim != 3:
        raise ValueError(f"logits must have shape [B, T, V], got {tuple(logits.shape)}.")
    if labels.shape != logits.shape[:2]:
        raise ValueError(
            f"labels must have shape [B, T] = {tuple(logits.shape[:2])}, got {tuple(labels.shape)}."
        )
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    tokens = F.cross_entropy(
        at_least_float32(logits).transpose(1, 2), labels, ignore_index=ignore_index, reduction="none"
    )  # (B, T)
    n_tokens = (labels != ignore_index).sum(1)
    return tokens.sum(1) / n_tokens.clamp(min=1), n_tokens


def split_device_losses(
    losses: Tensor,
    world_size: int,
    strategy: str | Strategy = "linupper",
    r: float = 0.4,
    delta: float = 1.0,
) -> Tensor:
    """Losses L_k = W sum_{i on k} w_i l_i of W virtual devices that hold consecutive slices; their mean is L.

    Args:
        losses: l [M], differentiable.
        world_size: W in 1..M; slices as torch.tensor_split.
        strategy, r, delta: of :func:`sample_weights`; the weights come from the whole batch.

    Returns:
        [W].

    Raises:
        ValueError: world_size outside 1..M, or as sample_weights.
    """
    weights = sample_weights(losses, strategy, r, delta)
    check_integer("world_size", world_size, 1, losses.shape[0])
    parts = torch.tensor_split(weights * at_least_float32(losses), world_size)
    return world_size * torch.stack([part.sum() for part in parts])


def check_strategy(strategy: str | Strategy) -> Strategy:
    """The callable that ``strategy`` names or is.

    Raises:
        ValueError: neither a name of STRATEGIES nor callable.
    """
    return strategy if callable(strategy) else STRATEGIES[check_choice("strategy", strategy, STRATEGIES)]


def check_delta(delta: object) -> None:
    """Raise ValueError unless ``delta`` is a finite number > 0."""
    check_real("delta", delta, 0.0, math.inf, low_open=True, high_open=True)


def check_losses(losses: Tensor) -> None:
    """Raise ValueError unless ``losses`` is [M] with M >= 1 and finite values (values in eager mode only)."""
    if losses.ndim != 1 or losses.shape[0] == 0:
        raise ValueError(f"losses must have shape [M] with M >= 1, got {tuple(losses.shape)}.")
    if readable(losses) and not bool(losses.isfinite().all()):
        raise ValueError("losses must be finite, got NaN or infinite values.")
