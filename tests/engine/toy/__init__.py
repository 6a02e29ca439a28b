"""A tiny experiment for the engine's tests: counts steps, and misbehaves when asked to."""

from __future__ import annotations

from typing import Literal

from normviz.experiments import Experiment
from normviz.knobs import Knobs, knob

__all__ = ["EXPERIMENT", "ToyKnobs"]


class ToyKnobs(Knobs):
    steps: int = knob(5, 1, 100_000, label="steps", help="Steps of each member.")
    delay: float = knob(0.0, 0.0, 60_000.0, label="delay", help="Duration of a step.", unit="ms")
    mode: Literal["train", "print", "raise", "exit", "deaf", "odd"] = knob(
        "train", label="mode", help="How it behaves after the first step."
    )
    seeds: int = knob(1, 1, 6, label="seeds", help="Members of each variant.")
    only: int = knob(-1, -1, 9, label="only", help="The seed that misbehaves; -1: all.")
    arms: tuple[Literal["a", "b"], ...] = knob(("a",), label="arms", help="Variants.")
    tag: float = knob(0.0, -1e9, 1e9, label="tag", help="A number that every frame carries.")
    gate: str = knob(
        "",
        high=300,
        label="gate",
        help="File: as many steps as it has bytes may be made; not there: not even a first frame.",
    )
    tally: str = knob("", high=300, label="tally", help="File that gets one byte for each step made.")


EXPERIMENT = Experiment(
    slug="toy",
    title="Toy",
    question="Does the engine do what it says?",
    papers=(),
    knobs=ToyKnobs,
    package="tests.engine.toy",
)
