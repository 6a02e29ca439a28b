"""Batches as pure functions of (seed, step): every arm of a comparison sees the same ones, and any step can be resumed.

A *source* is called as ``source(seed, step)`` and returns a tuple of tensors; this is what the training loop takes.
Nothing is remembered between calls: random numbers come from a generator seeded by (seed, stream, step), or, where
each example is to be seen once per epoch, from a permutation seeded by (seed, stream, epoch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from normviz.validation import check_integer

__all__ = ["BatchSource", "Batches", "IndexSampler", "TensorBatches", "by_seed", "chunks", "seeded_generator"]

BatchSource = Callable[[int, int], tuple[Tensor, ...]]
"""(seed, step) -> the tensors of that batch."""


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by a tuple of non-negative integers, e.g. (seed, stream, step).

    Different keys give independent streams: they are mixed by NumPy's ``SeedSequence``, so that (0, 1) and (1, 0) or
    neighbouring steps have nothing in common.

    Raises:
        ValueError: no key, or a part of it that is not a non-negative integer.
    """
    if not key:
        raise ValueError("key must hold at least one integer.")
    parts = [check_integer(f"key[{i}]", part, low=0) for i, part in enumerate(key)]
    state = np.random.SeedSequence(parts).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


@lru_cache(maxsize=64)
def _permutation(size: int, seed: int, stream: int, epoch: int) -> Tensor:
    return torch.randperm(size, generator=seeded_generator(seed, stream, epoch))


class IndexSampler:
    """Which examples are in batch ``step`` of ``seed``.

    Args:
        size: number of examples n.
        batch_size: examples per batch.
        replacement: draw every batch anew, uniformly with replacement, instead of passing through a fresh
            permutation per epoch (default False).
        drop_last: leave out the rest of an epoch that does not fill a batch (default True), so that all batches have
            one size.
        stream: number of an independent stream of the same seed (0 by default), e.g. for a second batch per step.

    Raises:
        ValueError: a size below 1, a negative stream, or ``batch_size`` above ``size`` without replacement.

    Example:
        >>> sampler = IndexSampler(10, 5)
        >>> sorted(torch.cat([sampler.indices(0, 0), sampler.indices(0, 1)]).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        replacement: bool = False,
        drop_last: bool = True,
        stream: int = 0,
    ) -> None:
        self.size = check_integer("size", size, low=1)
        self.batch_size = check_integer("batch_size", batch_size, low=1)
        self.stream = check_integer("stream", stream, low=0)
        self.replacement, self.drop_last = replacement, drop_last
        if not replacement and batch_size > size:
            raise ValueError(f"batch_size must be at most the number of examples ({size}), got {batch_size}.")

    @property
    def steps_per_epoch(self) -> int:
        """Batches per pass over the data (rounded down with ``drop_last``, up without)."""
        full, rest = divmod(self.size, self.batch_size)
        return max(1, full + (rest > 0 and not self.drop_last))

    def indices(self, seed: int, step: int) -> Tensor:
        """Indices of the batch, (batch_size,) int64 on the CPU (the last of an epoch may be shorter).

        Raises:
            ValueError: seed or step negative or not an integer.
        """
        seed = check_integer("seed", seed, low=0)
        step = check_integer("step", step, low=0)
        if self.replacement:
            generator = seeded_generator(seed, self.stream, step)
            return torch.randint(self.size, (self.batch_size,), generator=generator)
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        return _permutation(self.size, seed, self.stream, epoch)[start : start + self.batch_size].clone()


class TensorBatches:
    """A source of batches from tensors of equal length: ``source(seed, step)`` is their rows at the same indices.

    Args:
        tensors: one or more tensors (n, ...), e.g. inputs and targets, on any one device.
        batch_size: rows per batch.
        replacement: as for :class:`IndexSampler`.
        drop_last: as for :class:`IndexSampler`.
        stream: as for :class:`IndexSampler`.

    Raises:
        ValueError: no tensors, tensors of different length, or what :class:`IndexSampler` refuses.

    Example:
        >>> x, y = TensorBatches((torch.randn(10, 3), torch.arange(10)), 4)(0, 7)
        >>> x.shape, y.shape
        (torch.Size([4, 3]), torch.Size([4]))
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        batch_size: int,
        *,
        replacement: bool = False,
        drop_last: bool = True,
        stream: int = 0,
    ) -> None:
        self.tensors = tuple(tensors)
        lengths = [len(tensor) for tensor in self.tensors]
        if not lengths or len(set(lengths)) > 1:
            raise ValueError(f"tensors must be one or more tensors of equal length, got lengths {lengths}.")
        self.sampler = IndexSampler(
            lengths[0], batch_size, replacement=replacement, drop_last=drop_last, stream=stream
        )

    @property
    def steps_per_epoch(self) -> int:
        """Batches per pass over the data."""
        return self.sampler.steps_per_epoch

    def __call__(self, seed: int, step: int) -> tuple[Tensor, ...]:
        """The rows of batch ``step``, on the tensors' device."""
        indices = self.sampler.indices(seed, step).to(self.tensors[0].device)
        return tuple(tensor[indices] for tensor in self.tensors)


class Batches:
    """The batches of one seed: ``batch(step)`` at any step, or an endless iteration from ``start``.

    Args:
        source: (seed, step) -> batch, e.g. :class:`TensorBatches`.
        seed: non-negative integer.
        start: step of the first batch in an iteration (0 by default); pass the step reached to resume.

    Raises:
        ValueError: negative seed or start.

    Example:
        >>> source = TensorBatches((torch.arange(10),), 5)
        >>> first, second = (batch for batch, _ in zip(Batches(source, seed=3), range(2)))
        >>> torch.equal(second[0], Batches(source, seed=3).batch(1)[0])
        True
    """

    def __init__(self, source: BatchSource, seed: int, start: int = 0) -> None:
        self.source = source
        self.seed = check_integer("seed", seed, low=0)
        self.start = check_integer("start", start, low=0)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """The batch of a step, whatever was drawn before."""
        return self.source(self.seed, step)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        step = self.start
        while True:
            yield self.batch(step)
            step += 1


def by_seed(source_of: Callable[[int], BatchSource]) -> BatchSource:
    """A source whose examples differ with the seed too, e.g. those of a split that the seed draws.

    Args:
        source_of: the source of a seed; it is asked once for each.

    Example:
        >>> source = by_seed(lambda seed: TensorBatches((torch.arange(10) + 10 * seed,), 5))
        >>> 20 <= int(source(2, 0)[0].min())
        True
    """
    kept = cache(source_of)
    return lambda seed, step: kept(seed)(seed, step)


def chunks(tensors: Sequence[Tensor], batch_size: int) -> list[tuple[Tensor, ...]]:
    """Cut tensors of equal length into consecutive batches, in order, the last maybe shorter: for evaluation.

    Raises:
        ValueError: no tensors, tensors of different length, ``batch_size`` below 1.
    """
    check_integer("batch_size", batch_size, low=1)
    lengths = [len(tensor) for tensor in tensors]
    if not lengths or len(set(lengths)) > 1:
        raise ValueError(f"tensors must be one or more tensors of equal length, got lengths {lengths}.")
    return list(zip(*(torch.split(tensor, batch_size) for tensor in tensors), strict=True))
