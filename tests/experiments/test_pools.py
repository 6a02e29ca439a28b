"""The sizes that claims state are those of the data."""

from __future__ import annotations

from normviz.data import load_digits
from normviz.experiments.pools import TEST_DIGITS


def test_the_digits_that_are_held_out() -> None:
    assert len(load_digits().y_test) == TEST_DIGITS
