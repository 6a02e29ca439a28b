"""What can be set on the page *Effective learning rate*, and the arms that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from normviz import knob_fields
from normviz.arms import Arms, Look
from normviz.digit_sources import DigitData, digit_source, missing_source
from normviz.knobs import Knobs as Base
from normviz.knobs import knob
from normviz.progress import STEPS, Progress
from normviz.validation import missing_extra

__all__ = [
    "AGENTS",
    "FRESH",
    "GLOBAL",
    "LAYERWISE",
    "NAP",
    "NONE",
    "REMEDIES",
    "REPLAY",
    "RESNET",
    "RESNET_NAP",
    "Knobs",
    "Variant",
    "normed",
    "variants",
]

Remedy = Literal["l2", "regenerative", "shrink", "noise", "redo", "leaky"]
AgentKind = Literal["none", "layer", "nap", "decay", "cyclic", "fresh"]
Rates = Literal["constant", "layerwise", "global", "replay", "decay", "cyclic"]

NONE, NAP, REPLAY = "No norm", "NaP", "NaP replay"
LAYERWISE, GLOBAL = "Layer-wise", "Global"
DECAY, CYCLIC, FRESH = "NaP + decay", "NaP + cyclic", "Fresh net"
RESNET, RESNET_NAP = "ResNet", "ResNet + NaP"

REMEDIES: dict[str, str] = {
    "l2": "L2",
    "regenerative": "L2 to start",
    "shrink": "shrink + perturb",
    "noise": "noise",
    "redo": "ReDo",
    "leaky": "leaky ReLU",
}
AGENTS: dict[str, str] = {
    "none": NONE,
    "layer": "Norm only",
    "nap": NAP,
    "decay": DECAY,
    "cyclic": CYCLIC,
    "fresh": FRESH,
}
COLOURS: dict[str, int] = {
    "LayerNorm": 0,
    "RMSNorm": 8,
    NONE: 6,
    NAP: 1,
    REPLAY: 3,
    DECAY: 2,
    CYCLIC: 4,
    FRESH: 5,
    LAYERWISE: 2,
    GLOBAL: 4,
    RESNET: 7,
    RESNET_NAP: 9,
}
SWEEP = (0.3, 3.0)
"""Factors on the learning rate that a sweep adds."""

ACTIONS = Progress("action", "actions", "actions of an agent")


@dataclass(frozen=True)
class Variant:
    """One arm: what stands before the nonlinearities, what follows an update, which learning rates it uses.

    Attributes:
        name: on all charts.
        norm: a norm before every nonlinearity.
        projected: weights are projected to their initial norm.
        remedy: a key of :data:`REMEDIES`, or "".
        rates: how the learning rate goes.
        factor: on the learning rate.
        fresh: a new network at the start of every task.
        residual: a small ResNet in place of the network that is set.
    """

    name: str
    norm: bool = True
    projected: bool = False
    remedy: str = ""
    rates: Rates = "constant"
    factor: float = 1.0
    fresh: bool = False
    residual: bool = False


class Knobs(Base):
    """Task, arms, optimizer, length of the phases, projection, and the games."""

    task: Literal["memorisation", "equivalence", "stationary", "games"] = knob(
        "memorisation",
        label="Task",
        help="Memorisation: learn random labels, again and again. Equivalence: the same with plain SGD in double "
        "precision, where projection and rescaled learning rates must agree digit by digit. Stationary: ordinary "
        "digits, where projection should do no harm. Games: a small agent learns one game after the other, twice.",
        labels={
            "memorisation": "Memorisation",
            "equivalence": "Equivalence",
            "stationary": "Stationary",
            "games": "Games",
        },
        section="Experiment",
    )
    replay: bool = knob(
        False,
        label="Re-inject the implicit schedule",
        help="Adds one arm: a projected network that is given, step by step and layer by layer, the effective "
        "learning rates that were recorded in the normalized one. It is trained last. In the equivalence it is "
        "always there.",
        section="Experiment",
    )
    arms: tuple[Literal["none", "layer", "nap", "resnet", "resnet_nap"], ...] = knob(
        ("none", "layer", "nap"),
        label="Networks",
        help="Memorisation and stationary: without norm, with a norm before every nonlinearity, with norm and "
        "projection (NaP). The last two once more on a small ResNet: five 3 × 3 convolutions with two shortcuts.",
        labels={"none": NONE, "layer": "Norm only", "nap": NAP, "resnet": RESNET, "resnet_nap": RESNET_NAP},
        section="Experiment",
    )
    remedies: tuple[Remedy, ...] = knob(
        (),
        label="Remedies",
        help="Memorisation and stationary: other cures for lost plasticity, each added to the normalized network. "
        "L2 pulls weights to 0 or to their start, shrink + perturb acts at every reset, noise after every step, "
        "ReDo recycles dormant units.",
        labels=REMEDIES,
        min_choices=0,
        section="Experiment",
    )
    remedies_with_nap: bool = knob(
        False,
        label="Remedies with NaP too",
        help="Adds each remedy to the projected network as well, to see whether projection makes them alike.",
        section="Experiment",
    )
    change: Literal["labels", "pixels", "classes"] = knob(
        "labels",
        label="What a reset changes",
        help="Memorisation and equivalence: new random labels, or true labels with the pixels in a new order, or "
        "true labels with the classes renamed.",
        labels={"labels": "Random labels", "pixels": "Pixel order", "classes": "Class names"},
        section="Experiment",
    )
    data: DigitData = knob_fields.digit_data(what="Whose pictures are learned, all tasks but the games")
    optimizer: Literal["adam", "sgd", "momentum"] = knob(
        "adam",
        label="Optimizer",
        help="The equivalence always uses plain SGD, the games always Adam. Momentum is 0.9, with gradients "
        "averaged, so that the same learning rate means the same speed as plain SGD.",
        labels={"adam": "Adam", "sgd": "SGD", "momentum": "Momentum"},
        section="Training",
    )
    adam_lr: float = knob(
        1e-3,
        1e-5,
        1e-1,
        label="Learning rate of Adam",
        help="Weights grow faster with a larger one: the normalized network then slows down more.",
        log=True,
        section="Training",
    )
    sgd_lr: float = knob(
        0.1,
        1e-3,
        2.0,
        label="Learning rate of SGD",
        help="For plain SGD and for momentum.",
        log=True,
        section="Training",
    )
    sweep: bool = knob(
        False,
        label="Also at 0.3 and 3 times the rate",
        help="Memorisation: trains every network without a remedy at three learning rates, so that each can be "
        "judged at its own best. Three times the work.",
        section="Training",
    )
    period: int = knob(
        250,
        20,
        600,
        label="Phase length",
        help="Labels change after so many steps. In the stationary task nothing changes; it has as many steps in "
        "all.",
        unit="steps",
        step=10,
        section="Training",
    )
    phases: int = knob(
        10,
        1,
        30,
        label="Phases",
        help="How often the network must learn anew. Loss of plasticity needs many.",
        section="Training",
    )
    batch_size: int = knob_fields.batch_size(64, 256, low=8, help="Images per step, out of 512.")
    seeds: int = knob_fields.seeds()
    norm: Literal["layer", "rms"] = knob(
        "layer",
        label="Norm",
        help="What stands before every nonlinearity. RMSNorm does not subtract the mean.",
        labels={"layer": "LayerNorm", "rms": "RMSNorm"},
        section="Network and projection",
    )
    network: Literal["mlp", "conv"] = knob(
        "mlp",
        label="Network",
        help="Memorisation, equivalence, stationary: fully connected layers of width 128, or 3 × 3 convolutions.",
        labels={"mlp": "MLP", "conv": "ConvNet"},
        section="Network and projection",
    )
    depth: int = knob(
        2,
        1,
        4,
        label="Hidden layers",
        help="Each has a norm, a nonlinearity and, under NaP, a weight tensor of fixed length.",
        section="Network and projection",
    )
    every: int = knob(
        1,
        1,
        100,
        label="Project every … steps",
        help="The paper projects after every update. Rarer projection lets the weights grow in between.",
        section="Network and projection",
    )
    scale_offset: Literal["project", "regularize", "free", "none"] = knob(
        "project",
        label="Scale and offset of the norms",
        help="Under NaP: projected to their initial joint length, pulled towards (1, 0), left free, or absent in all "
        "normalized networks. In the equivalence they are free, in the games absent.",
        labels={"project": "Projected", "regularize": "Pulled", "free": "Free", "none": "Absent"},
        section="Network and projection",
    )
    project_output: bool = knob(
        False,
        label="Project the output layer too",
        help="No norm follows the output layer, so its length sets the scale of the logits. Public copies of NaP "
        "project it; what the paper does is not confirmed.",
        section="Network and projection",
    )
    agents: tuple[AgentKind, ...] = knob(
        ("layer", "nap", "decay", "fresh"),
        label="Agents",
        help="Games: the Q network without norm, with norm, with NaP at a constant rate, with NaP and a rate that "
        "decays to 1 % over the whole run (decay) or within each task (cyclic), and a normalized network that is "
        "new at the start of every task.",
        labels=AGENTS,
        section="Games",
    )
    environment: Literal["catch", "atari"] = knob(
        "catch",
        label="Environment",
        help="Catch: a ball falls, a paddle catches it; each task shows the pixels in another order, every second "
        "one rewards missing. Atari needs the extra packages of normviz[atari]; within minutes on a CPU it shows that "
        "the machinery runs, not that anything is learned.",
        labels={"catch": "Catch", "atari": "Atari"},
        section="Games",
    )
    tasks: int = knob(
        3,
        1,
        5,
        label="Games in a cycle",
        help="Each is played once per cycle. One game is the single-task setting.",
        section="Games",
    )
    task_steps: int = knob(
        1500,
        200,
        5000,
        label="Game length",
        help="Actions before the next game. An episode of Catch has 9.",
        unit="steps",
        step=50,
        section="Games",
    )
    cycles: int = knob(
        2,
        1,
        4,
        label="Cycles",
        help="How often the sequence is played. The paper plays it twice.",
        section="Games",
    )
    learn_every: int = knob(
        2,
        1,
        8,
        label="Actions per update",
        help="Fewer updates make the games faster to run and slower to learn.",
        section="Games",
    )

    def missing(self) -> str:
        """Atari's games and MNIST's pictures come with packages of their own."""
        if self.task != "games":
            return missing_source(self.data)
        if self.environment != "atari":
            return ""
        return missing_extra("atari", "gymnasium", "ale_py", "cv2")

    def total_steps(self) -> int:
        """Updates of a network, or actions of an agent."""
        if self.task == "games":
            return self.task_steps * self.tasks * self.cycles
        return self.period * self.phases

    def progress(self) -> Progress:
        """Updates of a network, or actions of an agent."""
        return ACTIONS if self.task == "games" else STEPS

    def shown_arms(self) -> Arms:
        """All arms; the colour says the network, the dash its remedy or its learning rate, where there are such."""
        names = [variant.name for variant in variants(self)]
        split = [name.partition(", ") for name in names]
        ways = list(dict.fromkeys(way for _, _, way in split))
        if ways == [""]:
            return Arms.of({name: COLOURS[name] for name in names})
        return Arms(
            tuple(
                Look(name, COLOURS[base], ways.index(way), ways.index(way), base, way)
                for name, (base, _, way) in zip(names, split, strict=True)
            )
        )

    def update_rule(self) -> Literal["adam", "sgd", "momentum"]:
        """The optimizer that this task uses."""
        return {"games": "adam", "equivalence": "sgd"}.get(self.task, self.optimizer)  # type: ignore[return-value]

    def learning_rate(self) -> float:
        """The learning rate of this task's optimizer."""
        return self.adam_lr if self.update_rule() == "adam" else self.sgd_lr

    def law(self) -> Literal["sgd", "adam"]:
        """How the effective learning rate falls with the length of a weight: 1 / length^2 or 1 / length."""
        return "adam" if self.update_rule() == "adam" else "sgd"

    def layers(self) -> int:
        """Hidden layers of the task's networks."""
        if self.task != "games":
            return self.depth
        return 2 if self.environment == "catch" else 5

    def work(self) -> float:
        """Seconds: actions and updates of every agent; or steps of every network, its layers and its samples."""
        steps = self.members() * self.total_steps()
        if self.task == "games":
            act, learn = (6.4e-05, 0.0018) if self.environment == "catch" else (0.0002, 0.08)
            return steps * (act + learn / self.learn_every)
        residual, larger = 0.0, digit_source(self.data).values / digit_source("digits").values
        if self.task != "equivalence":
            of_all = [v.residual for v in variants(self)]
            resnets = steps * sum(of_all) // len(of_all)
            residual = resnets * (0.0035 + 3.5e-05 * larger * self.batch_size)
            steps -= resnets
        if self.network == "mlp":
            first = 8.3e-07 * self.batch_size * (larger - 1) / 2  # that layer alone is wider
            return residual + steps * (0.00038 + first + self.depth * (0.00046 + 8.3e-07 * self.batch_size))
        return residual + steps * (0.00051 + self.depth * (0.00068 + 2.6e-06 * larger * self.batch_size))


