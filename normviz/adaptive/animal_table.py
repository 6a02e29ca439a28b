"""Sixteen animals and twenty yes/no questions about them; free of PyTorch, so that a page's server can play with them.

Written for this library, for the kind of task of Zhang, Jain, Jamieson, arXiv 2010.15382 (noisy 20 Questions), whose
own data are not used. The answers are what an everyday speaker would say.
"""

from __future__ import annotations

__all__ = ["ANIMALS", "ANIMAL_TABLE", "QUESTIONS"]

QUESTIONS: tuple[str, ...] = (
    "Is it a mammal?",
    "Is it a bird?",
    "Can it fly?",
    "Does it live in water?",
    "Does it have four legs?",
    "Does it have fur?",
    "Does it lay eggs?",
    "Is it larger than a person?",
    "Is it smaller than a hand?",
    "Does it eat meat?",
    "Is it kept as a pet?",
    "Is it kept on farms?",
    "Is it dangerous to people?",
    "Does it have a long tail?",
    "Does it have stripes or spots?",
    "Is it active at night?",
    "Does it live in groups?",
    "Does it have a hard shell or scales?",
    "Is it found in cold regions?",
    "Does it make honey, milk or eggs that people eat?",
)

_ROWS: tuple[tuple[str, str], ...] = (
    ("dog", "10001100011001001010"),
    ("cat", "10001100011001010000"),
    ("horse", "10001101001101001000"),
    ("cow", "10001101000111101001"),
    ("mouse", "10001100101001011010"),
    ("bat", "10100100110000011000"),
    ("lion", "10001101010011011000"),
    ("elephant", "10001001000010001000"),
    ("dolphin", "10010001010000001000"),
    ("polar bear", "10011101010010000010"),
    ("hen", "01000010000100001001"),
    ("owl", "01100010010000110010"),
    ("penguin", "01010010010000001010"),
    ("snake", "00000010010011110100"),
    ("crocodile", "00011011010011010100"),
    ("bee", "00100010100110101001"),
)

ANIMALS: tuple[str, ...] = tuple(name for name, _ in _ROWS)
"""The animals, in the order of the rows of the table."""

ANIMAL_TABLE: tuple[tuple[bool, ...], ...] = tuple(tuple(c == "1" for c in row) for _, row in _ROWS)
"""Whether the answer about an animal (row) to a question (column) is yes."""
