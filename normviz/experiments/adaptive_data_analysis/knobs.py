"""What can be set on the page *Adaptive data analysis*, and the names of the arms that follow from it."""

from __future__ import annotations

import math
from typing import Literal

from normviz import knob_fields
from normviz.arms import Arms, Look
from normviz.knobs import Knobs as Base
from normviz.knobs import knob
from normviz.progress import QUERIES, Progress

__all__ = ["ARMS", "REPORTS", "SCIENCE_MOST", "Knobs", "MechanismKind", "Task", "arm_name"]

Task = Literal["noise", "holdout", "universe", "climb"]
MechanismKind = Literal[
    "plain", "splitting", "laplace", "gaussian", "thresholdout", "pmw", "median", "random"
]

ARMS: dict[str, str] = {
    "plain": "Plain reuse",
    "splitting": "Sample splitting",
    "laplace": "Laplace noise",
    "gaussian": "Gaussian noise",
    "thresholdout": "Thresholdout",
    "pmw": "PMW",
    "median": "Median",
    "random": "Random search",
}
COLOURS: dict[str, int] = {
    "plain": 1,
    "splitting": 6,
    "laplace": 3,
    "gaussian": 4,
    "thresholdout": 0,
    "pmw": 2,
    "median": 5,
    "random": 9,
}
RUNNABLE: dict[Task, frozenset[str]] = {
    "noise": frozenset({"plain", "splitting", "laplace", "gaussian", "thresholdout"}),
    "holdout": frozenset({"plain", "thresholdout"}),
    "universe": frozenset(ARMS) - {"random"},
    "climb": frozenset({"plain", "splitting", "laplace", "gaussian", "thresholdout", "random"}),
}
"""Mechanisms that each task can be run with: PMW and the median mechanism need a finite universe."""

REPORTS = 40
"""How often in a run the analyst asks how good the classifier is that was built so far."""

SCIENCE_MOST = 500
"""Most features of a classifier in the experiment of the Science paper."""

CLASSIFIERS = 50
"""Numbers of features that are tried there: 10, 20, …, 500."""

FEATURES = Progress("feature", "features", "features used")


class Knobs(Base):
    """The task, the mechanisms that answer, their noise, and how much is asked."""

    task: Task = knob(
        "noise",
        label="Task",
        help="Noise features: one question per feature, then a vote of all features. Holdout curve: the experiment of "
        "the Science paper, features kept with the help of the holdout. Small universe: nine binary features and a "
        "label, so that PMW and Median can answer too. Hill climb: a classifier of digits, tuned on 200 holdout rows.",
        labels={
            "noise": "Noise features",
            "holdout": "Holdout curve",
            "universe": "Small universe",
            "climb": "Hill climb",
        },
        section="Experiment",
    )
    mechanisms: tuple[MechanismKind, ...] = knob(
        ("plain", "splitting", "laplace", "gaussian", "thresholdout", "pmw", "median", "random"),
        label="Who answers",
        help="The arms. All get the same data and the same analyst. Those that a task cannot have are left out; plain "
        "reuse stands in if none is left.",
        labels=ARMS,
        section="Experiment",
    )
    signal: bool = knob(
        False,
        label="Some features tell something",
        help="Off: labels have nothing to do with features, the truth is 50 %. On: the first 20 features carry a weak "
        "signal (small universe: the label follows a majority of three). The hill climb always has a signal.",
        section="Experiment",
    )
    rows: int = knob(
        2000,
        200,
        3000,
        label="Rows n",
        help="Rows of the holdout, and of the training set where there is one. The hill climb has 300 and 200.",
        step=100,
        section="Data and questions",
    )
    queries: int = knob(
        2000,
        100,
        3000,
        label="Questions",
        help="Questions asked, one per feature. Hill climb: configurations tried. Holdout curve: features in the data, "
        "of which up to 500 are used.",
        step=100,
        section="Data and questions",
    )
    noise: float = knob(
        0.05,
        0.0,
        0.3,
        label="Noise of an answer",
        help="Standard deviation of the noise that the Laplace and the Gaussian mechanism add to an answer in [0, 1].",
        step=0.01,
        section="Mechanisms",
    )
    threshold: float = knob(
        0.09,
        0.01,
        0.3,
        label="Threshold T",
        help="Thresholdout, PMW, Median: how far guess and holdout may differ before the holdout is used. 4/√n in the "
        "Science paper (0.09 for 2,000 rows); the holdout curve always has that.",
        step=0.01,
        section="Mechanisms",
    )
    sigma: float = knob(
        0.022,
        0.0,
        0.1,
        label="Noise σ of the test",
        help="Noise of the comparison with T and of an answer from the holdout. 1/√n in the Science paper (0.022 for "
        "2,000 rows); PMW and Median take it as Laplace scale.",
        step=0.002,
        section="Mechanisms",
    )
    sparse_noise: Literal["gaussian", "laplace"] = knob(
        "gaussian",
        label="Thresholdout's noise",
        help="Gaussian: as in the program of the Science paper, a fresh threshold for each question. Laplace: as in "
        "the theory, a noisy threshold that is kept until the holdout was used.",
        labels={"gaussian": "Gaussian", "laplace": "Laplace"},
        section="Mechanisms",
    )
    budget: int = knob(
        0,
        0,
        500,
        label="Thresholdout's budget",
        help="Answers from the holdout that Thresholdout may give; then it answers nothing more. 0: no end.",
        section="Mechanisms",
    )
    seeds: int = knob_fields.seeds(5, 20)

    def kinds(self) -> tuple[str, ...]:
        """The mechanisms of this task, in the order of the legend."""
        found = tuple(kind for kind in ARMS if kind in self.mechanisms and kind in RUNNABLE[self.task])
        return found or ("plain",)

    def shown_arms(self) -> Arms:
        """One arm per mechanism; the colour says which, the dash is left for theory and fresh data beside it."""
        order = list(ARMS)
        return Arms(tuple(Look(ARMS[kind], COLOURS[kind], 0, order.index(kind)) for kind in self.kinds()))

    def total_steps(self) -> int:
        """Questions asked; of the holdout curve the features used."""
        return min(SCIENCE_MOST, self.queries) if self.task == "holdout" else self.queries

    def progress(self) -> Progress:
        """Questions; of the holdout curve features."""
        return FEATURES if self.task == "holdout" else QUERIES

    def stride(self) -> int:
        """Questions between two reports; of the holdout curve features between two classifiers."""
        if self.task == "holdout":
            return max(1, self.total_steps() // CLASSIFIERS)
        return max(1, math.ceil(self.total_steps() / REPORTS))

    def work(self) -> float:
        """Seconds: every question to every mechanism, and the rows that it reads."""
        question, row = {
            "noise": (3.9e-06, 9.7e-09),
            "holdout": (5.2e-05, 1.5e-08),
            "universe": (3e-05, 1e-08),
            "climb": (6.6e-05, 1.5e-07),
        }[self.task]
        asked = len(self.kinds()) * self.queries * (question + row * self.rows)
        return len(self.seed_range()) * (asked + 1.9e-09 * self.queries * (self.rows + 3000) + 0.03)


def arm_name(kind: str) -> str:
    """The arm's name on all charts."""
    return ARMS[kind]
