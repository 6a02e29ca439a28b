"""What the paper of the page *Effective learning rate* claims, measured here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from normviz.claims import Bound, Claim, Effect, Identity
from normviz.experiments.effective_learning_rate.knobs import (
    CYCLIC,
    DECAY,
    FRESH,
    GLOBAL,
    LAYERWISE,
    NAP,
    NONE,
    REMEDIES,
    REPLAY,
    RESNET,
    RESNET_NAP,
    Knobs,
    normed,
)
from normviz.experiments.pools import TEST_DIGITS
from normviz.frame import Log
from normviz.measures import ArmName, Measure, absolute, constant, derived, scalar

__all__ = ["CLAIMS", "LATE", "late"]

LATE = 5
"""Phases at the end that are averaged; a run must have at least one more."""

EXAMPLES = 512
"""Images that are memorised."""


def late(arm: ArmName) -> Measure:
    """Mean accuracy at the ends of the last phases, in per cent."""
    return scalar("phase_accuracy", arm, window=LATE, bad=-math.inf)


def _first(arm: ArmName) -> Measure:
    """Accuracy at the end of the first phase; a network that diverges later has it all the same."""

    def compute(log: Log, knobs: Knobs) -> dict[int, float]:
        table, this = log.scalars("phase_accuracy"), arm if isinstance(arm, str) else arm(knobs)
        rows = table[(table["arm"] == this) & (table["step"] == knobs.period)]
        return {int(s): float(v) for s, v in zip(rows["seed"], rows["value"], strict=True)}

    return Measure(compute, (arm,))


def _most(name: str, arm: ArmName) -> Measure:
    """Largest value over the run."""
    return scalar(name, arm, since=0.0, reduce="max")


def _of_layers(of: Callable[[str, Log, Knobs], dict[int, float]], arm: ArmName) -> Measure:
    """A number for the effective rates of each hidden layer, mean over the layers."""

    def compute(log: Log, knobs: Knobs) -> dict[int, float]:
        layers = [of(f"elr/{layer}", log, knobs) for layer in range(1, knobs.layers() + 1)]
        return {seed: float(np.mean([layer[seed] for layer in layers])) for seed in layers[0]}

    return derived(compute, arms=(arm,))


def _log_fall(name: str, log: Log, knobs: Knobs) -> dict[int, float]:
    """Logarithm of the first over the last effective rate of a layer."""
    at_start = scalar(name, normed, until=0.0)(log, knobs)
    at_end = scalar(name, normed)(log, knobs)
    return {seed: math.log(at_start[seed] / at_end[seed]) for seed in at_start}


def _fall() -> Measure:
    """First over last effective rate, geometric mean over the hidden layers."""
    mean_log = _of_layers(_log_fall, normed)
    return Measure(
        lambda log, knobs: {s: math.exp(v) for s, v in mean_log(log, knobs).items()}, mean_log.arms
    )


def _stray(log: Log, knobs: Knobs) -> dict[int, float]:
    """Largest relative departure of NaP's effective rates from the rate that was set."""
    found: dict[int, float] = {}
    for layer in range(1, knobs.layers() + 1):
        most, least = (
            scalar(f"elr/{layer}", NAP, since=0.0, reduce=reduce)(log, knobs) for reduce in ("max", "min")
        )
        for seed in most:
            found[seed] = float(np.max([most[seed] - 1, 1 - least[seed], found.get(seed, -math.inf)]))
    return found


def _global_against_none(log: Log, knobs: Knobs) -> dict[int, float]:
    """Mean |accuracy - NaP's| at the ends of the phases, with one global factor over without rescaling."""
    table = log.scalars("phase_accuracy").pivot_table(index=["seed", "step"], columns="arm", values="value")
    plain = normed(knobs)
    if not {NAP, GLOBAL, plain} <= set(table.columns):
        return {}
    if table.index.get_level_values("step").max() < knobs.total_steps():
        return {}
    apart = table[[GLOBAL, plain]].sub(table[NAP], axis=0).abs().groupby("seed").mean()
    return {int(s): float(g / p) for s, g, p in apart.itertuples() if p > 0}


def _spread(log: Log, knobs: Knobs) -> dict[int, float]:
    """Standard deviation over remedies (and none) with NaP, over the same without."""
    spreads: list[dict[int, float]] = []
    for base in (NAP, normed(knobs)):
        arms = [base, *(f"{base}, {REMEDIES[r]}" for r in knobs.remedies)]
        by_arm = [late(arm)(log, knobs) for arm in arms]
        values = {s: [found[s] for found in by_arm] for s in by_arm[0]}
        spreads.append({s: float(np.std(v)) for s, v in values.items() if np.isfinite(v).all()})
    with_nap, without = spreads
    return {s: with_nap[s] / without[s] for s in with_nap.keys() & without.keys() if without[s] > 0}


