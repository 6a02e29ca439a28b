"""Five tasks of two digits each, every task in its own light.

Task t sees its digits x (standardised pixels) as ``exp(s g_t) x + s o_t`` with the strength s of the task shift and the
fixed numbers g_t (log of the contrast) and o_t (brightness) below, in training and in testing alike. The numbers are
ours; at s = 1 the means of two tasks are up to two standard deviations apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from normviz.data import seeded_generator
from normviz.experiments.shifting_statistics.digit_pictures import load_pictures, white_of
from normviz.experiments.shifting_statistics.knobs import BATCH, BATCHES_PER_TASK, TASKS

__all__ = ["LOG_CONTRAST", "OFFSET", "LitTasks", "lit", "lit_tasks"]

LOG_CONTRAST = (0.0, 0.5, -0.5, 0.25, -0.25)
OFFSET = (0.0, 1.0, -1.0, -0.5, 0.5)


def lit(x: Tensor, y: Tensor, shift: float) -> Tensor:
    """Digits (n, 1, side, side) in the light of the task that each belongs to, y (n,) its class."""
    task = y // 2
    gain = torch.tensor([math.exp(shift * g) for g in LOG_CONTRAST], device=x.device, dtype=x.dtype)[task]
    offset = torch.tensor([shift * o for o in OFFSET], device=x.device, dtype=x.dtype)[task]
    return gain[:, None, None, None] * x + offset[:, None, None, None]


@dataclass(frozen=True, eq=False)
class LitTasks:
    """The digits of one seed, task by task.

    Attributes:
        x: training digits of each task, (n_t, 1, side, side).
        y: their classes, 2t and 2t + 1.
        x_test: test digits of each task.
        y_test: their classes.
        mean: what was subtracted from pixel values, for drawing.
        scale: what they were then divided by.
        white: pixel value that is drawn white.
    """

    x: tuple[Tensor, ...]
    y: tuple[Tensor, ...]
    x_test: tuple[Tensor, ...]
    y_test: tuple[Tensor, ...]
    mean: float
    scale: float
    white: float

    def batch(self, seed: int, step: int, steps_per_task: int) -> tuple[Tensor, Tensor]:
        """Stream batch of a step: passes over the task's digits, each in a fresh order of the seed."""
        task, within = divmod(step, steps_per_task)
        epoch, number = divmod(within, BATCHES_PER_TASK)
        order = torch.randperm(len(self.y[task]), generator=seeded_generator(seed, 31, task, epoch))
        chosen = order[number * BATCH : (number + 1) * BATCH].to(self.y[task].device)
        return self.x[task][chosen], self.y[task][chosen]

    def all_seen(self, tasks: int, each: int) -> Tensor:
        """The first ``each`` training digits of the first ``tasks`` tasks: every task counts alike."""
        return torch.cat([x[:each] for x in self.x[:tasks]])

    def look(self, x: Tensor) -> Tensor:
        """Pictures (n, side, side) with grey values in [0, 1]."""
        return ((x[:, 0] * self.scale + self.mean) / self.white).clamp(0, 1)


@lru_cache(maxsize=32)
def lit_tasks(data: str, seed: int, shift: float, device: torch.device) -> LitTasks:
    """The tasks of a seed: three quarters of the digits for training, the rest for testing.

    Args:
        data: which pictures.
        seed: of the split.
        shift: strength of the task shift; 0: all tasks in one light.
        device: of the tensors.
    """
    whole = load_pictures(data, test_size=0.25, seed=seed).to(device)
    x, x_test = lit(whole.x_train, whole.y_train, shift), lit(whole.x_test, whole.y_test, shift)

    def of(values: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        return tuple(values[labels // 2 == task] for task in range(TASKS))

    return LitTasks(
        of(x, whole.y_train),
        of(whole.y_train, whole.y_train),
        of(x_test, whole.y_test),
        of(whole.y_test, whole.y_test),
        float(whole.mean),
        float(whole.scale),
        white_of(data),
    )
