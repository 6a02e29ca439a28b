"""What can be set on the page *Normalization statistics*, and the names of the arms that follow from it."""

from __future__ import annotations

from typing import Literal

from normviz import knob_fields
from normviz.arms import Arms
from normviz.digit_sources import DigitData, digit_source, missing_source
from normviz.knobs import Knobs as Base
from normviz.knobs import knob

__all__ = ["REFERENCE", "Knobs", "NormName", "arm_name"]

Task = Literal["language", "vision", "recurrent"]
NormName = Literal[
    "layer",
    "batch",
    "power",
    "power_v",
    "power_v_plain",
    "unified",
    "unified_filtered",
    "ema",
    "rms",
    "group",
    "none",
]

NORMS: dict[str, str] = {
    "layer": "LayerNorm",
    "batch": "BatchNorm",
    "power": "PowerNorm",
    "power_v": "PowerNorm-V",
    "power_v_plain": "PowerNorm-V plain",
    "unified": "UnifiedNorm",
    "unified_filtered": "Filtered UnifiedNorm",
    "ema": "Offline EMA",
    "rms": "RMSNorm",
    "group": "GroupNorm",
    "none": "No norm",
}

COLOURS: dict[str, int] = {
    "layer": 0,
    "batch": 1,
    "power": 2,
    "power_v": 3,
    "power_v_plain": 4,
    "unified": 7,
    "unified_filtered": 9,
    "ema": 5,
    "rms": 8,
    "group": 5,
    "none": 6,
}

REFERENCE = "BatchNorm in vision"
"""The arm that shows what batch statistics do on images, beside a language run."""

_SLOW = ("batch", "power", "power_v", "power_v_plain", "unified", "unified_filtered", "ema")
"""Norms that keep running moments."""


