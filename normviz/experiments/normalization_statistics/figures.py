"""What is drawn on the page *Normalization statistics*."""

from __future__ import annotations

from normviz.experiments.normalization_statistics.filtration import filtration_figure
from normviz.experiments.normalization_statistics.invariance import invariance_figure
from normviz.experiments.normalization_statistics.knobs import REFERENCE, Knobs, arm_name, arm_names
from normviz.figures import Figure, line_figure, profile_figure, ridge_figure
from normviz.frame import Log

__all__ = ["HISTOGRAM_RANGE", "draw", "layer_names"]

HISTOGRAM_RANGE = (-4.0, 4.0)


def layer_names(task: str) -> list[str]:
    """Names of the normalized layers whose output is drawn, input side first."""
    if task == "language":
        return ["block 1, attention", "block 1, MLP", "block 2, attention", "block 2, MLP", "final"]
    return ["conv 1", "conv 2", "conv 3"] if task == "vision" else ["LSTM output"]


def draw(log: Log, knobs: Knobs, step: int | None = None) -> dict[str, Figure]:
    """All figures for what the log holds, with the cursor at ``step``."""
    arms = arm_names(knobs)
    trained = [arm for arm in arms if arm != REFERENCE]
    last = knobs.steps
    figures = {
        "loss": line_figure(
            log,
            "loss",
            title="Training loss",
            y="cross-entropy (nats)",
            look_for="Which norm learns fastest, and does any line jump or stop (diverge)?",
            arms=trained,
            step=step,
            last=last,
        ),
        "validation": line_figure(
            log,
            "validation_loss",
            title="Validation loss in eval mode",
            y="cross-entropy (nats)",
            look_for="Running statistics are used here: a norm that they mislead is worse than its training loss.",
            arms=trained,
            step=step,
            last=last,
        ),
        "fluctuation": line_figure(
            log,
            ["gap/var", "gap/quadratic_mean"],
            title="Batch against running statistics: second moment",
            y="distance |batch − running|",
            look_for="Variance for BatchNorm, quadratic mean for PowerNorm: lower and flatter is safer. Log scale.",
            arms=arms,
            log_scale=True,
            step=step,
            last=last,
        ),
        "train_eval": line_figure(
            log,
            "train_minus_eval",
            title="Training mode minus eval mode",
            y="validation loss, difference (nats)",
            look_for="Zero means: what was trained is what is used. LayerNorm stays at zero by construction.",
            arms=trained,
            zero_line=True,
            step=step,
            last=last,
        ),
        "activations": ridge_figure(
            log,
            "activations",
            low=HISTOGRAM_RANGE[0],
            high=HISTOGRAM_RANGE[1],
            title="Activations after each norm",
            x="value",
            look_for="Does every layer keep a similar spread, from the input (bottom) to the output (top)?",
            layer_names=layer_names(knobs.task),
            arms=trained,
            step=step,
        ),
        "mean_fluctuation": line_figure(
            log,
            "gap/mean",
            title="Batch against running statistics: mean",
            y="distance |batch − running|",
            look_for="Only norms that subtract a batch mean have this line; PowerNorm has none to mispredict.",
            arms=arms,
            log_scale=True,
            step=step,
            last=last,
        ),
        "gradients": line_figure(
            log,
            "grad_norm",
            title="Gradient norm",
            y="Euclidean norm",
            look_for="Spikes announce instability; PowerNorm's approximate backward pass should keep them bounded.",
            arms=trained,
            log_scale=True,
            step=step,
            last=last,
        ),
    }
    tested = [arm_name(n) for n in ("unified_filtered", "unified") if n in knobs.norms]
    if tested:
        figures["filtration"] = filtration_figure(log, tested[0], last=last, step=step)
        figures["smoothing"] = line_figure(
            log,
            {"filter/batch_distance": ", one batch", "filter/smoothed_distance": ", window"},
            title="UnifiedNorm against its running statistic",
            y="distance |quadratic mean − running|",
            look_for="The geometric mean over the window should stay closer than one batch does. Log scale.",
            arms=tested[:1],
            log_scale=True,
            step=step,
            last=last,
        )
    if "layer" in knobs.norms:
        figures["invariances"] = invariance_figure(log)
    if knobs.task == "recurrent":
        figures["state"] = profile_figure(
            log,
            "cell_std_by_time",
            title="Spread of the LSTM cell along a sequence",
            x="time step",
            y="standard deviation of c",
            look_for="Does the hidden dynamics stay at a constant scale along the sequence, and while training?",
            arms=trained,
            step=step,
        )
    return figures
