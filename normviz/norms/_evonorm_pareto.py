r"""Pareto dominance between score vectors; larger is better."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["dominates", "pareto_front"]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Pareto dominance, larger is better: a_j >= b_j for all j and a_j > b_j for some j.

    Raises:
        ValueError: the vectors differ in length.
    """
    if len(a) != len(b):
        raise ValueError(f"a and b must have the same length, got {len(a)} and {len(b)}.")
    pairs = list(zip(a, b, strict=True))
    return all(p >= q for p, q in pairs) and any(p > q for p, q in pairs)


def pareto_front(scores: Sequence[Sequence[float]]) -> list[int]:
    """Ascending indices of the vectors that no other dominates; equal vectors are all kept.

    Example:
        >>> pareto_front([(0.9, 0.1), (0.5, 0.5), (0.4, 0.5), (0.9, 0.1)])
        [0, 1, 3]
    """
    return [i for i, a in enumerate(scores) if not any(dominates(b, a) for b in scores)]
