"""The grid of the page *Shifting statistics*: every corruption with every order and batch size."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CELLS", "GRID_ALPHAS", "Cell", "cells_where"]

GRID_ALPHAS = (0.3, 0.5, 0.7, 0.9)
"""Values of alpha strictly between test-time batch norm (0) and the source (1) that every cell tries."""


@dataclass(frozen=True)
class Cell:
    """One cell: which corruption, in which order, in batches of how many images.

    Args:
        corruption: name of a function of :mod:`normviz.adaptive.corruptions`.
        order: ``"iid"`` (shuffled) or ``"sorted"`` (by label).
        batch: images of a batch.
    """

    corruption: str
    order: str
    batch: int

    @property
    def name(self) -> str:
        """The cell in words."""
        words = {"gaussian_noise": "noise"}.get(self.corruption, self.corruption)
        return f"{words}, {'sorted' if self.order == 'sorted' else 'shuffled'}, {self.batch}"


CELLS = tuple(
    Cell(corruption, order, batch)
    for batch in (64, 16, 4)
    for order in ("iid", "sorted")
    for corruption in ("contrast", "gaussian_noise", "blur", "pixelate")
)
"""The cells in the order in which they are run, large batches first because they are quick."""


def cells_where(
    *, orders: tuple[str, ...] = ("iid", "sorted"), batches: tuple[int, ...] = (4, 16, 64)
) -> tuple[int, ...]:
    """Positions in :data:`CELLS` with one of these orders and one of these batch sizes."""
    return tuple(i for i, cell in enumerate(CELLS) if cell.order in orders and cell.batch in batches)
