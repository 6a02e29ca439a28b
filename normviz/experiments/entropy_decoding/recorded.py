"""What the frames hold beside numbers: sizes and grids that decoding, charts and claims share."""

from __future__ import annotations

__all__ = [
    "CONTEXT",
    "FINE",
    "FINE_STEP",
    "LETTER_PLACES",
    "NEW_TOKENS",
    "PROMPT",
    "RANDOM_SHARES",
    "TEACHER_FORCED",
    "WORD_PLACES",
    "WORLD",
]

CONTEXT = 64
"""Longest text of both models, and the length of their training texts."""
PROMPT, NEW_TOKENS = 16, 48
"""Most characters of a prompt, and characters that are written after it."""

WORLD = "abcdefghijklmnopqrstuvwxyz0123456789"
"""The characters of the language of stretches; a character's token is its place here."""

FINE_STEP = 0.05
FINE = tuple(round(FINE_STEP * i, 2) for i in range(61))
"""Thresholds tau in bits at which the recorded text is coloured anew while tau is dragged."""

TEACHER_FORCED = tuple(round(0.2 * i, 1) for i in range(26))
"""Thresholds tau in bits that are simulated on held-out text."""

RANDOM_SHARES = (0.25, 0.5, 0.75)
"""Shares of the large model at which random switching decodes; 0 and 1 are the models alone."""

LETTER_PLACES = {
    "long": (-6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    "short": (-3, -2, -1, 1, 2, 3, 4),
}
"""Where a character stands: -1 is the last letter before digits, 1 the first digit; by length of the stretches."""
WORD_PLACES = (1, 2, 3, 4, 5, 6, 7, 8)
"""Places within a word: 1 is its first letter."""
