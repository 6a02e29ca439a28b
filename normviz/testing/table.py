"""The contract table: every row of every topic."""

from __future__ import annotations

from normviz.catalog import PAPERS
from normviz.testing.contracts import Contract, in_place
from normviz.testing.rows import (
    adapters,
    adaptive,
    attention,
    batch_size,
    decoding,
    norms,
    optim,
    residual,
    schedules,
    weighting,
)

__all__ = ["TABLE", "catalog_methods", "pending_methods", "rows_of"]

TABLE: list[Contract] = [
    *norms.ROWS,
    *optim.ROWS,
    *schedules.ROWS,
    *attention.ROWS,
    *residual.ROWS,
    *weighting.ROWS,
    *adaptive.ROWS,
    *adapters.ROWS,
    *decoding.ROWS,
    *batch_size.ROWS,
]


def catalog_methods() -> list[str]:
    """Dotted names of all methods of all papers, in catalog order."""
    return list(dict.fromkeys(method for paper in PAPERS.values() for method in paper.methods))


def pending_methods() -> list[str]:
    """Those that their topic package does not export yet."""
    return [method for method in catalog_methods() if not in_place(method)]


def rows_of(method: str) -> list[Contract]:
    """The rows of one method."""
    return [row for row in TABLE if row.method == method]
