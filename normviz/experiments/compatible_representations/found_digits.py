"""What new questions find in the old gallery: the digits themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from normviz.arms import Arms, Look
from normviz.digit_sources import digit_source
from normviz.experiments.compatible_representations.knobs import ARM_NAMES, Knobs
from normviz.experiments.compatible_representations.recorded import ASKED, FOUND
from normviz.figures import Board, Figure, digit_gallery_figure

__all__ = ["found_digits_figure"]

ASKS, RIGHT, WRONG = "question", "same digit", "another digit"
KINDS = Arms((Look(ASKS, 6, 0, 0), Look(RIGHT, 2, 0, 0), Look(WRONG, 1, 0, 1)))


def found_digits_figure(board: Board, knobs: Knobs) -> Figure:
    """Three questions of the new model, and the digits whose old features are most similar, first seed."""
    arm = ARM_NAMES.get(knobs.looked(), "")
    looks, labels = (
        [e for e in board.log.arrays(name, board.step) if e.arm == arm] for name in ("found", "found_labels")
    )
    shape = digit_source(knobs.data).shape
    images, captions, kinds, moment = np.zeros((0, *shape), dtype=np.float32), [], [], ""
    text = "Digits that are found in the old gallery; nothing is measured yet."
    if looks and labels:
        shown, given = (
            looks[0].value,
            labels[0].value.astype(int),
        )  # (asked, 1 + found, *shape), (asked, 1 + found)
        images = shown.reshape(-1, *shape)
        for row in given:
            captions += ["asks", *(str(label) for label in row[1:])]
            kinds += [ASKS, *(RIGHT if label == row[0] else WRONG for label in row[1:])]
        moment = board.progress.at(looks[0].step)
        counts = ", ".join(f"{row[0]}: {int((row[1:] == row[0]).sum())}" for row in given)
        text = f"Old digits found by new questions at {moment}, map: {arm}. Right of {FOUND}: {counts}."
    figure = digit_gallery_figure(
        knobs.data,
        images,
        captions,
        kinds,
        kind_names=KINDS,
        title=f"Found in the old gallery, {arm}",
        look_for="New features ask, old ones answer. Where do wrong digits stay?",
        alt_text=text,
        columns=1 + FOUND,
        rows=len(ASKED),
    )
    return replace(figure, moment=moment)
