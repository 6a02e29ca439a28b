"""What is drawn on the page *Adaptive batch size*."""

from __future__ import annotations

import pandas as pd

from normviz.experiments.adaptive_batch_size.fan_picture import fan_figure
from normviz.experiments.adaptive_batch_size.knobs import ARM_NAMES, TESTS, Knobs
from normviz.experiments.adaptive_batch_size.landscape import landscape_figure
from normviz.figures import Board, Drawer, Figure, Sheet

__all__ = ["sheet"]

CURVE = ["arm", "x", "mean", "low", "high"]


def _staircase(board: Board) -> Figure:
    return board.lines(
        "batch",
        title="Batch size along the samples",
        y="samples of a step",
        look_for="A staircase up: when does each arm take its steps?",
        log_scale=True,
    )


def _sides(board: Board, arms: list[str], title: str) -> Figure:
    return board.only(arms).lines(
        {"noise": "", "allowed": ", allowed"},
        title=title,
        y="solid: noise ‖V‖₁/b, dashed: allowed η²‖g‖²",
        look_for="Solid above dashed: the batch must grow.",
        log_scale=True,
    )


def _against_steps(board: Board, name: str) -> pd.DataFrame:
    """A scalar of each arm against its mean number of steps, mean and range over seeds."""
    values, steps = board.log.scalars(name), board.log.scalars("steps")
    table = values.merge(steps, on=["arm", "step", "seed"], suffixes=("", "_taken"))
    if board.step is not None:
        table = table[table["step"] <= board.step]
    table = table[table["value_taken"] > 0]
    if table.empty:
        return pd.DataFrame(columns=CURVE)
    spread = table.groupby(["arm", "step"], sort=False).agg(
        x=("value_taken", "mean"), mean=("value", "mean"), low=("value", "min"), high=("value", "max")
    )
    return spread.reset_index().sort_values(["arm", "step"])[CURVE]


def _loss_words(knobs: Knobs) -> tuple[str, str, str]:
    """Name of the scalar, chart's title and axis' title for what is minimised."""
    if knobs.task == "digits":
        return "loss", "Training loss", "mean cross-entropy (nats)"
    return "gap", "Gap to the minimum", "F(x) − F*"


def _loss(board: Board, knobs: Knobs) -> Figure:
    name, title, y = _loss_words(knobs)
    return board.lines(
        name,
        title=f"{title}, by samples",
        y=y,
        look_for="The same number of samples: who is lowest at the end?",
        log_scale=True,
    )


def _loss_by_steps(board: Board, knobs: Knobs) -> Figure:
    name, title, y = _loss_words(knobs)
    return board.curves(
        _against_steps(board, name),
        title=f"{title}, by steps",
        x="steps taken",
        y=y,
        look_for="The same curves by steps: how many fewer?",
        log_x=True,
        log_y=True,
    )


def _accuracy(board: Board) -> Figure:
    return board.lines(
        "accuracy",
        title="Test accuracy, by samples",
        y="right answers (%)",
        look_for="Who is ahead early, who at the end?",
    )


def _accuracy_by_steps(board: Board) -> Figure:
    return board.curves(
        _against_steps(board, "accuracy"),
        title="Test accuracy, by steps",
        x="steps taken",
        y="right answers (%)",
        look_for="Each line ends where its samples do.",
        log_x=True,
    )


def _steps(board: Board) -> Figure:
    table = board.log.scalars("steps")
    if board.step is not None:
        table = table[table["step"] <= board.step]
    newest = table.groupby(["arm", "seed"], sort=False)["value"].last().groupby(level="arm").mean()
    return board.bars(
        {arm: float(newest[arm]) for arm in board.arms if arm in newest.index},
        title="Steps for these samples",
        x="steps, mean over seeds",
        look_for="Fewer steps: more work that runs in parallel.",
    )


def _suggestions(board: Board, arms: list[str]) -> Figure:
    return board.only(arms).lines(
        {"suggestion": "", "batch": ", batch"},
        title="What the tests ask for",
        y="solid: size asked for, dashed: batch size",
        look_for="The batch follows the highest point that was asked for.",
        log_scale=True,
    )


def _parts(board: Board, arm: str) -> Figure:
    return board.only([arm]).lines(
        {"share_along": "", "share_across": ", across"},
        title="Noise along and across the gradient",
        y="share of ‖V‖₁ (solid: along, dashed: across)",
        look_for="Where is most of the noise in many dimensions?",
    )


def _exact(board: Board, arm: str) -> Figure:
    return board.only([arm]).lines(
        {"suggestion": "", "exact_suggestion": ", exact"},
        title="The usual test and the exact one",
        y="size asked for (dashed: exact test)",
        look_for="The usual test asks for less. By how much?",
        log_scale=True,
    )


def _test_loss(board: Board) -> Figure:
    return board.lines(
        {"test_loss": "", "truth": ", true parameters"},
        title="Test loss",
        y="mean log-loss (nats), flat: true parameters",
        look_for="Nobody can stay below the true parameters for long.",
    )


def _test_loss_of_network(board: Board) -> Figure:
    return board.lines(
        "test_loss",
        title="Test loss",
        y="mean cross-entropy (nats)",
        look_for="Does the order of the arms stay the same?",
        log_scale=True,
    )


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    main = ARM_NAMES[knobs.main_kind()]
    growing = [ARM_NAMES[kind] for kind in knobs.kinds() if kind in TESTS]
    two_sided = [ARM_NAMES[kind] for kind in knobs.kinds() if TESTS.get(kind) in ("norm", "coordinatewise")]

    def fan(board: Board) -> Figure:
        return fan_figure(board, knobs)

    def sides(board: Board) -> Figure:
        return _sides(board, two_sided[:1], "The norm test's two sides")

    def all_sides(board: Board) -> Figure:
        return _sides(board, two_sided, "The two sides, all arms")

    def loss(board: Board) -> Figure:
        return _loss(board, knobs)

    def loss_by_steps(board: Board) -> Figure:
        return _loss_by_steps(board, knobs)

    def suggestions(board: Board) -> Figure:
        return _suggestions(board, growing)

    def parts(board: Board) -> Figure:
        return _parts(board, main)

    def exact(board: Board) -> Figure:
        return _exact(board, two_sided[0])

    def landscape(board: Board) -> Figure:
        return landscape_figure(board, knobs)

    stage: dict[str, Drawer] = {"staircase": _staircase, "fan": fan}
    tests: dict[str, Drawer] = {"parts": parts}
    if two_sided:
        stage["sides"] = sides
    if len(two_sided) > 1:
        tests["all_sides"] = all_sides
    if growing:
        tests["suggestions"] = suggestions
    more: dict[str, dict[str, Drawer]] = {"The tests": tests, "Cost": {"steps": _steps}}
    if knobs.task == "toy":
        stage |= {"landscape": landscape, "loss": loss, "loss_by_steps": loss_by_steps}
        if two_sided:
            tests["exact"] = exact
        return Sheet(stage, more)
    stage |= {"loss": loss, "loss_by_steps": loss_by_steps, "accuracy_by_steps": _accuracy_by_steps}
    held_out: Drawer = _test_loss if knobs.task == "logistic" else _test_loss_of_network
    more["Held-out data"] = {"accuracy": _accuracy, "test_loss": held_out}
    return Sheet(stage, more)
