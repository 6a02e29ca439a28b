"""What is drawn on the page *Sample reweighting*."""

from __future__ import annotations

from normviz.experiments.sample_reweighting.knobs import TEXT_SOURCES, Knobs
from normviz.experiments.sample_reweighting.sample_rows import sample_rows_figure
from normviz.experiments.sample_reweighting.weight_curves import weight_curve_figure
from normviz.figures import Board, Drawer, Figure, Sheet

__all__ = ["sheet"]


def _domains(board: Board) -> Figure:
    return board.dots(
        {name: f"heldout/{name}" for name in TEXT_SOURCES},
        title="Loss by kind of text",
        x="cross-entropy (nats)",
        look_for="What do the duplicated passages lose, and who gains?",
    )


def _bound(board: Board) -> Figure:
    return board.lines(
        {"average_gap": "", "bound": ", bound"},
        title="The bound of theory and what it bounds",
        y="mean gap so far",
        look_for="Every gap must stay below its own bound. Does it?",
        log_scale=True,
    )


def _saving(board: Board) -> Figure:
    return board.lines(
        "bound_saving",
        title="What the weights take off the bound",
        y="uniform's bound minus the arm's",
        look_for="LinUpper and Upper can only help. Who falls below zero?",
        zero_line=True,
    )


def _devices(board: Board) -> Figure:
    return board.lines(
        "local_weight_error",
        title="If each device knew only its own losses",
        y="share of weight that is misplaced",
        look_for="The more devices, the more goes wrong. How much?",
    )


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    language = knobs.task == "language"

    def samples(board: Board) -> Figure:
        return sample_rows_figure(board, knobs)

    def weights(board: Board) -> Figure:
        return weight_curve_figure(board, knobs)

    def heldout(board: Board) -> Figure:
        return board.lines(
            "heldout_loss",
            title="Loss on held-out clean text" if language else "Loss on fresh regular samples",
            y="cross-entropy (nats)" if language else "mean squared error / 2",
            look_for="Which line is lowest after equally many steps?",
            log_scale=not language,
        )

    def shares(board: Board) -> Figure:
        sources = knobs.sources()
        return board.areas(
            {name: f"share/{name}" for name in sources},
            kinds=sources,
            title="Where the weight goes",
            y="share of the batch's weight",
            look_for="Is weight taken from what repeats? Who gets it?",
            chosen=knobs.first_weighted(),
        )

    def loss(board: Board) -> Figure:
        return board.lines(
            "batch_loss" if language else "loss",
            title="Training loss, every sample the same",
            y="cross-entropy (nats)" if language else "mean squared error / 2",
            look_for="Who leads on the training mixture, and who on new samples?",
            log_scale=not language,
        )

    shared: dict[str, Drawer] = {"weights": weights, "heldout": heldout, "shares": shares}
    if language:
        stage = {"samples": samples, **shared, "domains": _domains, "loss": loss}
    else:
        stage = {**shared, "bound": _bound, "saving": _saving, "loss": loss}
    return Sheet(stage, more={"Devices": {"devices": _devices}})
