"""Teacher and student: attention whose targets need larger norms than the student starts with.

Inputs are standard normal. The student's W_Q and W_K are scaled so that the radius of its scores (Cauchy-Schwarz) is
what the knobs say; the teacher has the same weights plus a random shift of W_Q (and of W_K in the general case) that is
just large enough for the teacher's radius, and a shifted W_V.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from normviz.adapters import lora_attention_gradients
from normviz.adapters.score_radius import score_radius
from normviz.experiments.lora_limits.knobs import Knobs

__all__ = ["CHANNELS", "AdapterTask", "build_task", "cost_inputs"]

CHANNELS = 6
"""Channels of the inputs, d_in."""
VALUE_SHIFT = 0.5
"""Size of the teacher's shift of W_V, beside weights of size 1."""


class AdapterTask(NamedTuple):
    """Inputs, targets and frozen weights; float64.

    Attributes:
        x: [L, d_in], the input of queries, keys and values.
        target: [L, d], what the teacher's attention gives.
        weights: W_Q, W_K, W_V [d, d_in] by the letters ``q``, ``k``, ``v``.
        tau: scale of the scores.
        radius: of the teacher's scores.
    """

    x: Tensor
    target: Tensor
    weights: dict[str, Tensor]
    tau: float
    radius: float


def build_task(knobs: Knobs, seed: int, device: torch.device) -> AdapterTask:
    """The task of a seed; the same on every device, because it is drawn on the CPU."""
    draw = torch.Generator().manual_seed(seed)
    d, tau = knobs.head_dim, knobs.tau()

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=draw, dtype=torch.float64)

    x = matrix(knobs.length, CHANNELS)
    student = {name: matrix(d, CHANNELS) / math.sqrt(CHANNELS) for name in "qkv"}
    shift = {name: matrix(d, CHANNELS) / math.sqrt(CHANNELS) for name in "qkv"}

    def radius(weights: dict[str, Tensor]) -> float:
        return float(score_radius(x @ weights["q"].mT, x @ weights["k"].mT, tau))

    smaller = math.sqrt(knobs.start_radius / radius(student))
    student |= {name: smaller * student[name] for name in "qk"}

    def shifted(size: float) -> dict[str, Tensor]:
        moved = "qk" if knobs.adapt == "qkv" else "q"
        teacher = {name: student[name] + size * shift[name] for name in moved}
        return {**student, **teacher, "v": student["v"] + VALUE_SHIFT * shift["v"]}

    low, high = 0.0, 1.0
    while radius(shifted(high)) < knobs.teacher_radius:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if radius(shifted(middle)) < knobs.teacher_radius else (low, middle)
    teacher = shifted(high)
    zeros = torch.zeros(knobs.length, d, dtype=torch.float64)
    target = lora_attention_gradients(x, x, x, zeros, *(teacher[n] for n in "qkv"), scale=tau).output
    on_device = {name: w.to(device) for name, w in student.items()}
    return AdapterTask(x.to(device), target.to(device), on_device, tau, radius(teacher))


def cost_inputs(task: AdapterTask, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Fresh inputs [length, d_in] and targets [length, d] on which the cost of one gradient is measured."""
    draw = torch.Generator().manual_seed(seed * 1_000_003 + length)
    x = torch.randn(length, CHANNELS, generator=draw, dtype=torch.float64)
    target = torch.randn(length, task.target.shape[1], generator=draw, dtype=torch.float64)
    return x.to(task.x.device), target.to(task.x.device)
