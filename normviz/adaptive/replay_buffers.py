"""Replay buffers of continual learning: a uniform sample of the whole stream, or the newest samples of each task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normviz.validation import check_integer

__all__ = ["ReplayBuffer", "ReservoirBuffer", "RingBuffer"]

FIELDS = ("x", "y", "logits", "task_ids")


class ReplayBuffer:
    """What both buffers share: places for samples, and uniform draws without replacement. Not for direct use.

    The first batch decides which fields are stored, their shapes, dtypes and device.
    """

    def __init__(self, capacity: int, seed: int = 0) -> None:
        self.capacity = check_integer("capacity", capacity, 1)
        self.num_seen = 0
        self._generator = torch.Generator().manual_seed(check_integer("seed", seed, 0))
        self._stored: dict[str, Tensor] = {}
        self._filled = torch.zeros(self.capacity, dtype=torch.bool)

    def add(self, x: Tensor, y: Tensor, logits: Tensor | None = None, task_ids: Tensor | None = None) -> None:
        """Offer a batch to the buffer, sample by sample; what is kept are detached copies.

        Args:
            x: (n, ...), inputs.
            y: (n, ...), labels.
            logits: (n, ...), what the model said at this moment.
            task_ids: (n,), integers.

        Raises:
            ValueError: lengths differ; other fields or shapes than in the first batch.
        """
        given = dict(zip(FIELDS, (x, y, logits, task_ids), strict=True))
        batch = {name: value.detach() for name, value in given.items() if value is not None}
        for name, value in batch.items():
            if value.ndim < 1 or len(value) != len(x):
                raise ValueError(
                    f"{name} must have one entry for each of the {len(x)} of x, got shape {tuple(value.shape)}."
                )
        self._check_fields(batch)
        places = self._places(len(x), task_ids)
        if not places:
            return
        if not self._stored:
            self._stored = {name: v.new_zeros((self.capacity, *v.shape[1:])) for name, v in batch.items()}
        at, items = torch.tensor(list(places)), torch.tensor(list(places.values()))
        for name, value in batch.items():
            kept = self._stored[name]
            kept[at.to(kept.device)] = value[items.to(value.device)].to(kept.device, kept.dtype)
        self._filled[at] = True

    def _check_fields(self, batch: dict[str, Tensor]) -> None:
        for name in FIELDS if self._stored else ():
            if (name in self._stored) != (name in batch):
                state = "was" if name in self._stored else "was not"
                raise ValueError(f"{name} {state} given with the first batch and must stay so.")
            if name in batch and self._stored[name].shape[1:] != batch[name].shape[1:]:
                expected = tuple(self._stored[name].shape[1:])
                raise ValueError(
                    f"{name} must have shape (n, *{expected}) as in the first batch, got {tuple(batch[name].shape)}."
                )

    def _places(self, count: int, task_ids: Tensor | None) -> dict[int, int]:
        """Place of the buffer -> item of the batch that ends up there; moves the counters."""
        raise NotImplementedError

    def sample(self, n: int) -> dict[str, Tensor | None]:
        """``min(n, len)`` different samples, drawn uniformly.

        Returns:
            ``x``, ``y``, ``logits``, ``task_ids``; None for what was never stored.

        Raises:
            ValueError: n < 1.
            RuntimeError: the buffer is empty.
        """
        check_integer("n", n, 1)
        filled = self._filled.nonzero().squeeze(1)
        if not len(filled):
            raise RuntimeError("sample needs a buffer with samples, this one is empty.")
        chosen = filled[torch.randperm(len(filled), generator=self._generator)[:n]]
        return {
            name: None if (kept := self._stored.get(name)) is None else kept[chosen.to(kept.device)]
            for name in FIELDS
        }

    def __len__(self) -> int:
        """Samples in the buffer."""
        return int(self._filled.sum())

    def state_dict(self) -> dict[str, Any]:
        """Everything, as copies: stored samples, counters, random state."""
        return {
            "stored": {name: value.clone() for name, value in self._stored.items()},
            "filled": self._filled.clone(),
            "num_seen": self.num_seen,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of a buffer of the same capacity.

        Raises:
            ValueError: the capacities differ.
        """
        if len(state["filled"]) != self.capacity:
            raise ValueError(f"state must have capacity {self.capacity}, got {len(state['filled'])}.")
        self._stored = {name: value.clone() for name, value in state["stored"].items()}
        self._filled = state["filled"].clone()
        self.num_seen = state["num_seen"]
        self._generator.set_state(state["generator"])


