"""What can be set on the page *Reward normalization*, and the names of the arms that follow from it."""

from __future__ import annotations

from typing import Literal

from normviz.knobs import Knobs as Base
from normviz.knobs import knob

__all__ = [
    "ESTIMATOR_NAMES",
    "OPERATIONS",
    "SUM",
    "UNDECOMPOSED",
    "EstimatorName",
    "Knobs",
    "arm_names",
    "reference_arm",
]

EstimatorName = Literal[
    "bnpo",
    "grpo",
    "reinforce_baseline",
    "reinforce",
    "remax",
    "reinforce++",
    "rloo",
    "reinforce++_baseline",
]

ESTIMATOR_NAMES: dict[str, str] = {
    "bnpo": "BNPO",
    "grpo": "GRPO",
    "reinforce_baseline": "REINFORCE-b",
    "reinforce": "REINFORCE",
    "remax": "ReMax",
    "reinforce++": "REINFORCE++",
    "rloo": "RLOO",
    "reinforce++_baseline": "REINFORCE++b",
}
"""Arms by estimator; "b" stands for "with baseline"."""

UNDECOMPOSED = "Summed BNPO"
"""BNPO on the sum of the rewards, beside the decomposed one."""

SUM = "sum"
"""Name of the only reward that this arm gets."""

OPERATIONS = ("sum", "difference", "product")


class Knobs(Base):
    """Estimators, rewards, batches and training length."""

    estimators: tuple[EstimatorName, ...] = knob(
        ("bnpo", "grpo", "reinforce_baseline", "reinforce", "remax", "reinforce++"),
        label="Estimators",
        help="The arms: the same policy on the same questions, with the reward turned into an advantage in these ways. "
        "REINFORCE-b and REINFORCE++b have a baseline: the mean reward of the question is subtracted.",
        labels=ESTIMATOR_NAMES,
        section="Experiment",
    )
    rewards: Literal["accuracy", "accuracy_and_format"] = knob(
        "accuracy",
        label="Rewards",
        help="Accuracy: 1 if the number is right. And format: a second reward, 1 if the answer has two digits "
        "(07, not 7). BNPO then takes each reward apart; a second BNPO gets their sum like all others.",
        labels={"accuracy": "Accuracy", "accuracy_and_format": "Accuracy and format"},
        section="Experiment",
    )
    start: float = knob(
        0.3,
        0.05,
        0.8,
        label="Accuracy at the start",
        help="The policy is first taught by examples until it is right this often, as a language model is pre-trained "
        "before reinforcement learning.",
        step=0.05,
        section="Experiment",
    )
    group: int = knob(
        16,
        2,
        64,
        label="Answers per question G",
        help="How often each question is answered in a batch. Their mean reward estimates how hard it is.",
        section="Training",
    )
    questions: int = knob(
        32,
        4,
        64,
        label="Questions per batch Q",
        help="The Beta distribution is fitted to this many mean rewards at every step.",
        section="Training",
    )
    optimizer: Literal["adam", "sgd"] = knob(
        "adam",
        label="Optimizer",
        help="Adam does not care about the size of the gradient; with SGD an estimator with larger advantages also "
        "takes larger steps.",
        labels={"adam": "Adam", "sgd": "SGD"},
        section="Training",
    )
    learning_rate: float = knob(
        3e-3,
        1e-4,
        1.0,
        label="Learning rate",
        help="Step size. SGD needs about a hundred times more than Adam.",
        log=True,
        section="Training",
    )
    steps: int = knob(
        150,
        10,
        1000,
        label="Steps",
        help="Batches, each with one update of every policy.",
        step=10,
        section="Training",
    )
    seeds: int = knob(
        2,
        1,
        5,
        label="Seeds",
        help="Independent repetitions: they become bands on the charts and intervals in the verdicts.",
        section="Training",
    )

    def members(self) -> int:
        """Policies that are trained."""
        return len(arm_names(self)) * self.seeds

    def work(self) -> float:
        """Rough floating-point operations: 8 passes over 10,000 parameters for each of the answers' two tokens."""
        return self.members() * self.steps * (self.questions * self.group * 2 * 8e4 + 3e8)

    work_limit = 4e12

    def work_advice(self) -> str:
        """The number of steps that fits."""
        fits = int(self.steps * self.work_limit / self.work())
        return f"With these estimators, seeds and batches at most {fits} steps fit."


def arm_names(knobs: Knobs) -> list[str]:
    """All arms of a setting, in the order of the legend."""
    names = [ESTIMATOR_NAMES[estimator] for estimator in knobs.estimators]
    if knobs.rewards == "accuracy_and_format" and "bnpo" in knobs.estimators:
        names.insert(names.index(ESTIMATOR_NAMES["bnpo"]) + 1, UNDECOMPOSED)
    return names


def reference_arm(knobs: Knobs) -> str:
    """The arm at whose policy all estimators are compared: BNPO's, or the first one."""
    names = arm_names(knobs)
    return ESTIMATOR_NAMES["bnpo"] if ESTIMATOR_NAMES["bnpo"] in names else names[0]
