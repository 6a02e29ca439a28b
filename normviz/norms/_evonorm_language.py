r"""The words of the EvoNorm search language: operations, their arities, the index sets of the aggregations.

Nothing here needs torch, so that graphs can be read, drawn and exported without it. What the operations compute is in
:mod:`normviz.norms._evonorm_primitives`.
"""

from __future__ import annotations

__all__ = ["AGGREGATIONS", "ARITIES", "ELEMENTWISE", "buffer_name", "is_batch_op", "ops_of"]

ELEMENTWISE: dict[str, int] = {
    "add": 2,
    "mul": 2,
    "div": 2,
    "max": 2,
    "neg": 1,
    "sigmoid": 1,
    "tanh": 1,
    "exp": 1,
    "log": 1,
    "abs": 1,
    "square": 1,
    "sqrt": 1,
}
"""Element-wise operations and how many inputs each takes."""

_MOMENTS = {"mean": "mean", "rms": "mean_square", "std": "variance"}
_INDEX_SETS = ("bwh", "whc", "wh", "whg")

AGGREGATIONS: dict[str, tuple[str, str]] = {
    f"{short}_{index}": (kind, index) for index in _INDEX_SETS for short, kind in _MOMENTS.items()
}
"""Name of each aggregation -> (moment, index set)."""

ARITIES: dict[str, int] = ELEMENTWISE | dict.fromkeys(AGGREGATIONS, 1)
"""The 24 operations a graph may use, 12 element-wise and 12 aggregations, and how many inputs each takes."""


def is_batch_op(op: str) -> bool:
    """Whether the operation mixes the samples of a batch."""
    return op.endswith("_bwh")


def ops_of(batch_dependent: bool) -> list[str]:
    """Names a graph may draw from: all 24, or the 21 that leave every sample on its own."""
    return [op for op in ARITIES if batch_dependent or not is_batch_op(op)]


def buffer_name(node_id: int, op: str) -> str:
    """Name of the running moment of a batch aggregation, by its canonical id."""
    return f"running_{op}_{node_id}"
