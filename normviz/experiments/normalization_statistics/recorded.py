"""What the frames hold beside numbers: ranges and strengths that training and charts share."""

from __future__ import annotations

import numpy as np

__all__ = ["FACTORS", "HISTOGRAM_RANGE", "SHIFTS", "VIT_BLOCKS"]

HISTOGRAM_RANGE = (-4.0, 4.0)

FACTORS = tuple(float(f) for f in np.geomspace(1.0, 10.0, 21))
SHIFTS = tuple(float(s) for s in np.linspace(0.0, 2.0, 21))
"""Strengths of the transformations in the invariance lab."""
VIT_BLOCKS = 6
"""Blocks of the vision transformer."""
