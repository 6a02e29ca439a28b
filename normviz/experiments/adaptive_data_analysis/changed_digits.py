"""The holdout digits on which the hill climb of plain reuse improved or fell, as pictures."""

from __future__ import annotations

import numpy as np

from normviz.arms import Arms, Look
from normviz.figures import Board, Figure, gallery_figure

__all__ = ["changed_digits_figure"]

GAINED, LOST = "right now, wrong at the start", "wrong now"
KINDS = Arms((Look(GAINED, 2, 0, 0), Look(LOST, 7, 1, 1)))
COLUMNS, ROWS = 6, 2


def changed_digits_figure(board: Board) -> Figure:
    """First seed, plain reuse: digits whose given label the kept configuration newly repeats, or no longer does."""
    title = "What the climb learned: these rows"
    look_for = "The label in the caption may be wrong. Are gains luck?"
    looks, facts = (board.log.arrays(name, board.step) for name in ("changed_looks", "changed_facts"))
    if not looks or not looks[0].value.size:
        nothing = np.zeros((0, 8, 8), dtype=np.float32)
        text = "Digits of the holdout that changed sides; nothing is measured yet."
        return gallery_figure(
            nothing,
            [],
            [],
            kind_names=KINDS,
            title=title,
            look_for=look_for,
            alt_text=text,
            columns=COLUMNS,
            rows=ROWS,
        )
    images, rows = looks[0].value, facts[0].value.astype(int)
    captions = [f"label {g}" if g == t else f"label {g}, is {t}" for g, t, _, _ in rows]
    kinds = [GAINED if gain else LOST for *_, gain in rows]
    counts = {
        name: float(table[table["step"] <= looks[0].step]["value"].iloc[-1])
        for name in ("gained", "lost")
        for table in (board.log.scalars(name),)
    }
    moment = board.progress.at(looks[0].step)
    text = (
        f"Digits of the holdout at {moment}: since the start {counts['gained']:.0f} became right and "
        f"{counts['lost']:.0f} wrong. Shown: {', '.join(captions)}."
    )
    figure = gallery_figure(
        images,
        captions,
        kinds,
        kind_names=KINDS,
        title=title,
        look_for=look_for,
        alt_text=text,
        columns=COLUMNS,
        rows=ROWS,
    )
    return Figure(
        figure.title,
        figure.look_for,
        figure.alt,
        spec=figure.spec,
        data=figure.data,
        wide=False,
        moment=moment,
    )
