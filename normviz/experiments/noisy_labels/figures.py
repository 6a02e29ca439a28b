"""What is drawn on the page *Noisy labels*."""

from __future__ import annotations

from normviz.experiments.noisy_labels.knobs import WEIGHTING, Knobs, arm_name
from normviz.experiments.noisy_labels.least_weight import least_weight_figure
from normviz.experiments.noisy_labels.omega_map import omega_map_figure
from normviz.experiments.noisy_labels.recorded import CLASSES, WEIGHT_RANGE
from normviz.figures import Board, Drawer, Figure, Sheet

__all__ = ["sheet"]

RESCALING = ("storm", "mw_noisy", "mw_clean")
"""Arms whose weights come from a network."""
LOSS_POSITIONS = [(i + 0.5) / 10 for i in range(10)]
MUCH_OUTER = 0.1
"""Outer scale from which a few classes may take the weight: the classes then stand on the stage."""


def _accuracy(board: Board) -> Figure:
    return board.lines(
        "accuracy",
        title="Accuracy on test data with right labels",
        y="share of right answers",
        look_for="Oracle knows the wrong labels. How close does STORM come?",
    )


def _memorised(board: Board) -> Figure:
    return board.lines(
        "memorised",
        title="Wrong labels memorised",
        y="share of wrong labels predicted",
        look_for="Which networks begin to repeat the wrong labels?",
    )


def _calibration(board: Board) -> Figure:
    return board.lines(
        "calibration_error",
        title="Calibration error on test data",
        y="expected calibration error",
        look_for="0: of answers given with 80 % confidence, 80 % are right.",
    )


def _time(board: Board) -> Figure:
    return board.lines(
        "step_ms",
        title="Time of an update",
        y="milliseconds",
        look_for="How many times longer does STORM take than Plain?",
        log_scale=True,
    )


def _operations(board: Board) -> Figure:
    counted = board.log.scalars("operations").groupby("arm", sort=False)["value"].mean().to_dict()
    return board.bars(
        {arm: counted[arm] / 1e6 for arm in board.arms if arm in counted},
        title="Arithmetic of an update",
        x="million operations in matrix products",
        look_for="Counted after the burn-in. What does STORM add to Plain?",
    )


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    weighting = [arm_name(kind, knobs) for kind in knobs.kinds(WEIGHTING)]
    rescaling = [arm_name(kind, knobs) for kind in knobs.kinds(RESCALING)]

    def least(board: Board) -> Figure:
        return least_weight_figure(board, knobs)

    def weights(board: Board) -> Figure:
        return board.only(weighting).lines(
            {"weight/right": "", "weight/wrong": ", wrong"},
            title="Mean weight of right and of wrong labels",
            y="weight (mean of all samples: 1)",
            look_for="Nobody says which labels are wrong. Do the lines part?",
        )

    def omega(board: Board) -> Figure:
        return omega_map_figure(board, arm_name("storm", knobs), CLASSES[knobs.task])

    def histogram(board: Board) -> Figure:
        return board.only(rescaling).ridges(
            "weight_histogram",
            low=WEIGHT_RANGE[0],
            high=WEIGHT_RANGE[1],
            title="All weights",
            x="weight",
            look_for="Do wrong labels gather at 0 and right ones above 1?",
            layer_names=["wrong", "right"] if knobs.rate else ["right"],
            quantity="weights",
        )

    def by_class(board: Board) -> Figure:
        return board.only(weighting).profile(
            "weight_by_class",
            title="Mean weight by true class",
            x="class",
            y="mean weight",
            look_for="Flat is fair. Do a few easy classes take all the weight?",
            positions=[float(c) for c in range(CLASSES[knobs.task])],
        )

    def by_loss(board: Board) -> Figure:
        return board.only(weighting).profile(
            "weight_by_loss",
            title="Weight as a function of the loss",
            x="loss, as 1 − probability of the label",
            y="mean weight",
            look_for="Falling: samples with a high loss count less. Is it a step?",
            positions=LOSS_POSITIONS,
        )

    def auc(board: Board) -> Figure:
        return board.only(weighting).lines(
            "auc",
            title="How well weights tell right from wrong",
            y="area under the ROC curve",
            look_for="1: every right label weighs more than every wrong one.",
        )

    stage: dict[str, Drawer] = {"least": least} if weighting else {}
    stage["accuracy"] = _accuracy
    if weighting:
        stage["weights"] = weights
    if "storm" in knobs.arms:
        stage["omega"] = omega
    of_weights: dict[str, Drawer] = {"histogram": histogram} if rescaling else {}
    if weighting:
        of_weights |= {"by_class": by_class, "by_loss": by_loss}
        if knobs.rate:
            of_weights["auc"] = auc
    for name in ("by_class", "histogram") if knobs.outer_scale >= MUCH_OUTER else ("histogram",):
        if name in of_weights and len(stage) + bool(knobs.rate) < 6:
            stage[name] = of_weights.pop(name)
    if knobs.rate:
        stage["memorised"] = _memorised
    more: dict[str, dict[str, Drawer]] = {"Weights": of_weights} if of_weights else {}
    more |= {"Calibration": {"calibration": _calibration}, "Cost": {"time": _time, "operations": _operations}}
    return Sheet(stage, more)
