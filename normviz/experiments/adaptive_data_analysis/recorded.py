"""What the frames hold beside numbers: ranges and counts that running and charts share."""

from __future__ import annotations

__all__ = ["MARGIN_BINS", "MARGIN_RANGE", "MARGIN_ROWS", "SHOWN_ANSWERS", "SHOWN_DIGITS"]

MARGIN_RANGE = (-4.0, 5.0)
MARGIN_BINS = 36
"""Bins of the histogram of margins, votes for the right label over the root of their number."""

MARGIN_ROWS = ("fresh rows", "holdout", "training")
"""Whose margins are shown, in the order of the array."""

SHOWN_ANSWERS = 120
"""Most answers of a mechanism that are drawn as dots."""

SHOWN_DIGITS = 12
"""Most digits of the hill climb that are drawn."""
