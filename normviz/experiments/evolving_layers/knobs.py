"""What can be set on the page *Evolving layers*, and the names of the arms that follow from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, Self

from pydantic import model_validator

from normviz import knob_fields
from normviz.arms import Arms
from normviz.digit_sources import missing_source
from normviz.experiments.evolving_layers.candidates import MOST_OPERATIONS, from_code, operations
from normviz.knobs import Knobs as Base
from normviz.knobs import knob
from normviz.own_images import missing_images
from normviz.progress import STEPS, Progress
from normviz.uploads import own_fields

__all__ = ["CANDIDATES", "FOUND", "RERANK_STEPS", "STRATEGIES", "Knobs", "arm_name", "warm_start_graphs"]

LayerName = Literal["BN-ReLU", "GN-ReLU", "GN-SiLU", "B0", "B1", "B2", "S0", "S1", "S2"]
Strategy = Literal["pareto", "average", "random"]

LAYERS: dict[str, str] = {
    "BN-ReLU": "BatchNorm + ReLU",
    "GN-ReLU": "GroupNorm + ReLU",
    "GN-SiLU": "GroupNorm + SiLU",
    **{name: f"EvoNorm-{name}" for name in ("B0", "B1", "B2", "S0", "S1", "S2")},
}
FOUND = "Found"
STRATEGIES: dict[str, str] = {
    "pareto": "Evolution",
    "average": "By average",
    "random": "Random search",
}
COLOURS: dict[str, int] = {
    "BN-ReLU": 1,
    "GN-ReLU": 5,
    "GN-SiLU": 3,
    "B0": 2,
    "B1": 6,
    "B2": 8,
    "S0": 0,
    "S1": 4,
    "S2": 9,
    FOUND: 7,
    "pareto": 0,
    "average": 2,
    "random": 6,
}
CANDIDATES = Progress("candidate", "candidates", "candidate")
"""What a search counts."""
LEAST_POPULATION = 3
"""A tournament of the search takes three."""
RERANK_STEPS = 10
"""What the re-ranking after the last candidate counts in the progress of a search."""

PIXELS = {"digits": 1.0, "mnist1d": 0.7, "mnist": 12.0, "own": 12.0}
"""What an image of each data set costs, in units of a digit."""

_COMPARE, _SEARCH = "Published layers", "Search"


class Knobs(Base):
    """Comparison or search; layers, network and batch sizes; budget, population and tests of the search."""

    mode: Literal["compare", "search"] = knob(
        "compare",
        label="What to run",
        help="Train the published layers beside the usual ones, or run the search that found them at small scale.",
        labels={"compare": "Published layers", "search": "The search"},
        section="Experiment",
    )
    data: Literal["digits", "mnist1d", "mnist", "own"] = knob_fields.digit_data(
        section=_COMPARE, added=False, own="images of your own, made grey and 28 x 28"
    )
    own_images: str = knob_fields.own_images()
    layers: tuple[LayerName, ...] = knob(
        ("BN-ReLU", "GN-ReLU", "B0", "S0"),
        label="Layers",
        help="What follows every convolution: a norm and an activation, or one evolved layer in place of both. "
        "B layers use the whole batch, S layers each image alone.",
        labels=LAYERS,
        section=_COMPARE,
    )
    batch_sizes: tuple[Literal["2", "4", "8", "16", "32", "64", "128"], ...] = knob(
        ("2", "64"),
        label="Images per worker",
        help="Each layer is trained once per number. All see the same images in every step, as many as the largest "
        "number; workers share them and take their statistics over their own images alone.",
        section=_COMPARE,
    )
    shrink: Literal["workers", "batch"] = knob(
        "workers",
        label="A smaller number means",
        help="Every step sees the same images. Workers: each takes its statistics over its own images alone, and one "
        "update follows. Batch: every few images are a batch of their own with an update of their own, at a learning "
        "rate that is smaller in proportion, as in the paper.",
        labels={"workers": "More workers, one update", "batch": "A smaller batch, more updates"},
        section=_COMPARE,
    )
    network: Literal["convnet", "resnet"] = knob(
        "convnet",
        label="Network",
        help="A plain network of three convolutions or a residual network of two blocks, on images or signals.",
        labels={"convnet": "ConvNet", "resnet": "ResNet"},
        section=_COMPARE,
    )
    found: str = knob(
        "",
        high=400,
        label="A found layer",
        help="A layer of the search, as its button writes it here: nodes like 'std_bwh(0) div(0,4) max(5,1)', where 0 "
        "is the input, 1 zeros, 2 and 3 are trained per channel, 4, 5, ... the nodes. Empty: none.",
        section=_COMPARE,
    )
    strategies: tuple[Strategy, ...] = knob(
        ("pareto", "random"),
        label="Searches",
        help="Evolution that keeps what is best on some architecture (Pareto), evolution by average accuracy, and "
        "random search, each with the same budget.",
        labels={"pareto": "Evolution (Pareto)", "average": "Evolution by average", "random": "Random search"},
        section=_SEARCH,
    )
    budget: int = knob(
        150,
        1,
        1000,
        label="Candidates",
        help="How many layers each search proposes and examines. Most are rejected within a moment.",
        section=_SEARCH,
    )
    population: int = knob(
        30,
        1,
        200,
        label="Population",
        help="Accepted layers that stay alive; the oldest leaves when a new one comes (the paper: about 2500).",
        section=_SEARCH,
    )
    exploration: float = knob(
        0.5,
        0.0,
        1.0,
        label="Exploration",
        help="Probability that evolution proposes a random layer instead of a mutated one.",
        step=0.05,
        section=_SEARCH,
    )
    start: Literal["nothing", "usual", "published"] = knob(
        "nothing",
        label="Start from",
        help="Nothing, as in the paper; or let the usual layer (batch norm with ReLU, or group norm with SiLU where "
        "batch statistics are not allowed), or all published layers, in first (ours; they must pass the tests too).",
        labels={"nothing": "Nothing", "usual": "The usual layer", "published": "Published layers"},
        section=_SEARCH,
    )
    language: Literal["B", "S"] = knob(
        "B",
        label="Statistics",
        help="Whether a layer may use statistics over the batch (B series) or only over each image (S series).",
        labels={"B": "Batch too (B)", "S": "Image only (S)"},
        section=_SEARCH,
    )
    nodes: int = knob(
        10,
        1,
        16,
        label="Nodes of a graph",
        help="Operations in a random layer; not all of them need to matter (the paper: about 10).",
        section=_SEARCH,
    )
    trial_steps: int = knob(
        40,
        10,
        200,
        label="Trial training",
        unit="steps",
        help="Training steps on each of three small networks, after which a candidate must reach the threshold.",
        step=10,
        section=_SEARCH,
    )
    threshold: float = knob(
        0.2,
        0.1,
        0.9,
        label="Threshold",
        help="Accuracy that a candidate must reach on every network: twice what guessing gives (the paper's rule).",
        step=0.05,
        section=_SEARCH,
    )

    learning_rate: float = knob_fields.learning_rate(
        0.05,
        1e-3,
        1.0,
        help="Published layers: step size of gradient descent with momentum 0.9, the same for every layer, as in the "
        "paper. Where the batch shrinks, that of the largest batch.",
    )
    steps: int = knob_fields.steps(
        100, 1000, help="Published layers: how often each network sees as many images as the largest number."
    )
    seeds: int = knob_fields.seeds()

    @classmethod
    def open_sections(cls, values: Mapping[str, Any]) -> Collection[str]:
        """The sections of the mode that is chosen."""
        return ("Experiment", _SEARCH if values["mode"] == "search" else _COMPARE, "Training")

    @model_validator(mode="before")
    @classmethod
    def _own(cls, values: Any) -> Any:
        return own_fields(values, "own_images")

    def missing(self) -> str:
        """MNIST's pictures come with a package of their own, and the reader's must be on this machine."""
        if self.mode == "compare" and self.data == "own":
            return missing_images(self.own_images)
        return missing_source(self.data)

    def total_steps(self) -> int:
        """Updates of every network, or candidates of every search and the re-ranking behind them."""
        return self.steps if self.mode == "compare" else self.budget + RERANK_STEPS

    def progress(self) -> Progress:
        """Steps in a comparison, candidates in a search."""
        return STEPS if self.mode == "compare" else CANDIDATES

    def shown_arms(self) -> Arms:
        """Every search; or every layer for every number of images: colour says the layer, dash the number."""
        if self.mode == "search":
            return Arms.of({STRATEGIES[name]: COLOURS[name] for name in self.strategies})
        endings = {_ending(size): f"{size} images" for size in self.workers()}
        return Arms.product({name: COLOURS[name] for name in self.trained_layers()}, endings)

    def trained_layers(self) -> tuple[str, ...]:
        """The layers of a comparison, with the found one last."""
        return (*self.layers, FOUND) if self.found else self.layers

    def workers(self) -> tuple[int, ...]:
        """Images per worker, smallest first."""
        return tuple(sorted(int(size) for size in self.batch_sizes))

    def batch_size(self) -> int:
        """Images per step in the comparison: the largest number per worker."""
        return self.workers()[-1]

    def work(self) -> float:
        """Seconds: the steps of every trial, whose layers have many small operations; or those of every network."""
        seeds = len(self.seed_range())
        if self.mode == "search":
            steps = (self.budget + 40) * self.trial_steps * (self.nodes + 6)
            return len(self.strategies) * seeds * (0.77 + 0.002 * self.budget + 0.00019 * steps)
        blocks = 2.0 if self.network == "resnet" else 1.0
        batch, pixels = self.batch_size(), PIXELS[self.data]
        parts = sum(batch / size for size in self.workers())
        if self.shrink == "batch":
            parts *= 2  # every part has an update of its own
        sizes = len(self.workers())
        step = 0.0016 * sizes + 0.00047 * parts + 7.2e-06 * pixels * batch * sizes
        return self._layer_count() * seeds * (self.steps * blocks * step + 0.33)

    def _layer_count(self) -> float:
        """Layers that are trained; a found one counts by its nodes, of which a published one has about six."""
        return len(self.layers) + (max(1.0, self.found.count("(") / 6) if self.found else 0.0)

    @model_validator(mode="after")
    def _can_run(self) -> Self:
        if self.found:
            try:
                count = operations(from_code(self.found))
            except ValueError as error:
                raise ValueError(f"the found layer cannot be read: {error}") from None
            if count > MOST_OPERATIONS:
                raise ValueError(
                    f"the found layer has {count:,} operations when it is written out, because its parts are read "
                    f"again and again; at most {MOST_OPERATIONS} are allowed."
                )
        if self.mode == "search":
            if self.population < LEAST_POPULATION:
                raise ValueError(
                    f"a population of {self.population} is too small to run: a tournament takes "
                    f"{LEAST_POPULATION}. The smallest that works is {LEAST_POPULATION}."
                )
            least = len(warm_start_graphs(self.start, self.language)) + 1
            if self.budget < least:
                raise ValueError(
                    f"a budget of {self.budget} candidates is too small to run: {least - 1} of them are the layers it "
                    f"starts from. The smallest that works is {least}."
                )
        return self


def warm_start_graphs(start: str, language: str) -> tuple[str, ...]:
    """Names in :data:`normviz.norms.EVONORM_GRAPHS` of the layers a search starts from."""
    if start == "nothing":
        return ()
    image = ("GN-SiLU", "S0", "S1", "S2")
    series = image if language == "S" else ("BN-ReLU", "B0", "B2", *image)
    return series if start == "published" else series[:1]


def arm_name(layer: str, size: int) -> str:
    """Name of a layer's arm for a number of images per worker."""
    return layer + _ending(size)


def _ending(size: int) -> str:
    return f", n={size}"
