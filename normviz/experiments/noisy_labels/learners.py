"""The arms of the page *Noisy labels*: how each one takes a step, and what weight it gives to the training samples.

All learners of a seed start from the same network and see the same batches with the same dropout masks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normviz.experiments.noisy_labels.knobs import Knobs
from normviz.experiments.noisy_labels.tasks import NoisyTask
from normviz.models import MLP
from normviz.weighting import (
    STORM,
    GCELoss,
    LossRescaler,
    MetaWeightNet,
    MetaWeightTrainer,
    SmallLossFilter,
    l2rw_weights,
    sample_features,
)
from normviz.weighting.meta_weight_training import sample_losses

__all__ = ["Batches", "Learner", "StormLearner", "build_learner"]

HIDDEN = {"digits": 128, "text": 64}

sample_cross_entropy = partial(cross_entropy, reduction="none")


class Batches(NamedTuple):
    """Indices of one step: into the training data for the step and for STORM's validation, into the trusted set."""

    train: Tensor
    validation: Tensor
    trusted: Tensor


class Learner:
    """A network and its weighted loss.

    Args:
        task: the data of its seed.
        knobs: the setting.
        seed: of the initial network.
    """

    def __init__(self, task: NoisyTask, knobs: Knobs, seed: int) -> None:
        self.task, self.knobs = task, knobs
        torch.manual_seed(seed)
        width = HIDDEN[knobs.task] * knobs.width_factor
        self.model = MLP(task.x.shape[1], [width], task.num_classes, dropout=knobs.dropout)
        self.model.to(task.x.device).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=knobs.learning_rate)

    def pair(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Training samples with the labels as they are given."""
        return self.task.x[indices], self.task.y[indices]

    def trusted_pair(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Trusted samples."""
        return self.task.x_trusted[indices], self.task.y_trusted[indices]

    def update(self, batches: Batches) -> float:
        """One step; returns the loss as it was minimised."""
        loss = self.loss(batches)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach())

    def loss(self, batches: Batches) -> Tensor:
        """The loss of a step: the plain mean."""
        x, y = self.pair(batches.train)
        return cross_entropy(self.model(x), y)

    def sample_weights(self) -> Tensor | None:
        """Weight of every training sample at this moment, None for arms that do not weigh."""
        return None

    def all_losses(self) -> Tensor:
        """Losses of all training samples in eval mode (n,)."""
        self.model.eval()
        with torch.no_grad():
            losses = sample_cross_entropy(self.model(self.task.x), self.task.y)
        self.model.train()
        return losses


class GCELearner(Learner):
    """Generalised cross-entropy, a loss that no single wrong label can dominate."""

    def loss(self, batches: Batches) -> Tensor:
        """The mean GCE loss."""
        x, y = self.pair(batches.train)
        loss: Tensor = GCELoss()(self.model(x), y)
        return loss


class OracleLearner(Learner):
    """Weight 1 for right labels, 0 for wrong ones: which no other arm knows."""

    def loss(self, batches: Batches) -> Tensor:
        """The mean over the rightly labelled samples of the batch."""
        right = batches.train[~self.task.flipped[batches.train]]
        x, y = self.pair(right)
        return cross_entropy(self.model(x), y, reduction="sum") / max(len(right), 1)


class SmallLossLearner(Learner):
    """Drops the highest losses of each batch, as many as there are wrong labels on average."""

    def loss(self, batches: Batches) -> Tensor:
        """The mean over the kept samples."""
        x, y = self.pair(batches.train)
        losses = sample_cross_entropy(self.model(x), y)
        w: Tensor = SmallLossFilter(self.knobs.rate)(losses)
        return (w * losses).mean()

    def sample_weights(self) -> Tensor:
        """The filter over all training samples at once."""
        weights: Tensor = SmallLossFilter(self.knobs.rate)(self.all_losses())
        return weights


class L2RWLearner(Learner):
    """Weights by agreement with the gradient of a trusted batch."""

    def loss(self, batches: Batches) -> Tensor:
        """The weighted sum; the weights sum to 1."""
        pair = self.pair(batches.train)
        w = l2rw_weights(self.model, pair, self.trusted_pair(batches.trusted))
        return (w * sample_cross_entropy(self.model(pair[0]), pair[1])).sum()

    def sample_weights(self) -> Tensor:
        """Agreement of all training samples with the whole trusted set, mean 1."""
        task = self.task
        w = l2rw_weights(self.model, (task.x, task.y), (task.x_trusted, task.y_trusted))
        return w * len(w)