class Knobs(Base):
    """Task, norms, batches and training length."""

    task: Literal["language", "vision", "recurrent"] = knob(
        "language",
        label="Task",
        help="What is learned: the next character of Python's documentation by a 2-layer transformer, handwritten "
        "digits by a small ConvNet or vision transformer, or the next character by a recurrent network (LSTM).",
        labels={
            "language": "Language (transformer)",
            "vision": "Vision",
            "recurrent": "Recurrent (LSTM)",
        },
        section="Experiment",
    )
    data: DigitData = knob_fields.digit_data(what="What the vision task classifies")
    network: Literal["convnet", "vit"] = knob(
        "convnet",
        label="Network for images",
        help="Vision only: a ConvNet of three layers, or a vision transformer of six blocks with 13 norms.",
        labels={"convnet": "ConvNet", "vit": "Vision transformer"},
        section="Experiment",
    )
    tokens: Literal["characters", "words"] = knob(
        "characters",
        label="Tokens",
        help="Language only: windows of 64 characters, or sentences of up to 32 words, filled up with padding that no "
        "statistic includes.",
        labels={"characters": "Characters", "words": "Words, with padding"},
        section="Experiment",
    )
    norms: tuple[NormName, ...] = knob(
        ("layer", "batch", "power", "power_v"),
        label="Norms",
        help="The arms: the same network with each of these normalization layers, on the same batches.",
        labels=NORMS,
        section="Experiment",
    )
    learning_rate: float = knob_fields.learning_rate(
        2e-3,
        1e-4,
        1e-1,
        help="Step size of Adam. The papers use 1e-3 and below; raise it to see which norm stays stable.",
    )
    batch_size: int = knob_fields.batch_size(
        16, 128, help="Sequences or images per step. The fewer, the noisier the statistics of a batch."
    )
    small_batch: int = knob(
        4,
        2,
        16,
        label="Small batch",
        help="Vision only: every norm is also trained with batches this small, as in the LayerNorm paper's race.",
        section="Training",
    )
    sorted_batches: bool = knob(
        False,
        label="Sort batches by topic",
        help="Consecutive batches come from one topic (one digit in vision) at a time, so that batch statistics jump.",
        section="Training",
    )
    steps: int = knob_fields.steps(120, 1000)
    seeds: int = knob_fields.seeds()
    warmup: int = knob(
        30,
        0,
        200,
        label="Warm-up",
        unit="steps",
        help="Steps during which PowerNorm and UnifiedNorm still divide by the batch's own quadratic mean.",
        section="PowerNorm",
    )
    alpha_forward: float = knob(
        0.9,
        0.0,
        0.999,
        label="Forward memory α",
        help="Weight of the past in PowerNorm's running quadratic mean (the paper's value is 0.9).",
        section="PowerNorm",
    )
    alpha_backward: float = knob(
        0.9,
        0.0,
        0.999,
        label="Backward memory α",
        help="Weight of the past in the state of PowerNorm's approximate backward pass (the paper's value is 0.9).",
        section="PowerNorm",
    )
    window: int = knob(
        4,
        1,
        16,
        label="UnifiedNorm window",
        unit="batches",
        help="Batches whose quadratic means UnifiedNorm averages geometrically; 1 is an uncentred BatchNorm.",
        section="UnifiedNorm",
    )
    outlier_every: int = knob(
        0,
        0,
        50,
        label="Outlier every … batches",
        help="Vision only: in every k-th batch one image's pixels are multiplied by the factor below. 0: never.",
        section="UnifiedNorm",
    )
    outlier_factor: float = knob(
        20.0,
        1.0,
        100.0,
        label="Outlier factor",
        help="How much brighter the outlier image is than it should be.",
        step=1.0,
        section="UnifiedNorm",
    )
    groups: Literal["1", "2", "4", "8"] = knob(
        "1",
        label="Groups",
        help="Channel groups of PowerNorm's per-token scaling and of GroupNorm.",
        section="PowerNorm",
    )
    recurrent_scale: float = knob(
        1.0,
        0.5,
        4.0,
        label="Recurrent weight scale",
        help="Recurrent only: factor on the hidden-to-hidden weights at the start.",
        step=0.1,
        section="LSTM",
    )
    reference: bool = knob(
        True,
        label="Show vision beside language",
        help="Language only: also train a ConvNet with BatchNorm on digits, to compare how far its batch statistics "
        "stray.",
        section="Experiment",
    )
    corpus: str = knob_fields.corpus()

    def has_vit(self) -> bool:
        """Whether vision transformers are trained."""
        return self.task == "vision" and self.network == "vit"

    def shows_reference(self) -> bool:
        """Whether a ConvNet is trained beside the language models."""
        return self.task == "language" and self.reference

    def shown_arms(self) -> Arms:
        """Every norm, in vision also with the small batch, and the ConvNet beside a language run."""
        bases = {NORMS[norm]: COLOURS[norm] for norm in self.norms}
        endings = {"": ""}
        if self.task == "vision" and self.small_batch < self.batch_size:
            endings = {
                "": f"batch {self.batch_size}",
                f", batch {self.small_batch}": f"batch {self.small_batch}",
            }
        arms = Arms.product(bases, endings) if len(endings) > 1 else Arms.of(bases)
        return arms + Arms.of({REFERENCE: 4}) if self.shows_reference() else arms

    def missing(self) -> str:
        """MNIST's pictures come with a package of their own."""
        return missing_source(self.data) if self.task == "vision" else ""

    def work(self) -> float:
        """Seconds: a step of every network, dearer with norms that keep running moments, and its samples."""
        kind = self.network if self.task == "vision" else self.task
        steps = self.members() * self.steps
        call, sample = {
            "language": (0.0055, 0.00068),
            "convnet": (0.0014, 2.4e-05),
            "vit": (0.014, 0.00021),
            "recurrent": (0.01, 0.00017),
        }[kind]
        if kind == "convnet":  # the transformer has 16 patches of pictures of any size, 8 of a signal
            sample *= digit_source(self.data).values / digit_source("digits").values
        slow = sum(norm in _SLOW for norm in self.norms) / len(self.norms)
        call += slow * (0.0067 if kind == "recurrent" else 0.0032)
        return steps * (call + sample * self.batch_size)


def arm_name(norm: str, batch: int | None = None) -> str:
    """The arm's name on all charts; ``batch`` for the small-batch arms."""
    return NORMS[norm] if batch is None else f"{NORMS[norm]}, batch {batch}"
