"""What the paper of the page *Active learning* claims, measured here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from normviz.claims import Claim, Effect, Identity, claims_of
from normviz.experiments.active_learning.knobs import EXPERTS, NAMES, ROBUST
from normviz.measures import Measure, array, scalar

__all__ = ["CLAIMS"]

PAPER = "active-learning"

GAP_FLOOR = 0.01
"""Least difference of two largest gaps that counts, in units of the loss."""
SINKS = 0.02
"""Least distance of a trained policy below the uniform one: half of what was seen while the method was written."""
LINE_FLOOR = 0.05
"""The same for thresholds, whose loss is twice a number of mistakes."""
ANIMALS_FLOOR = 5.0
"""Least difference of two shares of wrong animals, in points."""

ROBUST_ARM, EXPERTS_ARM, UNIFORM = NAMES[ROBUST], NAMES[EXPERTS], NAMES["uniform"]
ARMS: dict[str, Any] = {"task": "arms", "loss": "simple_regret", "options": 3, "queries": 4, "classes": 3}
IMPOSSIBLE: dict[str, Any] = {**ARMS, "loss": "best_identification", "classes": 4}
LINE: dict[str, Any] = {
    "task": "thresholds",
    "loss": "simple_regret",
    "options": 5,
    "queries": 4,
    "classes": 3,
}
UNCONFIRMED = "Curves on synthetic bandits and thresholds with budgets of a few dozen; values not confirmed."
FRESH = (
    "Measured on problems that were not used in training, with exact expected losses, after gradient ascent from the "
    "worst of them."
)


def _end(name: str, arm: str, bad: float = math.inf) -> Measure:
    return scalar(name, arm, bad=bad)


def _gaps(*kinds: str) -> dict[str, Measure]:
    """The largest gap of each rival minus that of the robust policy."""
    return {
        NAMES[kind]: _end("attacked_gap", NAMES[kind]) - _end("attacked_gap", ROBUST_ARM) for kind in kinds
    }


def _least_rise(worst: Any) -> float:
    """Smallest step of a worst loss from one class to the next."""
    return float(np.diff(worst).min()) if len(worst) > 1 else 0.0


_claim = claims_of(PAPER)


CLAIMS: tuple[Claim, ...] = (
    _claim(
        "learned-sinks-below-uniform",
        "A policy that is trained against hard problems asks better than at random.",
        UNCONFIRMED,
        "worst regret in the hardest class, the uniform policy's minus that of the expert trained for this class",
        _end("attacked_hard", UNIFORM) - _end("attacked_hard", EXPERTS_ARM),
        Effect("above", floor=SINKS),
        "arms",
        given=ARMS,
        caveat=FRESH,
    ),
    _claim(
        "robust-has-the-smallest-gap",
        "One policy is close to the best of every class of difficulty at once, closer than any rival.",
        UNCONFIRMED,
        "largest distance to the class experts over the classes: each rival's minus that of the robust policy (regret)",
        _gaps("minimax", "prior", "uniform", "elimination"),
        Effect("above", floor=GAP_FLOOR),
        "arms",
        given=ARMS,
        caveat=FRESH,
    ),
    _claim(
        "harder-classes-cost-more",
        "Classes are nested: a larger one holds the smaller one's problems, so no worst loss falls.",
        "By definition of the classes.",
        "smallest step of the uniform policy's worst loss from one class to the next",
        array("worst", UNIFORM, _least_rise, bad=-math.inf),
        Identity("above", -1e-6),
        "arms",
        given=ARMS,
    ),
    _claim(
        "impossible-problems-hide-skill",
        "In a class with impossible problems even the best policy is wrong as often as in a lottery.",
        "The reason for subtracting the best policy's loss; no number.",
        "how often the expert of the hardest class is wrong on its worst problem, minus that of the easiest class",
        _end("attacked_hard", EXPERTS_ARM) - _end("easy", EXPERTS_ARM),
        Effect("above", floor=0.1),
        "impossible",
        given=IMPOSSIBLE,
    ),
    _claim(
        "gap-beats-plain-minimax",
        "Training for the plain worst case is ruled by impossible problems: the gap to the experts is the better goal.",
        UNCONFIRMED,
        "largest distance to the class experts: that of the plain minimax policy minus that of the robust one",
        _end("attacked_gap", NAMES["minimax"]) - _end("attacked_gap", ROBUST_ARM),
        Effect("above", floor=GAP_FLOOR),
        "impossible",
        given=IMPOSSIBLE,
        caveat=FRESH,
    ),
    _claim(
        "robust-beats-search-on-a-line",
        "At a small budget the learned policy beats those from theory, binary search among them.",
        UNCONFIRMED,
        "largest distance to the class experts: each rival's minus that of the robust policy (regret)",
        _gaps("uniform", "elimination", "gbs", "soft"),
        Effect("above", floor=LINE_FLOOR),
        "thresholds",
        given=LINE,
        caveat=FRESH + " The network treats points as unrelated: 100 updates are few for it.",
    ),
    _claim(
        "binary-search-breaks-with-noise",
        "Generalized binary search was made for true answers and breaks down when some are wrong.",
        "20 Questions with noisy answers; values not confirmed. Ours has 16 animals and 20 attributes.",
        "wrong animals after 20 questions with one wrong answer in five: binary search minus soft search",
        _end("wrong", NAMES["gbs"]) - _end("wrong", NAMES["soft"], -math.inf),
        Effect("above", floor=ANIMALS_FLOOR),
        "animals",
        given={"task": "animals", "noise": 0.2},
        unit="points",
    ),
    _claim(
        "binary-search-without-noise",
        "Without noise binary search always finds the animal.",
        "Nowak 2011: each answer strikes out all hypotheses that disagree.",
        "wrong animals after 20 questions with true answers",
        _end("wrong", NAMES["gbs"]),
        Identity("below", 1e-6),
        "animals-clean",
        given={"task": "animals", "noise": 0.0},
        unit="points",
    ),
)
