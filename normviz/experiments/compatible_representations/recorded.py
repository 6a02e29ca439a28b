"""What the frames hold beside numbers: sizes that training and charts share."""

from __future__ import annotations

__all__ = ["ASKED", "FOUND", "FRACTIONS", "SHOWN_POINTS"]

FRACTIONS = tuple(k / 5 for k in range(6))
"""Shares of the gallery that are extracted anew, for the curve of partial backfilling."""

SHOWN_POINTS = 90
"""Test digits whose features are drawn in the plane."""

ASKED = (1, 4, 9)
"""Classes of the digits that ask the gallery; the first of each in the test."""

FOUND = 5
"""Gallery digits that are shown for each of them, the most similar first."""
