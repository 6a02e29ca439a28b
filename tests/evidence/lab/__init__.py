"""A small experiment with claims for the tests of evidence: its curves are formulas, so every verdict is known."""

from __future__ import annotations

from typing import Literal

import numpy as np

from normviz.arms import Arms
from normviz.claims import Bound, Claim, Effect, Identity
from normviz.experiments import Experiment
from normviz.knobs import Knobs, knob
from normviz.measures import array, constant, scalar
from normviz.presets import Grid, Preset, Presets

__all__ = ["BEST", "EXPERIMENT", "LabKnobs"]

BEST = {"quick": 0.1, "slow": 0.4, "even": 0.2}
"""The learning rate at which each arm ends lowest."""


class LabKnobs(Knobs):
    arms: tuple[Literal["quick", "slow", "even"], ...] = knob(
        ("quick", "slow"), label="Arms", help="Variants."
    )
    learning_rate: float = knob(0.2, 0.05, 0.8, label="Rate", help="Step size.", log=True)
    steps: int = knob(20, 1, 200, label="Steps", help="Steps.")
    seeds: int = knob(2, 1, 10, label="Seeds", help="Repetitions.")
    breaks: int = knob(-1, -1, 1100, label="Breaks", help="The seed in which 'slow' diverges.")
    fails: bool = knob(False, label="Fails", help="The run fails at its end.")
    tally: str = knob(
        "", high=300, label="Tally", help="File that gets a line for every seed that is trained."
    )

    def shown_arms(self) -> Arms:
        return Arms.of(self.arms)


def _loss(arm: str):
    return scalar("loss", arm, window=2)


PRESETS = Presets(
    [
        Preset("plain", "Plain", "All arms at one rate."),
        Preset(
            "tuned",
            "Tuned",
            "Every arm at its best rate.",
            {"arms": ("quick", "slow", "even")},
            grid=Grid("learning_rate", (0.1, 0.2, 0.4), criterion="loss"),
        ),
        Preset("aside", "Aside", "Decides nothing.", {"steps": 5}),
    ]
)

CLAIMS = (
    Claim(
        "quick-wins",
        "layer-norm",
        "The quick arm ends lower.",
        "In a table.",
        "loss of quick minus slow",
        _loss("quick") - _loss("slow"),
        Effect("below", floor=0.01),
        "plain",
        unit="nats",
    ),
    Claim(
        "all-best",
        "layer-norm",
        "At its best rate the even arm ends as low as both others.",
        "In a figure.",
        "loss of even minus each rival's",
        {other: _loss("even") - _loss(other) for other in ("quick", "slow")},
        Effect("below", floor=0.05),
        "tuned",
        unit="nats",
    ),
    Claim(
        "stays-small",
        "layer-norm",
        "The map stays small.",
        "In a figure.",
        "largest value of the map",
        array("map", "quick", lambda v: float(np.abs(v).max())),
        Bound("below", 10.0),
        "tuned",
    ),
    Claim(
        "exact",
        "layer-norm",
        "One is one.",
        "By construction.",
        "distance from 1",
        constant("one") - 1.0,
        Identity("below", 1e-6),
        "plain",
    ),
)

EXPERIMENT = Experiment(
    slug="lab",
    title="Lab",
    question="Is evidence what it says?",
    papers=("layer-norm",),
    knobs=LabKnobs,
    package="tests.evidence.lab",
    presets=PRESETS,
    claims=CLAIMS,
)
