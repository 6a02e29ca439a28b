"""What is drawn on the page *Noisy labels*."""

from __future__ import annotations

from normviz.experiments.noisy_labels.knobs import WEIGHTING, Knobs, arm_name, arm_names
from normviz.experiments.noisy_labels.least_weight import least_weight_figure
from normviz.experiments.noisy_labels.omega_map import omega_map_figure
from normviz.figures import Figure, line_figure, profile_figure, ridge_figure
from normviz.frame import Log

__all__ = ["BINS", "CLASSES", "WEIGHT_RANGE", "draw"]

WEIGHT_RANGE = (0.0, 3.0)
BINS = 30
"""Bins of the histogram of weights over :data:`WEIGHT_RANGE`; weights beyond it are in the last one."""

CLASSES = {"digits": 10, "text": 8}
LOSS_POSITIONS = [(i + 0.5) / 10 for i in range(10)]


def draw(log: Log, knobs: Knobs, step: int | None = None) -> dict[str, Figure]:
    """All figures for what the log holds, with the cursor at ``step``."""
    arms = arm_names(knobs)
    figures = {"accuracy": _accuracy(log, knobs, arms, step)}
    weighting = arm_names(knobs, WEIGHTING)
    rescalers = arm_names(knobs, ("storm", "mw_noisy", "mw_clean"))
    if weighting:
        figures["weights"] = line_figure(
            log,
            {"weight/right": "", "weight/wrong": ", wrong"},
            title="Mean weight of right labels and of wrong ones",
            y="weight (mean of all samples: 1)",
            look_for="No arm here is told which labels are wrong. Do the two lines of a colour part, and stay apart?",
            arms=weighting,
            step=step,
            last=knobs.steps,
        )
        figures["least"] = least_weight_figure(log, knobs, step)
    if "storm" in knobs.arms:
        storm = arm_name("storm", knobs)
        figures["omega"] = omega_map_figure(log, storm, CLASSES[knobs.task], step)
    if rescalers:
        figures["histogram"] = ridge_figure(
            log,
            "weight_histogram",
            low=WEIGHT_RANGE[0],
            high=WEIGHT_RANGE[1],
            title="All weights",
            x="weight",
            look_for="Good: wrong labels pile up at 0 and right ones above 1. Bad: one heap, whatever the label.",
            layer_names=["wrong labels", "right labels"] if knobs.rate else ["right labels"],
            arms=rescalers,
            step=step,
            quantity="weights",
        )
    figures["memorised"] = line_figure(
        log,
        "memorised",
        title="Wrong labels learned by heart",
        y="share of wrong labels predicted",
        look_for="Plain training starts to repeat the wrong labels it is shown; who does not?",
        arms=arms,
        step=step,
        last=knobs.steps,
    )
    if weighting:
        figures |= _of_weights(log, knobs, weighting, step)
    figures["calibration"] = line_figure(
        log,
        "calibration_error",
        title="Calibration error on test data",
        y="expected calibration error",
        look_for="0: of the answers given with 80 % confidence, 80 % are right. Random noise makes networks timid.",
        arms=arms,
        step=step,
        last=knobs.steps,
    )
    return figures


def _accuracy(log: Log, knobs: Knobs, arms: list[str], step: int | None) -> Figure:
    return line_figure(
        log,
        "accuracy",
        title="Accuracy on test data with right labels",
        y="share of right answers",
        look_for="Oracle ignores the wrong labels: the best there is. How far does STORM climb from Plain towards it?",
        arms=arms,
        step=step,
        last=knobs.steps,
    )


def _of_weights(log: Log, knobs: Knobs, weighting: list[str], step: int | None) -> dict[str, Figure]:
    return {
        "by_loss": profile_figure(
            log,
            "weight_by_loss",
            title="Weight as a function of the loss",
            x="loss, as 1 − probability of the label",
            y="mean weight",
            look_for="A curve that falls means: a high loss is not believed. Is it a step, or does it leave a doubt?",
            arms=weighting,
            positions=LOSS_POSITIONS,
            step=step,
        ),
        "auc": line_figure(
            log,
            "auc",
            title="How well weights tell right from wrong labels",
            y="area under the ROC curve",
            look_for="1: every right label has more weight than every wrong one. 0.5: weights know nothing.",
            arms=weighting,
            step=step,
            last=knobs.steps,
        ),
        "by_class": profile_figure(
            log,
            "weight_by_class",
            title="Mean weight by true class",
            x="class",
            y="mean weight",
            look_for="Flat is fair. In a collapse a few easy classes take the weight and the others are forgotten.",
            arms=weighting,
            positions=[float(c) for c in range(CLASSES[knobs.task])],
            step=step,
        ),
    }
