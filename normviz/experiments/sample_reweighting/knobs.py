"""What can be set on the page *Sample reweighting*, and the names of arms and sources that follow from it."""

from __future__ import annotations

from typing import Literal

from normviz.knobs import Knobs as Base
from normviz.knobs import knob

__all__ = [
    "CONTEXT",
    "REGRESSION_SOURCES",
    "STRATEGY_NAMES",
    "TEXT_SOURCES",
    "Knobs",
    "StrategyName",
    "arm_names",
    "sources",
]

StrategyName = Literal["uniform", "linupper", "quadratic", "extremes", "upper"]

STRATEGY_NAMES: dict[str, str] = {
    "uniform": "Uniform",
    "linupper": "LinUpper",
    "quadratic": "Quadratic",
    "extremes": "Extremes",
    "upper": "Upper",
}

TEXT_SOURCES = ("clean", "duplicated", "shuffled", "foreign")
REGRESSION_SOURCES = ("regular", "redundant", "corrupted")

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
    learning_rate: float = knob(
        3e-3,
        1e-4,
        3e-2,
        label="Learning rate",
        help="Language: step size of AdamW.",
        log=True,
        section="Training",
    )
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
    batch_size: int = knob(
        24,
        8,
        64,
        label="Batch size",
        help="Language: samples per step; weights are shared out among them.",
        section="Training",
    )
    samples: int = knob(
        64,
        16,
        256,
        label="Samples",
        help="Regression: number of samples; all are in every step.",
        section="Training",
    )
    steps: int = knob(
        120,
        10,
        1000,
        label="Steps",
        help="Updates of every network.",
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
    corpus: str = knob(
        "python-docs",
        high=40,
        label="Text",
        help="Language: python-docs, or the key of a text file that was uploaded here.",
        section="Samples",
    )

    def members(self) -> int:
        """Networks that are trained."""
        return len(self.strategies) * self.seeds

    def work(self) -> float:
        """Rough floating-point operations: parameters x values x 6 for each step."""
        per_step = self.batch_size * CONTEXT * 6 * 1.1e5 if self.task == "language" else self.samples * 1e4
        return self.members() * self.steps * per_step

    work_limit = 6e12

    def work_advice(self) -> str:
        """The number of steps that fits."""
        fits = int(self.steps * self.work_limit / self.work())
        return f"With these strategies, seeds and batch size at most {fits} steps fit."


def arm_names(knobs: Knobs) -> list[str]:
    """All arms of a setting, in the order of the legend."""
    return [STRATEGY_NAMES[strategy] for strategy in knobs.strategies]


def sources(knobs: Knobs) -> tuple[str, ...]:
    """Where samples come from: the number of a source is its place here."""
    return TEXT_SOURCES if knobs.task == "language" else REGRESSION_SOURCES
