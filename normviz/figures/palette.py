"""One palette: an arm has the same colour and the same dash on every chart, in the light and in the dark theme.

Colours are the Okabe-Ito set (distinguishable with every common colour-vision deficiency), darkened or lightened
where needed to keep a contrast of 3:1 against both backgrounds; the dash tells arms apart without colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

__all__ = ["colours", "dashes"]

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

_FIXED = {
    "LayerNorm": 0,
    "BatchNorm": 1,
    "PowerNorm": 2,
    "PowerNorm-V": 3,
    "RMSNorm": 4,
    "GroupNorm": 5,
    "No norm": 6,
    "UnifiedNorm": 7,
    "AdamW": 0,
    "SGD": 6,
    "Muon": 1,
    "NorMuon": 2,
    "SinkGD": 3,
    "SWAN": 4,
    "Conda": 5,
    "GaLore": 8,
    "Fira": 7,
}


def _slots(arms: Sequence[str]) -> list[int]:
    """A slot for each arm: fixed for known names, else by the name alone, moved on when taken by another arm."""
    taken: dict[int, str] = {}
    slots: dict[str, int] = {}
    for arm in sorted(arms, key=lambda a: (a not in _FIXED, a)):
        slot = _FIXED.get(arm, crc32(arm.encode()) % len(_COLOURS))
        while slot in taken and len(taken) < len(_COLOURS):
            slot = (slot + 1) % len(_COLOURS)
        taken[slot] = arm
        slots[arm] = slot
    return [slots[arm] for arm in arms]


def colours(arms: Sequence[str]) -> list[str]:
    """A colour for each arm, in the order given."""
    return [_COLOURS[slot] for slot in _slots(arms)]


def dashes(arms: Sequence[str]) -> list[list[int]]:
    """A dash pattern for each arm, in the order given."""
    return [list(_DASHES[slot % len(_DASHES)]) for slot in _slots(arms)]
