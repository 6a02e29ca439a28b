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
    "accepted": 2,
    "ignores its input": 6,
    "not a number": 7,
    "learns too little": 4,
    "gradient explodes": 3,
    "raised an error": 1,
    "Evolution": 0,
    "By average": 2,
    "Random search": 6,
    "BN-ReLU": 1,
    "GN-ReLU": 5,
    "GN-SiLU": 3,
    "B0": 2,
    "S0": 0,
    "Found": 7,
    "SNN": 0,
    "ReLU + BN": 1,
    "ReLU + LN": 8,
    "ReLU": 6,
    "Tanh": 5,
    "NaP": 1,
    "NaP replay": 3,
    "NaP + decay": 2,
    "NaP + cyclic": 4,
    "Fresh net": 5,
    "Layer-wise": 2,
    "Global": 4,
    "UnifiedNorm": 7,
    "Filtered UnifiedNorm": 9,
    "Offline EMA": 5,
    "AdamW": 0,
    "SGD": 6,
    "Muon": 1,
    "NorMuon": 2,
    "SinkGD": 3,
    "SWAN": 4,
    "Conda": 5,
    "GaLore": 8,
    "Fira": 7,
    "Uniform": 6,
    "LinUpper": 0,
    "Quadratic": 1,
    "Extremes": 3,
    "Upper": 5,
    "clean": 2,
    "duplicated": 4,
    "shuffled": 7,
    "foreign": 8,
    "regular": 2,
    "redundant": 4,
    "corrupted": 7,
    "BNPO": 0,
    "Summed BNPO": 7,
    "GRPO": 1,
    "REINFORCE": 6,
    "REINFORCE-b": 2,
    "RLOO": 5,
    "ReMax": 3,
    "REINFORCE++": 4,
    "REINFORCE++b": 8,
    "Plain": 6,
    "Small-loss": 1,
    "MW-Net": 3,
    "STORM": 0,
    "Oracle": 2,
    "L2RW": 4,
    "GCE": 5,
    "right label": 2,
    "wrong label": 7,
    "λ = 1": 6,
    "λ = 1/√n": 5,
    "λ = 1/n": 2,
    "λ as set": 8,
    "SkipInit": 3,
    "Fixup": 4,
    "Softmax": 0,
    "elu+1": 1,
    "FLatten": 8,
    "Performer": 5,
    "PolaFormer": 7,
    "NaLa cosine": 2,
    "NaLa sign": 3,
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
