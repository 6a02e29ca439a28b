"""One map with one seed in training, as :func:`interleave` sees it, and the two methods that map forward.

At position 0 there is no map: features as they are. The maps begin at their start with the first step, and take the
steps of :func:`normviz.adapters.fit_adapters`, one at a time so that all arms advance together.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normviz.adapters.compat import (
    AffineAdapter,
    CompatibilityLoss,
    ForwardTransform,
    OrthogonalAdapter,
    fit_forward_transform,
    procrustes_orthogonal,
)
from normviz.adapters.compatibility_fit import mean_norm, shuffled_batches
from normviz.experiments.compatible_representations.knobs import ARM_NAMES
from normviz.experiments.compatible_representations.old_and_new import FIT, OldAndNew
from normviz.frame import Value
from normviz.training import Diverged
from normviz.training.seeding import seeded

__all__ = ["ForwardLearner", "Learner", "MapLearner", "Mapped"]

LOST = ("loss", "cross", "updated", "self", "zero_shot", "delta")
"""What an arm that diverged has lost."""


@dataclass(frozen=True, eq=False)
class Mapped:
    """A set of digits as an arm sees them at one moment.

    Attributes:
        newer: features of every newer model as they are compared, oldest of these first: (N, d).
        updated: old features after the forward map (N, d).
        old: old features as they lie in the gallery (N, d); None where the arm cannot compare with them.
    """

    newer: list[Tensor]
    updated: Tensor
    old: Tensor | None

    @property
    def new(self) -> Tensor:
        """The newest model's."""
        return self.newer[-1]


