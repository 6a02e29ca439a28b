"""What can be set on the page *Conditional normalization*, and the arms that follow from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from normviz import knob_fields
from normviz.arms import SYMBOLS, Arms, Look
from normviz.experiments.conditional_normalization.recorded import TESTED
from normviz.knobs import Knobs as Base
from normviz.knobs import knob

__all__ = ["BATCH", "MODELS", "PAINTERS", "Knobs"]

ModelKind = Literal["late", "loan", "late_day", "loan_day", "early"]
PainterKind = Literal["layout", "spade", "sstan", "style", "sean"]

MODELS: dict[str, str] = {
    "late": "Late fusion",
    "loan": "LOAN",
    "late_day": "Late fusion + day",
    "loan_day": "LOAN + day",
    "early": "Early fusion",
}
"""Networks that forecast fire, by their key in the knobs."""

PAINTERS: dict[str, str] = {
    "layout": "SPADE, layout only",
    "spade": "SPADE",
    "sstan": "SSTAN",
    "style": "Style only",
    "sean": "SEAN",
}
"""Networks that paint, by their key in the knobs."""

_LOOKS: dict[str, tuple[int, int]] = {
    "late": (1, 0),
    "loan": (0, 0),
    "late_day": (1, 1),
    "loan_day": (0, 1),
    "early": (2, 2),
    "layout": (6, 2),
    "spade": (1, 0),
    "sstan": (0, 0),
    "style": (3, 3),
    "sean": (4, 4),
}
"""Colour and dash of every arm; a model with the day has its twin's colour."""

_PAINTER_COST = {"layout": 0.9, "spade": 1.0, "sstan": 1.1, "style": 0.6, "sean": 1.7}
"""Time of a step, relative to late fusion and to SPADE."""

BATCH = 50
"""Patches of a step of the fire models."""


