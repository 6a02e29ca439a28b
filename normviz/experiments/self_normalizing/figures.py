"""What is drawn on the page *Self-normalizing networks*."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from normviz.experiments.self_normalizing.knobs import Knobs, arm_name
from normviz.experiments.self_normalizing.recorded import HISTOGRAM_RANGE, drawn_layers
from normviz.figures import Board, Figure, Sheet
from normviz.frame import Log
from normviz.norms.selu_moments import iterate_moment_map

__all__ = ["THEORY", "sheet"]

THEORY = "theory of SNN"
VARIANCES = (0.1, 10.0)
"""Ends of the colours of the variance."""


def _theory(log: Log, knobs: Knobs, moment: int) -> dict[str, list[float]] | None:
    """Mean (0) or variance (1) by layer, predicted from the moments of the inputs; None before they are known."""
    start = [log.arrays(f"{name}_by_layer", 0) for name in ("mean", "var")]
    if not all(start):
        return None
    mean, var = (float(entries[0].value[0]) for entries in start)
    predicted = _predicted(mean, var, max(knobs.depths()), *knobs.selu())
    return {THEORY: predicted[:, moment].tolist()}


@lru_cache(maxsize=64)
def _predicted(mean: float, var: float, depth: int, alpha: float, scale: float) -> NDArray[np.float64]:
    return iterate_moment_map(mean, var, depth, alpha=alpha, scale=scale)


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    layers = list(range(max(knobs.depths()) + 1))

    def variance(board: Board) -> Figure:
        return board.profile(
            "var_by_layer",
            title="Variance, layer by layer",
            x="layer (0: input)",
            y="variance of the activations",
            look_for="Does it stay near 1 through all layers, and while training?",
            positions=layers,
            reference=_theory(board.log, knobs, 1),
            log_scale=True,
        )

    def mean(board: Board) -> Figure:
        return board.profile(
            "mean_by_layer",
            title="Mean, layer by layer",
            x="layer (0: input)",
            y="mean of the activations",
            look_for="SELU holds it near 0. A ReLU's output is never negative.",
            positions=layers,
            reference=_theory(board.log, knobs, 0),
        )

    def loss(board: Board) -> Figure:
        return board.lines(
            "loss",
            title="Training loss",
            y="cross-entropy (nats)",
            look_for="Which deep network learns at once, and which stays on its plateau?",
        )

    def accuracy(board: Board) -> Figure:
        return board.lines(
            "validation_accuracy",
            title="Accuracy on held-out examples",
            y="accuracy (%)",
            look_for="Dropout is off here. Does a steady variance make a better classifier?",
            unit=" %",
        )

    def history(board: Board) -> Figure:
        return board.strips(
            "var_by_layer",
            title="Variance of every layer while training",
            y="layer (0: input)",
            value="variance",
            look_for="One strip per network. White: variance 1. Does the colour become stronger?",
            limits=VARIANCES,
            first=0,
            wide=False,
        )

    def gradients(board: Board) -> Figure:
        return board.profile(
            "gradient_by_layer",
            title="Gradient, layer by layer",
            x="layer",
            y="root mean square of a weight's gradient",
            look_for="Flat: every layer learns. Falling towards the input: the first layers do not.",
            log_scale=True,
        )

    def activations(board: Board) -> Figure:
        return board.only(arm_name(kind) for kind in knobs.arms).ridges(
            "activations",
            low=HISTOGRAM_RANGE[0],
            high=HISTOGRAM_RANGE[1],
            title="What enters the activation, in some layers",
            x="summed inputs of a unit",
            look_for="The theory assumes a bell of width 1 in every layer.",
            layer_names=[f"layer {layer}" for layer in drawn_layers(knobs.depth)],
        )

    return Sheet(
        stage={
            "variance": variance,
            "loss": loss,
            "activations": activations,
            "history": history,
            "accuracy": accuracy,
            "gradients": gradients,
        },
        more={"Moments": {"mean": mean}},
    )
