"""Digits in rows, whatever kind they are: pictures as pictures, signals as lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normviz.digit_sources import digit_source
from normviz.figures.figure import Figure
from normviz.figures.gallery import gallery_figure, signal_gallery_figure

__all__ = ["digit_gallery_figure"]


def digit_gallery_figure(
    data: str,
    examples: NDArray[np.float32],
    captions: Sequence[str],
    kinds: Sequence[str],
    *,
    limits: tuple[float, float] | None = None,
    **options: Any,
) -> Figure:
    """Examples of one kind of digits in their original units, as :func:`gallery_figure` shows pictures.

    Args:
        data: name of the digits, one of :data:`normviz.digit_sources.DIGIT_SOURCES`.
        examples: (k, ...) with the values of one example in each row; reshaped to a picture or a signal.
        captions, kinds: as in :func:`gallery_figure`.
        limits: values that are drawn black and white, or as the edges of a frame; None: 0 and the greatest pixel of the
            data set, or the least and greatest value of the shown signals.
        **options: further arguments of :func:`gallery_figure`.

    Raises:
        ValueError: unknown data, or what the galleries refuse.
    """
    source = digit_source(data)
    shaped = np.asarray(examples).reshape(-1, *source.shape)
    if source.picture:
        return gallery_figure(shaped, captions, kinds, limits=limits or (0.0, source.white), **options)
    return signal_gallery_figure(shaped, captions, kinds, limits=limits, **options)
