"""What the paper of the page *Self-normalizing networks* claims, measured here."""

from __future__ import annotations

import numpy as np

from normviz.claims import Claim, Measure, by_seed, paired_difference
from normviz.experiments.self_normalizing.knobs import ALPHA_DROPOUT, SNN, Knobs, arm_name
from normviz.frame import Log

__all__ = ["CLAIMS"]

BN, LN, RELU = (arm_name(kind) for kind in ("relu_bn", "relu_ln", "relu"))
TAIL = 10
"""Training losses, or evaluations where there are fewer, that are averaged for a final value."""
DEEP = 32
"""Least depth at which the claims about deep networks are tested."""


def _value(name: str) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
        return by_seed(log.scalars(name))

    return measure


def _final(name: str, arm: str, baseline: str, window: int) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:
        return paired_difference(log, name, arm, baseline, window=window) if knobs.depth >= DEEP else {}

    return measure


def _worst_variance(arm: str) -> Measure:
    """Largest |log2 variance| of a hidden layer over the whole training."""

    def measure(log: Log, knobs: Knobs) -> dict[int, float]:
        if (knobs.fixed_mean, knobs.fixed_var) != (0.0, 1.0):
            return {}
        worst: dict[int, float] = {}
        for entry in log.array_history("var_by_layer"):
            if entry.arm == arm:
                distance = float(np.abs(np.log2(entry.value[1:].astype(float))).max())
                worst[entry.seed] = max(distance, worst.get(entry.seed, 0.0))
        return worst

    return measure


def _cost_of_depth(log: Log, knobs: Knobs) -> dict[int, float]:
    """Accuracy that the greater depth gains over the smaller, SNN's minus ReLU + BN's."""
    if len(knobs.depths()) < 2:
        return {}
    gains = []
    for kind in ("snn", "relu_bn"):
        main, other = arm_name(kind), arm_name(kind, knobs.second_depth)
        deep, shallow = (main, other) if knobs.depth > knobs.second_depth else (other, main)
        gains.append(paired_difference(log, "validation_accuracy", deep, shallow, window=3))
    snn, batch = gains
    return {seed: snn[seed] - batch[seed] for seed in snn.keys() & batch.keys()}


RACE = "121 UCI tasks: SNNs significantly better than ReLU nets alone, with batch, layer, weight norm (abstract)."
SMALL = "One task and one learning rate; the paper chose depth, rate and dropout for each of its tasks."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="attracting-fixed-point",
        paper="self-normalizing",
        statement="The moment map contracts at its fixed point, mean 0 and variance 1.",
        paper_figure="Spectral norm of the Jacobian there: 0.7877.",
        measured="spectral norm of the Jacobian at mean 0, variance 1",
        measure=_value("theorem/fixed_point_norm"),
        threshold=1.0,
        exact=True,
    ),
    Claim(
        id="theorem-1",
        paper="self-normalizing",
        statement="It contracts on a whole box around the fixed point and maps the box into itself.",
        paper_figure="Theorem 1: means and weight sums within ±0.1, variances 0.8 to 1.5, squares 0.95 to 1.1.",
        measured="largest spectral norm of the Jacobian on a grid of 9⁴ points (infinite if a point leaves the box)",
        measure=_value("theorem/contraction"),
        threshold=1.0,
        exact=True,
    ),
    Claim(
        id="theorem-2",
        paper="self-normalizing",
        statement="A large variance shrinks, whatever the mean and weights in a wide range: no exploding activations.",
        paper_figure="Theorem 2: variances from 3 to 16.",
        measured="greatest growth of the variance by a layer on a grid of 9⁴ points",
        measure=_value("theorem/large_variance"),
        exact=True,
    ),
    Claim(
        id="theorem-3",
        paper="self-normalizing",
        statement="A small variance grows: no vanishing activations.",
        paper_figure="Theorem 3: variances up to 0.16, or up to 0.24 with squared weights of at least 0.9.",
        measured="least growth of the variance by a layer on two grids of 9⁴ points",
        measure=_value("theorem/small_variance"),
        side="above",
        exact=True,
    ),
    Claim(
        id="converges-through-depth",
        paper="self-normalizing",
        statement="Through many layers, activations converge to mean 0 and variance 1.",
        paper_figure="Abstract, a theorem (Banach's fixed point).",
        measured="distance from (0, 1) after 64 random layers of width 256 whose inputs have variance 1.44",
        measure=_value("fresh/distance"),
        threshold=0.25,
    ),
    Claim(
        id="alpha-dropout-keeps-variance",
        paper="self-normalizing",
        statement="Alpha dropout leaves mean and variance as they are.",
        paper_figure="Exact by construction.",
        measured="change of the variance of 2¹⁸ SELU outputs by alpha dropout at the rate that is set",
        measure=_value("dropout/alpha"),
        threshold=0.01,
    ),
    Claim(
        id="variance-while-training",
        paper="self-normalizing",
        statement="The network normalizes itself in every layer, also while its weights are trained.",
        paper_figure="Qualitative: weights stay near the conditions of the theorems.",
        measured="largest |log₂ variance| of a layer of the SNN during training (1 means a factor of 2)",
        measure=_worst_variance(SNN),
        threshold=1.0,
        unit="octaves",
        needs="SNN with its standard fixed point",
    ),
    Claim(
        id="variance-with-alpha-dropout",
        paper="self-normalizing",
        statement="It does so with alpha dropout too.",
        paper_figure="Qualitative (section on alpha dropout).",
        measured="largest |log₂ variance| of a layer of the SNN with alpha dropout during training",
        measure=_worst_variance(ALPHA_DROPOUT),
        threshold=1.0,
        unit="octaves",
        needs="SNN with alpha dropout and the standard fixed point",
    ),
    Claim(
        id="trains-deep",
        paper="self-normalizing",
        statement="Very deep SNNs train where plain networks do not.",
        paper_figure=RACE,
        measured=f"training loss of SNN minus ReLU, mean of the last {TAIL} steps, at least {DEEP} layers",
        measure=_final("loss", SNN, RELU, TAIL),
        unit="nats",
        needs=f"SNN and ReLU at {DEEP} layers or more",
        caveat=SMALL,
    ),
    *(
        Claim(
            id=f"better-than-{short}{suffix}",
            paper="self-normalizing",
            statement=f"{arm} classifies better than {other}.",
            paper_figure=RACE,
            measured=f"accuracy of {arm} minus {other} on held-out examples, at least {DEEP} layers",
            measure=_final("validation_accuracy", arm, other, 3),
            side="above",
            unit="points",
            needs=f"{arm} and {other} at {DEEP} layers or more",
            caveat=SMALL,
        )
        for arm, suffix in ((SNN, ""), (ALPHA_DROPOUT, "-with-dropout"))
        for short, other in (("batch-norm", BN), ("layer-norm", LN), ("relu", RELU))
    ),
    Claim(
        id="depth-pays",
        paper="self-normalizing",
        statement="The best SNNs are deep: depth costs them less than networks with batch norm.",
        paper_figure="Mean depth of the networks selected on UCI: 10.8, with batch norm 6.0 (quoted second-hand).",
        measured="accuracy gained by the greater of two depths, SNN minus ReLU + BN",
        measure=_cost_of_depth,
        side="above",
        unit="points",
        needs="SNN and ReLU + BN with a second depth",
    ),
)
