"""Every method through every cell of the grid: corruptions, orders and batch sizes."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from normviz.experiments.shifting_statistics.grid import CELLS, GRID_ALPHAS, Cell
from normviz.experiments.shifting_statistics.knobs import Knobs
from normviz.experiments.shifting_statistics.recorded import SHOWN
from normviz.experiments.shifting_statistics.shifted_stream import build_method
from normviz.experiments.shifting_statistics.source_network import Stream, corrupted_stream, train_source
from normviz.frame import Frame, Value
from normviz.norms import calibrate_batchnorm
from normviz.training import Trainee, interleave

__all__ = ["GridMember", "run_grid"]


def run_grid(knobs: Knobs, device: torch.device) -> Iterator[Frame]:
    """Show the corruptions, train each seed's source network, then run every method through every cell."""
    if knobs.first_seed in knobs.seed_range():
        shown = _samples(knobs, knobs.first_seed, device)
        yield Frame(0, knobs.arm_name(knobs.kinds()[0]), knobs.first_seed, shown)
    members: list[Trainee] = []
    for seed in knobs.seed_range():
        source = train_source(knobs.pictures(), seed, knobs.source_epochs, device)
        members += [GridMember(kind, knobs, seed, source, device) for kind in knobs.kinds()]
    yield from interleave(members, until=len(CELLS), progress=knobs.progress())


def _samples(knobs: Knobs, seed: int, device: torch.device) -> dict[str, Value]:
    """The same digits, clean and under every corruption: (corruptions + 1, SHOWN, side, side)."""
    names = list(dict.fromkeys(cell.corruption for cell in CELLS))
    streams = [
        corrupted_stream(knobs.pictures(), seed, n, knobs.severity, "iid", knobs.images, device)
        for n in names
    ]
    pictures = [streams[0].clean[:SHOWN], *(stream.pixels[:SHOWN] for stream in streams)]
    return {
        "samples": np.stack(pictures).astype(np.float32),
        "shown_labels": streams[0].y[:SHOWN].float().cpu().numpy(),
    }


class GridMember:
    """One method of one seed, one cell after the other; each cell starts from the source network.

    Args:
        kind: key of the arm in the knobs.
        knobs: the setting.
        seed: of the source network and the streams.
        source: the trained network.
        device: where the streams lie.
    """

    def __init__(self, kind: str, knobs: Knobs, seed: int, source: nn.Module, device: torch.device) -> None:
        self.kind, self.knobs, self.seed, self.source, self.device = kind, knobs, seed, source, device
        self.arm = knobs.arm_name(kind)

    def step(self, at: int) -> dict[str, Value]:
        """One cell: the accuracy over the whole stream (%), for alpha-BN also at the other values of alpha."""
        cell = CELLS[at]
        stream = self._stream(cell)
        batches = list(torch.split(stream.x, cell.batch))
        method = build_method(self.kind, self.source, self.knobs, batches)
        values: dict[str, Value] = {"accuracy": accuracy(method, batches, stream.y)}
        if self.kind == "alpha":
            values["by_alpha"] = np.array(
                [self._at(alpha, batches, stream.y) for alpha in GRID_ALPHAS], dtype=np.float32
            )
        return values

    def _stream(self, cell: Cell) -> Stream:
        knobs = self.knobs
        return corrupted_stream(
            knobs.pictures(),
            self.seed,
            cell.corruption,
            knobs.severity,
            cell.order,
            knobs.images,
            self.device,
        )

    def _at(self, alpha: float, batches: list[Tensor], y: Tensor) -> float:
        model = calibrate_batchnorm(copy.deepcopy(self.source), alpha)
        with torch.no_grad():
            return accuracy(model, batches, y)


def accuracy(method: object, batches: list[Tensor], y: Tensor) -> float:
    """Share of right answers (%) of what maps each batch to logits, in the order of the batches."""
    assert callable(method)
    predicted = torch.cat([method(batch).argmax(1) for batch in batches])
    return 100 * float((predicted == y).float().mean())
