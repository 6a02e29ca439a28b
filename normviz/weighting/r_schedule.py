"""Schedules of the temperature r of dynamic loss-based reweighting (arXiv 2502.06733): constant or annealed.

Both start after a warm-up of plain uniform steps ("burn-in", 1000 of 20000 steps in the official code), because losses
mean little at first. A schedule is called with the step. For an int it returns a number, for a 0-dim integer tensor a
0-dim tensor: no tensor is read, so a step counter can live in a buffer and the caller still compiles.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Protocol, overload

import torch
from torch import Tensor

from normviz.validation import check_choice, check_integer, check_real

__all__ = ["AnnealedR", "ConstantR", "RSchedule", "schedule_from_state", "schedule_state"]


class RSchedule(Protocol):
    """What a schedule is: step -> r, for a 0-dim tensor. ``warmup`` (0 if missing) is the first reweighted step."""

    def __call__(self, step: Tensor, /) -> float | Tensor:
        """The temperature at ``step``."""
        ...


def like(step: int | Tensor, r: float | Tensor) -> float | Tensor:
    """``r`` as a 0-dim tensor on the step's device if the step is a tensor."""
    if isinstance(step, Tensor) and not isinstance(r, Tensor):
        return torch.full((), r, dtype=real_dtype(step), device=step.device)
    return r


def real_dtype(step: Tensor) -> torch.dtype:
    """float64, except on MPS, which has none."""
    return torch.float32 if step.device.type == "mps" else torch.float64


@dataclass(frozen=True)
class ConstantR:
    """r(step) = r, reweighting from step ``warmup`` on.

    Args:
        r: temperature > 0 (0.4, official configs of the 210M and 684M models; 1.0 in the 124M config).
        warmup: uniform steps before (0; official code 1000).

    Raises:
        ValueError: r <= 0 or warmup < 0.

    Example:
        >>> ConstantR(0.4, warmup=10)(25)
        0.4

    Reference: Sow et al., "Dynamic Loss-Based Sample Reweighting for Improved Large Language Model Pretraining",
        arXiv 2502.06733, the temperature r.
    """

    r: float = 0.4
    warmup: int = 0

    def __post_init__(self) -> None:
        check_real("r", self.r, 0.0, math.inf, low_open=True, high_open=True)
        check_integer("warmup", self.warmup, 0)

    @overload
    def __call__(self, step: int) -> float: ...

    @overload
    def __call__(self, step: Tensor) -> Tensor: ...

    def __call__(self, step: int | Tensor) -> float | Tensor:
        """The temperature at ``step``."""
        return like(step, float(self.r))


@dataclass(frozen=True)
class AnnealedR:
    """r from r_start (large: near uniform) to r_end over ``anneal_steps`` after the warm-up.

    With u = clip((step - warmup) / anneal_steps, 0, 1): "linear" r_start + (r_end - r_start) u; "cosine"
    r_end + (r_start - r_end) (1 + cos(pi u)) / 2; "step" r_start while u < 1, then r_end.

    Args:
        r_start, r_end: temperatures > 0.
        warmup: uniform steps before.
        anneal_steps: length of the annealing, >= 1.
        mode: "linear" (default), "cosine" or "step".

    Raises:
        ValueError: r_start <= 0, r_end <= 0, warmup < 0, anneal_steps < 1 or unknown mode.

    Example:
        >>> AnnealedR(2.0, 1.0, warmup=10, anneal_steps=4)(12)
        1.5

    Reference: Sow et al., "Dynamic Loss-Based Sample Reweighting for Improved Large Language Model Pretraining",
        arXiv 2502.06733, the temperature r.
    """

    r_start: float
    r_end: float
    warmup: int
    anneal_steps: int
    mode: str = "linear"

    def __post_init__(self) -> None:
        check_real("r_start", self.r_start, 0.0, math.inf, low_open=True, high_open=True)
        check_real("r_end", self.r_end, 0.0, math.inf, low_open=True, high_open=True)
        check_integer("warmup", self.warmup, 0)
        check_integer("anneal_steps", self.anneal_steps, 1)
        check_choice("mode", self.mode, ("linear", "cosine", "step"))

    @overload
    def __call__(self, step: int) -> float: ...

    @overload
    def __call__(self, step: Tensor) -> Tensor: ...

    def __call__(self, step: int | Tensor) -> float | Tensor:
        """The temperature at ``step``."""
        if isinstance(step, Tensor):
            return self._of((step.to(real_dtype(step)) - self.warmup) / self.anneal_steps)
        return float(self._of(torch.tensor((step - self.warmup) / self.anneal_steps, dtype=torch.float64)))

    def _of(self, u: Tensor) -> Tensor:
        u = u.clamp(0.0, 1.0)
        if self.mode == "linear":
            return self.r_start + (self.r_end - self.r_start) * u
        if self.mode == "cosine":
            return self.r_end + (self.r_start - self.r_end) * (1 + torch.cos(math.pi * u)) / 2
        return torch.where(u < 1, torch.full_like(u, self.r_start), self.r_end)


KINDS: dict[str, type[ConstantR] | type[AnnealedR]] = {"constant": ConstantR, "annealed": AnnealedR}


def schedule_state(schedule: object) -> dict[str, Any]:
    """Kind and parameters of a schedule as plain numbers and strings; empty for a user's own callable."""
    for kind, cls in KINDS.items():
        if type(schedule) is cls:
            return {"kind": kind, **asdict(schedule)}
    return {}


def schedule_from_state(state: dict[str, Any]) -> ConstantR | AnnealedR:
    """The schedule that :func:`schedule_state` described.

    Raises:
        ValueError: unknown kind.
    """
    kind = check_choice("kind", state.get("kind"), KINDS)
    return KINDS[kind](**{name: value for name, value in state.items() if name != "kind"})
