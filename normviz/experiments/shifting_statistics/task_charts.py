"""What is drawn of tasks in a row."""

from __future__ import annotations

from functools import partial

import numpy as np

from normviz.experiments.shifting_statistics.batch_weights import TASK_NAMES, batch_weights_figure
from normviz.experiments.shifting_statistics.heat_maps import Panel, heat_map_figure
from normviz.experiments.shifting_statistics.knobs import TASKS, Knobs, kappa_of
from normviz.experiments.shifting_statistics.pictures import batch_figure
from normviz.experiments.shifting_statistics.task_weights import task_weights_figure
from normviz.figures import Board, Drawer, Figure, Sheet

__all__ = ["tasks_sheet"]


def tasks_sheet(knobs: Knobs) -> Sheet:
    """The charts of tasks in a row, with weights that learn or stand still."""
    adaptive = [knobs.arm_name(k) for k in knobs.kinds() if kappa_of(k) is not None]

    def batch(board: Board) -> Figure:
        return batch_figure(board, knobs)

    def remembered(board: Board) -> Figure:
        return batch_weights_figure(board, knobs)

    def weights(board: Board) -> Figure:
        return task_weights_figure(board, adaptive[0])

    def forgetting(board: Board) -> Figure:
        return _task_map(board, knobs)

    learning: dict[str, Drawer] = {"mean": _mean_accuracy, "forgetting": forgetting}
    statistics: dict[str, Drawer] = {"distance": _distance, "remembered": remembered}
    if adaptive:
        statistics["weights"] = weights
    layers: dict[str, Drawer] = {
        "layer_1": partial(_layer, 1),
        "layer_2": partial(_layer, 2),
        "newest": _newest,
    }
    more: dict[str, dict[str, Drawer]] = {"Distances": layers, "Training": {"loss": _loss}}
    if adaptive:
        more["AdaB²N"] = {"balance": _balance, "eta": _eta}
    if knobs.frozen:
        stage = {"batch": batch, **statistics, "layer_1": layers.pop("layer_1")}
        more["Accuracy of random weights"] = learning
    else:
        stage = {"batch": batch, "forgetting": forgetting, **statistics, "mean": _mean_accuracy}
    return Sheet(stage, more)


_mean_accuracy: Drawer = partial(
    Board.lines,
    series="accuracy",
    title="Accuracy on all tasks seen",
    y="right answers among ten classes (%)",
    look_for="It drops where a new task begins. Who recovers?",
    unit=" %",
)
_distance: Drawer = partial(
    Board.lines,
    series="distance",
    title="Running mean: distance to all tasks",
    y="standard deviations, mean of both layers",
    look_for="A jump at each new task: who comes back, and who stays?",
)
_newest: Drawer = partial(
    Board.lines,
    series="distance_newest",
    title="Running mean: distance to newest task",
    y="standard deviations, mean of both layers",
    look_for="Lower than to all tasks: it leans to the newest.",
)
_loss: Drawer = partial(
    Board.lines,
    series="loss",
    title="Training loss",
    y="loss of stream and replay (nats)",
    look_for="Every new task starts high.",
)
_balance: Drawer = partial(
    Board.lines,
    series="balance",
    title="Balance loss",
    y="squared distance, batch to running statistics",
    look_for="Does λ bring both statistics together?",
    log_scale=True,
)
_eta: Drawer = partial(
    Board.lines,
    series="eta",
    title="Weight of the newest batch, η",
    y="weight in the running statistics",
    look_for="κ 1 holds it at 0.1; κ 0 lets it fall as 1/t.",
    log_scale=True,
)


def _layer(number: int, board: Board) -> Figure:
    return board.lines(
        f"distance/{number}",
        title=f"Distance to all tasks, layer {number}",
        y="standard deviations",
        look_for="The first layer's weights matter least: is its memory longer?"
        if number == 1
        else "Do old statistics of a deeper layer go stale?",
    )


def _task_map(board: Board, knobs: Knobs) -> Figure:
    """Accuracy on every task along the run, a panel for each arm: a task that darkens is forgotten."""
    last = knobs.total_steps()
    panels, listed = [], []
    width = max(1, last // 44)
    for arm in board.arms:
        history = [
            e
            for e in board.log.array_history("accuracy_by_task")
            if e.arm == arm and (board.step is None or e.step <= board.step)
        ]
        if not history:
            continue
        bins = -(-(last + 1) // width)
        total, count = np.zeros((TASKS, bins)), np.zeros((TASKS, bins))
        for entry in history:
            value = entry.value.astype(float)
            there = np.isfinite(value)
            total[there, entry.step // width] += value[there]
            count[there, entry.step // width] += 1
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        panels.append(Panel(arm, mean))
        newest = [e.value for e in history if e.step == history[-1].step]
        listed.append(
            f"{arm} " + ", ".join("–" if np.isnan(v) else f"{v:.0f}" for v in np.mean(newest, axis=0))
        )
    text = (
        f"Maps of the accuracy on each task along the run. Newest, tasks 1 to {TASKS}: {'; '.join(listed)}."
        if panels
        else "Maps of the accuracy on each task; nothing is measured yet."
    )
    bins = -(-(last + 1) // width)
    return heat_map_figure(
        panels,
        count=len(board.arms),
        row_names=[f"task {t}" for t in TASK_NAMES],
        column_names=[f"step {i * width}" for i in range(bins)],
        title="Accuracy on each task",
        look_for="A row that darkens to the right is forgotten.",
        alt_text=text,
        value="right answers (%)",
        limits=(0.0, 100.0),
        x="training steps, from left to right",
        y="task",
    )