class Pair:
    """Both maps between the oldest and one newer model.

    Args:
        kind: the arm's key in the knobs.
        world: models and features of the seed.
        newer: position of the newer model.
    """

    def __init__(self, kind: str, world: OldAndNew, newer: int) -> None:
        knobs, recipe = world.knobs, world.knobs.recipe(kind)
        self.h_old, self.h_new = world.features[0][FIT], world.features[newer][FIT]
        self.labels, self.recipe, self.weights = world.labels[FIT], recipe, knobs
        self.scale_old, self.scale_new = mean_norm(self.h_old), mean_norm(self.h_new)
        self.loss = CompatibilityLoss(
            recipe.lam,
            w_forward=knobs.w_forward,
            w_backward=knobs.w_backward,
            w_contrastive=knobs.w_contrastive,
            w_lambda=recipe.w_lambda,
            mode=recipe.mode,
            beta=knobs.beta or None,
        )
        width_old, width_new = self.h_old.shape[1], self.h_new.shape[1]
        self.backward_map: AffineAdapter | OrthogonalAdapter = self._scaled(
            AffineAdapter(width_new, width_old), self.scale_new
        )
        self.forward_map = self._scaled(AffineAdapter(width_old, width_old), self.scale_old)
        self.batches: Iterator[tuple[int, Tensor, bool]] = iter(())

    def _scaled(self, adapter: AffineAdapter, scale: Tensor) -> AffineAdapter:
        adapter.in_scale.copy_(scale)
        return adapter.to(self.h_old.device)

    def begin(self, seed: int) -> None:
        """Put both maps at their start."""
        knobs, recipe = self.weights, self.recipe
        a, b = self.h_new / self.scale_new, self.h_old / self.scale_old
        closed = knobs.start == "procrustes" or not recipe.trained
        if recipe.strict:
            weight = procrustes_orthogonal(a, b) if closed else None
            with warnings.catch_warnings():
                # The help of the widths' knobs says what the warning says.
                warnings.filterwarnings("ignore", message="out_features", category=UserWarning)
                strict = OrthogonalAdapter(a.shape[1], b.shape[1], weight=weight)
            strict.in_scale.copy_(self.scale_new)
            self.backward_map = strict.to(a.device)
        else:
            affine = AffineAdapter(
                a.shape[1], b.shape[1], init="procrustes" if closed else "identity", data=(a, b)
            )
            self.backward_map = self._scaled(affine, self.scale_new)
        if not recipe.trained:
            return
        with seeded(seed):
            forward = AffineAdapter(b.shape[1], b.shape[1], init="default")
        self.forward_map = self._scaled(forward, self.scale_old)
        groups: list[dict[str, Any]] = [
            {"params": list(self.forward_map.parameters())},
            {"params": [p for name, p in self.backward_map.named_parameters() if name != "weight"]},
            {
                "params": [p for name, p in self.backward_map.named_parameters() if name == "weight"],
                "weight_decay": recipe.weight_decay,
            },
        ]
        self.optimizer = torch.optim.Adam([g for g in groups if g["params"]], lr=knobs.learning_rate)
        per_epoch = -(-len(self.labels) // knobs.batch_size)
        self.batches = shuffled_batches(self.labels, knobs.batch_size, -(-knobs.steps // per_epoch), seed)

    def step(self) -> dict[str, float]:
        """One update of both maps: the loss and its terms before it."""
        _, batch, _ = next(self.batches)
        z, u = self.backward_map(self.h_new[batch]), self.forward_map(self.h_old[batch])
        weight = None if self.recipe.strict else self.backward_map.weight
        total, parts = self.loss(z, u, self.h_old[batch] / self.scale_old, self.labels[batch], weight)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        return {"loss": total.item(), **{name: part.item() for name, part in parts.items()}}


class MapLearner:
    """An arm with a backward map; one pair of maps for every newer model.

    Args:
        kind: the arm's key in the knobs.
        world: models and features of the seed.
    """

    def __init__(self, kind: str, world: OldAndNew) -> None:
        self.kind, self.arm, self.seed, self.world = kind, ARM_NAMES[kind], world.seed, world
        self.trained = world.knobs.recipe(kind).trained
        self.pairs = [Pair(kind, world, newer) for newer in range(1, world.knobs.models)]
        self.parts: dict[str, float] = {}

    @property
    def weight(self) -> Tensor:
        """W of the newest model's backward map, without graph."""
        return self.pairs[-1].backward_map.weight.detach()

    def step(self, at: int) -> dict[str, Value]:
        """One update of every pair; its loss is that of the newest model's."""
        if at == 0:
            for pair in self.pairs:
                pair.begin(self.seed)
        if not self.trained:
            return {}
        for pair in self.pairs:
            self.parts = pair.step()
        loss = self.parts["loss"]
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss}", lost=LOST)
        return {"loss": loss}

    @torch.no_grad()
    def mapped(self, name: str) -> Mapped:
        """A set of digits under the maps as they are now."""
        features = self.world.features
        newer = [pair.backward_map(features[i + 1][name]) for i, pair in enumerate(self.pairs)]
        last = self.pairs[-1]
        return Mapped(newer, last.forward_map(features[0][name]), features[0][name] / last.scale_old)

    def uncertainty(self, name: str) -> None:  # noqa: ARG002
        """A backward map has none."""
        return


class ForwardLearner:
    """FCT or FastFill: a network brings old features into the new model's space; new ones stay as they are.

    It learns within the first step, by :func:`normviz.adapters.fit_forward_transform`; the states it passed through are
    kept for the moments at which it is measured.

    Args:
        kind: "fct" or "fastfill".
        world: models and features of the seed.
        every: steps between two kept states.
    """

    def __init__(self, kind: str, world: OldAndNew, every: int) -> None:
        self.kind, self.arm, self.seed, self.world = kind, ARM_NAMES[kind], world.seed, world
        self.every, self.at = every, 0
        self.kept: dict[int, ForwardTransform] = {}
        self.losses: dict[int, float] = {}

    def step(self, at: int) -> dict[str, Value]:
        """Move on to the next step; the first one trains."""
        if at == 0:
            self._fit()
        self.at = at + 1
        loss = self.losses.get(self.at)
        if loss is None:
            return {}
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss}", lost=LOST)
        return {"loss": loss}

    def _fit(self) -> None:
        knobs, features = self.world.knobs, self.world.features
        per_epoch = -(-len(self.world.labels[FIT]) // knobs.batch_size)

        def keep(record: dict[str, float], transform: ForwardTransform) -> bool:
            step = int(record["step"])
            self.losses[step] = record["loss"]
            if step % self.every == 0 or step == knobs.steps:
                self.kept[step] = copy.deepcopy(transform).eval()
            return step == knobs.steps

        fit_forward_transform(
            features[0][FIT],
            features[-1][FIT],
            uncertainty=self.kind == "fastfill",
            epochs=-(-knobs.steps // per_epoch),
            lr=knobs.learning_rate,
            batch_size=knobs.batch_size,
            seed=self.seed,
            every=1,
            callback=keep,
        )

    def _transform(self) -> ForwardTransform | None:
        reached = [step for step in self.kept if step <= self.at]
        return self.kept[max(reached)] if reached else None

    @torch.no_grad()
    def mapped(self, name: str) -> Mapped:
        """A set of digits: new features as they are, old ones transformed (at first: cut or filled up to the width)."""
        old, new = self.world.features[0][name], self.world.features[-1][name]
        transform = self._transform()
        if transform is None:
            none = AffineAdapter(old.shape[1], new.shape[1]).to(old.device)
            return Mapped([new], none(old), None)
        return Mapped([new], transform(old), None)

    @torch.no_grad()
    def uncertainty(self, name: str) -> Tensor | None:
        """FastFill's log variance of each transformed old feature; None for FCT, and before the first step."""
        transform = self._transform()
        if self.kind != "fastfill" or transform is None:
            return None
        return transform.log_variance(self.world.features[0][name])


Learner = MapLearner | ForwardLearner
