"""What the arrays of the frames hold: codes that training and charts share."""

from __future__ import annotations

from normviz.arms import Arms

__all__ = ["CELL_KINDS", "CLASSES", "ENTERED", "GROWN", "KEPT", "PRUNED", "STATISTICS"]

KEPT, ENTERED, GROWN, PRUNED = 0, 1, 2, 3
"""Third column of the array ``cells``: the weight is active since the start, entered in an earlier round, has just
entered, has just left. Before it: the layer's place and the flat index in the layer."""

CELL_KINDS = Arms.of({"from the start": 0, "entered before": 9, "just grown": 2, "just pruned": 7})
"""The same in words, in the order of the codes."""

STATISTICS = Arms.of({"server's statistics": 6, "clients' statistics": 0})
"""Columns of the array ``candidates``."""

CLASSES = 10
