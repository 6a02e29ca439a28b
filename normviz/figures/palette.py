"""The palette: what the slots of an arm's look are on a chart, in the light and in the dark theme.

Colours are the Okabe-Ito set (distinguishable with every common colour-vision deficiency), darkened or lightened
where needed to keep a contrast of 3:1 against both backgrounds; dash and symbol tell arms apart without colour. Which
arm has which slot is said by :class:`normviz.arms.Arms`.
"""

from __future__ import annotations

from normviz.arms import Arms

__all__ = ["MUTED", "colours", "dashes", "symbols"]

_COLOURS = (
    "#0a85d1",
    "#d55e00",
    "#069e73",
    "#c3659c",
    "#b8860b",
    "#7f7fff",
    "#8a8a8a",
    "#e0483e",
    "#3d9fb8",
    "#8a9a1f",
)
_DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3), (4, 4), (12, 4))
_SYMBOLS = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
)

MUTED = "#888888"
"""Colour of what no arm owns: cursors, zero lines, captions. It is readable on both backgrounds."""


def colours(arms: Arms) -> list[str]:
    """A colour for each arm, in order."""
    return [_COLOURS[look.colour % len(_COLOURS)] for look in arms.looks]


def dashes(arms: Arms) -> list[list[int]]:
    """A dash pattern (pixels drawn and left out in turn) for each arm, in order."""
    return [list(_DASHES[look.dash % len(_DASHES)]) for look in arms.looks]


def symbols(arms: Arms) -> list[str]:
    """The name of a Vega shape for each arm, in order."""
    return [_SYMBOLS[look.symbol % len(_SYMBOLS)] for look in arms.looks]
