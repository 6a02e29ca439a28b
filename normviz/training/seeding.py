"""Draw the weights of a network from a seed of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the CPU's random numbers start from ``seed``; afterwards the global random state is as it was.

    Weights are drawn on the CPU and then moved, so that a network is the same on every device. Random numbers that are
    drawn on another device are not set.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
