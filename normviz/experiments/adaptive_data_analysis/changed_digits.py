"""The holdout digits on which the hill climb of plain reuse improved or fell, as pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from normviz.arms import Arms, Look
from normviz.figures import Board, Figure, gallery_figure

__all__ = ["changed_digits_figure"]

GAINED, LOST = "right now, wrong at the start", "wrong now"
KINDS = Arms((Look(GAINED, 2, 0, 0), Look(LOST, 7, 1, 1)))
COLUMNS, ROWS = 6, 2


def changed_digits_figure(board: Board) -> Figure:
    """First seed, plain reuse: digits whose given label the kept configuration newly repeats, or no longer does."""
    looks, facts = (board.log.arrays(name, board.step) for name in ("changed_looks", "changed_facts"))
    measured = bool(looks) and bool(looks[0].value.size)
    images, captions, kinds, moment = np.zeros((0, 8, 8), dtype=np.float32), [], [], ""
    text = "Digits of the holdout that changed sides; nothing is measured yet."
    if measured:
        images, rows = looks[0].value, facts[0].value.astype(int)
        captions = [f"label {g}" if g == t else f"label {g}, is {t}" for g, t, _, _ in rows]
        kinds = [GAINED if gain else LOST for *_, gain in rows]
        gained, lost = (
            float(table[table["step"] <= looks[0].step]["value"].iloc[-1])
            for table in map(board.log.scalars, ("gained", "lost"))
        )
        moment = board.progress.at(looks[0].step)
        text = (
            f"Digits of the holdout at {moment}: since the start {gained:.0f} became right and {lost:.0f} wrong. "
            f"Shown: {', '.join(captions)}."
        )
    figure = gallery_figure(
        images,
        captions,
        kinds,
        kind_names=KINDS,
        title="What the climb learned: these rows",
        look_for="The label in the caption may be wrong. Are gains luck?",
        alt_text=text,
        columns=COLUMNS,
        rows=ROWS,
    )
    return replace(figure, wide=False, moment=moment)
