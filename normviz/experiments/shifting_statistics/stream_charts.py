"""What is drawn of one corrupted stream."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from normviz.experiments.shifting_statistics.alpha_mixture import mixture_figure
from normviz.experiments.shifting_statistics.heat_maps import Panel, heat_map_figure
from normviz.experiments.shifting_statistics.knobs import METHODS, Knobs
from normviz.experiments.shifting_statistics.pictures import stream_figure
from normviz.experiments.shifting_statistics.recorded import ALPHAS, CLASSES
from normviz.figures import Board, Drawer, Figure, Sheet
from normviz.frame import ArrayAt

__all__ = ["stream_sheet"]

ALPHA_BN = METHODS["alpha"]


def stream_sheet(knobs: Knobs) -> Sheet:
    """The charts of one corrupted stream."""
    alone = [knobs.arm_name(k) for k in knobs.kinds() if k in ("alpha", "entropy", "core")]
    maps = alone or [knobs.arm_name(knobs.kinds()[0])]

    def digits(board: Board) -> Figure:
        return stream_figure(board, knobs)

    def mixture(board: Board) -> Figure:
        return mixture_figure(board, knobs.alpha)

    def correlation(board: Board) -> Figure:
        return _correlation(board, maps, knobs.shown_classes())

    stage: dict[str, Drawer] = {"digits": digits, "recent": _recent}
    if "alpha" in knobs.kinds():
        stage |= {"by_alpha": partial(_by_alpha, knobs=knobs), "mixture": mixture}
    stage |= {"predicted": partial(_predicted, knobs=knobs), "correlation": correlation}
    return Sheet(
        stage,
        {
            "The whole stream": {"accuracy": _accuracy, "largest": _largest},
            "Adaptation": {"drift": _drift, "core_loss": _core_loss, "entropy": _entropy},
        },
    )


_recent: Drawer = partial(
    Board.lines,
    series="recent",
    title="Accuracy on the newest 100 images",
    y="right answers (%)",
    look_for="Who learns from the stream, and who collapses?",
    unit=" %",
)
_accuracy: Drawer = partial(
    Board.lines,
    series="accuracy",
    title="Accuracy over the stream so far",
    y="right answers (%)",
    look_for="This is what the claims compare at the end.",
    unit=" %",
)
_largest: Drawer = partial(
    Board.lines,
    series="largest_class",
    title="Share of the class predicted most",
    y="share of the newest 100 answers (%)",
    look_for="At 100 every image gets the same answer: collapse.",
    unit=" %",
)
_drift: Drawer = partial(
    Board.lines,
    series="drift",
    title="How far gains and biases have moved",
    y="root mean square change",
    look_for="Only what is trained at test time moves.",
)
_core_loss: Drawer = partial(
    Board.lines,
    series="core_loss",
    title="Core's loss of the newest answers",
    y="share of a class's probability that others share",
    look_for="Collapse costs 0.9 here. Does Core bring it down?",
)
_entropy: Drawer = partial(
    Board.lines,
    series="entropy",
    title="Entropy of the newest answers",
    y="entropy (nats)",
    look_for="Near 0 in a collapse too: being sure is not being right.",
)


def _by_alpha(board: Board, knobs: Knobs) -> Figure:
    """Accuracy of alpha-BN so far against alpha, with the adapted methods at their own alpha as dots."""
    entries = [e for e in board.log.arrays("by_alpha", board.step) if e.arm == ALPHA_BN]
    rows: list[tuple[str, float, float, float, float]] = []
    if entries:
        stack = np.stack([e.value.astype(float) for e in entries])
        for i, alpha in enumerate(ALPHAS):
            column = stack[:, i]
            rows.append((ALPHA_BN, alpha, float(column.mean()), float(column.min()), float(column.max())))
    now = max((e.step for e in entries), default=0)
    for kind, at in (
        ("source", 1.0),
        ("tbn", 0.0),
        ("entropy", knobs.alpha),
        ("core", knobs.alpha),
        ("tent", 0.0),
    ):
        arm = METHODS[kind]
        table = board.log.scalars("accuracy")
        table = table[(table["arm"] == arm) & (table["step"] <= now)]
        last = table.groupby("seed")["value"].last().to_numpy()
        if entries and len(last) and kind in knobs.kinds():
            rows.append((arm, at, float(last.mean()), float(last.min()), float(last.max())))
    data = pd.DataFrame(rows, columns=["arm", "x", "mean", "low", "high"])
    return board.curves(
        data,
        title="Accuracy so far, against α",
        x="α (0: test batch, 1: source)",
        y="right answers (%)",
        look_for="Is there a hill between both ends? Dots: trained methods.",
        points=True,
    )


def _first_seed(entries: list[ArrayAt]) -> ArrayAt:
    """That of the first seed: a mean over seeds would mix classes into which different seeds collapse."""
    return min(entries, key=lambda entry: entry.seed)


def _predicted(board: Board, knobs: Knobs) -> Figure:
    """Share of each predicted class among the newest answers, one row for each method, the truth on top; first seed."""
    found = {}
    for arm in board.arms:
        values = [e for e in board.log.arrays("predicted", board.step) if e.arm == arm]
        if values:
            found[arm] = _first_seed(values).value.astype(float)
    truth = board.log.arrays("true", board.step)
    what, many = ("class", "classes") if knobs.data == "own" else ("digit", "digits")
    classes = knobs.shown_classes()
    names = [f"true {many}", *board.arms.names]
    panels = []
    text, moment = "Map of predicted classes; nothing is measured yet.", ""
    if truth:
        empty = np.full(CLASSES, np.nan)
        first = _first_seed(truth)
        rows = [first.value.astype(float), *(found.get(arm, empty) for arm in board.arms)]
        panels = [Panel("", np.stack(rows)[:, :classes])]
        moment = board.progress.at(first.step)
        most = ", ".join(f"{arm} {int(v.argmax())} ({v.max():.0%})" for arm, v in found.items())
        text = f"Map of the share of each predicted class at {moment}. The class predicted most: {most}."
    return heat_map_figure(
        panels,
        count=1,
        row_names=names,
        column_names=[str(c) for c in range(classes)],
        named_columns=True,
        title="Predicted classes, newest 100 images",
        look_for="One bright cell and nothing else is a collapse.",
        alt_text=text,
        value="share",
        limits=(0.0, 1.0),
        x=f"predicted {what}",
        y="method",
        moment=moment,
        power=0.5,
    )


def _correlation(board: Board, arms: list[str], classes: int) -> Figure:
    """Class correlation over the newest answers, rows summing to one: first seed."""
    panels, listed, moment = [], [], ""
    for arm in arms:
        entries = [e for e in board.log.arrays("correlation", board.step) if e.arm == arm]
        if entries:
            first = _first_seed(entries)
            among = first.value[:classes, :classes].astype(float)
            panels.append(Panel(arm, among))
            listed.append(f"{arm} {float(np.trace(among)) / classes:.2f}")
            moment = board.progress.at(first.step)
    text = (
        f"Class correlation at {moment}. Mean of the diagonal: {', '.join(listed)}."
        if panels
        else "Class correlation; nothing is measured yet."
    )
    return heat_map_figure(
        panels,
        count=len(arms),
        row_names=[str(c) for c in range(classes)],
        column_names=[str(c) for c in range(classes)],
        title="Which classes share their probability",
        look_for="Core wants a clean diagonal. Who gets one?",
        alt_text=text,
        value="share",
        limits=(0.0, 1.0),
        x="with this class",
        y="class",
        moment=moment,
        power=0.5,
    )