class Knobs(Base):
    """Which story is told; the fire world and its models; the painted world and its painters."""

    task: Literal["fire", "paint"] = knob(
        "fire",
        label="Story",
        help="Place and day: maps of a place change how a network reads the weather. Style and layout: a network "
        "paints a given layout in the style of another picture.",
        labels={"fire": "Place and day", "paint": "Style and layout"},
        section="Experiment",
    )
    seeds: int = knob_fields.seeds(1)
    models: tuple[ModelKind, ...] = knob(
        ("late", "loan"),
        label="Models",
        help="Late fusion: maps and weather have a branch each, which meet at the end. LOAN: the maps change the "
        "weather's norms, pixel by pixel. Early fusion: the maps are further inputs beside the weather. With day: the "
        "network is told the day of the year.",
        labels=MODELS,
        section="Place and day",
    )
    response: Literal["local", "global"] = knob(
        "local",
        label="What causes fire",
        help="Local: dryness counts where the land cover burns, pixel by pixel. Global: the mean dryness times the "
        "mean land cover of the patch, so that nothing has to meet early.",
        labels={"local": "Dryness where it burns", "global": "Mean dryness × mean cover"},
        section="Place and day",
    )
    season: float = knob(
        0.0,
        0.0,
        4.0,
        label="Season",
        help="How much the day of the year adds to the danger; 0: nothing.",
        step=0.5,
        section="Place and day",
    )
    knots: int = knob(
        4,
        1,
        8,
        label="Patches' detail",
        help="Random maps are drawn on a grid of so many points per side; 1: every map is flat.",
        section="Place and day",
    )
    contrast: float = knob(
        2.0,
        0.0,
        4.0,
        label="Weather's contrast",
        help="Size of the weather's differences within a patch.",
        step=0.25,
        section="Place and day",
    )
    width: int = knob(
        8,
        4,
        32,
        label="Width",
        help="Channels of the first convolution; the second and third have two and four times as many.",
        step=4,
        section="Place and day",
    )
    kernel: Literal["1", "3", "5"] = knob(
        "3",
        label="LOAN's kernel",
        help="Pixels per side that LOAN's first layer reads of the map around a pixel. The paper has 3.",
        section="Place and day",
    )
    normalize: bool = knob(
        True,
        label="LOAN's norm",
        help="LOAN's first layer normalises before it scales and shifts. The second never does, as in the paper.",
        section="Place and day",
    )
    fire_rate: float = knob(
        3e-3,
        1e-4,
        3e-2,
        label="Learning rate",
        help="Step size of Adam for the fire models.",
        log=True,
        section="Place and day",
    )
    patches: int = knob(
        1600,
        200,
        4000,
        label="Training patches",
        help="Patches that are trained on, 50 in a step.",
        step=100,
        section="Place and day",
    )
    epochs: int = knob(
        5,
        1,
        20,
        label="Epochs",
        help="How often every training patch is seen.",
        section="Place and day",
    )
    painters: tuple[PainterKind, ...] = knob(
        ("layout", "spade", "sstan"),
        label="Painters",
        help="SPADE: norms that see the layout; the style enters once, at the start. Layout only: it gets no style at "
        "all. SSTAN: every norm sees layout and style together. Style only: norms that see the style and no layout. "
        "SEAN: a style vector for each region.",
        labels=PAINTERS,
        section="Style and layout",
    )
    encoder: Literal["own", "trunk", "one"] = knob(
        "own",
        label="Style encoders",
        help="One for each art domain, as in the paper; one with an output for each domain; or one that is not told "
        "the domain. Only with the last it means something if the domains come out apart.",
        labels={"own": "One per domain", "trunk": "Shared, own outputs", "one": "One for all"},
        section="Style and layout",
    )
    param_free: Literal["batch", "instance"] = knob(
        "batch",
        label="Norm inside",
        help="What normalises before layout and style scale and shift.",
        labels={"batch": "Batch norm", "instance": "Instance norm"},
        section="Style and layout",
    )
    adversary: bool = knob(
        False,
        label="Discriminator",
        help="Train against a discriminator, as the paper does, with half the pixel loss. Slower and less steady.",
        section="Style and layout",
    )
    jitter: float = knob(
        0.25,
        0.0,
        0.5,
        label="Style's spread",
        help="How far a picture's colours lie from those of its domain; 0: all pictures of a domain have one style.",
        step=0.05,
        section="Style and layout",
    )
    kl: float = knob(
        2e-3,
        1e-4,
        1e-1,
        label="KL weight",
        help="Pull of the style codes to a standard normal distribution, per picture. Large: codes say nothing.",
        log=True,
        section="Style and layout",
    )
    latent: int = knob(
        16,
        2,
        32,
        label="Code's width",
        help="Numbers of a style code.",
        step=2,
        section="Style and layout",
    )
    paint_rate: float = knob(
        3e-3,
        1e-4,
        1e-2,
        label="Painters' learning rate",
        help="Step size of Adam for generator and encoder; the discriminator's is twice that.",
        log=True,
        section="Style and layout",
    )
    steps: int = knob(
        120,
        10,
        1000,
        label="Painters' steps",
        help="Updates of every painter, with 16 pictures each.",
        step=10,
        section="Style and layout",
    )

    @classmethod
    def open_sections(cls, values: Mapping[str, Any]) -> Collection[str]:
        """The section of the story that is told."""
        return ("Experiment", "Style and layout" if values.get("task") == "paint" else "Place and day")

    @property
    def widths(self) -> tuple[int, int, int]:
        """Channels of the fire models' convolutions."""
        return self.width, 2 * self.width, 4 * self.width

    @property
    def has_day(self) -> bool:
        """Whether a model is told the day."""
        return any(kind.endswith("_day") for kind in self.models)

    def kinds(self) -> tuple[str, ...]:
        """Keys of the arms, in the order of the legend."""
        listed, wanted = (PAINTERS, self.painters) if self.task == "paint" else (MODELS, self.models)
        return tuple(kind for kind in listed if kind in wanted)

    def shown_arms(self) -> Arms:
        """The fire models, or the painters."""
        names = {**MODELS, **PAINTERS}
        looks = [Look(names[kind], *_LOOKS[kind], _LOOKS[kind][0] % SYMBOLS) for kind in self.kinds()]
        return Arms(tuple(looks))

    def steps_per_epoch(self) -> int:
        """Batches of the training patches."""
        return self.patches // BATCH

    def total_steps(self) -> int:
        """Training steps of every arm."""
        return self.steps if self.task == "paint" else self.epochs * self.steps_per_epoch()

    def work(self) -> float:
        """Seconds: the steps of every painter; or the steps and patches of every model."""
        seeds = len(self.seed_range())
        if self.task == "paint":
            step = 0.038 + (0.016 if self.adversary else 0.0)
            return seeds * sum(_PAINTER_COST[kind] for kind in self.painters) * (self.steps * step + 1.1)
        calls = 0.0073 * self.epochs * self.patches / BATCH
        patch = 1.9e-05 * self.width + 2.5e-07 * self.width**2 * int(self.kernel) ** 2 / 9
        return seeds * len(self.models) * (calls + self.epochs * (self.patches + TESTED / 2) * patch + 0.87)
