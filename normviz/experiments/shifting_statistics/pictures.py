"""The digits themselves: under their corruption with what each method reads, and the batch of tasks in a row."""

from __future__ import annotations

import numpy as np

from normviz.arms import Arms, Look
from normviz.experiments.shifting_statistics.digit_table import PictureRow, TextRow, digit_table_figure
from normviz.experiments.shifting_statistics.grid import CELLS
from normviz.experiments.shifting_statistics.knobs import BATCH, Knobs, kappa_of
from normviz.experiments.shifting_statistics.recorded import SHOWN
from normviz.figures import Board, Figure
from normviz.frame import ArrayAt

__all__ = ["ANSWERS", "batch_figure", "corruptions_figure", "stream_figure"]

ANSWERS = Arms((Look("right", 2, 0, 0), Look("wrong", 1, 0, 0)))
WEIGHED = Arms((Look("counts more", 0, 0, 0), Look("counts less", 1, 0, 0), Look("as one", 6, 0, 0)))
CORRUPTED = {
    "contrast": "low contrast",
    "gaussian_noise": "noise",
    "blur": "blur",
    "brightness": "brightness",
    "invert": "inverted",
    "shift": "moved",
    "pixelate": "pixelated",
}
SHORT = {"α-BN + entropy": "+ entropy", "Core (reconstructed)": "Core", "TBN + Core loss": "TBN + Core"}
"""Names that are longer than the margin has room for."""
READ = 6
"""Most methods whose answers are listed."""


def _newest(board: Board, name: str) -> dict[str, ArrayAt]:
    """The newest such array of every arm."""
    return {entry.arm: entry for entry in board.log.arrays(name, board.step)}


def stream_figure(board: Board, knobs: Knobs) -> Figure:
    """The newest digits of the first seed: clean, as they come, and what every method reads in them."""
    looks, clean, labels = (_newest(board, f"shown_{n}") for n in ("pixels", "clean", "labels"))
    answers = _newest(board, "shown_predicted")
    rows: list[PictureRow | TextRow] = []
    text, moment = "Pictures of corrupted digits; nothing is measured yet.", ""
    if looks:
        arm, entry = max(looks.items(), key=lambda item: item[1].step)
        truth = labels[arm].value
        rows = [
            PictureRow("as trained", clean[arm].value),
            PictureRow(CORRUPTED[knobs.corruption], entry.value),
        ]
        told = []
        for name in board.arms.names[:READ]:
            read = answers.get(name)
            if read is None or len(read.value) != len(truth) or read.step != entry.step:
                continue
            hits = read.value == truth
            rows.append(
                TextRow(
                    SHORT.get(name, name),
                    [f"{v:.0f}" for v in read.value],
                    ["right" if hit else "wrong" for hit in hits],
                )
            )
            told.append(f"{name} {int(hits.sum())}")
        moment = board.progress.at(entry.step)
        right = f" Right answers of {len(truth)}: {', '.join(told)}." if told else ""
        shown = " ".join(f"{v:.0f}" for v in truth)
        text = f"Pictures of the newest test images ({shown}) clean and with {CORRUPTED[knobs.corruption]}.{right}"
    return digit_table_figure(
        rows,
        columns=SHOWN,
        kind_names=ANSWERS,
        title=f"The newest {'images' if knobs.data == 'own' else 'digits'}, and what is read",
        look_for="Who reads them right, without a single label?",
        alt_text=text,
        moment=moment,
        words=min(len(knobs.kinds()), READ),
    )


def corruptions_figure(board: Board) -> Figure:
    """The same digits of the first seed under every corruption of the grid."""
    samples = _newest(board, "samples")
    names = list(dict.fromkeys(cell.corruption for cell in CELLS))
    rows: list[PictureRow | TextRow] = []
    text = "Pictures of digits under four corruptions; nothing is measured yet."
    if samples:
        (entry, *_) = samples.values()
        rows = [
            PictureRow(name, images)
            for name, images in zip(("as trained", *(CORRUPTED[n] for n in names)), entry.value, strict=True)
        ]
        text = f"Pictures of {SHOWN} digits, clean and under {', '.join(CORRUPTED[n] for n in names)}."
    return digit_table_figure(
        rows,
        columns=SHOWN,
        kind_names=Arms(()),
        title="The corruptions",
        look_for="Trained on the top row. Which rows can you read?",
        alt_text=text,
        pictures=len(names) + 1,
        words=0,
    )


def batch_figure(board: Board, knobs: Knobs) -> Figure:
    """The last batch of the first seed: new and replayed samples, and how much AdaB²N lets each of them count."""
    new, new_labels = _newest(board, "new"), _newest(board, "new_labels")
    old, old_labels = _newest(board, "old"), _newest(board, "old_labels")
    arms = [knobs.arm_name(kind) for kind in knobs.kinds() if kappa_of(kind) is not None]
    rows: list[PictureRow | TextRow] = []
    text, moment = "Pictures of the batch that is learned; nothing is measured yet.", ""
    if new:
        arm = next((a for a in (*arms, *new) if a in new), "")
        entry = new[arm]
        factors = _factors(board, arm, entry.seed)
        rows.append(PictureRow("new", entry.value[:BATCH]))
        rows += _counts(new_labels[arm].value[:BATCH], factors)
        replayed = old.get(arm)
        if replayed is not None and replayed.step == entry.step:
            rows.append(PictureRow("replayed", replayed.value[:BATCH]))
            rows += _counts(old_labels[arm].value[:BATCH], factors)
        moment = board.progress.at(entry.step)
        listed = " ".join(f"{v:.0f}" for v in new_labels[arm].value)
        again = " ".join(f"{v:.0f}" for v in old_labels[arm].value) if len(rows) > 2 and replayed else "none"
        text = f"Pictures of the batch at {moment}. New digits: {listed}. Replayed: {again}."
    return digit_table_figure(
        rows,
        columns=BATCH,
        kind_names=WEIGHED,
        title="The batch, and what each sample counts",
        look_for="Each pair has its own light. Who counts more than one?",
        alt_text=text,
        moment=moment,
        words=2,
    )


def _factors(board: Board, arm: str, seed: int) -> np.ndarray | None:
    """Weight of a task over its share of the samples in the first layer, (tasks,); NaN for one without samples."""
    share, weight = (
        [e.value for e in board.log.arrays(name, board.step) if e.arm == arm and e.seed == seed]
        for name in ("share", "posterior/1")
    )
    if not share or not weight:
        return None
    return np.where(share[0] > 0, weight[0] / np.maximum(share[0], 1e-9), np.nan)


def _counts(labels: np.ndarray, factors: np.ndarray | None) -> list[TextRow]:
    """One row of how many samples each of these counts for."""
    if factors is None:
        return []
    values = factors[labels.astype(int) // 2]
    kinds = [
        "as one" if abs(v - 1) < 0.005 else WEIGHED.names[0] if v > 1 else WEIGHED.names[1] for v in values
    ]
    return [TextRow("counts as", [f"{v:.2f}" for v in values], kinds)]
