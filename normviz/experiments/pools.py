"""Sizes of the test pools, for claims: they give their measures a resolution and do not load the data."""

from __future__ import annotations

__all__ = ["TEST_DIGITS", "TEST_ROWS"]

TEST_DIGITS = 449
"""Of scikit-learn's 1,797 digits, at the loader's default share."""

TEST_ROWS = {"breast_cancer": 142, "wine": 44}
"""Of scikit-learn's tables, at the loader's default share."""
