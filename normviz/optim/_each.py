"""A step in singular bases with the matrices one by one: the shorter way on the CPU (Conda, GaLore, Fira).

There a product of matrices costs about the same alone as in a batch, while stacking matrices to (k, m, n) and adding
directions to weights cost passes over memory. So elementwise rules run over all matrices of a group at once, of any
shapes, and every product back adds to its weight directly: W <- W + alpha A R, A R B or R B.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from normviz.optim._matrix import as_matrix, matrix_shape
from normviz.optim._steps import WIDE

__all__ = ["Each", "Slots", "each_of", "one_by_one", "parts"]

Slots = Sequence[tuple[Tensor, dict[str, Any]]]
"""Parameters with their state, looked up once: ``Optimizer.state`` hashes the tensor, at the cost of a small kernel."""

ENTRIES = 2**18
"""Entries that are stepped at a time: what they need besides stays in the cache, and its memory is used again."""


class Each(NamedTuple):
    """What a step needs of every matrix (m, n): lists of equal length.

    Attributes:
        weights: W as (m, n), views that are written into.
        grads: G as (m, n).
        sides: "left", "right" or "full".
        bases: the singular bases.
    """

    weights: list[Tensor]
    grads: list[Tensor]
    sides: list[str]
    bases: list[tuple[Tensor, ...]]


def one_by_one(slots: Slots) -> bool:
    """Whether all these parameters can be stepped so: plain and contiguous on the CPU, in float32 or float64."""
    return all(
        p.is_cpu and p.dtype in WIDE and type(p) in (Tensor, nn.Parameter) and p.is_contiguous()
        for p, _ in slots
    ) and all(type(p.grad) is Tensor and p.grad.dtype == p.dtype for p, _ in slots)


def parts(slots: Slots) -> Iterator[Slots]:
    """The slots in order, about :data:`ENTRIES` at a time."""
    part: list[tuple[Tensor, dict[str, Any]]] = []
    entries = 0
    for slot in slots:
        if part and entries + slot[0].numel() > ENTRIES:
            yield part
            part, entries = [], 0
        part.append(slot)
        entries += slot[0].numel()
    yield part


def each_of(slots: Slots, sides: Sequence[str], keys: dict[str, tuple[str, ...]]) -> Each:
    """The lists for parameters with their state, on the given sides, whose bases lie in the state under ``keys``."""
    return Each(
        [p if p.ndim == 2 else p.view(matrix_shape(p)) for p, _ in slots],
        [as_matrix(p.grad) for p, _ in slots if p.grad is not None],
        list(sides),
        [tuple(state[key] for key in keys[side]) for (_, state), side in zip(slots, sides, strict=True)],
    )
