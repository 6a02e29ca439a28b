"""What is drawn on the page *Adaptive data analysis*."""

from __future__ import annotations

from collections.abc import Iterable

from normviz.experiments.adaptive_data_analysis.answer_plane import answer_plane_figure
from normviz.experiments.adaptive_data_analysis.changed_digits import changed_digits_figure
from normviz.experiments.adaptive_data_analysis.feature_plane import feature_plane_figure
from normviz.experiments.adaptive_data_analysis.honesty_plane import honesty_plane_figure
from normviz.experiments.adaptive_data_analysis.knobs import Knobs, arm_name
from normviz.experiments.adaptive_data_analysis.recorded import MARGIN_RANGE, MARGIN_ROWS
from normviz.figures import Board, Drawer, Figure, Sheet
from normviz.frame import Frame, FrameLog

__all__ = ["sheet"]

COUNTING = ("splitting", "thresholdout", "pmw", "median")
"""Mechanisms of which some answers cost something that runs out."""
VOTERS = ("plain", "gaussian", "thresholdout", "pmw")
"""Mechanisms whose votes are drawn as histograms: more would hide each other."""


def _means(board: Board, names: Iterable[str]) -> Board:
    """The same board with the mean over seeds: reports of noisy mechanisms scatter too much to be drawn as bands."""
    frames: list[Frame] = []
    for name in names:
        means = board.log.scalars(name).groupby(["step", "arm"], sort=False)["value"].mean().reset_index()
        columns = (means[column].tolist() for column in ("step", "arm", "value"))
        frames += [Frame(step, arm, 0, {name: mean}) for step, arm, mean in zip(*columns, strict=True)]
    return board.of(FrameLog(frames))


def _plane(knobs: Knobs) -> Drawer:
    def draw(board: Board) -> Figure:
        return honesty_plane_figure(
            _without_blocks(board, knobs), "Diagonal: honest. Who leaves it, and which way?"
        )

    return draw


def _without_blocks(board: Board, knobs: Knobs) -> Board:
    """The board without sample splitting in a hill climb, where the best answer about one row is always 100 %."""
    if knobs.task != "climb":
        return board
    others = [arm for arm in board.arms if arm != arm_name("splitting")]
    return board.only(others) if others else board


def _answers(board: Board) -> Figure:
    return answer_plane_figure(board, "Diagonal: the holdout's own mean. Who gives it away?")


def _margins(board: Board) -> Figure:
    voters = [name for name in map(arm_name, VOTERS) if name in board.arms]
    return board.only(voters or board.arms).ridges(
        "margins",
        low=MARGIN_RANGE[0],
        high=MARGIN_RANGE[1],
        title="Votes for each row's right label",
        x="votes for the right label ÷ √votes",
        look_for="Which rows' votes move to the right of 0?",
        layer_names=MARGIN_ROWS,
        quantity="votes for the right label",
    )


def _worst(board: Board) -> Figure:
    return board.lines(
        "worst",
        title="Largest error of a single answer",
        y="points",
        look_for="Plain reuse answers every question well. Only the vote lies.",
        log_scale=True,
        unit=" points",
    )


def _fresh(board: Board) -> Figure:
    return board.lines(
        "fresh",
        title="Accuracy on fresh data",
        y="accuracy (%)",
        look_for="What is true: what would new rows say?",
        unit=" %",
    )


def _gap(board: Board) -> Figure:
    return board.lines(
        "gap",
        title="Reported minus true",
        y="points",
        look_for="0 is honest. Who says too much?",
        zero_line=True,
        unit=" points",
    )


def _overfit(board: Board) -> Figure:
    return board.lines(
        "overfit",
        title="Overfitting to the holdout itself",
        y="accuracy on its rows minus fresh (points)",
        look_for="What the holdout would say if it were asked directly.",
        zero_line=True,
        unit=" points",
    )


def _train(board: Board) -> Figure:
    return board.lines(
        "train",
        title="Accuracy on the training set",
        y="accuracy (%)",
        look_for="Thresholdout spares the holdout. Where does the overfitting go?",
        unit=" %",
    )


