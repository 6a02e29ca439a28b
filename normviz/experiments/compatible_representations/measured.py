"""What is measured of a map: retrieval across models, what is kept of the new one, and where single digits lie.

All retrieval numbers are mean average precision in percent; every test digit asks all others.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from normviz.adapters.compat import (
    average_compatibility,
    backfill_curve,
    backfill_order,
    compatibility_matrix,
    orthogonality_distance,
    retrieval_metrics,
    singular_value_band,
)
from normviz.experiments.compatible_representations.learners import Learner, MapLearner, Mapped
from normviz.experiments.compatible_representations.old_and_new import TEST, ZERO_SHOT, OldAndNew
from normviz.experiments.compatible_representations.recorded import ASKED, FOUND, FRACTIONS, SHOWN_POINTS
from normviz.frame import Value

__all__ = ["Plane", "precision", "raw_models", "values_of"]

Array = NDArray[np.float32]

RANDOM_ORDERS = 2
"""Random orders of backfilling whose mean is the baseline."""


def precision(query: Tensor, gallery: Tensor, labels: Tensor) -> float:
    """Mean average precision in percent of queries in a gallery of the same digits, without themselves."""
    return 100 * retrieval_metrics(query, labels, gallery, labels, exclude_self=True)["map"]


def raw_models(world: OldAndNew) -> dict[str, Value]:
    """The models themselves, without any map: what both find among their own features."""
    old, new = world.features[0], world.features[-1]
    labels = world.labels[TEST]
    return {
        "old_self": precision(old[TEST], old[TEST], labels),
        "new_self": precision(new[TEST], new[TEST], labels),
        "new_zero_shot": precision(new[ZERO_SHOT], new[ZERO_SHOT], world.labels[ZERO_SHOT]),
    }


class Plane:
    """The plane in which features are drawn: the two directions in which the old model's class means differ most.

    Args:
        world: models and features of the seed.
    """

    def __init__(self, world: OldAndNew) -> None:
        old = normalize(world.features[0][TEST].double(), dim=1)
        labels = world.labels[TEST]
        means = torch.stack([old[labels == c].mean(0) for c in sorted(set(labels.tolist()))])
        self.centre = means.mean(0)
        self.axes = torch.linalg.svd(means - self.centre, full_matrices=False).Vh[:2]  # (2, d)
        self.labels = labels[:SHOWN_POINTS]

    def places(self, features: Tensor) -> Array:
        """Coordinates of the first digits (n, 2); each feature has norm 1, since cosines are compared."""
        shown = normalize(features[:SHOWN_POINTS].double(), dim=1)
        places: Array = ((shown - self.centre) @ self.axes.mT).float().cpu().numpy()
        return places


def values_of(learner: Learner, plane: Plane, raw: dict[str, Value], at: int) -> dict[str, Value]:
    """All numbers of an arm at a position of the run; pictures for the first seed only."""
    world = learner.world
    knobs, labels = world.knobs, world.labels[TEST]
    mapped = learner.mapped(TEST)
    values: dict[str, Value] = {
        "updated": precision(mapped.new, mapped.updated, labels),
        "self": precision(mapped.new, mapped.new, labels),
    }
    upright = learner.mapped(ZERO_SHOT).new
    values["zero_shot"] = precision(upright, upright, world.labels[ZERO_SHOT])
    if at == 0:
        values |= raw
    ended = at >= knobs.steps
    looked = learner.kind == knobs.looked()
    first = learner.seed == knobs.first_seed
    if ended or (looked and first):
        values |= _backfilling(learner, mapped, labels)
    if isinstance(learner, MapLearner):
        assert mapped.old is not None
        values["cross"] = precision(mapped.new, mapped.old, labels)
        values |= _shape_of(learner)
        if ended:
            models = compatibility_matrix([mapped.old, *mapped.newer], labels)
            values["average_compatibility"] = average_compatibility(models)
        if first and learner.kind in knobs.compared():
            values["matrix"] = _matrix(mapped, labels)
        if first and looked:
            values |= _picture(world, mapped, plane, at)
    return values


def _shape_of(learner: MapLearner) -> dict[str, Value]:
    """Distance from the orthogonal matrices, singular values, and how far one lies outside the distance's band."""
    weight = learner.weight.double()
    delta = float(orthogonality_distance(weight))
    s = torch.linalg.svdvals(weight)
    low, high = singular_value_band(delta)
    outside = max(low - float(s.min()), float(s.max()) - high, 0.0)
    terms: dict[str, Value] = {
        f"term/{name}": value for name, value in learner.parts.items() if name != "loss"
    }
    return {"delta": delta, "outside": outside, "singular": s.float().cpu().numpy(), **terms}


def _backfilling(learner: Learner, mapped: Mapped, labels: Tensor) -> dict[str, Value]:
    """Precision while the gallery is replaced, worst represented first and in random orders, and both areas."""

    def curve(order: Tensor) -> tuple[Array, float]:
        _, found, area = backfill_curve(
            mapped.new,
            labels,
            mapped.updated,
            mapped.new,
            labels,
            order,
            FRACTIONS,
            exclude_self=True,
        )
        return 100 * found.float().numpy(), 100 * area

    doubt = learner.uncertainty(TEST)
    order = (
        backfill_order(mapped.updated, labels)
        if doubt is None
        else doubt.argsort(descending=True, stable=True)
    )
    worst_first, area = curve(order)
    random = [
        curve(backfill_order(mapped.updated, labels, "random", seed=RANDOM_ORDERS * learner.seed + i))
        for i in range(RANDOM_ORDERS)
    ]
    return {
        "backfill": worst_first,
        "backfill_random": np.mean([found for found, _ in random], axis=0, dtype=np.float32),
        "area": area,
        "area_random": float(np.mean([size for _, size in random])),
    }


def _matrix(mapped: Mapped, labels: Tensor) -> Array:
    """Every kind of query in every kind of gallery: old, old updated, newer models; in percent."""
    assert mapped.old is not None
    matrix: Array = (
        100 * compatibility_matrix([mapped.old, mapped.updated, *mapped.newer], labels).float().numpy()
    )
    return matrix


def _picture(world: OldAndNew, mapped: Mapped, plane: Plane, at: int) -> dict[str, Value]:
    """Places of old and of mapped new features, and what three new questions find in the old gallery."""
    assert mapped.old is not None
    labels = world.labels[TEST]
    rows = [int((labels == c).nonzero()[0, 0]) for c in ASKED]
    new, old = (normalize(h.double(), dim=1) for h in (mapped.new[rows], mapped.old))
    similar = new @ old.mT  # (asked, N)
    similar[torch.arange(len(rows)), rows] = -torch.inf
    nearest = similar.sort(dim=1, descending=True, stable=True).indices[:, :FOUND].cpu()
    shown = torch.cat([torch.tensor(rows)[:, None], nearest], 1)  # (asked, 1 + found)
    values: dict[str, Value] = {
        "places": plane.places(mapped.new),
        "found": world.pixels[shown].numpy(),
        "found_labels": labels.cpu()[shown].numpy(),
    }
    if at == 0:
        values["old_places"] = plane.places(mapped.old)
        values["place_labels"] = plane.labels.cpu().numpy()
    return values
