"""What can be set on the page *Context adapters*, and the names of the arms that follow from it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from normviz import knob_fields
from normviz.arms import Arms, Look
from normviz.digit_sources import DigitData, digit_source, missing_source
from normviz.knobs import Knobs as Base
from normviz.knobs import knob

__all__ = ["ARMS", "FULL", "IPA", "KPA", "LORA", "PISSA", "ArmKind", "Knobs"]

ArmKind = Literal["lora", "pissa", "kpa", "ipa", "full", "kpa_wrong", "kpa_noise", "ipa_wrong", "ipa_noise"]

LORA, PISSA, KPA, IPA, FULL = "LoRA", "PiSSA", "CorDA KPA", "CorDA IPA", "Full"
ARMS: dict[str, str] = {
    "lora": LORA,
    "pissa": PISSA,
    "kpa": KPA,
    "ipa": IPA,
    "full": FULL,
    "kpa_wrong": "KPA, wrong data",
    "kpa_noise": "KPA, noise",
    "ipa_wrong": "IPA, wrong data",
    "ipa_noise": "IPA, noise",
}
LOOKS = {
    "lora": (0, 0, 0),
    "pissa": (2, 2, 2),
    "kpa": (1, 0, 1),
    "ipa": (3, 3, 3),
    "full": (6, 1, 4),
    "kpa_wrong": (1, 2, 5),
    "kpa_noise": (1, 4, 6),
    "ipa_wrong": (3, 2, 5),
    "ipa_noise": (3, 4, 6),
}
"""Colour, dash and symbol: the colour says the method, dash and symbol where its calibration samples come from."""

EVALUATIONS = 30
"""Moments at which both tasks are tested."""


class Knobs(Base):
    """A network that knows one task learns another through adapters that start in different places."""

    arms: tuple[ArmKind, ...] = knob(
        ("lora", "pissa", "kpa", "ipa", "full"),
        label="Where the adapter starts",
        help="LoRA: random, without effect. PiSSA: the weight's largest components. CorDA: components of weight times "
        "covariance, the smallest (KPA) or the largest (IPA). Full: no adapter, every weight is trained. Wrong data: "
        "calibrated on the other task. Noise: calibrated on random pictures.",
        labels=ARMS,
        section="Adapters",
    )
    rank: int = knob(
        8,
        1,
        64,
        label="Rank r",
        help="Components that are trained in each layer. With 64 all of the first layer is, on digits of 8 x 8 pixels.",
        section="Adapters",
    )
    alpha: float = knob(
        8.0,
        1.0,
        64.0,
        label="LoRA's α",
        help="The adapter counts s = α / r times. CorDA's own code has s = 1, which is α = r.",
        step=1.0,
        section="Adapters",
    )
    sigma_fuse: Literal["UV", "U", "V"] = knob(
        "UV",
        label="Singular values go to",
        help="Which factor takes the singular values: both by their root, B alone or A alone.",
        labels={"UV": "both factors", "U": "B", "V": "A"},
        section="Adapters",
    )
    samples: int = knob(
        256,
        1,
        512,
        label="Calibration samples",
        help="Pictures that are sent through the network before training. Fewer than the first layer has "
        "inputs (64 on digits of 8 x 8 pixels) cannot excite every direction of it.",
        section="Calibration",
    )
    damp: float = knob(
        0.01,
        1e-4,
        1.0,
        label="Damping",
        help="Share of the mean diagonal that is added to the covariance before it is inverted. It is doubled until "
        "the inverse is good enough.",
        log=True,
        section="Calibration",
    )
    data: DigitData = knob_fields.digit_data(what="What both tasks are made of", section="Tasks")
    new_task: Literal["permuted", "rotated", "relabelled"] = knob(
        "permuted",
        label="New task",
        help="Digits whose pixels are shuffled in one fixed way, turned by 90 degrees (a signal is read backwards), or "
        "left as they are. The labels are shifted by 5 in each, so that the frozen head must be served anew.",
        labels={"permuted": "shuffled pixels", "rotated": "turned by 90°", "relabelled": "same pictures"},
        section="Tasks",
    )
    first_steps: int = knob(
        400,
        50,
        1000,
        label="Steps on the first task",
        help="How long the network learns the digits before it is adapted. These steps are not shown.",
        step=50,
        section="Tasks",
    )
    steps: int = knob_fields.steps(300, 2000)
    learning_rate: float = knob_fields.learning_rate(
        1e-3, 1e-5, 0.1, help="Of Adam, the same for every arm. It matters more than the start."
    )
    batch_size: int = knob_fields.batch_size(64, 256)
    seeds: int = knob_fields.seeds(3)

    def kinds(self) -> tuple[str, ...]:
        """The arms' keys, in the order of the legend."""
        return tuple(kind for kind in ARMS if kind in self.arms) or ("kpa",)

    def shown_arms(self) -> Arms:
        """One arm for each start."""
        return Arms(tuple(Look(ARMS[kind], *LOOKS[kind]) for kind in self.kinds()))

    def stride(self) -> int:
        """Steps between two tests."""
        return max(1, self.steps // EVALUATIONS)

    def missing(self) -> str:
        """MNIST's pictures come with a package of their own."""
        return missing_source(self.data)

    @model_validator(mode="after")
    def _has_components(self) -> Self:
        most = digit_source(self.data).values
        if self.rank > most:
            raise ValueError(
                f"a rank of {self.rank} is too large to run: the first layer has {most} components on these digits. "
                f"The largest that works is {most}."
            )
        return self

    def work(self) -> float:
        """Seconds: the steps of every arm and of the first task, their samples, and what larger inputs take at once."""
        arms = len(self.kinds())
        more = max(0, digit_source(self.data).values - digit_source("digits").values)
        step = 0.00052 + (2.4e-06 + 5.5e-09 * more) * self.batch_size
        fixed = 0.11 * arms + more * (0.0005 + 0.00014 * arms)
        return len(self.seed_range()) * ((self.steps * arms + self.first_steps) * step + fixed)
