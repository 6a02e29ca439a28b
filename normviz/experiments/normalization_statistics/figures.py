"""What is drawn on the page *Normalization statistics*."""

from __future__ import annotations

import pandas as pd

from normviz.experiments.normalization_statistics.filtration import filtration_figure
from normviz.experiments.normalization_statistics.invariance import invariance_figure
from normviz.experiments.normalization_statistics.knobs import REFERENCE, Knobs, arm_name
from normviz.experiments.normalization_statistics.recorded import HISTOGRAM_RANGE, VIT_BLOCKS
from normviz.figures import Board, Drawer, Figure, Sheet

__all__ = ["layer_names", "sheet"]


def layer_names(knobs: Knobs) -> list[str]:
    """Names of the normalized layers whose output is drawn, input side first; of transformers the outer blocks."""
    if knobs.task == "language" or knobs.has_vit():
        last = VIT_BLOCKS if knobs.has_vit() else 2
        return [*(f"block {i}, {part}" for i in (1, last) for part in ("attention", "MLP")), "final"]
    return ["conv 1", "conv 2", "conv 3"] if knobs.task == "vision" else ["LSTM output"]


def _trained(board: Board) -> Board:
    """Without the ConvNet that only shows how far batch statistics stray in vision."""
    return board.only(arm for arm in board.arms if arm != REFERENCE)


def _loss(board: Board) -> Figure:
    return _trained(board).lines(
        "loss",
        title="Training loss",
        y="cross-entropy (nats)",
        look_for="Which norm learns fastest, and does any line jump or stop?",
    )


def _validation(board: Board) -> Figure:
    return _trained(board).lines(
        "validation_loss",
        title="Validation loss in eval mode",
        y="cross-entropy (nats)",
        look_for="Running statistics are used here. Which norm do they mislead?",
    )


def _fluctuation(board: Board) -> Figure:
    return board.lines(
        ["relative_gap/var", "relative_gap/quadratic_mean"],
        title="Batch against running statistic",
        y="|batch − running| / running",
        look_for="Variance, or quadratic mean for PowerNorm: lower and flatter is safer.",
        log_scale=True,
    )


def _train_eval(board: Board) -> Figure:
    return _trained(board).lines(
        "train_minus_eval",
        title="Training mode minus eval mode",
        y="validation loss, difference (nats)",
        look_for="Zero: what was trained is what is used. LayerNorm is exactly there.",
        zero_line=True,
    )


def _mean_fluctuation(board: Board) -> Figure:
    return board.lines(
        "relative_gap/mean",
        title="Batch against running mean",
        y="|batch − running| / deviation",
        look_for="Only norms that subtract a batch mean have this line.",
        log_scale=True,
    )


def _absolute(board: Board) -> Figure:
    return board.lines(
        ["gap/var", "gap/quadratic_mean"],
        title="The same in absolute units",
        y="|batch − running|",
        look_for="The paper draws this. It grows with the size of the activations.",
        log_scale=True,
    )


def _gradients(board: Board) -> Figure:
    return _trained(board).lines(
        "grad_norm",
        title="Gradient norm",
        y="Euclidean norm",
        look_for="Spikes announce instability. Does PowerNorm keep them bounded?",
        log_scale=True,
    )


def _steepness(board: Board) -> Figure:
    return _trained(board).lines(
        "input_gradient",
        title="Gradient in the input of a norm",
        y="‖dL/dX‖, largest over the norms",
        look_for="The peak bounds the loss's Lipschitz constant from below: whose is lower?",
        log_scale=True,
    )


def _outliers(board: Board) -> Figure:
    return _trained(board).profile(
        "outliers_by_layer",
        title="Outliers in front of each norm",
        x="norm, counted from the input",
        y="largest over median |activation|",
        look_for="Which network has the most extreme values, and in which layers?",
        log_scale=True,
    )


SMOOTHED = 10
"""Updates over which a training loss is averaged, as in the claims on updates and operations."""


