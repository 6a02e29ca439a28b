r"""Learning-rate schedulers for refined schedules and what the paper compares them with.

Defazio, Cutkosky, Mehta, Mishchenko, arXiv 2310.07831 (2023). Multipliers of the base learning rate at t = 1..T:

    linear                t/W for t <= W, then (T-t)/(T-W)                    LinearDecayLR
    refined               from gradient norms or given                        RefinedScheduleLR
    1/t, 1/sqrt t         b/(b+t),  sqrt(b/(b+t))                             InverseTimeLR, InverseSqrtLR
    warm-up, polynomial   t/W for t <= W, then (1-(t-1-W)/(T-W))^p            WarmupPolynomialLR

Cosine and step schedules are torch's. The optimizer's first step is t = 1. Call ``step()`` after each
``optimizer.step()``; past T the last multiplier stays.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from normviz.schedules._sequences import Values, as_values, interpolate
from normviz.schedules.refined_schedule import POWERS, refine_from_norms
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["InverseSqrtLR", "InverseTimeLR", "LinearDecayLR", "RefinedScheduleLR", "WarmupPolynomialLR"]


class _MultiplierLR(LRScheduler):
    """All groups' base learning rates times one multiplier, which depends on the step alone."""

    def multiplier(self, t: int) -> float:
        """The multiplier of step t = 1, 2, …"""
        raise NotImplementedError

    def get_lr(self) -> list[float | Tensor]:
        """Learning rates of the step that comes next, one per group."""
        factor = self.multiplier(self.last_epoch + 1)
        return [base * factor for base in self.base_lrs]


class LinearDecayLR(_MultiplierLR):
    """Linear decay to 0, the worst-case optimal schedule of the last iterate, after an optional linear warm-up.

    Multiplier t/W for t <= W, then (T-t)/(T-W). The last step, and all after it, have learning rate 0.

    Args:
        optimizer: whose groups are scheduled.
        total_steps: T >= 2.
        warmup_steps: W, 0 <= W < T. Default 0, without warm-up: 1 - t/T.

    Raises:
        ValueError: ``total_steps`` < 2, ``warmup_steps`` outside [0, T).
        TypeError: ``optimizer`` is not a torch optimizer.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = LinearDecayLR(optimizer, total_steps=4)
        >>> scheduler.get_last_lr()
        [0.75]

    Reference: Defazio et al., arXiv 2310.07831, corollary of Theorem 1 for constant weights.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 0) -> None:
        self.total_steps = check_integer("total_steps", total_steps, 2)
        self.warmup_steps = check_integer("warmup_steps", warmup_steps, 0, total_steps - 1)
        super().__init__(optimizer)

    def multiplier(self, t: int) -> float:
        """t/W for t <= W, then (T-t)/(T-W), and 0 past T."""
        T, W = self.total_steps, self.warmup_steps
        return t / W if t <= W else max(T - t, 0) / (T - W)


class RefinedScheduleLR(_MultiplierLR):
    """A schedule given by its multipliers, or refined from the gradient norms of an earlier run.

    Args:
        optimizer: whose groups are scheduled.
        multipliers: one per step, finite and >= 0, taken as they are.
        norms: gradient norms of an earlier run, for :func:`normviz.schedules.refine_from_norms`. Exactly one of
            ``multipliers`` and ``norms``.
        norm_type: of the norms: "l2" (default, SGD) or "l1" (Adam).
        tau: width of the median filter relative to the run. Default 0.1 (the paper's plots).
        total_steps: T >= 2; another length than the history's or the multipliers' interpolates. Default: that length.

    Attributes:
        multipliers: (T,), float64.

    Raises:
        ValueError: both or neither of ``multipliers`` and ``norms``; ``multipliers`` empty, not 1-D, negative or not
            finite; what :func:`normviz.schedules.refine_from_norms` refuses.
        TypeError: ``optimizer`` is not a torch optimizer.

    The state dict holds the multipliers: loading it restores the schedule, whatever the receiving scheduler was built
    with.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        >>> scheduler = RefinedScheduleLR(optimizer, norms=[1.0] * 5)
        >>> scheduler.multipliers.tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
        >>> scheduler.get_last_lr()
        [2.0]

    Reference: Defazio et al., arXiv 2310.07831, Algorithms 1 and 2.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        multipliers: Values | None = None,
        norms: Values | None = None,
        norm_type: str = "l2",
        tau: float = 0.1,
        total_steps: int | None = None,
    ) -> None:
        if (multipliers is None) == (norms is None):
            both = "neither" if norms is None else "both"
            raise ValueError(f"exactly one of multipliers and norms must be given, got {both}.")
        check_choice("norm_type", norm_type, POWERS)
        check_real("tau", tau, 0, 1)
        if total_steps is not None:
            check_integer("total_steps", total_steps, 2)
        if norms is not None:
            self.multipliers = refine_from_norms(norms, norm_type, tau, total_steps)
        elif multipliers is not None:
            given = as_values("multipliers", multipliers)
            self.multipliers = interpolate(given, len(given) if total_steps is None else total_steps)
        super().__init__(optimizer)

    def multiplier(self, t: int) -> float:
        """The t-th multiplier, past T the last one."""
        return float(self.multipliers[min(t, len(self.multipliers)) - 1])


