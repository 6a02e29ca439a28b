"""Small files as a reader would bring them: a table of plants, and drawn shapes in one folder per class."""

from __future__ import annotations

import io
import zipfile

import numpy as np
from PIL import Image

__all__ = ["PLANTS", "plants", "shapes"]

PLANTS = {"fern": 0.0, "moss": 3.0, "reed": 6.0}
"""Classes of the table and the mean of their lengths."""


def plants(rows: int = 120) -> bytes:
    """A table of lengths, widths and colours; the class is ``species``, and ``colour`` could be one too."""
    drawn = np.random.default_rng(0)
    lines = ["length,width,colour,species"]
    for i in range(rows):
        species = list(PLANTS)[i % 3]
        length, width = drawn.normal(PLANTS[species]), drawn.normal()
        lines.append(f"{length:.3f},{width:.3f},{'red' if drawn.random() < 0.5 else 'blue'},{species}")
    return "\n".join(lines).encode()


def shapes(each: int = 30, classes: int = 3, side: int = 32) -> bytes:
    """A zip of PNG files: every class a bright square of its own size, on noise."""
    drawn = np.random.default_rng(0)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(each * classes):
            label = i % classes
            pixels = drawn.integers(0, 120, (side, side), dtype=np.uint8)
            size = 3 + 28 * label // classes
            row, column = drawn.integers(0, side - size, 2)
            pixels[row : row + size, column : column + size] = 255
            picture = io.BytesIO()
            Image.fromarray(pixels).save(picture, "PNG")
            archive.writestr(f"class {label}/{i:04}.png", picture.getvalue())
    return buffer.getvalue()
