"""Sizes of the problems' data, which training and claims share."""

from __future__ import annotations

__all__ = ["DIGITS_TESTED", "LARGEST_ON_MNIST", "LOGISTIC_TESTED", "LOGISTIC_TRAINED", "LOGISTIC_WIDTH"]

LOGISTIC_TRAINED, LOGISTIC_TESTED, LOGISTIC_WIDTH = 20_000, 5_000, 50
"""Samples of the logistic regression, and the numbers of each."""

DIGITS_TESTED = 360
"""Digits that are held out: a fifth of 1,797. Of the other data sets a fifth too, 1,000."""

LARGEST_ON_MNIST = 1_000
"""Largest batch on MNIST: a test holds the 50,890 derivatives of each of its samples."""
