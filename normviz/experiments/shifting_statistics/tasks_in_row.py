"""Two digits, then the next two, and so on: one network with each norm, with rehearsal, in one pass.

Every arm of a seed starts from the same weights and sees the same stream; the buffers of all arms make the same random
choices, so that they replay the same samples too. AdaB²N's layers replace the batch norms of the very same network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normviz.adaptive import ERACE, DERPlusPlus, ReservoirBuffer
from normviz.experiments.shifting_statistics.digit_pictures import side_of
from normviz.experiments.shifting_statistics.knobs import TASKS, Knobs, kappa_of
from normviz.experiments.shifting_statistics.lit_tasks import LitTasks, lit_tasks
from normviz.experiments.shifting_statistics.recorded import CLASSES
from normviz.experiments.shifting_statistics.running_distance import (
    mean_distance,
    running_means,
    true_moments,
)
from normviz.frame import Frame, Value
from normviz.models import ConvNet
from normviz.norms import AdaptiveBalanceBatchNorm2d, ContinualNorm2d, convert_batchnorm
from normviz.training import Diverged, Trainee, interleave
from normviz.training.seeding import seeded

__all__ = ["FineTuning", "TaskMember", "build_network", "learn_tasks"]

CHANNELS, GROUPS = (16, 32), 8
"""Channels of the convolutions, groups of group norm."""
SEEN_EACH = 40
"""Digits of every seen task that the true statistics are taken over."""
EVERY = 2
"""Steps between two measurements; divides the steps of a task, so that each boundary is measured."""
ALPHA, BETA = 0.1, 0.5
"""DER++'s weights of stored logits and labels (official for CIFAR-100)."""


