"""What the frames hold beside numbers: sizes and counts that training and charts share."""

from __future__ import annotations

__all__ = ["ALPHAS", "BUCKETS", "CLASSES", "RECENT", "SHOWN"]

CLASSES = 10
ALPHAS = tuple(k / 10 for k in range(11))
"""Values of alpha whose accuracy is measured along the stream."""

RECENT = 100
"""Newest test images that the recent accuracy, the predicted classes and the class correlation are taken over."""

SHOWN = 8
"""Digits of a row of pictures."""

BUCKETS = 24
"""Measurements of the arrays along a stream."""
