"""The contract table, run: one test per row and check."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from normviz.testing.contracts import in_place, resolve
from normviz.testing.table import TABLE, catalog_methods, rows_of


def cases() -> list[Any]:
    return [
        pytest.param(check, id=f"{row.name}-{name}") for row in TABLE for name, check in row.checks().items()
    ]


@pytest.mark.parametrize("check", cases())
def test_contract(check) -> None:
    check()


@pytest.mark.parametrize("method", catalog_methods())
def test_every_method_of_the_catalog_has_a_row(method: str) -> None:
    if not in_place(method):
        pytest.skip(f"pending: {method} is not in its topic package yet")
    assert rows_of(method), f"add a row for {method} to normviz/testing/rows"


def test_rows_are_of_methods_that_exist() -> None:
    for row in TABLE:
        assert in_place(row.method), row.name
        assert callable(resolve(row.method)), row.name


def test_names_of_rows_are_unique() -> None:
    assert [name for name, count in Counter(row.name for row in TABLE).items() if count > 1] == []


def test_every_row_refuses_something() -> None:
    for row in TABLE:
        assert row.variant or row.bad or row.numbers(), row.name


def test_what_is_skipped_has_a_reason() -> None:
    for row in TABLE:
        assert all(reason.strip() for reason in row.skip.values()), row.name