def build_network(kind: str, knobs: Knobs, seed: int) -> nn.Module:
    """The network with the norm of an arm; its weights depend on the seed alone.

    Two 3 x 3 convolutions, each with norm and ReLU, then a maximum over 2 x 2 places and a linear layer that knows
    the place of each feature: in a single pass it learns much faster than one that averages over all places.
    """
    plain = {
        "cn": lambda c: ContinualNorm2d(c, GROUPS, affine=False),
        "gn": lambda c: nn.GroupNorm(GROUPS, c),
        "ln": lambda c: nn.GroupNorm(1, c),
        "in": lambda c: nn.GroupNorm(c, c),
    }
    with seeded(seed):
        body = ConvNet(1, CHANNELS, CLASSES, norm=plain.get(kind, nn.BatchNorm2d), strides=(1, 1))
        head = nn.Linear(CHANNELS[-1] * (side_of(knobs.pictures()) // 2) ** 2, CLASSES)
    model: nn.Module = nn.Sequential(*body.blocks, nn.MaxPool2d(2), nn.Flatten(), head)
    kappa = kappa_of(kind)
    if kappa is not None:
        options = {"init_weight": knobs.init_weight, "absent_tasks": knobs.absent_tasks}
        model = convert_batchnorm(model, TASKS, kappa=kappa, **options)
    return model


def learn_tasks(knobs: Knobs, device: torch.device) -> Iterator[Frame]:
    """Let every arm learn the tasks and yield what the page shows."""
    members: list[Trainee] = [
        TaskMember(kind, knobs, seed, device) for seed in knobs.seed_range() for kind in knobs.kinds()
    ]
    yield from interleave(
        members, until=knobs.total_steps(), evaluate=_evaluate, eval_every=EVERY, evaluate_all_first=True
    )


def _evaluate(trainee: Trainee, at: int) -> dict[str, Value]:
    assert isinstance(trainee, TaskMember)
    return trainee.measured(at)


class FineTuning:
    """Plain training on the stream without replay; the interface of the rehearsal learners."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def observe(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """One step on a stream batch."""
        loss = cross_entropy(self.model(x), y)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return {"loss": float(loss.detach()), "norm_loss": 0.0}

    def end_task(self) -> None:
        """Nothing depends on the task."""


class _SeenBuffer(ReservoirBuffer):
    """A reservoir that keeps its last draw, to be shown."""

    drawn: dict[str, Tensor | None] | None = None

    def sample(self, n: int) -> dict[str, Tensor | None]:
        self.drawn = super().sample(n)
        return self.drawn


class TaskMember:
    """One norm with one seed, as :func:`interleave` sees it.

    Args:
        kind: key of the arm in the knobs.
        knobs: the setting.
        seed: of weights, split, stream and buffer.
        device: where it learns.
    """

    def __init__(self, kind: str, knobs: Knobs, seed: int, device: torch.device) -> None:
        self.kind, self.knobs, self.seed = kind, knobs, seed
        self.arm = knobs.arm_name(kind)
        self.data: LitTasks = lit_tasks(knobs.pictures(), seed, knobs.task_shift, device)
        self.model = build_network(kind, knobs, seed).to(device).train()
        rate = 0.0 if knobs.frozen else knobs.task_rate
        optimizer = torch.optim.SGD(self.model.parameters(), lr=rate)
        self.buffer = _SeenBuffer(knobs.capacity, seed)
        self.learner: FineTuning | ERACE | DERPlusPlus
        if kind == "bn_alone":
            self.learner = FineTuning(self.model, optimizer)
        elif knobs.learner == "derpp":
            self.learner = DERPlusPlus(
                self.model,
                optimizer,
                self.buffer,
                CLASSES,
                2,
                ALPHA,
                BETA,
                lam=knobs.balance,
                replay_size=knobs.replay_size,
            )
        else:
            self.learner = ERACE(
                self.model,
                optimizer,
                self.buffer,
                CLASSES,
                2,
                lam=knobs.balance,
                replay_size=knobs.replay_size,
            )
        self.layers = [m for m in self.model.modules() if isinstance(m, AdaptiveBalanceBatchNorm2d)]
        self.x: Tensor | None = None
        self.y: Tensor | None = None

    def step(self, at: int) -> dict[str, Value]:
        """One step on the stream with what is replayed; before the first step of a new task the old one is closed."""
        if at and at % self.knobs.steps_per_task() == 0:
            self.learner.end_task()
        self.x, self.y = self.data.batch(self.seed, at, self.knobs.steps_per_task())
        self.buffer.drawn = None
        result = self.learner.observe(self.x, self.y)
        if not math.isfinite(result["loss"]):
            raise Diverged(f"the training loss is {result['loss']}")
        values: dict[str, Value] = {"loss": result["loss"]}
        if self.layers and self.buffer.drawn is not None:
            values["balance"] = result["norm_loss"]
        return values

    def measured(self, at: int) -> dict[str, Value]:
        """Accuracies, distances and, for AdaB²N, the weights of the tasks, after so many steps."""
        newest = min(max(at - 1, 0) // self.knobs.steps_per_task(), TASKS - 1)
        values: dict[str, Value] = {}
        if at:
            accuracies = self._accuracies(newest + 1)
            values["accuracy_by_task"] = accuracies
            values["accuracy"] = float(np.nanmean(accuracies))
            values |= self._distances(newest)
            values |= self._weights(newest)
        if self.seed == self.knobs.first_seed:
            values |= self._pictures()
        return values

    @torch.no_grad()
    def _accuracies(self, seen: int) -> np.ndarray:
        """Accuracy (%) on each seen task among all ten classes; NaN for a task not seen yet."""
        self.model.eval()
        logits = self.model(torch.cat(self.data.x_test[:seen]))
        self.model.train()
        right = (logits.argmax(1) == torch.cat(self.data.y_test[:seen])).float()
        found = np.full(TASKS, np.nan, dtype=np.float32)
        for task, part in enumerate(right.split([len(y) for y in self.data.y_test[:seen]])):
            found[task] = 100 * float(part.mean())
        return found

    def _distances(self, newest: int) -> dict[str, Value]:
        """Distances of the running means to the means of all seen tasks, and of the newest alone."""
        means = running_means(self.model)
        if not means:
            return {}
        every = mean_distance(means, true_moments(self.model, self.data.all_seen(newest + 1, SEEN_EACH)))
        values: dict[str, Value] = {f"distance/{i}": d for i, d in enumerate(every, start=1)}
        values["distance"] = sum(every) / len(every)
        if newest:
            last = mean_distance(means, true_moments(self.model, self.data.x[newest][: 3 * SEEN_EACH]))
            values["distance_newest"] = sum(last) / len(last)
        return values

    def _ids(self) -> Tensor:
        """Task of every sample of the last batch, replayed ones behind the new ones."""
        assert self.y is not None
        drawn = self.buffer.drawn
        replayed = [] if drawn is None or drawn["y"] is None else [drawn["y"].to(self.y.device)]
        return torch.cat([self.y, *replayed]) // 2

    def _weights(self, newest: int) -> dict[str, Value]:
        """Share of each task in the last batch, its posterior weight in each layer, psi and eta."""
        if not self.layers:
            return {}
        share = torch.bincount(self._ids(), minlength=TASKS).double()
        share = share / share.sum()
        values: dict[str, Value] = {"share": share.cpu().numpy()}
        for i, layer in enumerate(self.layers, start=1):
            posterior = torch.zeros(TASKS, dtype=torch.float64)
            pi = layer.task_posterior().double().cpu()
            posterior[: len(pi)] = pi
            values[f"posterior/{i}"] = posterior.numpy()
            values[f"prior/{i}"] = layer.task_weight.detach().double().cpu().numpy()
        values["eta"] = float(self.layers[0].eta)
        older = values["posterior/1"][:newest].sum() - values["share"][:newest].sum()  # type: ignore[index]
        values["older_gain"] = 100 * float(older)
        return values

    def _pictures(self) -> dict[str, Value]:
        """The last batch as it looks: new samples, and those that were replayed with them."""
        if self.x is None or self.y is None:
            x, y = self.data.batch(self.seed, 0, self.knobs.steps_per_task())
            return {"new": self.data.look(x).cpu().numpy(), "new_labels": y.float().cpu().numpy()}
        values: dict[str, Value] = {
            "new": self.data.look(self.x).cpu().numpy(),
            "new_labels": self.y.float().cpu().numpy(),
        }
        drawn = self.buffer.drawn
        if drawn is not None and drawn["x"] is not None and drawn["y"] is not None:
            values["old"] = self.data.look(drawn["x"]).cpu().numpy()
            values["old_labels"] = drawn["y"].float().cpu().numpy()
        return values
