"""What can be set on the page *Compatible representations*, and the arms that follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from normviz import knob_fields
from normviz.arms import SYMBOLS, Arms, Look
from normviz.digit_sources import DigitData, digit_source, missing_source
from normviz.knobs import Knobs as Base
from normviz.knobs import knob

__all__ = ["ARM_NAMES", "FORWARD", "LAMBDAS", "ArmKind", "Knobs", "Recipe"]

ArmKind = Literal[
    "strict",
    "lam_05",
    "lam_1",
    "lam_2",
    "lam_4",
    "affine",
    "procrustes",
    "soft",
    "decay",
    "fct",
    "fastfill",
]

ARM_NAMES: dict[str, str] = {
    "strict": "Strict",
    "lam_05": "λ = 0.5",
    "lam_1": "λ = 1",
    "lam_2": "λ = 2",
    "lam_4": "λ = 4",
    "affine": "Affine",
    "procrustes": "Procrustes",
    "soft": "Soft",
    "decay": "Weight decay",
    "fct": "FCT",
    "fastfill": "FastFill",
}

LAMBDAS: dict[str, float] = {"lam_05": 0.5, "lam_1": 1.0, "lam_2": 2.0, "lam_4": 4.0}
"""Thresholds of the arms with lambda-orthogonality."""

FORWARD = ("fct", "fastfill")
"""Arms that map old features forward and leave new ones as they are."""

DECAY = 1e-2
"""Weight decay of the affine map that has it."""

_LOOKS: dict[str, tuple[int, int]] = {
    "strict": (2, 0),
    "lam_05": (8, 3),
    "lam_1": (0, 0),
    "lam_2": (5, 1),
    "lam_4": (3, 2),
    "affine": (1, 0),
    "procrustes": (6, 2),
    "soft": (4, 4),
    "decay": (7, 1),
    "fct": (9, 0),
    "fastfill": (9, 1),
}
"""Colour and dash of each arm."""

_STEP_COST = {"strict": 1.3, "procrustes": 0.0, "fct": 0.3, "fastfill": 0.4}
"""Time of a step relative to an affine map."""


@dataclass(frozen=True)
class Recipe:
    """How an arm's backward map is made.

    Args:
        strict: orthogonal by construction.
        lam: threshold; infinite for a free map.
        mode: form of the orthogonality term.
        w_lambda: its weight.
        weight_decay: of the map's weight.
        trained: False: the closed form alone.
    """

    strict: bool = False
    lam: float = math.inf
    mode: str = "gated"
    w_lambda: float = 0.0
    weight_decay: float = 0.0
    trained: bool = True


class Knobs(Base):
    """The maps, the two models, the new task, the terms of the loss and the training length."""

    arms: tuple[ArmKind, ...] = knob(
        ("strict", "lam_05", "lam_1", "lam_2", "lam_4", "affine"),
        label="Maps",
        help="Strict: orthogonal by construction. λ: may leave the orthogonal matrices by a distance of about λ. "
        "Affine: free. Procrustes: the closed form, not trained. Soft: pulled to orthogonal from everywhere. Weight "
        "decay: pulled to zero. FCT, FastFill: a network maps the old features, new ones stay.",
        labels=ARM_NAMES,
        section="Experiment",
    )
    data: DigitData = knob_fields.digit_data(what="What both models learn")
    downstream: Literal["rotated", "noisy", "upright"] = knob(
        "rotated",
        label="New task",
        help="What the maps are fitted on and asked about. Both models were trained on upright digits, and are not "
        "trained again. A signal of MNIST-1D is turned by reading it backwards.",
        labels={"rotated": "Digits turned by 90°", "noisy": "Noisy digits", "upright": "Upright digits"},
        section="Experiment",
    )
    noise: float = knob(
        1.0,
        0.0,
        3.0,
        label="Noise of noisy digits",
        help="Standard deviation of what is added to every pixel, in standard deviations of the pixels.",
        step=0.1,
        section="Experiment",
    )
    models: int = knob(
        2,
        2,
        3,
        label="Models in a row",
        help="3: a middle model stands between the old and the new one. Each newer model has its own map into the "
        "space of the oldest.",
        section="Experiment",
    )
    mode: Literal["gated", "hinge", "softplus"] = knob(
        "gated",
        label="Form of the λ term",
        help="Gated: σ(β(δ − λ)) δ, our reading of the paper's description. Hinge: nothing up to λ, then δ − λ. "
        "Softplus: a smooth hinge.",
        labels={"gated": "Gated", "hinge": "Hinge", "softplus": "Softplus"},
        section="Terms of the loss",
    )
    beta: float = knob(
        0.0,
        0.0,
        50.0,
        label="Steepness β",
        help="Of the gate and of softplus. 0: 10/λ, at least 1.",
        step=0.5,
        section="Terms of the loss",
    )
    w_lambda: float = knob(
        1.0,
        0.0,
        10.0,
        label="Weight of λ's term",
        help="Not λ itself.",
        step=0.1,
        section="Terms of the loss",
    )
    w_backward: float = knob(
        1.0,
        0.0,
        10.0,
        label="Weight: backward",
        help="Mapped new features should equal the old features of the same digit.",
        step=0.1,
        section="Terms of the loss",
    )
    w_forward: float = knob(
        1.0,
        0.0,
        10.0,
        label="Weight: forward",
        help="Updated old features should equal the mapped new ones.",
        step=0.1,
        section="Terms of the loss",
    )
    w_contrastive: float = knob(
        1.0,
        0.0,
        10.0,
        label="Weight: contrastive",
        help="Features of one class should point in one direction, whichever model they come from.",
        step=0.1,
        section="Terms of the loss",
    )
    start: Literal["procrustes", "identity"] = knob(
        "procrustes",
        label="Maps start from",
        help="Procrustes: the orthogonal map that fits best, in closed form. Identity: features as they are.",
        labels={"procrustes": "Procrustes", "identity": "Identity"},
        section="Training",
    )
    old_classes: int = knob(
        8,
        2,
        10,
        label="Classes of the old model",
        help="It was trained on the digits 0, 1, … only, so many classes. The new model knows all ten.",
        section="Models",
    )
    old_steps: int = knob(
        120,
        20,
        600,
        label="Training of the old model",
        unit="steps",
        help="Updates of the old model, which has 32 hidden units. The new one has 128.",
        step=10,
        section="Models",
    )
    new_steps: int = knob(
        600,
        20,
        1000,
        label="Training of the new model",
        unit="steps",
        help="Updates of the new model.",
        step=10,
        section="Models",
    )
    old_width: int = knob(16, 2, 32, label="Old features", help="Numbers per digit.", section="Models")
    new_width: int = knob(
        16,
        2,
        32,
        label="New features",
        help="Numbers per digit. If the widths differ, an orthogonal map keeps the smaller side's distances only.",
        section="Models",
    )
    learning_rate: float = knob_fields.learning_rate(
        3e-3, 1e-4, 3e-2, help="Step size of Adam, the same for all maps."
    )
    batch_size: int = knob_fields.batch_size(64, 256, low=8, help="Digits per step.")
    steps: int = knob_fields.steps(300, 1500)
    seeds: int = knob_fields.seeds(1)

    def kinds(self) -> list[str]:
        """The arms that are trained, in the order of the legend."""
        return [kind for kind in ARM_NAMES if kind in self.arms]

    def maps(self) -> list[str]:
        """Those of them that have a backward map."""
        return [kind for kind in self.kinds() if kind not in FORWARD]

    def looked(self) -> str:
        """The arm whose features are drawn: λ = 1 if it is there, else another λ, else the first; "" for none."""
        maps = self.maps()
        preferred = [kind for kind in ("lam_1", *LAMBDAS) if kind in maps]
        return (preferred or maps or [""])[0]

    def compared(self) -> list[str]:
        """At most three arms whose matrices are drawn: the strict map, the one that is looked at, the free one."""
        wanted = ["strict", self.looked(), "affine"]
        found = [kind for kind in self.maps() if kind in wanted]
        return found if len(found) > 1 else self.maps()[:3]

    def recipe(self, kind: str) -> Recipe:
        """How an arm's backward map is made."""
        if kind in LAMBDAS:
            return Recipe(lam=LAMBDAS[kind], mode=self.mode, w_lambda=self.w_lambda)
        return {
            "strict": Recipe(strict=True),
            "affine": Recipe(),
            "procrustes": Recipe(strict=True, trained=False),
            "soft": Recipe(lam=0.0, mode="soft", w_lambda=self.w_lambda),
            "decay": Recipe(weight_decay=DECAY),
        }[kind]

    def shown_arms(self) -> Arms:
        """The arms with their looks."""
        order = list(ARM_NAMES)
        return Arms(tuple(Look(ARM_NAMES[k], *_LOOKS[k], order.index(k) % SYMBOLS) for k in self.kinds()))

    def missing(self) -> str:
        """MNIST's pictures come with a package of their own."""
        return missing_source(self.data)

    def work(self) -> float:
        """Seconds: steps of every map, quadratic in the batch, those of the models, and the measurements."""
        seeds, newer, batch = len(self.seed_range()), self.models - 1, self.batch_size
        maps = newer * sum(_STEP_COST.get(kind, 1.0) for kind in self.kinds()) * self.steps
        of_maps = maps * (0.0016 + 3e-06 * batch + 4.9e-08 * batch**2)
        steps = newer * self.new_steps + self.old_steps
        more = max(0, digit_source(self.data).values - digit_source("digits").values)
        of_models = (
            8e-07 * more * steps
            + steps * (0.00084 + 1.8e-06 * batch)
            + 4.3e-05 * newer * self.new_steps * self.new_width
        )
        return seeds * (of_maps + of_models + 0.17 * len(self.kinds()) * newer)
