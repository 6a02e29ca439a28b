"""What can be set on the page *Sample reweighting*, and the arms and sources that follow from it."""

from __future__ import annotations

from typing import Literal

from normviz import knob_fields
from normviz.arms import Arms
from normviz.knobs import Knobs as Base
from normviz.knobs import knob

__all__ = [
    "CONTEXT",
    "REGRESSION_SOURCES",
    "STRATEGY_NAMES",
    "TEXT_SOURCES",
    "Knobs",
    "StrategyName",
    "arm_name",
]

StrategyName = Literal["uniform", "linupper", "quadratic", "extremes", "upper"]

STRATEGY_NAMES: dict[str, str] = {
    "uniform": "Uniform",
    "linupper": "LinUpper",
    "quadratic": "Quadratic",
    "extremes": "Extremes",
    "upper": "Upper",
}

COLOURS: dict[str, int] = {"uniform": 6, "linupper": 0, "quadratic": 1, "extremes": 3, "upper": 5}

TEXT_SOURCES = Arms.of({"clean": 2, "duplicated": 4, "shuffled": 7, "foreign": 8})
REGRESSION_SOURCES = Arms.of({"regular": 2, "redundant": 4, "corrupted": 7})
"""Where samples come from: the number of a source is its place here."""

NO_REPEATS = ", no repeats"
"""What is appended to the name of an arm that reads text in which nothing repeats."""

CONTEXT = 48
"""Characters per sample of text."""


class Knobs(Base):
    """Task, strategies, the mixture of samples and the training length."""

    task: Literal["language", "regression"] = knob(
        "language",
        label="Task",
        help="Language: a small transformer reads Python's documentation mixed with text of low quality. Regression: "
        "a linear model, where theory gives a bound that can be checked.",
        labels={"language": "Language (transformer)", "regression": "Linear regression"},
        section="Experiment",
    )
    strategies: tuple[StrategyName, ...] = knob(
        ("uniform", "linupper", "quadratic", "extremes"),
        label="Strategies",
        help="The arms: the same network on the same batches, with the batch's samples weighted in these ways. "
        "Upper is LinUpper without its cap.",
        labels=STRATEGY_NAMES,
        section="Experiment",
    )
    r: float = knob(
        0.4,
        0.05,
        5.0,
        label="Temperature r",
        help="Small: the favoured samples get nearly all the weight. Large: all weigh the same. The paper's larger "
        "models use 0.4.",
        log=True,
        section="Weights",
    )
    schedule: Literal["constant", "annealed"] = knob(
        "constant",
        label="Schedule of r",
        help="Annealed: r starts at five times its value and falls to it linearly over the run.",
        section="Weights",
    )
    warmup: int = knob(
        10,
        0,
        200,
        label="Warm-up",
        unit="steps",
        help="Steps with uniform weights at the start, while losses still mean little (official code: 1 of 20).",
        section="Weights",
    )
    devices: int = knob(
        4,
        1,
        8,
        label="Virtual devices",
        help="Into how many parts a batch is cut to show what would go wrong if each device looked only at its own "
        "losses. It does not change the training.",
        section="Weights",
    )
    redundant: float = knob(
        0.5,
        0.0,
        0.8,
        label="Redundant share",
        help="Share of samples that repeat: a few passages again and again, or nearly equal inputs in regression.",
        step=0.05,
        section="Samples",
    )
    duplicates: int = knob(
        8,
        1,
        64,
        label="Different repeated samples",
        help="How many different passages (or input directions) the redundant samples are copies of.",
        section="Samples",
    )
    without_repeats: bool = knob(
        False,
        label="Also without repeats",
        help="Language: train every strategy also on text in which nothing repeats, to see what repeats change.",
        section="Samples",
    )
    shuffled: float = knob(
        0.05,
        0.0,
        0.1,
        label="Shuffled share",
        help="Language: share of samples whose characters are in random order, so that nothing can be learned.",
        step=0.01,
        section="Samples",
    )
    foreign: float = knob(
        0.05,
        0.0,
        0.1,
        label="Foreign share",
        help="Language: share of samples in another language: the documentation with its letters replaced (ROT13).",
        step=0.01,
        section="Samples",
    )
    corrupted: float = knob(
        0.0,
        0.0,
        0.2,
        label="Corrupted share",
        help="Regression: share of samples with a wrong target. Above 0 no single solution fits all samples, which "
        "the bound assumes.",
        step=0.01,
        section="Samples",
    )
    learning_rate: float = knob_fields.learning_rate(3e-3, 1e-4, 3e-2, help="Language: step size of AdamW.")
    step_size: float = knob(
        1.0,
        0.1,
        1.9,
        label="Step size × L",
        help="Regression: step size of gradient descent in units of 1/L, where L is the largest curvature of a "
        "sample's loss. The bound needs at most 1.",
        step=0.1,
        section="Training",
    )
    batch_size: int = knob_fields.batch_size(
        24, 64, low=8, help="Language: samples per step; weights are shared out among them."
    )
    samples: int = knob(
        64,
        16,
        256,
        label="Samples",
        help="Regression: number of samples; all are in every step.",
        section="Training",
    )
    steps: int = knob_fields.steps(120, 1000)
    seeds: int = knob_fields.seeds()
    corpus: str = knob_fields.corpus()

    def shown_arms(self) -> Arms:
        """Every strategy, with the twins that read text without repeats; the dash tells the twins apart."""
        bases = {STRATEGY_NAMES[strategy]: COLOURS[strategy] for strategy in self.strategies}
        if not self.has_twins():
            return Arms.of(bases)
        return Arms.product(bases, {"": f"{self.redundant:.0%} repeats", NO_REPEATS: "no repeats"})

    def has_twins(self) -> bool:
        """Whether every strategy is also trained without repeats."""
        return self.task == "language" and self.without_repeats and self.redundant > 0

    def sources(self) -> Arms:
        """Where samples come from in this task."""
        return TEXT_SOURCES if self.task == "language" else REGRESSION_SOURCES

    def first_weighted(self) -> str:
        """The first arm that is not Uniform (Uniform if there is no other): what charts of one arm show at first."""
        names = self.shown_arms().names
        return next((name for name in names if not name.startswith(STRATEGY_NAMES["uniform"])), names[0])

    def work(self) -> float:
        """Seconds: a step of every network and its samples."""
        if self.task == "language":
            step = 0.0054 + 0.00056 * self.devices + 0.00055 * self.batch_size
            return self.members() * self.steps * step
        return self.members() * (self.steps * (0.00031 + 1.2e-06 * self.samples) + 0.0078)


def arm_name(strategy: str, *, repeats: bool = True) -> str:
    """The arm's name on all charts."""
    return STRATEGY_NAMES[strategy] + ("" if repeats else NO_REPEATS)
