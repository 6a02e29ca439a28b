"""What runs on the page *Modular diffusion*: users tune a concept each; between the steps all are merged and measured.

All arms of a seed have the same base model, data, batches and first tokens, and every sample is drawn with the same
noise, so that pictures move smoothly and distances differ by what the arms do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normviz.experiments.modular_diffusion.knobs import ARM_NAMES, Knobs
from normviz.experiments.modular_diffusion.merged_models import (
    MergedModels,
    added_by_count,
    crosstalk,
    merge_times,
    token_shares,
)
from normviz.experiments.modular_diffusion.recorded import DRAWN, MERGES
from normviz.experiments.modular_diffusion.tuned_concepts import TunedConcepts
from normviz.experiments.modular_diffusion.world import World
from normviz.frame import Frame, Value
from normviz.training import Diverged, Trainee, interleave, resolve_device

__all__ = ["Tuner", "frames"]

MERGED_EVERY = 2
"""Merges of fewer concepts, averages and fusion are measured at every second evaluation, since samples take time: from
the first one after training began, as adapters that are still zero have nothing to merge."""


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Tune every arm's concepts and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    kinds = knobs.kinds()
    yield from (Frame(0, ARM_NAMES[kinds[0]], seed) for seed in knobs.seed_range())
    tuners = []
    for seed in knobs.seed_range():
        world = World(knobs, seed, where)
        tuners += [Tuner(TunedConcepts(kind, world)) for kind in kinds]
    yield from interleave(
        tuners,
        until=knobs.steps,
        evaluate=_evaluate,
        eval_every=knobs.evaluation_every(),
        evaluate_all_first=True,
    )


class Tuner:
    """All concepts of one arm with one seed, as :func:`interleave` sees them.

    Args:
        tuned: the concepts.
    """

    def __init__(self, tuned: TunedConcepts) -> None:
        self.tuned, self.seed, self.arm = tuned, tuned.world.seed, ARM_NAMES[tuned.kind]
        self.evaluations = 0

    def step(self, at: int) -> dict[str, Value]:
        """One update of every concept."""
        loss = self.tuned.update(at)
        if not math.isfinite(loss):
            raise Diverged(
                f"the training loss is {loss}", lost=("loss", *(f"distance_{m}" for m in ("alone", *MERGES)))
            )
        return {"loss": loss}


@torch.no_grad()
def _evaluate(trainee: Trainee, at: int) -> dict[str, Value]:
    """Samples alone and merged, their distances, crosstalk; at the end also how long merging takes."""
    assert isinstance(trainee, Tuner)
    tuned, world = trainee.tuned, trainee.tuned.world
    knobs, last = world.knobs, at >= world.knobs.steps
    merged = MergedModels(tuned)
    every = trainee.evaluations % MERGED_EVERY == 1 or last
    trainee.evaluations += 1
    samples = {"alone": tuned.samples()}
    samples |= {method: merged.samples(method) for method in (MERGES if every else ("sum",))}
    distances = {name: world.distances(points) for name, points in samples.items()}
    values: dict[str, Value] = {f"distance_{name}": float(d.mean()) for name, d in distances.items()}
    values |= {f"concepts_{name}": _array(d) for name, d in distances.items()}
    if every:
        counted = added_by_count(world, merged, distances["alone"], distances["sum"])
        values["added_by_count"] = np.array(counted)
    values |= _crosstalk(tuned)
    if last:
        values["sum_ms"], values["fusion_ms"] = merge_times(tuned)
    if trainee.seed == knobs.first_seed:
        values |= {f"samples_{name}": _points(points) for name, points in samples.items()}
        if at == 0:
            values["targets"] = _points(world.test)
    return values


def _crosstalk(tuned: TunedConcepts) -> dict[str, Value]:
    """Matrix and means of the crosstalk, and where the tokens lie. Adapters that are still zero have no numbers."""
    by_weight, by_input = crosstalk(tuned)
    count = len(by_weight)
    apart = ~torch.eye(count, dtype=torch.bool)
    values: dict[str, Value] = {}
    if by_input.isfinite().all():
        others = by_weight.cpu()[apart]
        values = {
            "crosstalk": _array(by_weight),
            "weight_crosstalk": float(others.mean()),
            "largest_crosstalk": float(others.max()),
            "activation_crosstalk": float(by_input.mean()),
        }
    shares = token_shares(tuned)
    if shares is not None:
        values["own_share"], values["other_share"] = shares
    return values


def _array(x: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = x.float().cpu().numpy()
    return found


def _points(x: Tensor) -> NDArray[np.float32]:
    """The first points of every concept for a chart, with two decimals."""
    return _array(x[:, :DRAWN]).round(2)
