"""What can be set on the page *Optimizer spectra*, and the arms and learning rates that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from normviz import knob_fields
from normviz.arms import Arms, Look
from normviz.digit_sources import DigitData, missing_source
from normviz.knobs import Knobs as Base
from normviz.knobs import knob

__all__ = [
    "CENTRES",
    "NAMES",
    "PLANS",
    "SPIKE_AT",
    "Knobs",
    "learning_rates",
    "member_name",
    "split_member",
]

OptimizerName = Literal[
    "adamw",
    "sgd",
    "muon",
    "normuon",
    "sinkgd",
    "swan",
    "conda",
    "galore",
    "fira",
    "fira_free",
    "gradnorm",
    "whitening",
    "adafactor",
    "conda_once",
    "soap",
    "lora",
]

NAMES: dict[str, str] = {
    "adamw": "AdamW",
    "sgd": "SGD",
    "muon": "Muon",
    "normuon": "NorMuon",
    "sinkgd": "SinkGD",
    "swan": "SWAN",
    "conda": "Conda",
    "galore": "GaLore",
    "fira": "Fira",
    "fira_free": "Fira, no limiter",
    "gradnorm": "GradNorm",
    "whitening": "Whitening",
    "adafactor": "Adafactor",
    "conda_once": "Conda, one basis",
    "soap": "SOAP",
    "lora": "LoRA",
}

ARMS = Arms(
    tuple(
        Look(NAMES[name], colour, dash, symbol)
        for name, colour, dash, symbol in (
            ("adamw", 0, 0, 0),
            ("sgd", 6, 0, 6),
            ("muon", 1, 1, 1),
            ("normuon", 2, 2, 2),
            ("sinkgd", 3, 3, 3),
            ("swan", 4, 4, 4),
            ("conda", 5, 5, 5),
            ("galore", 8, 2, 0),
            ("fira", 7, 1, 7),
            ("fira_free", 7, 2, 7),
            ("gradnorm", 9, 3, 1),
            ("whitening", 8, 1, 2),
            ("adafactor", 9, 5, 3),
            ("conda_once", 5, 0, 5),
            ("soap", 6, 4, 2),
            ("lora", 8, 5, 6),
        )
    )
)
"""How every optimizer is drawn; variants of Fira and Conda have their colour."""

SAME_RATES = {"fira_free": "fira", "conda_once": "conda"}
"""Variants that have the learning rates of the optimizer that they vary."""

PLANS = {
    "everywhere": "all on every machine",
    "in order": "dealt in the layers' order",
    "sorted": "sorted by size, then dealt",
}
"""Ways to spread Newton-Schulz over machines; the last one is NorMuon's."""

SPIKE_AT = 0.6
"""Share of the steps after which the bad batch comes."""

FACTOR = 3.0
"""Ratio of two neighbouring learning rates of a grid."""

CENTRES: dict[str, dict[str, float]] = {
    "digits": {
        "adamw": 0.015,
        "sgd": 0.4,
        "muon": 0.03,
        "normuon": 0.03,
        "sinkgd": 0.1,
        "swan": 0.15,
        "conda": 0.03,
        "galore": 0.2,
        "fira": 0.06,
        "gradnorm": 0.15,
        "whitening": 0.15,
        "adafactor": 0.09,
        "soap": 0.01,
        "lora": 0.03,
    },
    "regression": {
        "adamw": 0.3,
        "sgd": 10.0,
        "muon": 1.0,
        "normuon": 1.0,
        "sinkgd": 0.5,
        "swan": 1.5,
        "conda": 2.0,
        "galore": 1.5,
        "fira": 0.7,
        "gradnorm": 0.5,
        "whitening": 3.0,
        "adafactor": 0.9,
        "soap": 0.9,
        "lora": 0.1,
    },
    "language": {
        "adamw": 3e-3,
        "sgd": 0.9,
        "muon": 0.02,
        "normuon": 0.02,
        "sinkgd": 0.06,
        "swan": 0.18,
        "conda": 0.03,
        "galore": 0.03,
        "fira": 0.01,
        "gradnorm": 0.06,
        "whitening": 0.18,
        "adafactor": 0.09,
        "soap": 3e-3,
        "lora": 5e-3,
    },
}
"""The middle of each grid: the best of a coarse sweep of 80 to 100 steps with seeds that the page does not use."""


