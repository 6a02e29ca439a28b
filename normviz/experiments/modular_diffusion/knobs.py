"""What can be set on the page *Modular diffusion*, and the arms that follow from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import model_validator

from normviz import knob_fields
from normviz.arms import SYMBOLS, Arms, Look
from normviz.knobs import Knobs as Base
from normviz.knobs import knob

__all__ = ["ARM_NAMES", "SHARED", "ArmName", "Knobs"]

ArmName = Literal["orthogonal", "disjoint", "gaussian", "lora", "frozen", "shared", "lora_shared"]

ARM_NAMES: dict[str, str] = {
    "orthogonal": "Orthogonal",
    "disjoint": "Disjoint",
    "gaussian": "Gaussian",
    "lora": "LoRA",
    "frozen": "Orthogonal, fixed token",
    "shared": "Orthogonal, shared input",
    "lora_shared": "LoRA, shared input",
}

LOOKS: dict[str, tuple[int, int]] = {
    "orthogonal": (0, 0),
    "disjoint": (2, 2),
    "gaussian": (4, 4),
    "lora": (1, 0),
    "frozen": (5, 5),
    "shared": (8, 3),
    "lora_shared": (3, 3),
}
"""Colour and dash of each arm."""

SHARED = ("shared", "lora_shared")
"""Arms whose adapters sit in layers that read the point and the time."""


class Knobs(Base):
    """Concepts, adapters, merging, the small diffusion model and the training length."""

    arms: tuple[ArmName, ...] = knob(
        ("orthogonal", "lora"),
        label="Adapters",
        help="Orthogonal: the reading side of every adapter is fixed to random columns of a shared orthogonal matrix. "
        "Disjoint: columns that nobody else has. Gaussian: random numbers. LoRA: both sides are trained. Fixed token: "
        "only the adapters are trained. Shared input: the adapters sit in layers that read the point and the time.",
        labels=ARM_NAMES,
        section="Experiment",
    )
    concepts: int = knob(
        3,
        2,
        6,
        label="Concepts",
        help="Each is learned by a user of its own. All are merged into one model.",
        section="Experiment",
    )
    rank: int = knob(
        4,
        1,
        16,
        label="Rank r",
        help="Columns of every adapter. The paper's value is not confirmed; n/64 here.",
        section="Experiment",
    )
    token_width: int = knob(
        256,
        64,
        512,
        label="Width of the token n",
        help="Numbers of a concept's token: the input of the layers that are adapted. Wider: frames overlap less.",
        step=32,
        section="Experiment",
    )
    strength: float = knob(
        1.0,
        0.0,
        1.5,
        label="Strength λ",
        help="What every adapter is multiplied with in the sum. 1: the plain sum.",
        step=0.05,
        section="Experiment",
    )
    start_noise: float = knob(
        1.0,
        0.0,
        2.0,
        label="Difference of the tokens",
        help="A concept's token starts as the base model's plus so much noise of the same length. Near 0 all concepts "
        "start with nearly the same token.",
        step=0.1,
        section="Experiment",
    )
    hidden: int = knob(
        128,
        32,
        256,
        label="Width of the network",
        help="Units of each of the three hidden layers.",
        step=32,
        section="Diffusion model",
    )
    base_steps: int = knob(
        600,
        50,
        3000,
        label="Training of the base model",
        unit="steps",
        help="Updates on eight round spots before any concept comes. All arms of a seed start from this model.",
        step=50,
        section="Diffusion model",
    )
    learning_rate: float = knob_fields.learning_rate(
        5e-3, 5e-4, 3e-2, help="Step size of Adam for tokens and adapters."
    )
    batch_size: int = knob_fields.batch_size(128, 512, low=16, help="Points per step and concept.")
    steps: int = knob_fields.steps(400, 2000, help="Updates of every concept.")
    seeds: int = knob_fields.seeds(1)

    @model_validator(mode="after")
    def _frames_fit(self) -> Self:
        if "disjoint" in self.arms and self.concepts * self.rank > self.token_width:
            raise ValueError(
                f"{self.concepts} concepts of rank {self.rank} cannot all be disjoint in {self.token_width} "
                f"dimensions: at most {self.token_width // self.rank} can. Lower the rank or the number of concepts, "
                "or take a wider token."
            )
        return self

    def kinds(self, among: Iterable[str] = ARM_NAMES) -> list[str]:
        """The arms that are trained (of those ``among``), in the order of the legend."""
        wanted = set(among)
        return [arm for arm in ARM_NAMES if arm in self.arms and arm in wanted]

    def shown_arms(self) -> Arms:
        """The arms with their looks."""
        looks = [Look(ARM_NAMES[arm], *LOOKS[arm], LOOKS[arm][0] % SYMBOLS) for arm in self.kinds()]
        return Arms(tuple(looks))

    def evaluation_every(self) -> int:
        """Steps between two evaluations."""
        return max(5, self.steps // 8)

    def work(self) -> float:
        """Seconds: steps of every concept of every arm, samples at every evaluation, and the base's training."""
        seeds, wide = len(self.seed_range()), self.hidden / 128
        step = 0.00058 + 0.00015 * wide**2 + self.batch_size * wide * (1.4e-06 + 1.2e-06 * wide)
        drawn = (2 + self.steps / self.evaluation_every()) * (0.039 + 0.011 * self.concepts * wide)
        base = self.base_steps * (0.00034 + 0.00033 * wide**2)
        return seeds * (len(self.arms) * self.concepts * (self.steps * step + drawn) + base + 0.32)
