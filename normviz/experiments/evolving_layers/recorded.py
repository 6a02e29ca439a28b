"""What training and charts share."""

from __future__ import annotations

import numpy as np

__all__ = ["RESPONSE_AT"]

RESPONSE_AT = tuple(np.linspace(-4, 4, 33).tolist())
"""Values, in standard deviations, at which a trained layer's response is measured."""
