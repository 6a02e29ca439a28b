"""What is drawn on the page *Context adapters*."""

from __future__ import annotations

from functools import partial

from normviz.experiments.context_adapters.covariance_maps import covariance_figure
from normviz.experiments.context_adapters.knobs import Knobs
from normviz.experiments.context_adapters.named_curves import (
    spectra_figure,
    truncation_error_figure,
    truncation_figure,
)
from normviz.experiments.context_adapters.pixel_pictures import pixel_figure
from normviz.experiments.context_adapters.trade_picture import ends_figure, trade_figure
from normviz.figures import Board, Drawer, Figure, Sheet

__all__ = ["sheet"]


def _spectra(layer: int, rank: int) -> Drawer:
    def draw(board: Board) -> Figure:
        return spectra_figure(board, layer, rank)

    return draw


def _lines(name: str, title: str, y: str, look_for: str, *, log_scale: bool = False) -> Drawer:
    def draw(board: Board) -> Figure:
        return board.lines(name, title=title, y=y, look_for=look_for, log_scale=log_scale)

    return draw


def _trained(board: Board) -> Figure:
    counted = board.log.scalars("trained").groupby("arm", sort=False)["value"].mean().to_dict()
    return board.bars(
        {arm: counted[arm] for arm in board.arms if arm in counted},
        title="Numbers that are trained",
        x="trained parameters",
        look_for="All adapters have the same size. Only the start differs.",
    )


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    return Sheet(
        {
            "trade": trade_figure,
            "pixels": partial(pixel_figure, data=knobs.data),
            "new_loss": _lines(
                "new_loss",
                "Loss on the new task",
                "test loss in nats",
                "Who needs the fewest steps for LoRA's last value?",
            ),
            "spectra": _spectra(0, knobs.rank),
            "truncation": truncation_figure,
            "covariance": partial(covariance_figure, data=knobs.data),
        },
        {
            "Learning and keeping": {
                "ends": ends_figure,
                "new_accuracy": _lines(
                    "new_accuracy",
                    "Right on the new task",
                    "test pictures that are right (%)",
                    "Who learns first, and who learns most?",
                ),
                "kept_accuracy": _lines(
                    "kept_accuracy",
                    "Right on the first task",
                    "test pictures that are right (%)",
                    "Who falls least? Nobody sees these pictures again.",
                ),
                "kept_loss": _lines(
                    "kept_loss",
                    "Loss on the first task",
                    "test loss in nats",
                    "A network can be wrong, and also sure of it.",
                ),
                "loss": _lines(
                    "loss",
                    "Training loss on the new task",
                    "nats per picture of the batch",
                    "Does it fall like the loss of the test?",
                    log_scale=True,
                ),
            },
            "Components": {
                "spectra_second": _spectra(1, knobs.rank),
                "truncation_error": truncation_error_figure,
            },
            "Weights": {
                "moved": _lines(
                    "moved",
                    "How far the weights went",
                    "‖change of W‖ ÷ ‖W‖",
                    "KPA may go far and still disturb little.",
                ),
                "moved_as_felt": _lines(
                    "moved_as_felt",
                    "The change that old digits feel",
                    "‖change of W · C‖ ÷ ‖W C‖",
                    "C of the first task. Does it order the arms by forgetting?",
                ),
                "trained": _trained,
            },
        },
    )
