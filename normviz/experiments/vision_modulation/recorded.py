"""What the frames hold beside numbers: sizes that training and charts share."""

from __future__ import annotations

__all__ = ["LINES", "TOKENS"]

TOKENS = (9, 36, 144, 576, 1024)
"""Numbers of visual tokens at which costs are counted and timed."""

LINES = 6
"""Most questions whose words are drawn."""
