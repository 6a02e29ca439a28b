"""What can be set on the page *Attention entropy*, and the names of the arms that follow from it."""

from __future__ import annotations

from typing import Literal

from normviz import knob_fields
from normviz.arms import Arms, Look
from normviz.digit_sources import digit_source, missing_source
from normviz.experiments.attention_entropy.recorded import FUSED
from normviz.knobs import Knobs as Base
from normviz.knobs import knob

__all__ = ["ARMS", "KindName", "Knobs", "arm_name"]

KindName = Literal[
    "softmax",
    "elu1",
    "relu",
    "focused",
    "performer",
    "pola",
    "nala_cosine",
    "nala_sign",
    "nala_fixed",
    "nala_clipped",
]

ARMS: dict[str, str] = {
    "softmax": "Softmax",
    "elu1": "elu+1",
    "relu": "ReLU",
    "focused": "FLatten",
    "performer": "Performer",
    "pola": "PolaFormer",
    "nala_cosine": "NaLa cosine",
    "nala_sign": "NaLa sign",
    "nala_fixed": "NaLa, fixed power",
    "nala_clipped": "NaLa, clipped",
}
"""Names on all charts, by the kinds of :class:`kernels.LinearKernel`; the last two leave out a part of NaLa."""

COLOURS: dict[str, int] = {
    "softmax": 0,
    "elu1": 1,
    "relu": 6,
    "focused": 8,
    "performer": 5,
    "pola": 7,
    "nala_cosine": 2,
    "nala_sign": 3,
    "nala_fixed": 4,
    "nala_clipped": 9,
}


class Knobs(Base):
    """Task, kernels, size of the network, training length."""

    task: Literal["pixels", "text"] = knob(
        "pixels",
        label="Task",
        help="Handwritten digits, where every pixel is a token and all tokens see each other; or the next character of "
        "a text, where a token sees only those before it.",
        labels={"pixels": "Digits, one token per pixel", "text": "Text, next character"},
        section="Experiment",
    )
    data: Literal["digits", "mnist"] = knob_fields.digit_data(
        "digits", "mnist", what="What the task of digits has, resized to the image side"
    )
    kinds: tuple[KindName, ...] = knob(
        ("softmax", "elu1", "relu", "nala_cosine"),
        label="Attention",
        help="The arms: the same transformer with each of these kernels between the same projections, on the same "
        "batches. All but softmax are linear in the number of tokens. Two leave out a part of NaLa: the power does not "
        "follow the norm (fixed), or negative coordinates are set to zero instead of kept as angles (clipped).",
        labels=ARMS,
        section="Experiment",
    )
    lam: float = knob(
        3.0,
        1.0,
        6.0,
        label="NaLa power λ",
        help="The keys are raised to this power, the directions of the queries to λ(τ + tanh|q|). The paper has 3.",
        step=0.5,
        section="NaLaFormer",
    )
    tau: float = knob(
        0.5,
        0.1,
        2.0,
        label="NaLa floor τ",
        help="The power of a query of length zero is λτ. Below λτ = 1 a coordinate at zero has an infinite gradient.",
        step=0.1,
        section="NaLaFormer",
    )
    alpha: float = knob(
        20.0,
        1.0,
        100.0,
        label="NaLa steepness α",
        help="Cosine form: how fast the angle of a coordinate swings from -45° to 45° at zero. The sign form is the "
        "limit of steep angles.",
        step=1.0,
        section="NaLaFormer",
    )
    learning_rate: float = knob_fields.learning_rate(3e-3, 1e-4, 3e-2, help="Step size of AdamW.")
    batch_size: int = knob_fields.batch_size(50, 128, low=4, help="Images or texts per step.")
    steps: int = knob_fields.steps(80, 1000)
    seeds: int = knob_fields.seeds()
    depth: int = knob(2, 1, 8, label="Blocks", help="Transformer blocks.", section="Network")
    width: Literal["16", "32", "64"] = knob(
        "32", label="Width", help="Channels of a token, shared by two heads.", section="Network"
    )
    side: Literal["4", "8", "12", "16"] = knob(
        "8",
        label="Image side",
        unit="pixels",
        help="Digits only: the images are resized to this side; the number of tokens is its square.",
        section="Network",
    )
    context: int = knob(
        64,
        8,
        256,
        label="Text length",
        unit="characters",
        help="Text only: tokens of a sequence.",
        step=8,
        section="Network",
    )
    longest: Literal["1024", "2048", "4096", "8192"] = knob(
        "4096",
        label="Longest sequence that is timed",
        unit="tokens",
        help="After the training the attention alone is timed, from 512 tokens to this many.",
        section="Time and memory",
    )
    corpus: str = knob_fields.corpus()

    def tokens(self) -> int:
        """Length of a sequence."""
        return int(self.side) ** 2 if self.task == "pixels" else self.context

    def shown_arms(self) -> Arms:
        """The kernels in the order of the legend; with softmax also its fused form, which is timed but not trained."""
        arms = Arms.of({arm_name(kind): COLOURS[kind] for kind in self.kinds})
        if "softmax" in self.kinds:
            arms += Arms((Look(FUSED, COLOURS["softmax"], 1, 1, base=arm_name("softmax"), variant="fused"),))
        return arms

    def trained_arms(self) -> Arms:
        """The arms that are trained."""
        return self.shown_arms().only(arm_name(kind) for kind in self.kinds)

    def members(self) -> int:
        """Networks that are trained."""
        return len(self.kinds) * self.seeds

    def missing(self) -> str:
        """MNIST's pictures come with a package of their own."""
        return missing_source(self.data) if self.task == "pixels" else ""

    def work(self) -> float:
        """Seconds: a block in every step, its tokens and their pairs, times at growing lengths, and larger tests."""
        members, tokens, width = len(self.kinds) * len(self.seed_range()), self.tokens(), int(self.width)
        linear = sum(kind != "softmax" for kind in self.kinds) / len(self.kinds)
        token = width * (1e-09 + 1.6e-08 * 16 * linear + 2.5e-10 * width) + 5.9e-08 * tokens
        block = 0.0061 + self.batch_size * tokens * token
        lengths = 0.00025 * int(self.longest) * members
        tested = 0.0
        if self.task == "pixels":  # forwards alone, seven times in a run
            more = digit_source(self.data).tested - digit_source("digits").tested
            tested = members * self.depth * 0.8 * more * tokens * token
        return members * self.steps * (0.0011 + self.depth * block) + lengths + tested


def arm_name(kind: str) -> str:
    """The arm's name on all charts."""
    return ARMS[kind]
