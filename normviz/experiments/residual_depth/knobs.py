"""What can be set on the page *Residual depth*, and the arms that follow from it."""

from __future__ import annotations

from typing import Literal

import numpy as np

from normviz import knob_fields
from normviz.arms import Arms
from normviz.digit_sources import digit_source, missing_source
from normviz.knobs import knob
from normviz.own_data import OwnDataKnobs
from normviz.progress import STEPS, Progress
from normviz.residual.counting import residual_scale

__all__ = ["RATES", "SCALED", "SMALL", "Knobs", "MethodName", "Rate", "arm_name", "scaled", "sweep_name"]

MethodName = Literal["plain", "inv_sqrt", "inv", "skipinit", "fixup", "batchnorm", "layernorm", "custom"]
Rate = Literal["0.003", "0.01", "0.03", "0.1"]

METHODS: dict[str, str] = {
    "plain": "λ = 1",
    "inv_sqrt": "λ = 1/√n",
    "inv": "λ = 1/n",
    "skipinit": "SkipInit",
    "fixup": "Fixup",
    "batchnorm": "BatchNorm",
    "layernorm": "LayerNorm",
    "custom": "λ as set",
}
COLOURS: dict[str, int] = {
    "plain": 6,
    "inv_sqrt": 5,
    "inv": 2,
    "skipinit": 3,
    "fixup": 4,
    "batchnorm": 1,
    "layernorm": 0,
    "custom": 8,
}
SCALED = ("plain", "inv_sqrt", "inv", "custom")
"""Methods that are nothing but a scale."""

SMALL = "λ → 0"
"""The arm that shows how the remainder of the expansion falls as the scale goes to 0."""

RATES: tuple[Rate, ...] = ("0.003", "0.01", "0.03", "0.1")

DEPTHS = Progress("depth", "modules", "depth n: modules stacked")


