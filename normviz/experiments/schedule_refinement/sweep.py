"""The later runs of a seed: every schedule with every learning rate, all networks side by side.

All start from the same weights and see the same batches. Each schedule is one optimizer of torch whose parameter groups
are the networks of its learning rates, and one scheduler, which scales all of them alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from normviz.experiments.schedule_refinement.convex_tasks import ConvexTask
from normviz.experiments.schedule_refinement.first_run import task_of
from normviz.experiments.schedule_refinement.guarantees import guarantee
from normviz.experiments.schedule_refinement.knobs import ARMS, Knobs
from normviz.experiments.schedule_refinement.multipliers import build_optimizer, build_scheduler, multipliers
from normviz.frame import Value
from normviz.training import Diverged

__all__ = ["ScheduleArm", "Sweep"]

Array = NDArray[np.float64]


class Sweep:
    """All networks of a seed.

    Args:
        knobs: the setting.
        kinds: the schedules.
        norms: what the first run recorded.
        seed: of weights and batches.
        device: where they are trained.

    Attributes:
        at: steps taken.
        rates: the learning rates of the grid.
    """

    def __init__(
        self, knobs: Knobs, kinds: Sequence[str], norms: Sequence[float], seed: int, device: torch.device
    ) -> None:
        self.knobs, self.seed, self.norms, self.at = knobs, seed, norms, 0
        self.task, rate = task_of(knobs, seed, device)
        self.rates = [rate * factor for factor in knobs.factors()]
        first = self.task.start(seed, 1)
        self.members = [(kind, offset) for kind in kinds for offset in knobs.offsets(kind)]
        count = len(self.rates) * len(self.members)
        self.weights = [first.clone().requires_grad_() for _ in range(count)]
        self.optimizers: list[Optimizer] = []
        self.schedulers: list[LRScheduler] = []
        for i, (kind, offset) in enumerate(self.members):
            own = self.weights[i * len(self.rates) : (i + 1) * len(self.rates)]
            self.optimizers.append(build_optimizer(knobs, own, self.rates))
            self.schedulers.append(build_scheduler(kind, self.optimizers[-1], knobs, norms, offset))
        self._losses = np.zeros((len(self.members), len(self.rates)))
        self._measured: tuple[int, Array] = (-1, self._losses)

    def go_to(self, at: int) -> None:
        """Take steps until so many are taken."""
        while self.at < at:
            losses = self.task.losses(torch.stack(self.weights), self.seed, 1, self.at)
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            losses.sum().backward()  # type: ignore[no-untyped-call]
            for optimizer, scheduler in zip(self.optimizers, self.schedulers, strict=True):
                optimizer.step()
                scheduler.step()
            self._losses = losses.detach().double().cpu().numpy().reshape(self._losses.shape)
            self.at += 1

    def finite(self, kind: str) -> bool:
        """Whether a schedule has a network left whose numbers are finite."""
        return bool(np.isfinite(self._of(self._losses, kind)).any())

    def measured(self, kind: str) -> Array:
        """Loss or gap of a schedule at each learning rate, the better offset's; infinite where it diverged."""
        if self._measured[0] != self.at:
            with torch.no_grad():
                values = self.task.measured(torch.stack(self.weights)).double().cpu().numpy()
            self._measured = (self.at, values.reshape(self._losses.shape))
        values = self._of(self._measured[1], kind)
        least: Array = np.where(np.isfinite(values), values, np.inf).min(axis=0)
        return least

    def _of(self, values: Array, kind: str) -> Array:
        return values[[i for i, (k, _) in enumerate(self.members) if k == kind]]


class ScheduleArm:
    """One schedule of a seed, as :func:`interleave` sees it; the arms of a seed share a sweep.

    Args:
        kind: key of the schedule.
        sweep: the networks of its seed.
    """

    def __init__(self, kind: str, sweep: Sweep) -> None:
        self.kind, self.arm, self.seed, self.sweep = kind, ARMS[kind], sweep.seed, sweep
        self.bound: float | None = None
        if isinstance(sweep.task, ConvexTask) and sweep.knobs.optimizer == "sgd":
            self.bound = guarantee(kind, sweep.knobs, sweep.task, sweep.norms, sweep.rates)

    def step(self, at: int) -> dict[str, Value]:
        """One step of all networks; the first arm that asks makes it."""
        self.sweep.go_to(at + 1)
        if not self.sweep.finite(self.kind):
            raise Diverged("no learning rate of its grid keeps the loss finite", lost=("best", "base"))
        return {}

    def measured(self, at: int) -> dict[str, Value]:
        """Loss or gap at every learning rate; at the beginning the multipliers, and what theory promises."""
        by_rate = self.sweep.measured(self.kind)
        knobs = self.sweep.knobs
        values: dict[str, Value] = {
            "by_rate": by_rate.astype(np.float32),
            "best": float(by_rate.min()),
            "base": float(by_rate[knobs.rates // 2]),
        }
        if at == 0:
            values |= self._schedule()
        if self.bound is not None:
            values["bound"] = self.bound
        if at >= knobs.steps:
            values["best_rate"] = self.sweep.rates[int(by_rate.argmin())]
        return values

    def _schedule(self) -> dict[str, Value]:
        """Multipliers (of the larger offset), where their maximum is as a share of the run, and where they start."""
        knobs = self.sweep.knobs
        curve = multipliers(self.kind, knobs, self.sweep.norms, knobs.offsets(self.kind)[-1])
        return {
            "multiplier": curve.astype(np.float32),
            "rates": np.array(self.sweep.rates, dtype=np.float32),
            "peak": float(curve.argmax()) / len(curve),
            "start": float(curve[0] / curve.max()),
        }
