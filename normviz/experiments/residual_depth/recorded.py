"""What the frames hold that training and charts must agree on."""

from __future__ import annotations

__all__ = ["SLOPES"]

SLOPES = 5
"""Remainders whose order is measured, if there are as many levels."""