class Knobs(OwnDataKnobs):
    """Task, depth, methods, training length."""

    task: Literal["training", "expansion", "sweep"] = knob(
        "training",
        label="Task",
        help="Train deep towers with every method; or take towers apart into their levels while modules are stacked, "
        "without training; or train one tower with many scales λ.",
        labels={"training": "Train", "expansion": "Take apart", "sweep": "Sweep the scale"},
        section="Experiment",
    )
    data: Literal["digits", "mnist1d", "mnist", "own"] = knob_fields.digit_data(
        what="What towers are trained on; taken apart, they have none", own="a table or images of your own"
    )
    methods: tuple[MethodName, ...] = knob(
        ("plain", "inv_sqrt", "inv", "skipinit", "fixup", "batchnorm"),
        label="Methods",
        help="The arms. λ multiplies every branch; SkipInit learns its multiplier from 0; Fixup starts the last layer "
        "of every branch at 0; BatchNorm and LayerNorm sit inside the branch. The sweep does not use it.",
        labels=METHODS,
        section="Experiment",
    )
    depth: int = knob(
        64,
        2,
        256,
        label="Depth n",
        help="Number of residual modules. Each has two layers, so 64 modules are 128 layers.",
        unit="modules",
        section="Experiment",
    )
    scale: float = knob(
        0.05,
        0.001,
        2.0,
        label="λ as set",
        help="The scale of the method of that name.",
        log=True,
        section="Experiment",
    )
    width: int = knob(
        32,
        8,
        128,
        label="Width",
        help="Numbers in the stream that runs through the tower, and units inside a branch.",
        step=8,
        section="Network",
    )
    activation: Literal["relu", "tanh", "gelu"] = knob(
        "relu",
        label="Activation",
        help="Inside the branches. ReLU has a kink: its expansion is that of the straight piece around each example.",
        labels={"relu": "ReLU", "tanh": "tanh", "gelu": "GELU"},
        section="Network",
    )
    learning_rates: tuple[Rate, ...] = knob(
        ("0.01",),
        label="Learning rates",
        help="SGD with momentum 0.9. With several, every method is trained with each: which method is best depends on "
        "the rate. The sweep uses the first.",
        section="Training",
    )
    batch_size: int = knob_fields.batch_size(64, 256, low=8, help="Digits per step.")
    steps: int = knob_fields.steps(100, 1000)
    seeds: int = knob_fields.seeds()
    order: int = knob(
        6,
        1,
        12,
        label="Highest level",
        help="Levels of the expansion that are computed: level k holds the paths through exactly k modules.",
        section="Expansion",
    )
    modules: Literal["branches", "linear"] = knob(
        "linear",
        label="Modules taken apart",
        help="Taken apart only: linear maps with independent normal weights, for which the theory is exact, or the "
        "two-layer branches that are trained.",
        labels={"linear": "Linear maps", "branches": "Branches"},
        section="Expansion",
    )
    tied: bool = knob(
        False,
        label="Same module everywhere",
        help="Taken apart only: one module at every place of the tower, so that its paths add up instead of averaging "
        "out.",
        section="Expansion",
    )
    sweep_points: int = knob(
        7,
        3,
        13,
        label="Scales in the sweep",
        help="Sweep only: number of scales from 1/n to 1, equally spaced on a log axis.",
        section="Sweep",
    )

    def lambdas(self) -> list[float]:
        """The sweep's scales, ascending."""
        return [float(v) for v in np.geomspace(1 / self.depth, 1.0, self.sweep_points)]

    def scale_of(self, method: str, depth: int | None = None) -> float:
        """λ of a method that is nothing but a scale, at a depth (default: the tower's)."""
        if method == "custom":
            return self.scale
        return residual_scale(depth or self.depth, "one" if method == "plain" else method)

    def rate_suffix(self, rate: str) -> str | None:
        """The rate where it is part of an arm's name: when several are trained."""
        return rate if len(self.learning_rates) > 1 else None

    def shown_arms(self) -> Arms:
        """Methods, with the rate as a dash where there are several; the scales of a sweep."""
        if self.task == "sweep":
            return Arms.of([sweep_name(lam) for lam in self.lambdas()])
        if self.task == "expansion":
            return Arms.of({METHODS[method]: COLOURS[method] for method in scaled(self)} | {SMALL: 7})
        bases = {METHODS[method]: COLOURS[method] for method in self.methods}
        if len(self.learning_rates) == 1:
            return Arms.of(bases)
        return Arms.product(bases, {f", rate {rate}": f"rate {rate}" for rate in self.learning_rates})

    def total_steps(self) -> int:
        """Updates, or modules stacked when towers are taken apart."""
        return self.depth if self.task == "expansion" else self.steps

    def progress(self) -> Progress:
        """Training steps, or the depth when towers are taken apart."""
        return DEPTHS if self.task == "expansion" else STEPS

    def missing(self) -> str:
        """MNIST comes with a package, the reader's data must be here; towers that are taken apart have no data."""
        if self.task == "expansion":
            return ""
        return self.missing_own() if self.data == "own" else missing_source(self.data)

    def work(self) -> float:
        """Seconds: a module in every step, its weights and its samples; or the terms of the expansion."""
        members, samples = self.members(), self.batch_size * self.width
        if self.task == "expansion":
            term = 7.8e-05 + samples * (1.1e-09 + 2.2e-09 * self.width)
            return members * ((self.depth + 2) * (self.order + 1) * term + 0.0098)
        module = 0.00029 + 1.6e-09 * self.width**2 + samples * (1.3e-09 + 3.4e-10 * self.width)
        seconds = self.steps * (self.depth + 2) * module + 0.0098
        if self.data != "digits":
            seconds += self._work_of_larger_data()
        return members * seconds

    def _work_of_larger_data(self) -> float:
        """Seconds of one member that more examples and more values take, beside those of the 8 x 8 digits."""
        source = self.own_size() if self.data == "own" else digit_source(self.data)
        usual = digit_source("digits")
        encoder = self.steps * self.batch_size * self.width * 3.4e-10 * (source.values - usual.values)
        more = (
            max(0, source.tested - usual.tested) * self.depth * self.width * (1.3e-09 + 3.4e-10 * self.width)
        )
        return max(0.0, encoder) + min(9.0, self.steps / 5 + 1) * more


def scaled(knobs: Knobs) -> list[str]:
    """The chosen methods that are nothing but a scale; the three rules if none was chosen."""
    return [m for m in knobs.methods if m in SCALED] or ["plain", "inv_sqrt", "inv"]


def arm_name(method: str, rate: str | None = None) -> str:
    """The arm's name on all charts; ``rate`` when several are trained."""
    return METHODS[method] if rate is None else f"{METHODS[method]}, rate {rate}"


def sweep_name(lam: float) -> str:
    """The arm of one scale of the sweep."""
    return f"λ = {lam:.3g}"
