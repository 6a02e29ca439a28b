"""What can be set on the page *Adaptive batch size*, and the arms that follow from it."""

from __future__ import annotations

from typing import ClassVar, Literal

from normviz import knob_fields
from normviz.arms import Arms
from normviz.digit_sources import missing_source
from normviz.experiments.adaptive_batch_size.sizes import LARGEST_ON_MNIST
from normviz.knobs import knob
from normviz.own_data import OwnDataKnobs
from normviz.progress import SAMPLES, Progress

__all__ = ["ARM_NAMES", "TESTS", "ArmName", "Knobs", "Task"]

Task = Literal["logistic", "digits", "toy"]
ArmName = Literal[
    "small", "large", "norm", "augmented", "adagrad", "coordinates", "adagrad_small", "adagrad_large"
]

ARM_NAMES: dict[str, str] = {
    "small": "Constant small",
    "large": "Constant large",
    "norm": "AdAdaGrad-Norm",
    "augmented": "AdAdaGrad-Norm, augmented",
    "adagrad": "AdAdaGrad",
    "coordinates": "AdAdaGrad, coordinates",
    "adagrad_small": "AdaGrad small",
    "adagrad_large": "AdaGrad large",
}
COLOURS = {
    "small": 1,
    "large": 2,
    "norm": 0,
    "augmented": 3,
    "adagrad": 4,
    "coordinates": 5,
    "adagrad_small": 7,
    "adagrad_large": 8,
}

TESTS: dict[str, str] = {
    "norm": "norm",
    "augmented": "augmented",
    "adagrad": "norm",
    "coordinates": "coordinatewise",
}
"""The arms whose batch grows, in the order in which the first of them is drawn in detail, and their tests."""


DIGITS_COST = {"digits": 1.0, "mnist1d": 1.0, "mnist": 9.0}
"""Seconds of one sample, times what it is on 8 x 8 digits."""


class Knobs(OwnDataKnobs):
    """The task, the arms, the tests and their tolerances, the ends of the batch size."""

    own_task: ClassVar[str] = "digits"

    task: Task = knob(
        "logistic",
        label="Task",
        help="Logistic regression: 20,000 samples of 50 numbers, labels drawn at random from their true probabilities. "
        "Digits: an MLP on those that are chosen as data. Two numbers: least squares in two dimensions, "
        "where the noise is known.",
        labels={"logistic": "Logistic regression", "digits": "Digits", "toy": "Two numbers"},
        section="Task",
    )
    data: Literal["digits", "mnist1d", "mnist", "own"] = knob_fields.digit_data(
        what="What the digits task has", section="Task", own="a table or images of your own"
    )
    arms: tuple[ArmName, ...] = knob(
        ("small", "large", "norm", "adagrad", "coordinates"),
        label="Arms",
        help="All start from the same point and see the same samples in the same order. The constant batches take "
        "steps of AdaGrad-Norm.",
        labels=ARM_NAMES,
        min_choices=1,
        section="Task",
    )
    eta: float = knob(
        1.0,
        0.05,
        1.0,
        label="η of the norm tests",
        help="How much noise is allowed, as a share of the gradient. Smaller: larger batches. The theory asks for a "
        "value below 1.",
        step=0.05,
        section="Tests",
    )
    theta: float = knob(
        0.5,
        0.1,
        2.0,
        label="θ of the inner product test",
        help="Of the augmented test: how much noise is allowed along the gradient.",
        step=0.1,
        section="Tests",
    )
    nu: float = knob(
        1.0,
        0.1,
        10.0,
        step=0.1,
        label="ν of the orthogonality test",
        help="Of the augmented test: how much noise is allowed across the gradient.",
        section="Tests",
    )
    quantile: float = knob(
        1.0,
        0.5,
        1.0,
        label="Quantile of the coordinates",
        help="1: every coordinate must pass, the paper's rule. Below 1 the worst are left out; that is our extension.",
        step=0.01,
        section="Tests",
    )
    blockwise: bool = knob(
        False,
        label="Inner products by tensor",
        help="As the public code computes the augmented test: each tensor on its own. Off: the paper's equation.",
        section="Tests",
    )
    test_interval: int = knob(
        1, 1, 20, label="Test every … steps", help="1: before every step.", unit="steps", section="Tests"
    )
    initial_batch: int = knob(
        8,
        2,
        64,
        label="First batch size",
        help="Also the size of the constant small batch. One sample alone has no variance, so at least 2.",
        section="Batch",
    )
    max_batch: int = knob(
        2048,
        64,
        4096,
        label="Largest batch size",
        help="Also the size of the constant large batch. It is cut to the number of training samples, "
        "on MNIST and on data of your own to 1,000.",
        section="Batch",
    )
    rate_scale: float = knob(
        1.0,
        1 / 16,
        16.0,
        label="Learning rate, times",
        help="Times what is usual here: 1 for AdaGrad-Norm, 0.1 for AdaGrad (digits: 0.05).",
        log=True,
        section="Training",
    )
    samples: int = knob(
        40_000,
        1_000,
        120_000,
        label="Samples",
        help="How many samples every arm may look at. A larger batch has fewer steps for them.",
        step=1_000,
        section="Training",
    )
    seeds: int = knob_fields.seeds(3)

    def kinds(self) -> tuple[str, ...]:
        """The arms in the order of the legend."""
        return tuple(kind for kind in ARM_NAMES if kind in self.arms)

    def main_kind(self) -> str:
        """The arm whose gradients are drawn one by one: the first whose batch grows, else the first."""
        return next((kind for kind in TESTS if kind in self.arms), self.kinds()[0])

    def shown_arms(self) -> Arms:
        """One arm per choice."""
        return Arms.of({ARM_NAMES[kind]: COLOURS[kind] for kind in self.kinds()})

    def total_steps(self) -> int:
        """Samples of every arm."""
        return self.samples

    def progress(self) -> Progress:
        """Samples: steps of different arms are not comparable."""
        return SAMPLES

    def missing(self) -> str:
        """MNIST comes with a package; the reader's data must be here, with a first batch of training samples."""
        if self.task != "digits":
            return ""
        if self.data != "own":
            return missing_source(self.data)
        size = self.own_size()
        if not (sentence := self.missing_own()) and size.examples - size.tested - 1 < self.initial_batch:
            return f"Of {size.examples} examples too few are left for a first batch of {self.initial_batch}: lower it."
        return sentence

    def largest_batch(self, trained: int) -> int:
        """The largest batch size where there are so many training samples."""
        most = min(self.max_batch, trained)
        large = self.task == "digits" and self.data in ("mnist", "own")
        return min(most, LARGEST_ON_MNIST) if large else most

    def mark_every(self) -> int:
        """Samples between two marks of the axis at which all arms and seeds are shown."""
        return max(1, self.samples // 120)

    def eval_every(self) -> int:
        """Samples between two marks at which losses are shown too."""
        return 3 * self.mark_every()

    def work(self) -> float:
        """Seconds: samples of every arm, steps as if batches grew after a while, tests, and evaluations."""
        seeds, arms = len(self.seed_range()), len(self.kinds())
        sample = {"logistic": 1.6e-06, "digits": 1.3e-05, "toy": 1.3e-06}[self.task]
        if self.task == "digits":
            sample *= self.cost(DIGITS_COST)
        step = 0.00084 if self.task == "digits" else 0.00051
        of_arm = self.samples * (sample + 0.3 * step / self.initial_batch) + 120 * 0.00018
        tested = sum(kind in TESTS for kind in self.arms)
        return seeds * (arms * of_arm + tested * 8.5e-07 * self.samples + 0.087)
