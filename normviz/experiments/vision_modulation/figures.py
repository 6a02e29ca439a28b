"""What is drawn on the page *Vision modulation*."""

from __future__ import annotations

import numpy as np
import pandas as pd

from normviz.experiments.vision_modulation.knobs import ARM_NAMES, LAVI, Knobs
from normviz.experiments.vision_modulation.question_maps import question_maps_figure
from normviz.experiments.vision_modulation.recorded import TOKENS
from normviz.experiments.vision_modulation.word_change import changing_arm, word_change_figure
from normviz.experiments.vision_modulation.world_picture import looking_arm, world_figure
from normviz.figures import Board, Drawer, Figure, Sheet

__all__ = ["sheet"]

CURVE = ["arm", "x", "mean", "low", "high"]


def _accuracy(board: Board) -> Figure:
    return board.lines(
        "accuracy",
        title="Right answers, by steps",
        y="share of right answers",
        look_for="Pooled cannot choose a cell. Who can?"
        if ARM_NAMES["pooled"] in board.arms
        else "Who learns first?",
    )


def _by_operations(board: Board, knobs: Knobs) -> Figure:
    """Accuracy against the operations of all forward passes so far, mean and range over seeds."""
    table = board.log.scalars("accuracy")
    if board.step is not None:
        table = table[table["step"] <= board.step]
    each = board.log.scalars("flops").groupby("arm")["value"].mean().to_dict()
    parts = []
    for arm in board.arms:
        own = table[table["arm"] == arm]
        if arm not in each or own.empty:
            continue
        spread = own.groupby("step")["value"].agg(["mean", "min", "max"]).reset_index()
        spread.columns = pd.Index(["step", "mean", "low", "high"])
        parts.append(spread.assign(arm=arm, x=spread["step"] * each[arm] * knobs.batch_size / 1e9))
    data = pd.concat(parts, ignore_index=True)[CURVE] if parts else pd.DataFrame(columns=CURVE)
    return board.curves(
        data,
        title="Right answers, by arithmetic",
        x="billion operations of forward passes",
        y="share of right answers",
        look_for="The same curves, but steps have a price. Who leads now?",
    )


def _by_tokens(board: Board, name: str, title: str, y: str, look_for: str) -> Figure:
    """A cost by the number of visual tokens, mean and range over seeds."""
    rows = []
    for arm in board.arms:
        found = [e.value.astype(float) for e in board.log.array_history(name) if e.arm == arm]
        if found:
            stack = np.stack(found)
            columns = zip(TOKENS, stack.mean(0), stack.min(0), stack.max(0), strict=True)
            rows += [(arm, *column) for column in columns]
    data = pd.DataFrame(rows, columns=CURVE)
    return board.curves(
        data,
        title=title,
        x="visual tokens M",
        y=y,
        look_for=look_for,
        log_x=True,
        log_y=True,
        points=True,
    )


def _cost(board: Board) -> Figure:
    return _by_tokens(
        board,
        "flops_by_tokens",
        "Arithmetic by visual tokens",
        "operations of a forward pass",
        "Which line is steeper? One grows with the square.",
    )


def _time(board: Board) -> Figure:
    return _by_tokens(
        board,
        "ms_by_tokens",
        "Measured time by visual tokens",
        "milliseconds of a forward pass",
        "Few tokens: Python's own time. Many: the lines part.",
    )


def _sequence(board: Board) -> Figure:
    counted = board.log.scalars("sequence").groupby("arm", sort=False)["value"].mean().to_dict()
    return board.bars(
        {arm: counted[arm] for arm in board.arms if arm in counted},
        title="Tokens inside self-attention",
        x="tokens",
        look_for="Does the picture make the text longer?",
    )


def _loss(board: Board) -> Figure:
    return board.lines(
        "loss",
        title="Loss of the answer",
        y="nats",
        look_for="Flat: it knows the colours, but not which cell has which.",
    )


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    floor = knobs.vocabulary().entropy

    def world(board: Board) -> Figure:
        return world_figure(board, knobs)

    def words(board: Board) -> Figure:
        return word_change_figure(board, knobs)

    def by_operations(board: Board) -> Figure:
        return _by_operations(board, knobs)

    def maps(board: Board) -> Figure:
        return question_maps_figure(board, knobs)

    def prior(board: Board) -> Figure:
        return board.lines(
            "text_loss",
            title="Text without a picture",
            y=f"loss in nats per word (least possible: {floor:.2f})",
            look_for="Flat: the language is kept. Who forgets it while learning to see?",
            log_scale=True,
        )

    def changes(board: Board) -> Figure:
        return board.only([arm for arm in board.arms if arm in seeing]).lines(
            {"gain_change": "", "bias_change": ", bias"},
            title="Change of gain and of bias",
            y="mean norm of Δγ and of Δβ over words",
            look_for="Both start at 0. Which of the two does the work?",
        )

    seeing = {
        look.name for look, kind in zip(knobs.shown_arms().looks, knobs.kinds(), strict=True) if kind in LAVI
    }
    stage: dict[str, Drawer] = {"world": world, "accuracy": _accuracy, "by_operations": by_operations}
    modulation: dict[str, Drawer] = {"changes": changes} if seeing else {}
    if looking_arm(knobs):
        modulation = {"maps": maps, **modulation}
    if changing_arm(knobs):
        stage["words"] = words
    if knobs.host_steps:
        stage["prior"] = prior
    elif "maps" in modulation:
        stage["maps"] = modulation.pop("maps")
    stage["cost"] = _cost
    more = {"Modulation": modulation} if modulation else {}
    more |= {"Cost": {"time": _time, "sequence": _sequence}, "Training": {"loss": _loss}}
    return Sheet(stage, more)
