"""Learning one task after another with rehearsal: ER-ACE and DER++, as the learners around AdaB²N.

Lyu et al., "Overcoming Recency Bias of Normalization Statistics in Continual Learning", NeurIPS 2023, arXiv 2310.08855;
official code: lvyilin/AdaB2N (``models/er_ace_ada.py``, ``models/derpp_ada.py``). The learners themselves:

- ER-ACE: Caccia et al., "New Insights on Reducing Abrupt Representation Change in Online Continual Learning", ICLR
  2022, arXiv 2104.05025. The loss of the stream is taken over the classes of the batch and those not seen yet, so that
  new classes do not push old ones away.
- DER++: Buzzega et al., "Dark Experience for General Continual Learning", NeurIPS 2020, arXiv 2004.07211. Besides their
  labels, replayed samples have to give the logits that they gave when they were stored.

One ``observe`` is one optimizer step on a stream batch together with replayed samples *in one forward*, so that batch
norm sees the mixture. Before it, AdaB²N layers (:mod:`normviz.norms.adab2n`) are told the tasks, ``ids = labels //
classes_per_task``, so labels must come in the order of the tasks. The balance loss is added, times ``lam``, on steps
with replayed samples from task ``ada_t0`` on. Any model works; one without AdaB²N layers has no balance loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from normviz.adaptive.replay_buffers import ReplayBuffer, ReservoirBuffer, RingBuffer
from normviz.norms import balance_loss, end_task, set_task_ids
from normviz.validation import check_integer, check_real

__all__ = [
    "ERACE",
    "DERPlusPlus",
    "ReservoirBuffer",
    "RingBuffer",
    "average_accuracy",
    "er_ace_mask",
    "forgetting",
]


class _RehearsalLearner:
    """What both learners share: the checks, the one forward, the step, the buffer, the state."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        buffer: ReplayBuffer,
        num_classes: int,
        classes_per_task: int,
        lam: float,
        ada_t0: int,
        replay_size: int | None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.buffer = buffer
        self.num_classes = check_integer("num_classes", num_classes, 1)
        self.classes_per_task = check_integer("classes_per_task", classes_per_task, 1)
        self.lam = check_real("lam", lam, 0, high_open=True)
        self.ada_t0 = check_integer("ada_t0", ada_t0, 0)
        self.replay_size = None if replay_size is None else check_integer("replay_size", replay_size, 1)
        self.cur_task = 0

    def _draws(self, count: int) -> list[dict[str, Tensor | None]]:
        """The buffer batches of this step."""
        raise NotImplementedError

    def _loss(
        self, logits: list[Tensor], labels: list[Tensor], draws: list[dict[str, Tensor | None]]
    ) -> Tensor:
        """The objective without the balance loss; ``logits`` and ``labels`` of the stream, then of each draw."""
        raise NotImplementedError

    def _stored_logits(self, logits: Tensor) -> Tensor | None:  # noqa: ARG002
        return None

    def observe(self, x: Tensor, y: Tensor, x_raw: Tensor | None = None) -> dict[str, float]:
        """One optimizer step on a stream batch and what is replayed with it; then the buffer gets the batch.

        Set the model's mode yourself (``train()``).

        Args:
            x: (n, ...), inputs of the stream, perhaps augmented.
            y: (n,), labels in 0..num_classes-1, integers.
            x_raw: (n, ...), what the buffer gets in place of x, e.g. the inputs before augmentation. Default: x.

        Returns:
            ``loss``, the whole objective, and ``norm_loss``, the balance loss before ``lam`` (0.0 on steps where none
            is added).

        Raises:
            ValueError: y is not (n,) integers in range, x_raw of another length, empty batch; what the AdaB²N layers
                raise, e.g. for labels of a task that has not begun.
        """
        self._check_batch(x, y, x_raw)
        draws = self._draws(self.replay_size or len(x))
        inputs = [x, *(_tensor(draw, "x").to(x.device) for draw in draws)]
        labels = [y.long(), *(_tensor(draw, "y").to(y.device).long() for draw in draws)]
        set_task_ids(self.model, torch.cat(labels) // self.classes_per_task)
        logits: list[Tensor] = list(self.model(torch.cat(inputs)).split([len(part) for part in inputs]))
        loss = self._loss(logits, labels, draws)
        balance = None
        if draws and self.cur_task >= self.ada_t0:
            balance = balance_loss(self.model)
            loss = loss + self.lam * balance
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        ids = y.long() // self.classes_per_task
        self.buffer.add(x if x_raw is None else x_raw, y, self._stored_logits(logits[0]), ids)
        return {
            "loss": float(loss.detach()),
            "norm_loss": 0.0 if balance is None else float(balance.detach()),
        }

    def _check_batch(self, x: Tensor, y: Tensor, x_raw: Tensor | None) -> None:
        if y.ndim != 1 or len(y) != len(x) or not len(y):
            raise ValueError(f"y must have shape (n,) with n = {len(x)} >= 1 as x, got {tuple(y.shape)}.")
        if y.dtype == torch.bool or y.is_floating_point() or y.is_complex():
            raise ValueError(f"y must be integer class ids, got {y.dtype}.")
        if int(y.min()) < 0 or int(y.max()) >= self.num_classes:
            raise ValueError(f"y must be in [0, {self.num_classes - 1}], got {y.tolist()}.")
        if x_raw is not None and len(x_raw) != len(x):
            raise ValueError(f"x_raw must have {len(x)} entries as x, got {len(x_raw)}.")

    def end_task(self) -> None:
        """Close the task in progress, in the model's AdaB²N layers and here.

        Raises:
            RuntimeError: a layer has no task left.
        """
        end_task(self.model)
        self.cur_task += 1

    def state_dict(self) -> dict[str, Any]:
        """State of model, optimizer and buffer, and the task in progress."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "buffer": self.buffer.state_dict(),
            "cur_task": self.cur_task,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.buffer.load_state_dict(state["buffer"])
        self.cur_task = state["cur_task"]


def _tensor(draw: dict[str, Tensor | None], name: str) -> Tensor:
    value = draw[name]
    if value is None:
        raise ValueError(f"buffer must hold {name} with every sample, it was filled without.")
    return value


class ERACE(_RehearsalLearner):
    """Experience replay with asymmetric cross-entropy (Caccia et al., arXiv 2104.05025), for AdaB²N models.

    In task 0 nothing is replayed and ``loss = CE(stream logits, y)``. Afterwards::

        loss = CE(stream logits where er_ace_mask keeps them, y) + CE(buffer logits, buffer labels) + lam * balance

    as in the official code of arXiv 2310.08855. Logits that are masked become the lowest number of their dtype.

    Args:
        model: maps x to logits (n, num_classes).
        optimizer: over the model's parameters (official: SGD without momentum, lr 0.03). Build it after the conversion
            of the norms.
        buffer: where samples are kept.
        num_classes: classes of all tasks.
        classes_per_task: classes of each task.
        lam: weight of the balance loss, >= 0. Default 0; the official grid is 0.01 to 10 (CIFAR).
        ada_t0: first task with the balance loss. Default 0 (official: 0 or 1).
        replay_size: samples of a buffer draw. Default None: as many as the stream batch has.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> model = nn.Linear(3, 4)
        >>> sgd = torch.optim.SGD(model.parameters(), 0.1)
        >>> learner = ERACE(model, sgd, ReservoirBuffer(20), num_classes=4, classes_per_task=2)
        >>> result = learner.observe(torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1]))
        >>> sorted(result), len(learner.buffer)
        (['loss', 'norm_loss'], 6)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        buffer: ReplayBuffer,
        num_classes: int,
        classes_per_task: int,
        lam: float = 0.0,
        ada_t0: int = 0,
        replay_size: int | None = None,
    ) -> None:
        super().__init__(model, optimizer, buffer, num_classes, classes_per_task, lam, ada_t0, replay_size)
        self.seen: set[int] = set()

    def _draws(self, count: int) -> list[dict[str, Tensor | None]]:
        return [self.buffer.sample(count)] if self.cur_task > 0 and len(self.buffer) else []

    def _loss(
        self, logits: list[Tensor], labels: list[Tensor], draws: list[dict[str, Tensor | None]]
    ) -> Tensor:
        stream, y = logits[0], labels[0]
        present = set(y.tolist())
        self.seen |= present
        if self.cur_task > 0:
            keep = er_ace_mask(present, self.seen, self.num_classes).to(stream.device)
            stream = stream.masked_fill(~keep, torch.finfo(stream.dtype).min)
        loss = F.cross_entropy(stream, y)
        return loss + F.cross_entropy(logits[1], labels[1]) if draws else loss

    def state_dict(self) -> dict[str, Any]:
        """State of model, optimizer and buffer, the task in progress and the classes seen."""
        return {**super().state_dict(), "seen": sorted(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        super().load_state_dict(state)
        self.seen = set(state["seen"])


class DERPlusPlus(_RehearsalLearner):
    """Dark experience replay++ (Buzzega et al., arXiv 2004.07211), for AdaB²N models.

    As soon as the buffer has samples, with two independent draws B1 and B2 from it::

        loss = CE(stream) + alpha * MSE(logits of B1, stored logits) + beta * CE(logits of B2, labels) + lam * balance

    as in the official code of arXiv 2310.08855. The buffer gets the stream logits of the forward that trained on them.
    The MSE is the mean over samples and classes.

    Args:
        model: maps x to logits (n, num_classes).
        optimizer: over the model's parameters. Build it after the conversion of the norms.
        buffer: where samples are kept.
        num_classes: classes of all tasks.
        classes_per_task: classes of each task.
        alpha: weight of the stored logits, >= 0. Default 0.1 (official, CIFAR-100).
        beta: weight of the stored labels, >= 0. Default 0.5 (official, CIFAR-100).
        lam: weight of the balance loss, >= 0. Default 0.
        ada_t0: first task with the balance loss. Default 0 (official: 0 or 1).
        replay_size: samples of each buffer draw. Default None: as many as the stream batch has.

    Raises:
        ValueError: an argument out of range; the buffer was filled without logits.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        buffer: ReplayBuffer,
        num_classes: int,
        classes_per_task: int,
        alpha: float = 0.1,
        beta: float = 0.5,
        lam: float = 0.0,
        ada_t0: int = 0,
        replay_size: int | None = None,
    ) -> None:
        super().__init__(model, optimizer, buffer, num_classes, classes_per_task, lam, ada_t0, replay_size)
        self.alpha = check_real("alpha", alpha, 0, high_open=True)
        self.beta = check_real("beta", beta, 0, high_open=True)

    def _draws(self, count: int) -> list[dict[str, Tensor | None]]:
        return [self.buffer.sample(count), self.buffer.sample(count)] if len(self.buffer) else []

    def _loss(
        self, logits: list[Tensor], labels: list[Tensor], draws: list[dict[str, Tensor | None]]
    ) -> Tensor:
        loss = F.cross_entropy(logits[0], labels[0])
        if not draws:
            return loss
        stored = _tensor(draws[0], "logits").to(logits[1])
        loss = loss + self.alpha * F.mse_loss(logits[1], stored)
        return loss + self.beta * F.cross_entropy(logits[2], labels[2])

    def _stored_logits(self, logits: Tensor) -> Tensor | None:
        return logits.detach()


# ----------------------------------------------------------------------------------- masks and measures


def er_ace_mask(present: Iterable[int], seen: Iterable[int], num_classes: int) -> Tensor:
    """Which logits ER-ACE keeps for a stream batch after the first task.

    The classes of the batch, and, while the largest class seen is not the last one, every class from it upward (the
    largest one included, as in the official code of arXiv 2310.08855).

    Args:
        present: class ids of the batch.
        seen: class ids of the stream so far, this batch included.
        num_classes: number of all classes.

    Returns:
        bool (num_classes,).

    Raises:
        ValueError: an id outside 0..num_classes-1; ``seen`` is empty.

    Example:
        >>> er_ace_mask([2, 3], [0, 1, 2, 3], 6).tolist()
        [False, False, True, True, True, True]
    """
    check_integer("num_classes", num_classes, 1)
    kept = [check_integer("present", int(c), 0, num_classes - 1) for c in present]
    known = [check_integer("seen", int(c), 0, num_classes - 1) for c in seen]
    if not known:
        raise ValueError("seen must hold at least the classes of the batch, it is empty.")
    keep = torch.zeros(num_classes, dtype=torch.bool)
    keep[kept] = True
    if max(known) < num_classes - 1:
        keep[max(known) :] = True
    return keep


def average_accuracy(acc_matrix: npt.ArrayLike) -> float:
    """Mean accuracy over all tasks after the last one.

    Args:
        acc_matrix: (T, T), entry (i, j) the accuracy on task j after training task i; entries j > i are never read.

    Raises:
        ValueError: it is not square, or empty.
    """
    return float(_square(acc_matrix)[-1].mean())


def forgetting(acc_matrix: npt.ArrayLike) -> float:
    """How much accuracy older tasks lost: mean over j < T-1 of ``max_{j <= i < T-1} a_ij - a_{T-1,j}``; 0.0 if T = 1.

    Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV 2018, arXiv 1801.10112.

    Args:
        acc_matrix: (T, T), entry (i, j) the accuracy on task j after training task i; entries j > i are never read.

    Raises:
        ValueError: it is not square, or empty.

    Example:
        >>> forgetting([[0.9, float("nan")], [0.6, 0.8]])
        0.30000000000000004
    """
    a = _square(acc_matrix)
    last = len(a) - 1
    lost = [a[j:last, j].max() - a[last, j] for j in range(last)]
    return float(np.mean(lost)) if lost else 0.0


def _square(acc_matrix: npt.ArrayLike) -> npt.NDArray[np.float64]:
    a = np.asarray(acc_matrix, dtype=np.float64)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or not a.size:
        raise ValueError(f"acc_matrix must be square (T, T) with T >= 1, got shape {a.shape}.")
    return a