def _last_cycle(arm: ArmName) -> Measure:
    """Mean return over the games of the last cycle."""

    def compute(log: Log, knobs: Knobs) -> dict[int, float]:
        return scalar("game_return", arm, window=knobs.tasks, bad=-math.inf)(log, knobs)

    return Measure(compute, (arm,))


def _test_accuracy(arm: ArmName) -> Measure:
    """Accuracy on held-out digits at the end, mean of three evaluations."""
    return scalar("accuracy", arm, window=3, bad=-math.inf)


def _first_game(arm: ArmName) -> Measure:
    """Return in the first game of all, which no other game came before."""
    return constant("game_return/0", arm)


MEMORISATION: dict[str, Any] = {"task": "memorisation"}
PHASES: dict[str, Any] = {**MEMORISATION, "phases": lambda phases: phases > LATE}
PHASES_WORDS = f"more than {LATE} phases"
RESNETS: dict[str, Any] = {**PHASES, "arms": lambda arms: {"resnet", "resnet_nap"} <= set(arms)}
RESNETS_WORDS = f"{PHASES_WORDS}, {RESNET} and {RESNET_NAP}"
RESNETS_RATE = (
    "Both at 0.003, their best of 0.001 (one seed), 0.003 and 0.009 (two seeds) in short trials with seeds that no "
    "verdict has."
)
EXACT: dict[str, Any] = {"task": "equivalence", "every": 1, "project_output": False}
SUPERVISED = {"task": ("memorisation", "equivalence", "stationary")}
TWICE: dict[str, Any] = {"task": "games", "cycles": lambda cycles: cycles >= 2}
TWICE_WORDS = "two cycles or more"
FOUND_IN_DIGESTS = "Figure, from public digests of the paper; no number is confirmed."
ATARI_TWICE = "10 Atari games × 20M frames, played twice (400M frames); curves."
LIVE = "A live run trains both at the rate that is set; the recorded verdict is at each one's best of three rates."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="implicit-decay",
        paper="nap",
        statement="In a normalized network the weights grow, and the effective learning rate decays unasked.",
        paper_figure="lr / ‖W‖² under SGD; derived, and shown for cyclic random labels.",
        measured="first over last effective learning rate of the norm-only network, geometric mean over hidden layers",
        measure=_fall(),
        rule=Effect("above", floor=0.1, bar=0.5, null=1.0),
        preset="many-phases",
        given=MEMORISATION,
        unit="×",
        caveat="At a small learning rate or in a short run weights hardly grow.",
    ),
    Claim(
        id="constant-rate",
        paper="nap",
        statement="With projection the effective learning rate is the one that was set.",
        paper_figure="Exact by construction.",
        measured="largest relative departure of NaP's effective rate, over steps and hidden layers",
        measure=derived(_stray, arms=(NAP,)),
        rule=Identity("below", 1e-5),
        preset="resets",
        given={**MEMORISATION, "every": 1},
    ),
    Claim(
        id="gradient-is-orthogonal",
        paper="nap",
        statement="The gradient of a scale-invariant weight is orthogonal to the weight.",
        paper_figure="Derived.",
        measured="largest |cosine| of gradient and weight over steps and layers, double precision",
        measure=_most("law/cosine", normed),
        rule=Identity("below", 1e-8),
        preset="equivalence",
        given={"task": "equivalence"},
    ),
    Claim(
        id="norm-growth",
        paper="nap",
        statement="Each SGD step adds lr² ‖gradient‖² to the weight's squared length, so it never shrinks.",
        paper_figure="Derived.",
        measured="largest error of the predicted squared length, relative to it",
        measure=_most("law/growth", normed),
        rule=Identity("below", 1e-9),
        preset="equivalence",
        given={"task": "equivalence"},
    ),
    Claim(
        id="layerwise-equals-nap",
        paper="nap",
        statement="Without projection, but with each layer's rate raised as its weights grow, training is the same.",
        paper_figure=f"Curves on top of each other. {FOUND_IN_DIGESTS}",
        measured="largest difference of the logits from NaP's over the whole run, plain SGD, double precision",
        measure=_most("difference", LAYERWISE),
        rule=Identity("below", 1e-5),
        preset="equivalence",
        given=EXACT,
    ),
    Claim(
        id="replay-equals-unprojected",
        paper="nap",
        statement="NaP with the recorded implicit schedule is the normalized network without projection.",
        paper_figure="The other direction of the same equivalence.",
        measured="largest difference of the logits from the norm-only network's over the whole run",
        measure=_most("difference", REPLAY),
        rule=Identity("below", 1e-5),
        preset="equivalence",
        given=EXACT,
    ),
    Claim(
        id="global-nearly",
        paper="nap",
        statement="One global factor nearly matches NaP; no rescaling does not.",
        paper_figure=FOUND_IN_DIGESTS,
        measured="mean distance from NaP's accuracy at the ends of the phases, global factor over no rescaling",
        measure=derived(_global_against_none, arms=(NAP, GLOBAL, normed)),
        rule=Effect("below", floor=0.1, null=1.0),
        preset="equivalence",
        given={"task": "equivalence"},
        unit="×",
        caveat="Accuracies are compared: logits of two runs that have once parted do not come together again.",
    ),
    Claim(
        id="dead-unit-hears",
        paper="nap",
        statement="Behind a norm even a dead unit gets a gradient, so it can come back.",
        paper_figure="Units recover from spikes of death after label resets (figure).",
        measured="gradient of a dead unit's weights in the normalized network, relative to its layer's mean",
        measure=constant("dead_unit_gradient", normed),
        rule=Identity("above", 0.0),
        preset="resets",
        given=SUPERVISED,
    ),
    Claim(
        id="dead-unit-is-deaf",
        paper="nap",
        statement="Without a norm a dead unit's gradient is zero.",
        paper_figure="Derived.",
        measured="gradient of a dead unit's weights without a norm, relative to its layer's mean",
        measure=constant("dead_unit_gradient", NONE),
        rule=Identity("below", 1e-30),
        preset="resets",
        given=SUPERVISED,
    ),
    Claim(
        id="nap-keeps-learning",
        paper="nap",
        statement="With NaP a network learns the labels of a late phase as well as those of the first.",
        paper_figure=f"Constant over many label resets, CIFAR-10. {FOUND_IN_DIGESTS}",
        measured=f"NaP's accuracy, mean of the last {LATE} phases over the first phase",
        measure=late(NAP) / _first(NAP),
        rule=Bound("above", 0.88),
        preset="many-phases",
        given=PHASES,
        given_words=PHASES_WORDS,
    ),
    Claim(
        id="norm-free-degrades",
        paper="nap",
        statement="Without norm a network loses the ability to learn new labels.",
        paper_figure=f"Degrades over many label resets, CIFAR-10. {FOUND_IN_DIGESTS}",
        measured=f"accuracy without norm, mean of the last {LATE} phases over the first phase",
        measure=late(NONE) / _first(NONE),
        rule=Effect("below", floor=0.05, bar=0.12, null=1.0),
        preset="norm-free",
        given=PHASES,
        given_words=PHASES_WORDS,
    ),
    *(
        Claim(
            id=name,
            paper="nap",
            statement=statement,
            paper_figure=f"Higher accuracy, MLP and CNN, random labels. {FOUND_IN_DIGESTS}",
            measured=f"accuracy of the last {LATE} phases, NaP minus norm only, {where}",
            measure=late(NAP) - late(normed),
            rule=Effect("above", floor=1.0, bar=5.0),
            preset=preset,
            given=given,
            given_words=words,
            unit="points",
            resolution=100 / EXAMPLES,
            caveat=caveat,
        )
        for name, statement, where, preset, given, words, caveat in (
            (
                "nap-over-norm",
                "After many resets NaP learns more than the norm alone, at the same learning rate.",
                "at the learning rate that is set",
                "many-phases",
                PHASES,
                PHASES_WORDS,
                "An unlucky rate for one of the two decides this: see the best rates.",
            ),
            (
                "nap-over-norm-at-best",
                "The same with each of the two at its own best learning rate.",
                "each at its best rate",
                "best-rates",
                {**PHASES, "arms": lambda arms: set(arms) == {"layer", "nap"}},
                f"{PHASES_WORDS}, Norm only and NaP alone",
                LIVE,
            ),
        )
    ),
    Claim(
        id="resnet-nap-over-norm",
        paper="nap",
        statement="In a small ResNet, too, NaP learns more than the norm alone after many resets.",
        paper_figure=f"Random labels, CIFAR-10, MLP and CNN. {FOUND_IN_DIGESTS}",
        measured=f"accuracy of the last {LATE} phases, ResNet with NaP minus with the norm only, Adam",
        measure=late(RESNET_NAP) - late(RESNET),
        rule=Effect("above", floor=1.0, bar=5.0),
        preset="norm-free",
        given=RESNETS,
        given_words=RESNETS_WORDS,
        unit="points",
        resolution=100 / EXAMPLES,
        caveat=f"Five 3 × 3 convolutions and two shortcuts. {RESNETS_RATE}",
    ),
    Claim(
        id="resnet-nap-keeps-learning",
        paper="nap",
        statement="A small ResNet with NaP learns the labels of a late phase as well as those of the first.",
        paper_figure=f"Constant over many label resets, CIFAR-10. {FOUND_IN_DIGESTS}",
        measured=f"accuracy of the ResNet with NaP, mean of the last {LATE} phases over the first phase",
        measure=late(RESNET_NAP) / _first(RESNET_NAP),
        rule=Bound("above", 0.88),
        preset="norm-free",
        given=RESNETS,
        given_words=RESNETS_WORDS,
        caveat=RESNETS_RATE,
    ),
    Claim(
        id="remedies-become-alike",
        paper="nap",
        statement="NaP makes the remedies against lost plasticity differ less.",
        paper_figure=f"The spread between methods shrinks, MLP and CNN. {FOUND_IN_DIGESTS}",
        measured=f"spread over remedies of the accuracy in the last {LATE} phases, with NaP over without",
        measure=derived(_spread, arms=(NAP, normed)),
        rule=Effect("below", floor=0.1, null=1.0),
        preset="best-rates",
        given={**PHASES, "remedies": lambda remedies: len(remedies) >= 2, "remedies_with_nap": True},
        given_words=f"{PHASES_WORDS}, two or more remedies",
        unit="×",
        caveat=LIVE,
    ),
    Claim(
        id="norm-wakes-units",
        paper="nap",
        statement="A network with norm has fewer dormant units after many resets than one without.",
        paper_figure="Qualitative: MNIST, labels reset every 1000 steps.",
        measured="dormant units in the second half of the run, norm only minus no norm",
        measure=scalar("dormant", normed, since=0.5) - scalar("dormant", NONE, since=0.5),
        rule=Effect("below", floor=1.0),
        preset="resets",
        given=MEMORISATION,
        unit="points",
    ),
    Claim(
        id="stationary-control",
        paper="nap",
        statement="On a stationary task NaP does no harm.",
        paper_figure="CIFAR-10, ImageNet-1k, a 400M transformer: no worse; table values are not confirmed.",
        measured="|test accuracy of NaP − norm only|, each at its best rate",
        measure=absolute(_test_accuracy(NAP) - _test_accuracy(normed)),
        rule=Bound("below", 1.0),
        preset="stationary",
        given={"task": "stationary"},
        unit="points",
        resolution=100 / TEST_DIGITS,
        caveat=f"A small fully connected network; no ResNet and no transformer. {LIVE}",
    ),
    *(
        Claim(
            id=name,
            paper="nap",
            statement=statement,
            paper_figure=figure,
            measured=measured,
            measure=measure,
            rule=rule,
            preset="games",
            given=given,
            given_words=words,
            caveat=caveat,
        )
        for name, statement, figure, measured, measure, rule, given, words, caveat in (
            (
                "games-need-decay",
                "With projection an agent needs an explicit decay of the learning rate to do better.",
                f"Rainbow, 5 Atari games. {FOUND_IN_DIGESTS}",
                "mean return in the last cycle, NaP with decay minus NaP at a constant rate",
                _last_cycle(DECAY) - _last_cycle(NAP),
                Effect("above", floor=0.1),
                {"task": "games"},
                "",
                "Returns lie between −1 and 1.",
            ),
            (
                "games-nap-over-norm",
                "In a sequence of games NaP does better the second time round than the norm alone.",
                ATARI_TWICE,
                "mean return in the last cycle, NaP minus norm only",
                _last_cycle(NAP) - _last_cycle(normed),
                Effect("above", floor=0.1),
                TWICE,
                TWICE_WORDS,
                "Here the weights grow by a few percent only, so there is little decay to undo.",
            ),
            (
                "games-like-fresh",
                "On the second cycle NaP learns like a fresh network.",
                ATARI_TWICE,
                "mean return in the last cycle, NaP minus a network that is new in every game",
                _last_cycle(NAP) - _last_cycle(FRESH),
                Bound("above", -0.1),
                TWICE,
                TWICE_WORDS,
                "Returns lie between −1 and 1.",
            ),
            (
                "single-game",
                "In a single game NaP with a decaying rate does at least as well as the norm alone.",
                f"Rainbow with NaP and a schedule, single Atari games. {FOUND_IN_DIGESTS}",
                "return in the first game, NaP with a decay within the game minus norm only",
                _first_game(CYCLIC) - _first_game(normed),
                Bound("above", -0.1),
                {"task": "games"},
                "",
                "Returns lie between −1 and 1.",
            ),
        )
    ),
)
