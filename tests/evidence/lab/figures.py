from __future__ import annotations

from normviz.figures import Board, Figure, Sheet
from tests.evidence.lab import LabKnobs


def sheet(knobs: LabKnobs) -> Sheet:
    def loss(board: Board) -> Figure:
        return board.lines("loss", title="Loss", y="nats", look_for="Which is lower?")

    def history(board: Board) -> Figure:
        return board.strips(
            "map", title="Map", y="row", value="size", look_for="Does it grow?", limits=(0.1, 10.0)
        )

    def unseen(board: Board) -> Figure:
        return board.profile("unseen", title="Unseen", x="x", y="y", look_for="Is it straight?")

    return Sheet(stage={"loss": loss, "map": history}, more={"More": {"unseen": unseen}})
