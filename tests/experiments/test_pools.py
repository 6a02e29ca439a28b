"""The sizes that claims state are those of the data."""

from __future__ import annotations

from normviz.data import load_digits, load_table
from normviz.experiments.pools import TEST_DIGITS, TEST_ROWS


def test_the_digits_that_are_held_out() -> None:
    assert len(load_digits().y_test) == TEST_DIGITS


def test_the_rows_of_tables_that_are_held_out() -> None:
    assert {name: len(load_table(name).y_test) for name in TEST_ROWS} == TEST_ROWS
