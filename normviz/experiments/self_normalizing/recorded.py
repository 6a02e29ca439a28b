"""What the frames hold beside numbers: ranges and layers that training and charts share."""

from __future__ import annotations

import numpy as np

__all__ = ["FOREST", "HISTOGRAM_RANGE", "SVM", "drawn_layers"]

SVM, FOREST = "classical/svm", "classical/forest"
"""Accuracies, in per cent, of classifiers without layers."""

HISTOGRAM_RANGE = (-4.0, 4.0)


def drawn_layers(depth: int) -> list[int]:
    """Numbers of the layers whose histograms are drawn, first and last among them."""
    return sorted({round(float(layer)) for layer in np.linspace(1, depth, min(depth, 6))})
