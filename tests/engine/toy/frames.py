"""What the toy trains: nothing. It needs no PyTorch, but says whether it is there and how many threads it has."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from normviz.frame import Frame
from tests.engine.toy import ToyKnobs


def frames(knobs: ToyKnobs, device: str) -> Iterator[Frame]:
    if device not in ("auto", "cpu"):
        raise ValueError(f"device must be 'auto' or 'cpu' here, got {device!r}.")
    return _frames(knobs)


def _frames(knobs: ToyKnobs) -> Iterator[Frame]:
    try:
        for step in range(knobs.steps + 1):
            for seed in knobs.seed_range():
                _wait_at(knobs.gate, step)
                if step:
                    time.sleep(knobs.delay / 1000)
                    if knobs.tally:
                        with Path(knobs.tally).open("ab") as file:
                            file.write(b".")
                for arm in knobs.arms:
                    event = "began" if step == 0 else None
                    yield Frame(step, arm, seed, _values(knobs, step, seed), event)
                if step == 1 and knobs.only in (-1, seed):
                    _misbehave(knobs.mode)
    finally:
        if knobs.tally:
            Path(knobs.tally + ".closed").touch()


def _wait_at(gate: str, step: int) -> None:
    while gate and (not Path(gate).exists() or Path(gate).stat().st_size < step):
        time.sleep(0.002)


def _values(knobs: ToyKnobs, step: int, seed: int) -> dict[str, object]:
    torch = sys.modules.get("torch")
    values: dict[str, object] = {
        "loss": 1.0 / (step + 1 + seed),
        "tag": knobs.tag,
        "threads": torch.get_num_threads() if torch else 0,
        "map": np.full((2, 3), step, dtype=np.float32),
    }
    if knobs.mode == "odd" and step == 1:
        values[3] = 1.0  # type: ignore[index]  # a name that is no text cannot be sent
    return values


def _misbehave(mode: str) -> None:
    if mode == "print":
        print("\x05\x00\x00\x00 not a message {}" * 100)
        os.write(1, b"neither is this\n" * 100)
        sys.stdin.read()
    elif mode == "raise":
        raise ArithmeticError("the loss\nis odd")
    elif mode == "exit":
        print("goodbye", file=sys.stderr, flush=True)
        os._exit(3)
    elif mode == "deaf":
        time.sleep(60)
