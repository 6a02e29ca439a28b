"""What can be set on the page *Noisy labels*, and the arms that follow from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from normviz import knob_fields
from normviz.arms import DASHES, SYMBOLS, Arms, Look
from normviz.digit_sources import DigitData, digit_source, missing_source
from normviz.knobs import Knobs as Base
from normviz.knobs import knob

__all__ = ["ARM_NAMES", "LABELS", "WEIGHTING", "ArmName", "Knobs", "arm_name"]

ArmName = Literal["plain", "small_loss", "gce", "mw_noisy", "storm", "oracle", "l2rw", "mw_clean"]

ARM_NAMES: dict[str, str] = {
    "plain": "Plain",
    "small_loss": "Small-loss",
    "gce": "GCE",
    "mw_noisy": "MW-Net",
    "storm": "STORM",
    "oracle": "Oracle",
    "l2rw": "L2RW",
    "mw_clean": "MW-Net, clean",
}

COLOURS: dict[str, int] = {
    "plain": 6,
    "small_loss": 1,
    "gce": 5,
    "mw_noisy": 3,
    "storm": 0,
    "oracle": 2,
    "l2rw": 4,
    "mw_clean": 3,
}

LABELS = Arms.of({"right label": 2, "wrong label": 7})
"""The two kinds of training samples."""

WEIGHTING = ("small_loss", "mw_noisy", "storm", "l2rw", "mw_clean")
"""Arms that compute a weight for every sample."""


class Knobs(Base):
    """Task, methods, noise, the rescaler and the training length."""

    task: Literal["digits", "text"] = knob(
        "digits",
        label="Task",
        help="Digits: handwritten digits, of the kind that is chosen as data. Text: from which chapter of Python's "
        "language reference a passage of 160 characters comes.",
        labels={"digits": "Digits", "text": "Text"},
        section="Experiment",
    )
    data: DigitData = knob_fields.digit_data(what="What the digits task has")
    arms: tuple[ArmName, ...] = knob(
        ("plain", "small_loss", "mw_noisy", "storm", "oracle"),
        label="Methods",
        help="The arms. Small-loss is told the noise rate and drops that share of the highest losses. Oracle knows "
        "which labels are wrong and ignores them. MW-Net has the noisy data alone; L2RW and MW-Net, clean have a small "
        "clean set. GCE is a robust loss.",
        labels=ARM_NAMES,
        section="Experiment",
    )
    rate: float = knob(
        0.4,
        0.0,
        0.6,
        label="Noise rate",
        help="Share of training labels that are wrong. The test labels are always right.",
        step=0.05,
        section="Noise",
    )
    noise: Literal["symmetric", "pair", "class_dependent", "instance"] = knob(
        "symmetric",
        label="Kind of noise",
        help="Symmetric: any other class, equally likely. Next class: always the following class. Asymmetric: every "
        "class has its own favourite confusions. Instance-dependent: what looks like another class gets its label.",
        labels={
            "symmetric": "Symmetric",
            "pair": "Next class",
            "class_dependent": "Asymmetric",
            "instance": "Instance-dependent",
        },
        section="Noise",
    )
    imbalance: float = knob(
        1.0,
        1.0,
        10.0,
        label="Class imbalance",
        help="How many times more training samples the largest class has than the smallest.",
        step=0.5,
        section="Noise",
    )
    burn_in: int = knob(
        300,
        0,
        600,
        label="Burn-in",
        unit="steps",
        help="Steps of plain training at first, while the rescaler already learns beside it (our choice: 8 epochs).",
        step=10,
        section="STORM",
    )
    outer_scale: float = knob(
        0.01,
        0.0,
        1.0,
        label="Outer scale",
        help="Weight of the direct part of the rescaler's gradient, which prefers samples with a small loss. At 0 only "
        "the meta part is left. The paper's balance is not known to us; high values can make training collapse.",
        step=0.01,
        section="STORM",
    )
    validation: Literal["noisy", "clean"] = knob(
        "noisy",
        label="Validation batch",
        help="Noisy: from the same noisy data, as STORM does. Clean: from a small set of trusted labels, which STORM "
        "was made to do without.",
        labels={"noisy": "Noisy (STORM)", "clean": "Clean"},
        section="STORM",
    )
    passes: int = knob(
        4,
        1,
        8,
        label="Forward passes G",
        help="Passes with dropout from which a sample's features are taken. With one there is no disagreement.",
        section="STORM",
    )
    n_inner: int = knob(
        1,
        1,
        4,
        label="Inner steps",
        help="Updates of the network for each update of the rescaler.",
        section="STORM",
    )
    meta_rate: float = knob(
        1e-2,
        1e-3,
        1e-1,
        label="Rescaler's learning rate",
        help="Step size of Adam for the rescaler.",
        log=True,
        section="STORM",
    )
    learning_rate: float = knob_fields.learning_rate(
        0.3, 0.01, 1.0, help="Step size of SGD for the network, the same for all arms."
    )
    batch_size: int = knob_fields.batch_size(
        32, 128, low=8, help="Samples per step, and per validation batch."
    )
    dropout: float = knob(
        0.2,
        0.0,
        0.5,
        label="Dropout",
        help="Share of hidden units that are switched off in training. It is also what makes the G passes differ.",
        step=0.05,
        section="Training",
    )
    width_factor: int = knob(
        1,
        1,
        16,
        label="Width",
        unit="×",
        help="The hidden layer has so many times 128 units (digits) or 64 units (text). Wide networks show what the "
        "methods cost where arithmetic, not Python, takes the time.",
        section="Training",
    )
    steps: int = knob_fields.steps(700, 3000, low=50)
    seeds: int = knob_fields.seeds()

    def kinds(self, among: Iterable[str] = ARM_NAMES) -> list[str]:
        """The arms that are trained (of those ``among``), in the order of the legend."""
        wanted = set(among)
        return [arm for arm in ARM_NAMES if arm in self.arms and arm in wanted]

    def shown_arms(self) -> Arms:
        """Every method; STORM says so when its validation batch is clean. Both MW-Nets have one colour."""
        looks: list[Look] = []
        for arm in self.kinds():
            slot = COLOURS[arm]
            dash = slot + (arm == "mw_clean")
            looks.append(Look(arm_name(arm, self), slot, dash % DASHES, dash % SYMBOLS))
        return Arms(tuple(looks))

    def missing(self) -> str:
        """MNIST's pictures come with a package of their own."""
        return missing_source(self.data) if self.task == "digits" else ""

    def work(self) -> float:
        """Seconds: updates of every arm, with the passes and the outer updates of the rescalers, and larger tests."""
        groups = {"cheap": ("plain", "small_loss", "gce", "oracle"), "rescaled": ("mw_noisy", "storm")}
        count = {name: sum(arm in group for arm in self.arms) for name, group in groups.items()}
        cheap, rescaled = count["cheap"], count["rescaled"]
        other = len(self.arms) - cheap - rescaled
        inner = 0.00055 + 0.00012 * (self.passes + 1)
        outer = (0.0011 + 0.00028 * self.passes) / self.n_inner
        calls = 0.00025 * cheap + (inner + outer) * rescaled + 0.0012 * other
        passes = cheap + (3 + 0.5 * self.passes) * rescaled + 3 * other
        sample = 2.6e-06 + 3.3e-06 * self.width_factor + (1.4e-06 if self.task == "text" else 0.0)
        tested = 0.0
        if self.task == "digits" and self.data != "digits":
            source, usual = digit_source(self.data), digit_source("digits")
            values = self.width_factor * (source.values - usual.values)
            sample += 5.5e-09 * values
            of_test = 1.6e-06 * (source.examples - usual.examples) + 4.2e-09 * source.examples * values
            tested = of_test * len(self.arms) * min(33.0, self.steps / 10 + 1)
        per_pass = sample * self.batch_size + 8.3e-06 * self.width_factor
        return len(self.seed_range()) * (self.steps * (calls + passes * per_pass) + tested)


def arm_name(arm: str, knobs: Knobs) -> str:
    """The arm's name on all charts; STORM says so when its validation batch is clean."""
    name = ARM_NAMES[arm]
    return f"{name}, clean" if arm == "storm" and knobs.validation == "clean" else name