class ReservoirBuffer(ReplayBuffer):
    """A uniform sample of everything seen: after i samples each is inside with probability min(1, capacity / i).

    Vitter, "Random Sampling with a Reservoir", ACM TOMS 1985 (algorithm R): sample number i takes a free place, or else
    a random place out of i, if that is one of the buffer's. The buffer of the official AdaB²N runs (arXiv 2310.08855).

    Args:
        capacity: number of samples kept.
        seed: of the random choices. Default 0.

    Raises:
        ValueError: capacity < 1 or seed < 0.

    Example:
        >>> buffer = ReservoirBuffer(4)
        >>> buffer.add(torch.arange(10.0), torch.arange(10))
        >>> len(buffer), buffer.num_seen, buffer.sample(2)["logits"]
        (4, 10, None)
    """

    def _places(self, count: int, task_ids: Tensor | None) -> dict[int, int]:  # noqa: ARG002
        places: dict[int, int] = {}
        for item in range(count):
            place = self.num_seen
            if place >= self.capacity:
                place = int(torch.randint(self.num_seen + 1, (), generator=self._generator))
            if place < self.capacity:
                places[place] = item
            self.num_seen += 1
        return places


class RingBuffer(ReplayBuffer):
    """``capacity // n_tasks`` places for each task; its oldest sample leaves first.

    Args:
        capacity: number of places in all.
        n_tasks: number of tasks.
        seed: of the draws. Default 0.

    Raises:
        ValueError: capacity < 1, n_tasks < 1, capacity < n_tasks or seed < 0; in ``add`` no task_ids, or one that is
            not in 0..n_tasks-1.

    Example:
        >>> buffer = RingBuffer(4, n_tasks=2)
        >>> buffer.add(torch.arange(10.0), torch.arange(10), task_ids=torch.zeros(10, dtype=torch.long))
        >>> sorted(buffer.sample(4)["y"].tolist())
        [8, 9]

    Reference: none, no paper: the choice per task beside the reservoir of the official AdaB²N runs (arXiv
    2310.08855).
    """

    def __init__(self, capacity: int, n_tasks: int, seed: int = 0) -> None:
        check_integer("capacity", capacity, 1)
        self.n_tasks = check_integer("n_tasks", n_tasks, 1)
        if capacity < n_tasks:
            raise ValueError(f"capacity must be at least n_tasks = {n_tasks}, got {capacity}.")
        super().__init__(capacity, seed)
        self.per_task = capacity // n_tasks
        self._seen_of_task = [0] * n_tasks

    def _places(self, count: int, task_ids: Tensor | None) -> dict[int, int]:
        if task_ids is None:
            raise ValueError("task_ids must be given: the places belong to tasks.")
        ids = [int(task) for task in task_ids.tolist()]
        for task in ids:
            check_integer("task_ids", task, 0, self.n_tasks - 1)
        places: dict[int, int] = {}
        for item, task in enumerate(ids):
            places[task * self.per_task + self._seen_of_task[task] % self.per_task] = item
            self._seen_of_task[task] += 1
        self.num_seen += count
        return places

    def state_dict(self) -> dict[str, Any]:
        """Everything, as copies: stored samples, counters, random state."""
        return {**super().state_dict(), "seen_of_task": list(self._seen_of_task)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of a buffer of the same capacity and number of tasks.

        Raises:
            ValueError: they differ.
        """
        if len(state["seen_of_task"]) != self.n_tasks:
            raise ValueError(f"state must have n_tasks {self.n_tasks}, got {len(state['seen_of_task'])}.")
        super().load_state_dict(state)
        self._seen_of_task = list(state["seen_of_task"])
