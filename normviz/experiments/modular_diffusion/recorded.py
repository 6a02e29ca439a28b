"""What the frames hold beside numbers: names and sizes that training and charts share."""

from __future__ import annotations

__all__ = ["CONCEPTS", "DRAWN", "MERGES", "REACH"]

CONCEPTS = ("ring", "wave", "spiral", "bars", "cross", "moons")
"""The concepts in the order in which they are merged."""

MERGES = {"sum": "summed", "average": "averaged", "fused": "fused"}
"""How adapters become one model, and the word for it on charts."""

DRAWN = 128
"""Points of a panel of samples."""

REACH = 1.9
"""Panels show coordinates from -REACH to REACH."""