def _epsilon(board: Board) -> Figure:
    return board.lines(
        "epsilon",
        title="Privacy spent",
        y="ε at δ = 10⁻⁶",
        look_for="Only small ε promise anything. Whose is small?",
        log_scale=True,
    )


def _reported(knobs: Knobs) -> Drawer:
    """Reported accuracy along the run, with what theory or fresh data say."""
    if knobs.task == "holdout":
        series: dict[str, str] = {"reported": "", "fresh": ", fresh data"}
        look_for = "Dashed: fresh data. Which report stays with its dashed line?"
    elif knobs.task == "noise" and not knobs.signal:
        series = {"reported": "", "theory": ", theory"}
        look_for = "All is noise, 50 % is true. Who reports more? Dashed: theory."
    else:
        series = {"reported": ""}
        look_for = {
            "noise": "Twenty features tell something. Who reports more than is true?",
            "universe": "Fresh data say 50 % without signal. Who reports more?",
            "climb": "The best answer so far. (Splitting: 100 %, from one row.)",
        }[knobs.task]

    def draw(board: Board) -> Figure:
        return _means(_without_blocks(board, knobs), series).lines(
            series,
            title="What the holdout says",
            y="reported accuracy (%), mean over seeds",
            look_for=look_for,
            unit=" %",
        )

    return draw


def _whose_rows(knobs: Knobs) -> Drawer:
    places = {
        "reported": "reported",
        "holdout rows": "holdout",
        "training rows": "train",
        "fresh rows": "fresh",
    }
    if knobs.task == "holdout":
        del places["holdout rows"]

    def draw(board: Board) -> Figure:
        return board.dots(
            places,
            title="One classifier, four accuracies"
            if len(places) == 4
            else "One classifier, three accuracies",
            x="accuracy (%)",
            look_for="Only fresh rows tell the truth. Who reports something else?",
            zero=False,
        )

    return draw


def _spent(knobs: Knobs) -> Drawer:
    shown = [arm_name(kind) for kind in knobs.kinds() if kind in COUNTING]
    limit = f"The budget is {knobs.budget}. " if knobs.budget else ""

    def draw(board: Board) -> Figure:
        return board.only(shown).lines(
            "spent",
            title="Budget spent",
            y="answers that cost something",
            look_for=f"{limit}Who answers most questions for free?",
            log_scale=True,
        )

    return draw


def _chosen(board: Board) -> Figure:
    return board.dots(
        {"reported": "chosen/reported", "fresh rows": "chosen/fresh"},
        title="The classifier with the best report",
        x="accuracy (%)",
        look_for="Each analyst publishes one. Whose is better, whose honest?",
        zero=False,
    )


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    stage: dict[str, Drawer] = {"reported": _reported(knobs)}
    if knobs.task == "holdout":
        stage |= {
            "plane": _plane(knobs),
            "features": feature_plane_figure,
            "rows": _whose_rows(knobs),
            "gap": _gap,
        }
        last: dict[str, Drawer] = {"chosen": _chosen, "train": _train}
        name = "chosen" if knobs.signal else "train"
        stage[name] = last.pop(name)
        return Sheet(stage, {"Accuracy": {**last, "fresh": _fresh}})
    accuracies: dict[str, Drawer] = {"plane": _plane(knobs), "fresh": _fresh, "gap": _gap}
    accuracies |= {"overfit": _overfit, "train": _train}
    if knobs.task == "climb":
        stage["digits"] = changed_digits_figure
    else:
        accuracies["worst"] = _worst
        stage["margins"] = _margins
    stage |= {"answers": _answers, "rows": _whose_rows(knobs)}
    with_truth = knobs.task == "climb" or knobs.signal
    fifth = "plane" if with_truth else "worst" if knobs.task == "noise" else "overfit"
    stage[fifth] = accuracies.pop(fifth)
    if any(kind in COUNTING for kind in knobs.kinds()):
        stage["spent"] = _spent(knobs)
    else:
        stage["gap"] = accuracies.pop("gap")
    return Sheet(stage, {"Accuracy": accuracies, "Privacy": {"epsilon": _epsilon}})
