"""What can be set on the page *Entropy decoding*, and the arms that follow from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import gcd
from typing import Any, Literal, Self

from pydantic import model_validator

from normviz import knob_fields
from normviz.arms import DASHES, SYMBOLS, Arms, Look
from normviz.experiments.entropy_decoding.recorded import (
    LETTER_PLACES,
    NEW_TOKENS,
    PROMPT,
    RANDOM_SHARES,
    WORD_PLACES,
    WORLD,
)
from normviz.knobs import Knobs as Base
from normviz.knobs import knob
from normviz.progress import Progress

__all__ = ["EAD", "LARGE", "RANDOM", "SINGLE", "SMALL", "SPECULATIVE", "Knobs"]

SMALL, LARGE, EAD, RANDOM, SINGLE, SPECULATIVE = (
    "Small model",
    "Large model",
    "EAD",
    "Random switching",
    "Every single token",
    "Speculative",
)
RIVALS: dict[str, str] = {"random": RANDOM, "single": SINGLE, "speculative": SPECULATIVE}
COLOURS = {SMALL: 0, LARGE: 1, EAD: 2, RANDOM: 6, SINGLE: 4, SPECULATIVE: 3}

TAUS: dict[str, tuple[float, ...]] = {
    "stretches": (0.4, 0.7, 1.0, 1.4, 2.0),
    "text": (1.0, 1.5, 2.0, 2.5, 3.0),
}
"""Thresholds that decode every prompt, beside the one that is set."""


class Knobs(Base):
    """Language, switch rule, decoding, the two models and how long they train."""

    task: Literal["stretches", "text"] = knob(
        "stretches",
        label="Language",
        help="Stretches: letters in the order of the alphabet (easy), then digits, each the sum of the two before it "
        "(hard). Text: Python's help texts, or a text of yours.",
        labels={"stretches": "Letters and digits", "text": "Real text"},
        section="Language",
    )
    stretch: Literal["long", "short"] = knob(
        "long",
        label="Stretches",
        help="Long: 18 to 26 letters, then 10 to 14 digits. Short: 1 to 4 of each, and a sum goes on from the last two "
        "digits of earlier stretches.",
        labels={"long": "Long", "short": "Short"},
        section="Language",
    )
    noise: float = knob(
        0.2,
        0.0,
        0.5,
        label="Random digits",
        help="Share of the digits that do not follow the rule. Without them the large model becomes sure of digits.",
        step=0.05,
        section="Language",
    )
    prompt: str = knob(
        "uvwxyz0123",
        high=PROMPT,
        label="Your prompt",
        help=f"1 to {PROMPT} characters, a to z and 0 to 9: the first picture shows how the models go on.",
        section="Language",
    )
    text_prompt: str = knob(
        "The function ",
        high=PROMPT,
        label="Your prompt for real text",
        help=f"1 to {PROMPT} characters. One that the text does not have is read as a space.",
        section="Data",
    )
    corpus: str = knob_fields.corpus()
    tau: float = knob(
        1.0,
        0.0,
        3.0,
        label="Threshold τ",
        unit="bits",
        help="The large model writes while the mean entropy is above it. No network is trained again for it.",
        step=0.05,
        section="Switch rule",
    )
    window: int = knob(
        5,
        1,
        20,
        label="Window w",
        unit="tokens",
        help="Number of entropies that are averaged. 5 in the paper.",
        section="Switch rule",
    )
    min_tokens: int = knob(
        10,
        1,
        20,
        label="Shortest run",
        unit="tokens",
        help="A model writes at least so many tokens before the other one takes over. The paper's number is not known.",
        section="Switch rule",
    )
    hysteresis: float = knob(
        0.0,
        0.0,
        1.5,
        label="Hysteresis",
        unit="bits",
        help="The large model hands back only when the mean is this far below τ. Not in the paper, which has 0.",
        step=0.05,
        section="Switch rule",
    )
    start: Literal["small", "large"] = knob(
        "small",
        label="First writer",
        help="The model that writes the first token.",
        labels={"small": "Small", "large": "Large"},
        section="Switch rule",
    )
    immediate: bool = knob(
        False,
        label="Write it again",
        help="When the large model takes over it also writes the present token again, instead of only the next one.",
        section="Switch rule",
    )
    rivals: tuple[Literal["random", "single", "speculative"], ...] = knob(
        ("random", "single", "speculative"),
        label="Compared with",
        help="Random switching with the same share of the large model; the rule on every single token (w = 1, shortest "
        "run 1); speculative decoding, whose text is the large model's.",
        labels=RIVALS,
        section="Decoding",
    )
    temperature: float = knob(
        0.0,
        0.0,
        1.5,
        label="Temperature",
        help="Of sampling; 0 takes the most probable token. Entropies are always those at temperature 1.",
        step=0.05,
        section="Decoding",
    )
    cache_policy: Literal["lazy", "sync", "drop"] = knob(
        "lazy",
        label="Caches",
        help="Lazy: a model reads what it missed when it takes over. Sync: both read every token. Drop: read all anew.",
        labels={"lazy": "Lazy", "sync": "Sync", "drop": "Drop"},
        section="Decoding",
    )
    gamma: int = knob(
        4,
        1,
        8,
        label="Drafted tokens γ",
        help="Tokens that the small model drafts in a round of speculative decoding.",
        section="Decoding",
    )
    prompts: int = knob(
        6,
        2,
        60,
        label="Prompts",
        help="Test prompts of each seed. Every way of decoding writes 48 characters after each.",
        section="Decoding",
    )
    small_width: int = knob(
        16,
        8,
        32,
        label="Small: width",
        help="Width of the small model, which has one layer.",
        step=8,
        section="Models",
    )
    large_width: int = knob(
        64, 40, 96, label="Large: width", help="Width of the large model.", step=8, section="Models"
    )
    large_depth: int = knob(
        2, 1, 3, label="Large: layers", help="Layers of the large model.", section="Models"
    )
    learning_rate: float = knob_fields.learning_rate(
        6e-3, 1e-4, 2e-2, help="Step size of AdamW for both models; it falls linearly to zero."
    )
    batch_size: int = knob_fields.batch_size(24, 64, low=4, help="Texts of 64 characters per step.")
    steps: int = knob_fields.steps(500, 2000, help="Updates of both models before they decode.")
    seeds: int = knob_fields.seeds(1)

    @model_validator(mode="after")
    def _has_a_prompt(self) -> Self:
        strange = sorted(set(self.prompt) - set(WORLD))
        if not self.prompt or strange:
            found = f"{strange[0]!r} among them" if strange else "none"
            raise ValueError(f"prompt must be 1 to {PROMPT} characters of a to z and 0 to 9, got {found}.")
        if not self.text_prompt:
            raise ValueError(f"text_prompt must be 1 to {PROMPT} characters, got none.")
        return self

    def taus(self) -> tuple[float, ...]:
        """The thresholds in bits at which every prompt is decoded, ascending; the one that is set is among them."""
        return tuple(sorted({*TAUS[self.task], self.tau}))

    def places(self) -> tuple[int, ...]:
        """Places of a character at which entropies are averaged."""
        return LETTER_PLACES[self.stretch] if self.task == "stretches" else WORD_PLACES

    def heads(self, width: int) -> int:
        """Attention heads of a model of this width: four where it allows, two at least."""
        return gcd(width, 4)

    def training_key(self) -> tuple[Any, ...]:
        """What the trained models depend on, beside seed and device."""
        language = (self.corpus,) if self.task == "text" else (self.stretch, self.noise)
        sizes = (self.small_width, self.large_width, self.large_depth)
        return (self.task, *language, *sizes, self.learning_rate, self.batch_size, self.steps)

    def shown_arms(self) -> Arms:
        """The arms with their looks."""
        names = [SMALL, LARGE, EAD, *(RIVALS[rival] for rival in RIVALS if rival in self.rivals)]
        return Arms(tuple(Look(name, COLOURS[name], i % DASHES, i % SYMBOLS) for i, name in enumerate(names)))

    def total_steps(self) -> int:
        """Training steps and then prompts."""
        return self.steps + self.prompts

    def progress(self) -> Progress:
        """Training steps come first, then every prompt counts as one."""
        return Progress("step", "steps", "training steps, then prompts")

    @classmethod
    def open_sections(cls, values: Mapping[str, Any]) -> Collection[str] | None:
        """The sections of the language that is chosen."""
        return ("Language", "Data") if values.get("task") == "text" else ("Language", "Switch rule")

    def passes(self) -> int:
        """How often every prompt is decoded."""
        others = {"random": len(RANDOM_SHARES), "single": 1, "speculative": 1}
        return 2 + len(self.taus()) + sum(others[rival] for rival in self.rivals)

    def work(self) -> float:
        """Seconds: training of both models, and every token of every way of writing."""
        seeds, batch, width = len(self.seed_range()), self.batch_size, self.large_width * self.large_depth
        sample = 2.6e-05 * self.small_width + width * (8e-06 + 6e-08 * self.large_width)
        training = self.steps * (0.0022 * (1 + self.large_depth) + batch * sample)
        token = 8.5e-05 + 4.5e-05 * self.large_depth
        return seeds * (training + self.prompts * self.passes() * NEW_TOKENS * token + 0.84)
