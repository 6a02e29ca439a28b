"""What the paper of the page *Sample reweighting* claims, measured here."""

from __future__ import annotations

from typing import Any

import numpy as np

from normviz.claims import Bound, Claim, Effect, Identity
from normviz.experiments.sample_reweighting.knobs import Knobs, arm_name
from normviz.frame import Log
from normviz.measures import Measure, constant, derived, scalar, speed_up

__all__ = ["CLAIMS"]

UNIFORM, LINUPPER, QUADRATIC, EXTREMES = (
    arm_name(name) for name in ("uniform", "linupper", "quadratic", "extremes")
)
UNIFORM_WITHOUT, LINUPPER_WITHOUT = (arm_name(name, repeats=False) for name in ("uniform", "linupper"))
TAIL = 3
"""Evaluations that are averaged for a final held-out loss."""

NATS = 0.02
"""Least difference of a loss that counts, in nats: 2 % of perplexity."""

FASTER = 0.1
"""Least speed-up that counts: a tenth fewer steps."""

LANGUAGE: dict[str, Any] = {"task": "language"}
REDUNDANT: dict[str, Any] = {**LANGUAGE, "redundant": lambda share: share >= 0.5}
REDUNDANT_WORDS = "a redundant share of at least 0.5"
REGRESSION: dict[str, Any] = {"task": "regression", "corrupted": 0.0}

NO_TABLE = "Downstream accuracy of GPT-2 124M–684M and Llama 1.4B, 7B; the tables are not quoted here."
FIGURE_7 = "Toy regression (figure 7, qualitative)."
SAME_CURVE = (
    "The step size has no schedule: a shorter training is the beginning of the same curve, and the speed-up read off "
    "the curves is that of a shorter training."
)


def _held_out(arm: str) -> Measure:
    return scalar("heldout_loss", arm, window=TAIL)


def _faster(arm: str, rival: str) -> Measure:
    """How many times fewer steps an arm needs for the held-out loss at which the rival ends."""
    return speed_up(arm, rival, "heldout_loss")


