"""What the frames hold beside numbers: ranges that training and charts share."""

__all__ = ["HISTOGRAM_RANGE"]

HISTOGRAM_RANGE = (0.0, 2.5)
"""Norms of rows and columns over their mean that a histogram shows."""