class _OffsetLR(_MultiplierLR):
    """What the two schedules without an end share: the offset b."""

    def __init__(self, optimizer: Optimizer, offset: float) -> None:
        self.offset = check_real("offset", offset, 0, low_open=True, high_open=True)
        super().__init__(optimizer)


class InverseTimeLR(_OffsetLR):
    """The multiplier b/(b+t).

    Args:
        optimizer: whose groups are scheduled.
        offset: b > 0, in steps. The paper's comparison tunes it.

    Raises:
        ValueError: ``offset`` <= 0 or not finite.
        TypeError: ``optimizer`` is not a torch optimizer.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> InverseTimeLR(optimizer, offset=3.0).get_last_lr()
        [0.75]

    Reference: comparison in Defazio et al., arXiv 2310.07831.
    """

    def multiplier(self, t: int) -> float:
        """b/(b+t)."""
        return self.offset / (self.offset + t)


class InverseSqrtLR(_OffsetLR):
    """The multiplier sqrt(b/(b+t)).

    Args:
        optimizer: whose groups are scheduled.
        offset: b > 0, in steps. The paper's comparison tunes it.

    Raises:
        ValueError: ``offset`` <= 0 or not finite.
        TypeError: ``optimizer`` is not a torch optimizer.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        >>> InverseSqrtLR(optimizer, offset=1 / 3).get_last_lr()
        [1.0]

    Reference: comparison in Defazio et al., arXiv 2310.07831.
    """

    def multiplier(self, t: int) -> float:
        """sqrt(b/(b+t))."""
        return math.sqrt(self.offset / (self.offset + t))


class WarmupPolynomialLR(_MultiplierLR):
    """Linear warm-up, then polynomial decay: the curve that the authors lay over their refined schedules.

    With W = f T rounded to the nearest whole step, so that no multiplier exceeds 1: t/W for t <= W, then
    (1 - (t-1-W)/(T-W))^p. The last multiplier is (1/(T-W))^p, not 0, and stays past T.

    Args:
        optimizer: whose groups are scheduled.
        total_steps: T >= 2.
        warmup_fraction: f in [0, 1). Default 0.
        power: p > 0. Default 1, linear.

    Raises:
        ValueError: ``total_steps`` < 2, ``warmup_fraction`` outside [0, 1), ``power`` <= 0 or not finite.
        TypeError: ``optimizer`` is not a torch optimizer.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> WarmupPolynomialLR(optimizer, total_steps=10, warmup_fraction=0.2).get_last_lr()
        [0.5]

    Reference: Defazio et al., arXiv 2310.07831; fraction and power are e.g. .28 and 1.0 for GPT, .01 and 3.0 for
    ImageNet (official plots).
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, warmup_fraction: float = 0.0, power: float = 1.0
    ) -> None:
        self.total_steps = check_integer("total_steps", total_steps, 2)
        self.warmup_fraction = check_real("warmup_fraction", warmup_fraction, 0, 1, high_open=True)
        self.power = check_real("power", power, 0, low_open=True, high_open=True)
        super().__init__(optimizer)

    def multiplier(self, t: int) -> float:
        """t/W for t <= W, then (1-(t-1-W)/(T-W))^p, past T that of T."""
        T, W = self.total_steps, round(self.warmup_fraction * self.total_steps)
        t = min(t, T)
        return float(t / W if t <= W else (1 - (t - 1 - W) / (T - W)) ** self.power)
