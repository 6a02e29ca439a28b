"""What is drawn on the page *Federated pruning*."""

from __future__ import annotations

from functools import partial

from normviz.experiments.federated_pruning.adjustments import adjustment_figure
from normviz.experiments.federated_pruning.candidate_table import candidate_figure
from normviz.experiments.federated_pruning.client_labels import label_figure
from normviz.experiments.federated_pruning.cost_bars import cost_figure
from normviz.experiments.federated_pruning.knobs import SELECTING, Knobs
from normviz.experiments.federated_pruning.layer_shares import share_figure
from normviz.experiments.federated_pruning.mask_picture import mask_figure
from normviz.experiments.federated_pruning.ranking_dots import ranking_figure
from normviz.experiments.federated_pruning.recorded import CLASSES
from normviz.figures import Board, Drawer, Figure, Sheet

__all__ = ["sheet"]


def _accuracy(board: Board) -> Figure:
    return board.lines(
        "accuracy",
        title="Accuracy of the server's network",
        y="share of right answers on test data",
        look_for="How far from dense training do 3 % of the weights end?",
    )


def _recall(board: Board, what: str) -> Figure:
    return board.profile(
        "recall",
        title=f"Accuracy by {what}",
        x=what,
        y="share of right answers",
        look_for=f"Is there a {what} that the network never names?",
        positions=[float(digit) for digit in range(CLASSES)],
    )


def _loss(board: Board) -> Figure:
    return board.lines(
        "test_loss",
        title="Loss on test data",
        y="cross-entropy",
        look_for="A loss that rises while accuracy stays: too sure of itself.",
        log_scale=True,
    )


def _operations(board: Board) -> Figure:
    return board.lines(
        "round_mflops",
        title="Operations of a device in a round",
        y="million operations",
        look_for="In which rounds are gradients of pruned weights taken?",
        log_scale=True,
    )


def _bytes(board: Board) -> Figure:
    return board.lines(
        "round_kb",
        title="Bytes that a device sends and receives",
        y="kilobytes in a round",
        look_for="The first round pays for the selection. Which later ones cost more?",
        log_scale=True,
    )


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    arms = knobs.shown_arms()
    sparse = [name for name in arms if name != "Dense FedAvg"]
    reference = (sparse or list(arms))[0]

    def mask(board: Board) -> Figure:
        return mask_figure(board, reference)

    def candidates(board: Board) -> Figure:
        return candidate_figure(board, knobs.pool_size)

    def exchanged(board: Board) -> Figure:
        return adjustment_figure(board, reference, knobs.interval)

    selects = knobs.task == "candidates" or bool(knobs.kinds(SELECTING))
    what = "class" if knobs.data == "own" else "digit"
    labels: Drawer = partial(label_figure, what=what)
    stage: dict[str, Drawer] = {"mask": mask, "labels": labels} if sparse else {"labels": labels}
    if selects:
        stage["candidates"] = candidates
    stage["accuracy"] = _accuracy
    if knobs.task == "candidates":
        stage["ranking"] = ranking_figure
    stage["layer_density"] = share_figure
    recall = partial(_recall, what=what)
    network: dict[str, Drawer] = {"recall": recall, "test_loss": _loss}
    costs: dict[str, Drawer] = {"operations": _operations, "bytes": _bytes}
    if knobs.task == "candidates":
        costs = {"cost": cost_figure, **costs}
    else:
        stage["cost"] = cost_figure
    adjusted: dict[str, Drawer] = {"exchanged": exchanged} if sparse else {}
    more = {"Adjustments": adjusted, "Network": network, "Costs": costs}
    return Sheet(stage, {name: charts for name, charts in more.items() if charts})
