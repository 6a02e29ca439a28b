"""What can be set on the page *Schedule refinement*, and the names of the arms that follow from it."""

from __future__ import annotations

from typing import ClassVar, Literal

from normviz import knob_fields
from normviz.arms import Arms, Look
from normviz.digit_sources import missing_source
from normviz.knobs import knob
from normviz.own_data import OwnDataKnobs

__all__ = ["ARMS", "CONVEX", "FIRST_RUN", "Knobs", "OptimizerName", "ScheduleKind", "Task"]

Task = Literal["text", "digits", "absolute", "logistic"]
ScheduleKind = Literal["refined", "linear", "cosine", "inverse_sqrt", "inverse_time", "flat"]
OptimizerName = Literal["adam", "sgd"]

FIRST_RUN = "First run"
"""The arm that only records gradient norms; it has linear decay and the middle learning rate."""

ARMS: dict[str, str] = {
    "refined": "Refined",
    "linear": "Linear",
    "cosine": "Cosine",
    "inverse_sqrt": "1/√t",
    "inverse_time": "1/t",
    "flat": "Flat",
}
COLOURS = {"refined": 0, "linear": 1, "cosine": 2, "inverse_sqrt": 3, "inverse_time": 4, "flat": 5}

CONVEX = ("absolute", "logistic")
"""Tasks whose minimum is known, so that the gap to it can be measured and compared with theory."""

OFFSETS = {"inverse_sqrt": (0.01, 0.1), "inverse_time": (0.01, 0.1)}
"""Offsets b of the schedules without an end, as shares of the steps: both are trained, the better one counts."""

COST = {"text": 0.0026, "digits": 0.00079, "absolute": 3.5e-05, "logistic": 6e-05}
"""Seconds of one step of one network."""

DIGITS_COST = {"digits": 1.0, "mnist1d": 1.0, "mnist": 2.0}
"""The same, times what it is on 8 x 8 digits."""


class Knobs(OwnDataKnobs):
    """The task, the schedules that are compared, their learning rates, and how norms are smoothed."""

    own_task: ClassVar[str] = "digits"

    task: Task = knob(
        "absolute",
        label="Task",
        help="Text: a recurrent network guesses the next byte of Python's help texts. Digits: an MLP on those that are "
        "chosen as data. Absolute and logistic regression: convex, so the smallest loss is known and theory "
        "speaks about them.",
        labels={
            "text": "Text",
            "digits": "Digits",
            "absolute": "Absolute regression",
            "logistic": "Logistic regression",
        },
        section="Task",
    )
    data: Literal["digits", "mnist1d", "mnist", "own"] = knob_fields.digit_data(
        what="What the digits task has", section="Task", own="a table or images of your own"
    )
    label_noise: float = knob(
        0.0,
        0.0,
        0.4,
        label="Label noise",
        help="Digits: share of labels, in training and testing, that are replaced by another class. Gradients of wrong "
        "labels never vanish.",
        step=0.1,
        section="Task",
    )
    optimizer: OptimizerName = knob(
        "sgd",
        label="Optimizer",
        help="Adam works coordinate by coordinate: l1 norms, w = 1/G. SGD (digits: with momentum 0.9): l2 norms, "
        "w = 1/G².",
        labels={"adam": "Adam", "sgd": "SGD"},
        section="Task",
    )
    schedules: tuple[ScheduleKind, ...] = knob(
        ("refined", "linear", "cosine", "inverse_sqrt", "inverse_time", "flat"),
        label="Schedules",
        help="All start from the same weights and see the same batches, each with every learning rate of the grid. "
        "1/√t and 1/t are also tried with two offsets.",
        labels=ARMS,
        min_choices=1,
        section="Schedules",
    )
    rates: int = knob(
        9,
        1,
        9,
        label="Learning rates tried",
        help="By factors of 2 around the middle one. Each schedule is judged at its own best.",
        section="Schedules",
    )
    rate_scale: float = knob(
        1.0,
        0.05,
        20.0,
        label="Middle learning rate, times",
        help="Times what is usual here (Adam: 0.005 text, 0.002 digits, 0.05 convex; SGD: 0.5 text, 0.05 digits, the "
        "theory's D/(G√T) for convex tasks).",
        log=True,
        section="Schedules",
    )
    tau: float = knob(
        0.1,
        0.0,
        0.5,
        label="Smoothing τ",
        help="Width of the median filter over the recorded norms, as a share of the run. 0: none.",
        step=0.02,
        section="Schedules",
    )
    steps: int = knob_fields.steps(
        1000, 2000, low=40, help="Updates T of the first run and of each later one."
    )
    seeds: int = knob_fields.seeds(3)

    def kinds(self) -> tuple[str, ...]:
        """The schedules in the order of the legend."""
        return tuple(kind for kind in ARMS if kind in self.schedules)

    def convex(self) -> bool:
        """Whether the task's minimum is known."""
        return self.task in CONVEX

    def norm_type(self) -> str:
        """The norms that the optimizer's theory asks for."""
        return "l1" if self.optimizer == "adam" else "l2"

    def factors(self) -> tuple[float, ...]:
        """The learning rates of the grid, in units of the middle one."""
        return tuple(2.0 ** (i - self.rates // 2) for i in range(self.rates))

    def offsets(self, kind: str) -> tuple[float, ...]:
        """The offsets of a schedule in steps; one entry without meaning for a schedule that has none."""
        return tuple(share * self.steps for share in OFFSETS.get(kind, (0.0,)))

    def shown_arms(self) -> Arms:
        """The run that records, and one arm per schedule."""
        first = Look(FIRST_RUN, 6, 0, 6)
        return Arms((first, *(Look(ARMS[kind], COLOURS[kind], 0, COLOURS[kind]) for kind in self.kinds())))

    def networks(self) -> int:
        """Networks that are trained for each seed."""
        return 1 + self.rates * sum(len(self.offsets(kind)) for kind in self.kinds())

    def eval_every(self) -> int:
        """Steps between two measurements of the loss."""
        return max(1, self.steps // 40)

    def missing(self) -> str:
        """MNIST's pictures come with a package of their own; the reader's data must be here."""
        if self.task != "digits":
            return ""
        return self.missing_own() if self.data == "own" else missing_source(self.data)

    def work(self) -> float:
        """Seconds: the steps of every network; on a convex task all of a schedule are one batched call."""
        seeds, steps = len(self.seed_range()), self.steps * self.networks()
        cost = COST[self.task] * (self.cost(DIGITS_COST) if self.task == "digits" else 1.0)
        return seeds * (cost * steps + 0.00034 * self.steps + 0.055)
