"""Sizes of the problems' data, which training and claims share."""

from __future__ import annotations

__all__ = ["DIGITS_TESTED", "LOGISTIC_TESTED", "LOGISTIC_TRAINED", "LOGISTIC_WIDTH"]

LOGISTIC_TRAINED, LOGISTIC_TESTED, LOGISTIC_WIDTH = 20_000, 5_000, 50
"""Samples of the logistic regression, and the numbers of each."""

DIGITS_TESTED = 360
"""Digits that are held out: a fifth of 1,797."""