def normed(knobs: Knobs) -> str:
    """Name of the arm with a norm and nothing else."""
    return "LayerNorm" if knobs.norm == "layer" else "RMSNorm"


def variants(knobs: Knobs) -> list[Variant]:
    """All arms of a setting, in the order of the legend; replay, if there, is last and trained last."""
    plain = Variant(normed(knobs))
    nap = Variant(NAP, projected=True)
    replay = Variant(REPLAY, projected=True, rates="replay")
    if knobs.task == "equivalence":
        rescaled = [Variant(LAYERWISE, rates="layerwise"), Variant(GLOBAL, rates="global")]
        return [nap, *rescaled, plain, replay]
    if knobs.task == "games":
        kinds: dict[str, Variant] = {
            "none": Variant(NONE, norm=False),
            "layer": plain,
            "nap": nap,
            "decay": Variant(DECAY, projected=True, rates="decay"),
            "cyclic": Variant(CYCLIC, projected=True, rates="cyclic"),
            "fresh": Variant(FRESH, fresh=True),
        }
        chosen = [kinds[kind] for kind in knobs.agents]
        return [*chosen, replay] if knobs.replay and plain in chosen else chosen
    networks: dict[str, Variant] = {
        "none": Variant(NONE, norm=False),
        "layer": plain,
        "nap": nap,
        "resnet": Variant(RESNET, residual=True),
        "resnet_nap": Variant(RESNET_NAP, projected=True, residual=True),
    }
    bases = [networks[kind] for kind in knobs.arms]
    found = list(bases)
    treated = [base for base in bases if base is plain or (base is nap and knobs.remedies_with_nap)]
    for base in treated:
        found += [
            Variant(f"{base.name}, {REMEDIES[r]}", projected=base.projected, remedy=r) for r in knobs.remedies
        ]
    if knobs.sweep and knobs.task == "memorisation":
        found += [replace(base, name=rate_name(base, knobs, f), factor=f) for base in bases for f in SWEEP]
    return [*found, replay] if knobs.replay and plain in bases else found


def rate_name(base: Variant, knobs: Knobs, factor: float) -> str:
    """Name of an arm of the sweep."""
    return base.name if factor == 1.0 else f"{base.name}, lr {factor * knobs.learning_rate():.2g}"
