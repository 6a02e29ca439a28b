"""What is drawn on the page *Compatible representations*."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from normviz.arms import Arms, Look
from normviz.experiments.compatible_representations.band_chart import band_figure, own_band_figure
from normviz.experiments.compatible_representations.feature_plane import feature_plane_figure
from normviz.experiments.compatible_representations.found_digits import found_digits_figure
from normviz.experiments.compatible_representations.knobs import ARM_NAMES, Knobs
from normviz.experiments.compatible_representations.matrix_chart import matrix_figure
from normviz.experiments.compatible_representations.recorded import FRACTIONS
from normviz.experiments.compatible_representations.tradeoff_plane import tradeoff_figure
from normviz.figures import Board, Drawer, Figure, Sheet

__all__ = ["sheet"]

CURVE = ["arm", "x", "mean", "low", "high"]
ORDERS = {"backfill": ", worst first", "backfill_random": ", random order"}
TERMS = {
    "term/forward": ("Forward term", "mean (u − z)²"),
    "term/backward": ("Backward term", "mean (z − old features)²"),
    "term/contrastive": ("Contrastive term", "nats"),
    "term/lambda": ("Term of λ", "L_λ, without its weight"),
}


def _backfilling(board: Board, knobs: Knobs) -> Figure:
    """Precision by the share of the gallery that is new, for the arm that is looked at.

    The mean over seeds: they differ more from each other than the two orders do within each.
    """
    kind = knobs.looked() or knobs.kinds()[0]
    arm = ARM_NAMES[kind]
    rows = []
    for name, ending in ORDERS.items():
        found = [e.value.astype(float) for e in board.log.arrays(name, board.step) if e.arm == arm]
        if found:
            means = np.stack(found).mean(0)  # (fractions,)
            rows += [(arm + ending, 100 * x, y, y, y) for x, y in zip(FRACTIONS, means, strict=True)]
    data = pd.DataFrame(rows, columns=CURVE)
    colour = board.arms[arm].colour
    looks = Arms(
        tuple(Look(arm + ending, colour, i, i, base=arm) for i, ending in enumerate(ORDERS.values()))
    )
    return board.curves(
        data,
        title=f"Extract a part anew, {arm}",
        x="share of the gallery that is new (%)",
        y="new task: mAP (%), mean over seeds",
        look_for="Solid: worst first. Dashed: at random. Which rises earlier?",
        arms=looks,
        points=True,
    )


def _lines(name: str, title: str, y: str, look_for: str) -> Drawer:
    def draw(board: Board) -> Figure:
        return board.lines(name, title=title, y=y, look_for=look_for)

    return draw


def _galleries(board: Board) -> Figure:
    return board.dots(
        {"old": "cross", "updated by F": "updated", "all new": "self"},
        title="Three galleries for new questions",
        x="new task: mAP (%)",
        look_for="How much does the update without images bring?",
        zero=False,
    )


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""

    def of(draw: Callable[[Board, Knobs], Figure]) -> Drawer:
        return lambda board: draw(board, knobs)

    distance = _lines(
        "delta",
        "Distance δ from orthogonal",
        "δ = ‖WᵀW − I‖",
        "Does each line settle below its λ?",
    )
    cross = _lines(
        "cross",
        "New questions, old gallery",
        "new task: mAP (%)",
        "Step 0 is without a map. What does the first step bring?",
    )
    kept = _lines(
        "zero_shot",
        "What is kept of upright digits",
        "mAP (%)",
        "Strict stays where it was. Who loses, and when?",
    )
    loss = _lines("loss", "Loss of the maps", "loss with all terms", "A lower loss is not a better gallery.")
    terms: dict[str, Drawer] = {
        name.replace("/", "_"): _lines(name, title, y, "Which maps can make this term small?")
        for name, (title, y) in TERMS.items()
    }
    own = {"own_band": of(own_band_figure)} if knobs.maps() else {}
    if not knobs.maps():
        stage: dict[str, Drawer] = {"backfilling": of(_backfilling), "kept": kept, "galleries": _galleries}
        return Sheet(stage, {"Training": {"loss": loss}})
    stage = {
        "features": of(feature_plane_figure),
        "found": of(found_digits_figure),
        "band": of(band_figure),
        "tradeoff": tradeoff_figure,
        "matrix": of(matrix_figure),
        "backfilling": of(_backfilling),
    }
    return Sheet(
        stage,
        {
            "Spectrum": {**own, "distance": distance},
            "Retrieval": {"cross": cross, "kept": kept, "galleries": _galleries},
            "Training": {"loss": loss, **terms},
        },
    )
