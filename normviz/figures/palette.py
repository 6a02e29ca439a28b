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
    "BatchNorm in vision": 4,
    "PowerNorm": 2,
    "PowerNorm-V": 3,
    "RMSNorm": 8,
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


def _slots(names: Sequence[str]) -> dict[str, int]:
    """A slot for each name: fixed for known names, else by the name alone, moved on when taken by another."""
    taken: dict[int, str] = {}
    slots: dict[str, int] = {}
    for name in sorted(set(names), key=lambda n: (n not in _FIXED, n)):
        slot = _FIXED.get(name, crc32(name.encode()) % len(_COLOURS))
        while slot in taken and len(taken) < len(_COLOURS):
            slot = (slot + 1) % len(_COLOURS)
        taken[slot] = name
        slots[name] = slot
    return slots


def _base(arm: str) -> str:
    return arm.partition(", ")[0]


def colours(arms: Sequence[str]) -> list[str]:
    """A colour for each arm, in the order given; variants (``"LayerNorm, batch 4"``) share their base's colour."""
    slots = _slots([_base(arm) for arm in arms])
    return [_COLOURS[slots[_base(arm)]] for arm in arms]


def dashes(arms: Sequence[str]) -> list[list[int]]:
    """A dash pattern for each arm, in the order given; variants of a base differ in it."""
    slots = _slots([_base(arm) for arm in arms])
    patterns = []
    for i, arm in enumerate(arms):
        earlier = sum(_base(other) == _base(arm) for other in arms[:i])
        patterns.append(list(_DASHES[(slots[_base(arm)] + earlier) % len(_DASHES)]))
    return patterns