class StormLearner(Learner):
    """STORM, or MW-Net on the same machinery: ``n_inner`` updates of the network, then one of the rescaler.

    Args:
        task, knobs, seed: as for :class:`Learner`.
        build: makes the trainer from model, optimizer and knobs.
        features: f(model, x, y, num_passes=...) of the rescaler.
        clean: validation batches from the trusted set.
    """

    def __init__(
        self,
        task: NoisyTask,
        knobs: Knobs,
        seed: int,
        *,
        build: Callable[[nn.Module, torch.optim.Optimizer, Knobs, torch.device], STORM],
        clean: bool,
    ) -> None:
        super().__init__(task, knobs, seed)
        torch.manual_seed(seed)
        self.storm = build(self.model, self.optimizer, knobs, task.x.device)
        self.clean = clean
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._loss = 0.0
        self.seen = torch.empty(0)

    def update(self, batches: Batches) -> float:
        """Collect ``n_inner`` batches, then take their steps; between two such moments the last loss stands."""
        self._waiting.append(self.pair(batches.train))
        if len(self._waiting) == self.storm.n_inner:
            batch = self._waiting if self.storm.n_inner > 1 else self._waiting[0]
            val = self.trusted_pair(batches.trusted) if self.clean else self.pair(batches.validation)
            self._loss = float(self.storm.step(batch, val).loss)
            self._waiting = []
        return self._loss

    def sample_weights(self) -> Tensor:
        """The rescaler's weights of all training samples as one batch, scaled to mean 1; ``seen`` are the features."""
        storm, task = self.storm, self.task
        self.seen = storm.features(self.model, task.x, task.y, num_passes=storm.num_passes)
        with torch.no_grad():
            w: Tensor = storm.rescaler(self.seen)
        return w / w.mean().clamp(min=1e-12)


def _storm(model: nn.Module, optimizer: torch.optim.Optimizer, knobs: Knobs, device: torch.device) -> STORM:
    omega = LossRescaler().to(device)
    return STORM(
        model,
        omega,
        optimizer,
        torch.optim.Adam(omega.parameters(), lr=knobs.meta_rate),
        num_passes=knobs.passes,
        n_inner=knobs.n_inner,
        outer_scale=knobs.outer_scale,
        burn_in=knobs.burn_in // knobs.n_inner,
    )


def _only_loss(model: nn.Module, x: Tensor, y: Tensor, num_passes: int) -> Tensor:
    """STORM's first feature alone (n, 1)."""
    return sample_features(model, x, y, num_passes=num_passes)[:, :1]


def _mw_noisy(
    model: nn.Module, optimizer: torch.optim.Optimizer, knobs: Knobs, device: torch.device
) -> STORM:
    """MW-Net as a special case of STORM: the loss is the only feature, the validation labels are trusted."""
    omega = LossRescaler(num_features=1).to(device)
    return MetaWeightTrainer(
        model,
        omega,
        optimizer,
        torch.optim.Adam(omega.parameters(), lr=knobs.meta_rate),
        features=_only_loss,
        num_passes=knobs.passes,
        n_inner=knobs.n_inner,
        burn_in=knobs.burn_in // knobs.n_inner,
    )


def _mw_clean(
    model: nn.Module, optimizer: torch.optim.Optimizer, knobs: Knobs, device: torch.device
) -> STORM:
    net = MetaWeightNet().to(device)
    meta = torch.optim.Adam(net.parameters(), lr=knobs.meta_rate)
    return MetaWeightTrainer(model, net, optimizer, meta, features=sample_losses)


def build_learner(arm: str, task: NoisyTask, knobs: Knobs, seed: int) -> Learner:
    """The learner of an arm; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        if arm == "storm":
            return StormLearner(task, knobs, seed, build=_storm, clean=knobs.validation == "clean")
        if arm == "mw_noisy":
            return StormLearner(task, knobs, seed, build=_mw_noisy, clean=False)
        if arm == "mw_clean":
            return StormLearner(task, knobs, seed, build=_mw_clean, clean=True)
        kinds: dict[str, type[Learner]] = {
            "plain": Learner,
            "small_loss": SmallLossLearner,
            "gce": GCELearner,
            "oracle": OracleLearner,
            "l2rw": L2RWLearner,
        }
        return kinds[arm](task, knobs, seed)
