"""The run that records: linear decay, the middle learning rate, and the norm of the gradient at every step."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from normviz.experiments.schedule_refinement.convex_tasks import convex_task
from normviz.experiments.schedule_refinement.knobs import FIRST_RUN, Knobs
from normviz.experiments.schedule_refinement.multipliers import base_rate, build_optimizer, build_scheduler
from normviz.experiments.schedule_refinement.network_tasks import digits_task, text_task
from normviz.frame import Value
from normviz.schedules import GradientNormRecorder, refinement_weights, smooth_gradient_norms
from normviz.training import Diverged

__all__ = ["FirstRun", "TrainingTask", "task_of"]


class TrainingTask(Protocol):
    """What both runs train on: many points at once, one loss each."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""

    def start(self, seed: int, run: int) -> Tensor:
        """The first point of a run, (P,)."""

    def losses(self, weights: Tensor, seed: int, run: int, step: int) -> Tensor:
        """Loss of every point (M, P) on the batch of a step, (M,)."""

    def measured(self, weights: Tensor) -> Tensor:
        """What is shown of every point (M, P): its held-out loss, or its gap to the minimum, (M,)."""


def task_of(knobs: Knobs, seed: int, device: torch.device) -> tuple[TrainingTask, float]:
    """The task of a seed and the middle learning rate on it."""
    if knobs.convex():
        convex = convex_task(knobs.task, seed, device)
        return convex, base_rate(knobs, convex.D, convex.G)
    if knobs.task == "digits":
        return digits_task(seed, knobs.label_noise, device, knobs.data_name()), base_rate(knobs)
    return text_task(seed, device), base_rate(knobs)


class FirstRun:
    """The recording run of a seed, as :func:`interleave` sees it.

    Args:
        knobs: the setting.
        seed: of weights and batches.
        device: where it is trained.
    """

    def __init__(self, knobs: Knobs, seed: int, device: torch.device) -> None:
        self.knobs, self.seed, self.arm = knobs, seed, FIRST_RUN
        self.task, rate = task_of(knobs, seed, device)
        self.weights = self.task.start(seed, 0).requires_grad_()
        self.optimizer = build_optimizer(knobs, [self.weights], [rate])
        self.scheduler = build_scheduler("linear", self.optimizer, knobs)
        self.recorder = GradientNormRecorder([self.weights], knobs.norm_type())
        self.norms: list[float] = []

    def step(self, at: int) -> dict[str, Value]:
        """One step; the norm is recorded before the optimizer moves."""
        loss = self.task.losses(self.weights[None], self.seed, 0, at).sum()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.recorder.record()
        self.optimizer.step()
        self.scheduler.step()
        self.norms = self.recorder.norms
        if not math.isfinite(self.norms[-1]):
            raise Diverged(f"the gradient norm is {self.norms[-1]}", lost=("best",))
        return {"norm": self.norms[-1]}

    def measured(self) -> dict[str, Value]:
        """The held-out loss, or the gap."""
        return {"best": float(self.task.measured(self.weights[None])[0])}

    def what_was_recorded(self) -> dict[str, Value]:
        """The norms after smoothing, and the weights that they give; the largest weight is 1."""
        smooth = smooth_gradient_norms(self.norms, self.knobs.tau)
        weights = refinement_weights(smooth, self.knobs.norm_type())
        tenth = max(1, len(self.norms) // 10)
        early = sum(self.norms[: max(1, tenth // 10)]) / max(1, tenth // 10)
        later = float(torch.tensor(self.norms[tenth : 2 * tenth]).mean())
        return {
            "smooth": smooth.float().numpy(),
            "weights": (weights / weights.max()).float().numpy(),
            "fall": early / later,
        }