def _against_operations(board: Board) -> pd.DataFrame:
    """Smoothed training loss against the arithmetic that an arm has spent, mean and range over seeds."""
    columns = ["arm", "x", "mean", "low", "high"]
    table, spent = board.log.scalars("loss"), board.log.scalars("operations")
    if board.step is not None:
        table = table[table["step"] <= board.step]
    table = table.merge(spent[["arm", "seed", "value"]], on=["arm", "seed"], suffixes=("", "_update"))
    if table.empty:
        return pd.DataFrame(columns=columns)
    table = table.sort_values(["arm", "seed", "step"])
    members = table.groupby(["arm", "seed"], sort=False)["value"]
    table["value"] = members.transform(lambda loss: loss.rolling(SMOOTHED, min_periods=1).mean())
    table["x"] = table["step"] * table["value_update"] / 1e9
    spread = table.groupby(["arm", "step"], sort=False).agg(
        x=("x", "mean"), mean=("value", "mean"), low=("value", "min"), high=("value", "max")
    )
    return spread.reset_index().sort_values(["arm", "step"])[columns]


def _by_operations(board: Board) -> Figure:
    return board.curves(
        _against_operations(board),
        title="Training loss by arithmetic",
        x="operations spent (billions)",
        y="cross-entropy (nats), 10 updates averaged",
        look_for="LayerNorm's own arithmetic is counted: is it still ahead?",
    )


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""

    def activations(board: Board) -> Figure:
        return _trained(board).ridges(
            "activations",
            low=HISTOGRAM_RANGE[0],
            high=HISTOGRAM_RANGE[1],
            title="Activations after each norm",
            x="value",
            look_for="Does every layer keep a similar spread, from input to output?",
            layer_names=layer_names(knobs),
        )

    def state(board: Board) -> Figure:
        return _trained(board).profile(
            "cell_std_by_time",
            title="Spread of the LSTM cell along a sequence",
            x="time step",
            y="standard deviation of c",
            look_for="Does the hidden state keep its scale along the sequence?",
        )

    tested = [arm_name(n) for n in ("unified_filtered", "unified") if n in knobs.norms]

    def filtration(board: Board) -> Figure:
        return filtration_figure(board.log, tested[0], last=board.last, step=board.step)

    def smoothing(board: Board) -> Figure:
        return board.only(tested[:1]).lines(
            {"filter/batch_distance": ", one batch", "filter/smoothed_distance": ", window"},
            title="UnifiedNorm against its running statistic",
            y="|quadratic mean − running|",
            look_for="The mean over the window should stay closer than one batch.",
            log_scale=True,
        )

    keeps_statistics = any(n in knobs.norms for n in ("batch", "power", "power_v", "power_v_plain"))
    stage: dict[str, Drawer] = {"activations": activations, "loss": _loss}
    if keeps_statistics or knobs.shows_reference():
        stage["fluctuation"] = _fluctuation
    stage |= {"validation": _validation, "train_eval": _train_eval}
    more: dict[str, dict[str, Drawer]] = {"Gradients": {"gradients": _gradients}}
    if knobs.task != "recurrent":
        more["Gradients"]["steepness"] = _steepness
        more["Outliers"] = {"outliers": _outliers}
    if keeps_statistics or knobs.shows_reference():
        more["Statistics"] = {"mean_fluctuation": _mean_fluctuation, "absolute_fluctuation": _absolute}
    if tested and knobs.task == "vision" and knobs.outlier_every:
        stage["filtration"] = filtration
        more["UnifiedNorm"] = {"smoothing": smoothing}
    elif tested:
        more["UnifiedNorm"] = {"filtration": filtration, "smoothing": smoothing}
    if knobs.task == "recurrent":
        stage["state"] = state
        more["Arithmetic"] = {"by_operations": _by_operations}
    if len(stage) < 6 and keeps_statistics:
        stage["mean_fluctuation"] = more["Statistics"].pop("mean_fluctuation")
    if "layer" in knobs.norms:
        more["Invariance lab"] = {"invariances": lambda board: invariance_figure(board.log)}
    return Sheet(stage, more)
