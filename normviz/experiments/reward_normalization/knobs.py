"""What can be set on the page *Reward normalization*, and the arms that follow from it."""

from __future__ import annotations

from typing import Literal

from normviz import knob_fields
from normviz.arms import Arms
from normviz.knobs import Knobs as Base
from normviz.knobs import knob

__all__ = [
    "ESTIMATOR_NAMES",
    "OPERATIONS",
    "SUM",
    "UNDECOMPOSED",
    "EstimatorName",
    "Knobs",
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

ARMS = Arms.of(
    {
        "BNPO": 0,
        UNDECOMPOSED: 7,
        "GRPO": 1,
        "REINFORCE-b": 2,
        "REINFORCE": 6,
        "ReMax": 3,
        "REINFORCE++": 4,
        "RLOO": 5,
        "REINFORCE++b": 8,
    }
)
"""How every arm is drawn."""

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
    learning_rate: float = knob_fields.learning_rate(
        3e-3, 1e-4, 1.0, help="Step size. SGD needs about a hundred times more than Adam."
    )
    steps: int = knob_fields.steps(150, 1000, help="Batches, each with one update of every policy.")
    seeds: int = knob_fields.seeds()

    def shown_arms(self) -> Arms:
        """The estimators, with two rewards also BNPO on their sum, in the order of the legend."""
        names = [ESTIMATOR_NAMES[estimator] for estimator in self.estimators]
        if self.rewards == "accuracy_and_format" and "bnpo" in self.estimators:
            names.insert(names.index(ESTIMATOR_NAMES["bnpo"]) + 1, UNDECOMPOSED)
        return ARMS.ordered(names)

    def work(self) -> float:
        """Seconds: a step of every policy, its questions and its answers."""
        step = 0.0074 + self.questions * (8.5e-06 + 4.4e-06 * self.group)
        return self.members() * self.steps * step


def reference_arm(knobs: Knobs) -> str:
    """The arm at whose policy all estimators are compared: BNPO's, or the first one."""
    names = knobs.shown_arms().names
    return ESTIMATOR_NAMES["bnpo"] if ESTIMATOR_NAMES["bnpo"] in names else names[0]
