"""What can be set on the page *Vision modulation*, and the arms that follow from it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from normviz import knob_fields
from normviz.arms import SYMBOLS, Arms, Look
from normviz.experiments.vision_modulation.words import Vocabulary
from normviz.knobs import Knobs as Base
from normviz.knobs import knob

__all__ = ["ARM_NAMES", "LAVI", "ArmName", "Knobs"]

ArmName = Literal["attention", "frozen", "mlp", "conv", "pooled", "concat", "cross", "concat_frozen"]

ARM_NAMES: dict[str, str] = {
    "attention": "LaVi attention",
    "frozen": "LaVi, host frozen",
    "mlp": "LaVi MLP",
    "conv": "LaVi conv",
    "pooled": "Pooled",
    "concat": "Concat",
    "cross": "Cross-attention",
    "concat_frozen": "Concat, host frozen",
}

LOOKS: dict[str, tuple[int, int]] = {
    "attention": (0, 0),
    "frozen": (0, 1),
    "mlp": (2, 2),
    "conv": (4, 4),
    "pooled": (6, 3),
    "concat": (1, 0),
    "cross": (3, 5),
    "concat_frozen": (1, 1),
}
"""Colour and dash of each arm; a frozen one has its trained twin's colour."""

LAVI = ("attention", "frozen", "mlp", "conv", "pooled")
"""Arms that see through their norms."""

_COST = {
    "attention": 1.3,
    "frozen": 1.2,
    "mlp": 1.8,
    "conv": 2.2,
    "pooled": 1.2,
    "concat": 1.0,
    "cross": 1.1,
    "concat_frozen": 0.8,
}
"""Time of a step relative to concatenation, at the default sizes."""


class Knobs(Base):
    """World, question, arms, modulation, network and the training length."""

    arms: tuple[ArmName, ...] = knob(
        ("attention", "frozen", "pooled", "concat"),
        label="Ways to see",
        help="LaVi: the picture changes gain and bias of the norms, by word. MLP and conv read it with other modules "
        "than attention. Pooled: one change for all words (a control). Concat: the picture's tokens stand before the "
        "text. Cross-attention: extra layers. Host frozen: only what reads the picture is trained.",
        labels=ARM_NAMES,
        section="Experiment",
    )
    side: int = knob(
        2,
        2,
        5,
        label="Cells per side",
        help="The picture has side × side cells. Each cell is one visual token.",
        section="Experiment",
    )
    colours: int = knob(
        4,
        2,
        8,
        label="Colours",
        help="Each cell has one of them, at random. Guessing is right once in so many times.",
        section="Experiment",
    )
    question: Literal["name", "row-column"] = knob(
        "name",
        label="Question",
        help="One word that names the cell, or three words: row, column, question mark.",
        labels={"name": "“b2”", "row-column": "“row 2, column 2, ?”"},
        section="Experiment",
    )
    filler: int = knob(
        0,
        0,
        12,
        label="Words before it",
        help="Words of ordinary text before the question. They have nothing to do with the picture.",
        section="Experiment",
    )
    modulate: Literal["both", "scale", "shift"] = knob(
        "both",
        label="What changes",
        help="Gain and bias of the norms, or one of them.",
        labels={"both": "Gain and bias", "scale": "Gain", "shift": "Bias"},
        section="Modulation",
    )
    sublayers: Literal["both", "attn", "ffn"] = knob(
        "both",
        label="Where",
        help="The norm before attention, before the feed-forward part, or both.",
        labels={"both": "Both norms", "attn": "Before attention", "ffn": "Before feed-forward"},
        section="Modulation",
    )
    modulate_every: int = knob(
        1,
        1,
        4,
        label="Every k-th block",
        help="1: every block is modulated (or has cross-attention). Counted from the first block.",
        section="Modulation",
    )
    cond_dim: int = knob(
        16,
        4,
        64,
        label="Conditioner's width r",
        help="Width of what a word reads from the picture. The paper's is not known to us.",
        step=4,
        section="Modulation",
    )
    width: int = knob(
        32,
        16,
        64,
        label="Width",
        help="Numbers per word inside the language model.",
        step=8,
        section="Language model",
    )
    depth: int = knob(2, 1, 4, label="Blocks", help="Blocks of the language model.", section="Language model")
    host_steps: int = knob(
        100,
        0,
        600,
        label="Text training first",
        unit="steps",
        help="Updates of the language model on text alone, before any picture comes. All arms start from this model.",
        step=10,
        section="Language model",
    )
    learning_rate: float = knob_fields.learning_rate(
        5e-3, 1e-4, 2e-2, help="Step size of AdamW, the same for all arms and for the text training."
    )
    batch_size: int = knob_fields.batch_size(64, 128, low=8, help="Questions per step.")
    steps: int = knob_fields.steps(160, 3000, low=10)
    seeds: int = knob_fields.seeds()

    @property
    def cells(self) -> int:
        """M: cells of a picture, and visual tokens."""
        return self.side**2

    @property
    def text_length(self) -> int:
        """T: words before the answer."""
        return self.filler + (1 if self.question == "name" else 3)

    @property
    def heads(self) -> int:
        """Heads of self-attention: four where the width allows it."""
        return math.gcd(self.width, 4)

    @property
    def cond_heads(self) -> int:
        """Heads of the attention conditioner: four where r allows it."""
        return math.gcd(self.cond_dim, 4)

    def modulated_norms(self) -> list[str]:
        """Short names of the norms that an arm of LaVi modulates: block and part, e.g. ``"1 attn"``."""
        parts = ("attn", "ffn") if self.sublayers == "both" else (self.sublayers,)
        return [f"{i + 1} {part}" for i in range(0, self.depth, self.modulate_every) for part in parts]

    def vocabulary(self) -> Vocabulary:
        """The words of the world."""
        return Vocabulary(self.side, self.colours)

    def kinds(self, among: Iterable[str] = ARM_NAMES) -> list[str]:
        """The arms that are trained (of those ``among``), in the order of the legend."""
        wanted = set(among)
        return [arm for arm in ARM_NAMES if arm in self.arms and arm in wanted]

    def shown_arms(self) -> Arms:
        """The arms with their looks."""
        looks = [Look(ARM_NAMES[arm], *LOOKS[arm], LOOKS[arm][0] % SYMBOLS) for arm in self.kinds()]
        return Arms(tuple(looks))

    def work(self) -> float:
        """Seconds: the blocks of every network in every step, and their tokens."""
        seeds, tokens = len(self.seed_range()), self.batch_size * (self.text_length + self.cells)
        steps = sum(_COST[arm] for arm in self.arms) * self.steps + self.host_steps
        block = 0.003 + tokens * (2.2e-08 * self.width + 3.1e-10 * self.width**2)
        return seeds * (steps * (0.00086 + self.depth * block) + 0.18 * len(self.arms))
