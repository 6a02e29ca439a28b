"""Curves by formula: each arm falls to a floor that is lowest at its own best rate; seeds shift all arms alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from normviz.frame import Frame
from tests.evidence.lab import BEST, LabKnobs

BASE = {"quick": 0.5, "slow": 0.6, "even": 0.5}


def frames(knobs: LabKnobs, device: str) -> Iterator[Frame]:
    first = knobs.shown_arms().names[0]
    for seed in knobs.seed_range():
        yield Frame(0, first, seed, {"one": 1.0})
        if knobs.tally:
            with Path(knobs.tally).open("a") as file:
                file.write(f"{knobs.learning_rate} {seed}\n")
    for step in range(knobs.steps + 1):
        for arm in knobs.arms:
            for seed in knobs.seed_range():
                if arm == "slow" and seed == knobs.breaks and step > knobs.steps // 2:
                    if step == knobs.steps // 2 + 1:
                        yield Frame.diverged(step, arm, seed, "the training loss is inf")
                    continue
                yield Frame(step, arm, seed, _values(arm, seed, step, knobs))
    if knobs.fails:
        raise ArithmeticError("the sum is odd")


def _values(arm: str, seed: int, step: int, knobs: LabKnobs) -> dict[str, object]:
    floor = BASE[arm] + abs(math.log(knobs.learning_rate / BEST[arm])) + 0.003 * (seed % 7) ** 2
    noise = 0.001 * ((seed * 31 + len(arm) * 17) % 11)
    return {
        "loss": floor + noise + math.exp(-step / 4),
        "map": np.full(4, 1 + step / 10, dtype=np.float32),
        "unseen": np.arange(500, dtype=np.float32) * (step + 1 + seed),
    }
