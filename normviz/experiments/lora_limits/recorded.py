"""What the frames hold beside numbers: degrees, sizes and counts that running and charts share."""

from __future__ import annotations

__all__ = ["COST_DEGREE", "DEGREES", "MOST_RANK", "SPECTRUM_TOKENS", "SPECTRUM_VALUES"]

DEGREES = (2, 4, 6, 8, 10, 12)
"""Degrees at which error and certificate are compared. Even: a Taylor polynomial of exp is then positive everywhere."""

COST_DEGREE = 4
"""Degree of the polynomial where the cost over the length is measured; it is the same for every length."""

MOST_RANK = 1500
"""Most columns of the factors; an arm that needs more ends."""

SPECTRUM_TOKENS, SPECTRUM_VALUES = 128, 40
"""Tokens of the matrix whose singular values are shown, and how many of them."""
