"""What the frames hold beside numbers: ranges and counts that training and charts share."""

from __future__ import annotations

__all__ = ["BINS", "CLASSES", "WEIGHT_RANGE"]

WEIGHT_RANGE = (0.0, 3.0)
BINS = 30
"""Bins of the histogram of weights over :data:`WEIGHT_RANGE`; weights beyond it are in the last one."""

CLASSES = {"digits": 10, "text": 8}
"""Classes of each task."""
