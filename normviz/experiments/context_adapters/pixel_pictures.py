"""Pictures of a digit of both tasks, of the pixels they excite, and of those that each adapter reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from normviz.arms import Arms, Look
from normviz.digit_sources import digit_source
from normviz.experiments.context_adapters.recorded import SOURCES
from normviz.figures import Board, Figure, digit_gallery_figure

__all__ = ["pixel_figure"]

COLUMNS = 5
GIVEN, READ = "the data", "what the adapter reads"
KINDS = Arms((Look(GIVEN, 6, 0, 0), Look(READ, 1, 0, 0)))
CAPTIONS = ("old digit", "new digit", "old pixels", "new pixels", "noise")
CAPTIONS_OF_SIGNALS = ("old signal", "new signal", "old sizes", "new sizes", "noise")
WHITE = 0.9
"""Quantile of a picture's values that is drawn white: KPA reads a few so strongly that they would hide the others."""


def pixel_figure(board: Board, data: str = "digits") -> Figure:
    """The first row: a digit of both tasks and the size of every pixel in the calibration samples; then the adapters.

    Shown is the first seed. An adapter's picture is the length of the columns of s B A in the first layer, without an
    adapter that of the change of W. Each picture goes from black (0) to white (what a tenth of its pixels exceed).
    Signals are lines, each over its greatest size.

    Args:
        board: log and arms.
        data: which digits.
    """
    picture = digit_source(data).picture
    if picture:
        title = "Pixels that each adapter reads"
        look_for = "KPA reads where old digits are black. Where does IPA read?"
    else:
        title = "Values that each adapter reads"
        look_for = "Does KPA read where old signals are weak? Where does IPA read?"
    given = board.log.arrays("excited")
    pictures = board.log.arrays("pictures")
    newest = {e.arm: e for e in sorted(board.log.arrays("read", board.step), key=lambda e: -e.seed)}
    arms = [arm for arm in board.arms if arm in newest]
    images: list[NDArray[np.float64]] = []
    if given and pictures:
        images = [*pictures[0].value.astype(float), *given[0].value.astype(float)]
    named = CAPTIONS if picture else CAPTIONS_OF_SIGNALS
    captions, kinds = list(named[: len(images)]), [GIVEN] * len(images)
    for arm in arms:
        images.append(newest[arm].value.astype(float))
        captions.append(arm.removeprefix("CorDA ").replace(" data", ""))
        kinds.append(READ)
    rows = 1 + max(-(-len(board.arms) // COLUMNS), 1)
    shown = max((newest[arm].step for arm in arms), default=None)
    if not images or shown is None:
        text = "Pictures of the pixels that are read; nothing is measured yet."
    else:
        text = _described(images, captions, board.progress.at(shown), data)
    return _gallery(data, images, captions, kinds, rows, title, look_for, text)


def _gallery(
    data: str,
    images: list[NDArray[np.float64]],
    captions: list[str],
    kinds: list[str],
    rows: int,
    title: str,
    look_for: str,
    text: str,
) -> Figure:
    source = digit_source(data)
    share = WHITE if source.picture else 1.0
    scaled = [image / max(float(np.quantile(np.abs(image), share)), 1e-12) for image in images]
    return digit_gallery_figure(
        data,
        np.array(scaled, dtype=np.float32).reshape(-1, source.values),
        captions,
        kinds,
        kind_names=KINDS,
        title=title,
        look_for=look_for,
        alt_text=text,
        columns=COLUMNS,
        rows=rows,
        limits=(0.0, 1.0) if source.picture else (-1.1, 1.1),
    )


def _described(images: list[NDArray[np.float64]], captions: list[str], moment: str, data: str) -> str:
    """How alike each adapter's picture and the pixels of both tasks are, in words."""
    first = len(CAPTIONS) - len(SOURCES)
    parts = []
    for image, name in zip(images[len(CAPTIONS) :], captions[len(CAPTIONS) :], strict=True):
        alike = [_cosine(image, images[first + i]) for i in range(2)]
        parts.append(f"{name} {alike[0]:.2f} and {alike[1]:.2f}")
    shape, picture = digit_source(data).shape, digit_source(data).picture
    size = f"Pictures of {shape[0]} by {shape[1]} pixels" if picture else f"Signals of {shape[0]} values"
    return (
        f"{size}, first seed. Cosine of what each adapter reads at {moment} with the strength of "
        f"the {'pixels' if picture else 'values'} in the first and in the new task: {', '.join(parts)}."
    )


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else 0.0
