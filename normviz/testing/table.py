"""The contract table: every row of every topic."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from normviz.catalog import PAPERS
from normviz.testing import rows
from normviz.testing.contracts import Contract, in_place

__all__ = ["TABLE", "catalog_methods", "pending_methods", "rows_of"]


def _topics() -> list[ModuleType]:
    """Every module of :mod:`normviz.testing.rows`, by name."""
    names = sorted(module.name for module in iter_modules(rows.__path__))
    return [import_module(f"{rows.__name__}.{name}") for name in names]


TABLE: list[Contract] = [row for topic in _topics() for row in topic.ROWS]


def catalog_methods() -> list[str]:
    """Dotted names of all methods of all papers, in catalog order."""
    return list(dict.fromkeys(method for paper in PAPERS.values() for method in paper.methods))


def pending_methods() -> list[str]:
    """Those that their topic package does not export yet."""
    return [method for method in catalog_methods() if not in_place(method)]


def rows_of(method: str) -> list[Contract]:
    """The rows of one method."""
    return [row for row in TABLE if row.method == method]