DIGITS_COST: dict[str, Callable[[int], tuple[float, float]]] = {
    "digits": lambda batch: (0.0015, 3.5e-06 * batch),
    "mnist1d": lambda batch: (0.0016, 3.5e-06 * batch),
    "mnist": lambda batch: (0.0026, 1e-05 * batch),
}
"""Seconds of a step of one network on each kind of digits: however small the batch, and for its examples."""


class Knobs(Base):
    """Task, optimizers, learning rates, and what each optimizer has to be set."""

    task: Literal["digits", "regression", "language"] = knob(
        "digits",
        label="Task",
        help="What is learned: handwritten digits by a network of three hidden layers, an ill-conditioned matrix "
        "equation A W B = C for one matrix W, or the next character of a text by a 2-block transformer.",
        labels={"digits": "Digits (MLP)", "regression": "Matrix equation", "language": "Text (GPT)"},
        section="Experiment",
    )
    data: DigitData = knob_fields.digit_data(what="What the digits task has")
    optimizers: tuple[OptimizerName, ...] = knob(
        ("adamw", "muon", "normuon", "sinkgd", "swan", "conda", "galore", "fira"),
        label="Optimizers",
        help="The arms: the same network, each weight matrix inside it stepped by one of these. Everything that is no "
        "such matrix (embeddings, output layer, biases) is stepped by the same AdamW in every arm. GradNorm and "
        "Whitening are the two halves of SWAN, each alone. Conda with one basis never renews it. "
        "LoRA leaves the matrix as it was drawn and trains a product of two thin matrices beside it.",
        labels=NAMES,
        section="Experiment",
    )
    matrix: Literal["tall", "square", "wide"] = knob(
        "tall",
        label="Matrix that is measured",
        help="Whose gradient and update are taken apart: one with more rows (neurons) than columns, as many, or fewer.",
        labels={"tall": "Tall", "square": "Square", "wide": "Wide"},
        section="Experiment",
    )
    grid: Literal["1", "3", "5"] = knob(
        "3",
        label="Learning rates per optimizer",
        help="Each optimizer is trained with so many learning rates, a factor of 3 apart; the charts show its best "
        "one, so that none wins by its learning rate alone.",
        section="Training",
    )
    lr_factor: float = knob(
        1.0,
        0.1,
        10.0,
        label="Factor on all learning rates",
        help="Shifts every optimizer's grid together.",
        log=True,
        section="Training",
    )
    schedule: Literal["linear", "constant"] = knob(
        "linear",
        label="Schedule",
        help="Learning rates fall linearly to zero over the run, or stay as they are. Optimizers with steps of a fixed "
        "size cannot settle without a fall.",
        labels={"linear": "Linear fall", "constant": "Constant"},
        section="Training",
    )
    shorter: float = knob(
        1.0,
        0.2,
        1.0,
        label="Length of all schedules but AdamW's",
        help="Below 1 the learning rates of all other optimizers fall to zero after this share of the steps, and they "
        "stand still from then on: who ends level with AdamW has needed that share of its steps.",
        step=0.05,
        section="Training",
    )
    batch_size: int = knob_fields.batch_size(
        128,
        256,
        low=8,
        help="Images per step; of text, an eighth as many windows of 64 characters. Fewer mean noisier gradients of "
        "lower rank. The matrix equation has no batches.",
    )
    steps: int = knob_fields.steps(80, 600, low=20)
    seeds: int = knob_fields.seeds()
    spike: bool = knob(
        False,
        label="One bad batch",
        help="After 60 % of the steps one gradient is multiplied by 20: see whose loss jumps.",
        section="Training",
    )
    momentum: float = knob(
        0.95, 0.0, 0.99, label="Momentum", help="Of Muon and NorMuon.", section="Muon and NorMuon"
    )
    ns_steps: int = knob(
        5,
        1,
        10,
        label="Newton–Schulz steps",
        help="How often the iteration that flattens the spectrum is repeated.",
        section="Muon and NorMuon",
    )
    beta2: float = knob(
        0.95,
        0.0,
        0.99,
        label="Neuron memory β₂",
        help="Weight of the past in NorMuon's mean square of each row.",
        section="Muon and NorMuon",
    )
    scale: Literal["official", "rms", "none"] = knob(
        "official",
        label="NorMuon's size",
        help="Keep Muon's size times √(rows/columns) as in the code, give every update RMS 0.2 as in the paper, or "
        "only keep Muon's size.",
        labels={"official": "Code", "rms": "Paper (RMS 0.2)", "none": "Muon's"},
        section="Muon and NorMuon",
    )
    world: int = knob(
        4,
        1,
        8,
        label="Machines in the plan",
        help="Over how many machines the distributed plan deals the matrices of GPT-2 small.",
        section="Muon and NorMuon",
    )
    sweeps: int = knob(
        5,
        1,
        20,
        label="Sinkhorn sweeps",
        help="How often SinkGD scales rows, then columns, to equal length.",
        section="SinkGD and SWAN",
    )
    swan_scheme: Literal["full", "diagonal"] = knob(
        "full",
        label="SWAN's whitening",
        help="All of it (ten iterations with matrix products), or the cheap scheme with diagonal products, which turns "
        "directions around that are more than 2.2 times stronger than average: with gradients of a few strong "
        "directions, as here, its steps raise the loss.",
        labels={"full": "Full", "diagonal": "Diagonal"},
        section="SinkGD and SWAN",
    )
    gap: int = knob(
        20,
        1,
        200,
        label="Steps between two bases",
        help="After so many steps Conda, GaLore and Fira compute their singular vectors anew (the papers' 200 and 2000 "
        "are longer than a run here).",
        section="Conda, GaLore, Fira",
    )
    rank: int = knob(
        8,
        1,
        32,
        label="Rank",
        help="Directions that GaLore and Fira keep in their memory, and the rank of LoRA's product.",
        section="Conda, GaLore, Fira",
    )
    alpha: float = knob(
        0.25,
        0.05,
        1.0,
        label="Scale",
        help="Factor of the projected update (Conda's scale, GaLore's and Fira's α; the papers' runs use 0.25).",
        section="Conda, GaLore, Fira",
    )
    gamma: float = knob(
        1.01,
        1.0,
        1.2,
        label="Fira's growth limit γ",
        help="From one step to the next the residual's norm may grow by at most this factor.",
        step=0.01,
        section="Conda, GaLore, Fira",
    )
    corpus: str = knob_fields.corpus()

    def shown_arms(self) -> Arms:
        """The optimizers; each is trained with every rate of its grid and shown at its best."""
        return ARMS.ordered(NAMES[optimizer] for optimizer in self.optimizers)

    def members(self) -> int:
        """Networks that are trained."""
        return super().members() * int(self.grid)

    def windows(self) -> int:
        """Windows of text per step."""
        return max(1, self.batch_size // 8)

    def missing(self) -> str:
        """MNIST's pictures come with a package of their own."""
        return missing_source(self.data) if self.task == "digits" else ""

    def work(self) -> float:
        """Seconds: a step of every network, and its pictures or windows of text."""
        call, sample = {
            "digits": DIGITS_COST[self.data](self.batch_size),
            "regression": (0.001, 0.0),
            "language": (0.003, 0.0001 * 8 * self.windows()),
        }[self.task]
        return self.members() * (self.steps * (call + sample) + 0.14)


def learning_rates(knobs: Knobs, optimizer: str) -> list[float]:
    """The grid of one optimizer, ascending: its centre times powers of 3."""
    centre = CENTRES[knobs.task][SAME_RATES.get(optimizer, optimizer)] * knobs.lr_factor
    half = int(knobs.grid) // 2
    return [float(f"{centre * FACTOR**k:.2g}") for k in range(-half, half + 1)]


def member_name(optimizer: str, rate: float) -> str:
    """The name under which one optimizer with one learning rate is trained."""
    return f"{NAMES[optimizer]}, lr {rate:g}"


def split_member(name: str) -> tuple[str, float]:
    """Optimizer and learning rate of a member's name."""
    arm, _, rate = name.rpartition(", lr ")
    return arm, float(rate)
