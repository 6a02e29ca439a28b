"""What is drawn on the page *Self-normalizing networks*."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from normviz.experiments.self_normalizing.knobs import Knobs, arm_name, arm_names
from normviz.figures import Figure, line_figure, profile_figure, ridge_figure, strips_figure
from normviz.frame import Log
from normviz.norms.selu_moments import iterate_moment_map

__all__ = ["HISTOGRAM_RANGE", "THEORY", "draw", "drawn_layers"]

HISTOGRAM_RANGE = (-4.0, 4.0)
THEORY = "theory of SNN"
VARIANCES = (0.1, 10.0)
"""Ends of the colours of the variance."""


def drawn_layers(depth: int) -> list[int]:
    """Numbers of the layers whose histograms are drawn, first and last among them."""
    return sorted({round(float(layer)) for layer in np.linspace(1, depth, min(depth, 6))})


def _theory(log: Log, knobs: Knobs) -> NDArray[np.float64] | None:
    """Mean and variance (depth + 1, 2) predicted from those of the inputs; None before they are known."""
    start = [log.arrays(f"{moment}_by_layer", 0) for moment in ("mean", "var")]
    if not all(start):
        return None
    mean, var = (float(entries[0].value[0]) for entries in start)
    return _predicted(mean, var, max(knobs.depths()), *knobs.selu())


@lru_cache(maxsize=64)
def _predicted(mean: float, var: float, depth: int, alpha: float, scale: float) -> NDArray[np.float64]:
    return iterate_moment_map(mean, var, depth, alpha=alpha, scale=scale)


def draw(log: Log, knobs: Knobs, step: int | None = None) -> dict[str, Figure]:
    """All figures for what the log holds, with the cursor at ``step``."""
    arms = arm_names(knobs)
    last = knobs.steps
    theory = _theory(log, knobs)
    layers = list(range(max(knobs.depths()) + 1))
    return {
        "variance": profile_figure(
            log,
            "var_by_layer",
            title="Variance, layer by layer",
            x="layer (0: input)",
            y="variance of the activations",
            look_for="Does it stay near 1 through all layers, and while training? Log scale; scrub to see it move.",
            arms=arms,
            positions=layers,
            reference=None if theory is None else {THEORY: theory[:, 1].tolist()},
            log_scale=True,
            step=step,
        ),
        "loss": line_figure(
            log,
            "loss",
            title="Training loss",
            y="cross-entropy (nats)",
            look_for="Which deep network starts to learn at once, and which one stays on its plateau?",
            arms=arms,
            step=step,
            last=last,
        ),
        "mean": profile_figure(
            log,
            "mean_by_layer",
            title="Mean, layer by layer",
            x="layer (0: input)",
            y="mean of the activations",
            look_for="SELU holds it near 0 without being told; a ReLU's output is never negative.",
            arms=arms,
            positions=layers,
            reference=None if theory is None else {THEORY: theory[:, 0].tolist()},
            step=step,
        ),
        "accuracy": line_figure(
            log,
            "validation_accuracy",
            title="Accuracy on held-out examples",
            y="accuracy (%)",
            look_for="Dropout is off here. Does a well-kept variance also make a better classifier?",
            arms=arms,
            step=step,
            last=last,
            unit=" %",
        ),
        "history": strips_figure(
            log,
            "var_by_layer",
            last=last,
            title="Variance of every layer while training",
            y="layer (0: input)",
            value="variance",
            look_for="One strip per network, time to the right, depth upwards. White: variance 1. Does colour grow?",
            limits=VARIANCES,
            arms=arms,
            first=0,
            step=step,
        ),
        "gradients": profile_figure(
            log,
            "gradient_by_layer",
            title="Gradient, layer by layer",
            x="layer",
            y="root mean square of a weight's gradient",
            look_for="Flat: every layer learns. Falling towards the input: the first layers hear nothing. Log scale.",
            arms=arms,
            log_scale=True,
            step=step,
        ),
        "activations": ridge_figure(
            log,
            "activations",
            low=HISTOGRAM_RANGE[0],
            high=HISTOGRAM_RANGE[1],
            title="What enters the activation, in some layers",
            x="summed inputs of a unit",
            look_for="The theory assumes a bell of width 1 in every layer. A spike or a flat line has gone astray.",
            layer_names=[f"layer {layer}" for layer in drawn_layers(knobs.depth)],
            arms=[arm_name(kind) for kind in knobs.arms],
            step=step,
        ),
    }
