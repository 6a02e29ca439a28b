"""What training and charts share: norms at which entropy is measured, lengths that are timed."""

from __future__ import annotations

__all__ = ["DIRECTIONS", "FIRST", "FUSED", "HEAD_DIM", "KEYS", "MAP_SIDE", "NORMS", "lengths"]

NORMS = (0.1, 0.3, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Norms of the queries."""
FIRST = (0.1, 0.3, 1.0, 2.0, 3.0)
"""Those of the paper's range, over which the claims are judged."""
DIRECTIONS, KEYS, HEAD_DIM = 200, 64, 16
"""Unit directions of the queries, Gaussian keys, and their width."""
MAP_SIDE = 32
"""Most rows and columns of an attention map that is drawn."""
FUSED = "Softmax, fused"
"""PyTorch's fused softmax attention, timed beside the one that forms its matrix."""


def lengths(longest: int) -> tuple[int, ...]:
    """Powers of two from 512 to the longest."""
    found, n = [], 512
    while n <= longest:
        found.append(n)
        n *= 2
    return tuple(found)