def _gap_over_bound(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    """Largest mean gap over its bound, over all arms and moments; the two are always logged together."""
    gap, bound = log.scalars("average_gap"), log.scalars("bound")
    ratio, seeds = gap["value"].to_numpy() / bound["value"].to_numpy(), gap["seed"].to_numpy()
    return {int(seed): float(ratio[seeds == seed].max()) for seed in np.unique(seeds)}


def _weight_ratio(log: Log, knobs: Knobs) -> dict[int, float]:
    """Largest r log(largest weight / smallest weight) over all arms and steps; r is at least the knob's."""
    largest = constant("weight_log_ratio", reduce="max")(log, knobs)
    return {seed: knobs.r * value for seed, value in largest.items()}


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="linupper-beats-uniform",
        paper="dynamic-reweighting",
        statement="Where much of the text repeats, LinUpper learns the clean text faster than uniform weights.",
        paper_figure=NO_TABLE,
        measured="held-out loss on clean text, LinUpper minus Uniform, after equally many steps",
        measure=_held_out(LINUPPER) - _held_out(UNIFORM),
        rule=Effect("below", floor=NATS),
        preset="best-rates",
        given=REDUNDANT,
        given_words=REDUNDANT_WORDS,
        unit="nats",
    ),
    Claim(
        id="linupper-best",
        paper="dynamic-reweighting",
        statement="LinUpper is the best of the strategies.",
        paper_figure="Best on average of LinUpper, Quadratic and Extremes (qualitative).",
        measured="held-out loss on clean text, LinUpper minus each other strategy",
        measure={rival: _held_out(LINUPPER) - _held_out(rival) for rival in (QUADRATIC, EXTREMES)},
        rule=Effect("below", floor=NATS),
        preset="best-rates",
        given=REDUNDANT,
        given_words=REDUNDANT_WORDS,
        unit="nats",
    ),
    Claim(
        id="gain-comes-from-repeats",
        paper="dynamic-reweighting",
        statement="Less weight on low losses helps because such samples are redundant: more redundancy, more gain.",
        paper_figure="The paper's reason for the method (qualitative).",
        measured="held-out loss of LinUpper minus Uniform with repeats, minus the same without repeats",
        measure=(_held_out(LINUPPER) - _held_out(UNIFORM))
        - (_held_out(LINUPPER_WITHOUT) - _held_out(UNIFORM_WITHOUT)),
        rule=Effect("below", floor=NATS),
        preset="with-and-without",
        given={**REDUNDANT, "without_repeats": True},
        given_words=REDUNDANT_WORDS,
        unit="nats",
        caveat="A strategy has one learning rate on both texts, its best on the text with repeats.",
    ),
    Claim(
        id="quadratic-with-outliers",
        paper="dynamic-reweighting",
        statement="With many outliers it pays to take weight from the highest losses too: Quadratic beats LinUpper.",
        paper_figure="Not a figure of the paper: what its reason for shaping the weights leads one to expect.",
        measured="held-out loss on clean text, Quadratic minus LinUpper",
        measure=_held_out(QUADRATIC) - _held_out(LINUPPER),
        rule=Effect("below", floor=NATS),
        preset="outliers",
        given={**LANGUAGE, "shuffled": lambda share: share >= 0.075, "foreign": lambda share: share >= 0.075},
        given_words="shuffled and foreign shares of at least 0.08 each",
        unit="nats",
    ),
    Claim(
        id="regression-linupper",
        paper="dynamic-reweighting",
        statement="In linear regression LinUpper converges faster than uniform weights.",
        paper_figure=FIGURE_7,
        measured="how many times fewer steps LinUpper needs for the loss at which Uniform ends",
        measure=_faster(LINUPPER, UNIFORM),
        rule=Effect("above", floor=FASTER, null=1.0),
        preset="regression-best-steps",
        given=REGRESSION,
        unit="×",
        caveat=SAME_CURVE,
    ),
    Claim(
        id="regression-quadratic",
        paper="dynamic-reweighting",
        statement="In linear regression Quadratic also converges faster than uniform weights.",
        paper_figure=FIGURE_7,
        measured="how many times fewer steps Quadratic needs for the loss at which Uniform ends",
        measure=_faster(QUADRATIC, UNIFORM),
        rule=Effect("above", floor=FASTER, null=1.0),
        preset="regression-best-steps",
        given=REGRESSION,
        unit="×",
        caveat=SAME_CURVE,
    ),
    Claim(
        id="regression-linupper-fastest",
        paper="dynamic-reweighting",
        statement="In linear regression LinUpper converges fastest of all strategies.",
        paper_figure=FIGURE_7,
        measured="how many times fewer steps LinUpper needs for the loss at which each rival ends",
        measure={rival: _faster(LINUPPER, rival) for rival in (UNIFORM, QUADRATIC, EXTREMES)},
        rule=Effect("above", floor=FASTER, null=1.0),
        preset="regression-best-steps",
        given=REGRESSION,
        unit="×",
        caveat=SAME_CURVE,
    ),
    Claim(
        id="bound-holds",
        paper="dynamic-reweighting",
        statement="With a common minimiser and a step of at most 1/L the mean gap stays below the bound.",
        paper_figure="Theorem for smooth convex losses (derived anew here, without the paper's constants).",
        measured="largest mean gap over its bound, all arms and moments",
        measure=derived(_gap_over_bound),
        rule=Identity("below", 1.0),
        preset="bound",
        given={**REGRESSION, "step_size": lambda size: size <= 1},
        given_words="a step size of at most 1",
    ),
    Claim(
        id="linupper-tightens-bound",
        paper="dynamic-reweighting",
        statement="Taking weight from low losses tightens the bound: LinUpper's is never above uniform weights'.",
        paper_figure="Consequence of the theorem.",
        measured="uniform weights' bound minus LinUpper's on the same path, at the worst moment",
        measure=constant("bound_saving", LINUPPER, reduce="min"),
        rule=Identity("above", -1e-9),
        preset="bound",
        given=REGRESSION,
    ),
    Claim(
        id="bounded-weights",
        paper="dynamic-reweighting",
        statement="No sample gets more than e^(1/r) times the weight of another.",
        paper_figure="Ratio e^(1/r): 12.2 at r = 0.4 (follows from the formula).",
        measured="largest r · log(largest weight ÷ smallest weight), all arms and steps; 1 is the limit",
        measure=derived(_weight_ratio),
        rule=Identity("below", 1 + 1e-4),
        preset="half-repeats",
    ),
    Claim(
        id="devices-add-up",
        paper="dynamic-reweighting",
        statement="With the weights of the whole batch, the losses of all devices average to the loss of the batch.",
        paper_figure="By construction (one all-gather of the losses, factor W per device).",
        measured="largest relative difference of the mean over virtual devices from the whole batch's loss",
        measure=constant("device_gap", reduce="max"),
        rule=Identity("below", 1e-5),
        preset="half-repeats",
    ),
    Claim(
        id="costs-nothing",
        paper="dynamic-reweighting",
        statement="The weights cost next to nothing: they use losses one has anyway.",
        paper_figure="No extra forward pass, nothing stored per sample (qualitative).",
        measured="median time for weights and weighted loss, in per cent of forward and backward pass",
        measure=scalar("weighting_cost", LINUPPER, reduce="median", since=0.0),
        rule=Bound("below", 1.0),
        preset="half-repeats",
        given=LANGUAGE,
        unit="%",
        caveat="The cost is a fixed number of tiny operations, beside a network of 110,000 parameters. It is measured "
        "on a CPU only.",
    ),
)
