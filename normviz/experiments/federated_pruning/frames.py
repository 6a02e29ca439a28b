"""What is trained on the page *Federated pruning*: all arms on the same clients, one round each in turn.

ConvNet 16-32-32 with batch norms and 14,458 parameters on 8 x 8 digits (or MNIST or images of the reader's own, both
14 x 14), pre-trained by the server on 100 public samples. The other training samples belong to the clients; a quarter
of the data is for testing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from normviz.experiments.federated_pruning.candidates import candidate_losses
from normviz.experiments.federated_pruning.clients import Federation, build_federation
from normviz.experiments.federated_pruning.costs import Cost, round_cost
from normviz.experiments.federated_pruning.knobs import SELECTING, Knobs, arm_name, candidate_name
from normviz.experiments.federated_pruning.layers import LAYERS
from normviz.experiments.federated_pruning.learners import adjustment_of, build_candidate, build_learner
from normviz.experiments.federated_pruning.recorded import CLASSES, ENTERED, GROWN, KEPT, PRUNED
from normviz.federated import FedAvg, SparseModel
from normviz.frame import Frame, Value
from normviz.progress import ROUNDS
from normviz.training import Diverged, Trainee, interleave, resolve_device

__all__ = ["frames"]


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train every arm and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    first = knobs.shown_arms().names[0]
    yield from (Frame(0, first, seed) for seed in knobs.seed_range())
    federations = {seed: build_federation(knobs, seed, where) for seed in knobs.seed_range()}
    for seed, federation in federations.items():
        yield Frame(0, first, seed, {"labels": federation.counts})
    for seed, federation in federations.items():
        yield from _table(knobs, seed, federation)
    members: list[Member] = []
    for seed, federation in federations.items():
        members += _members(knobs, seed, federation)
    yield from interleave(members, until=knobs.rounds, evaluate=_evaluate, eval_every=1, progress=ROUNDS)


def _table(knobs: Knobs, seed: int, federation: Federation) -> Iterator[Frame]:
    """The candidates' losses as they come, at the first arm that chooses among candidates."""
    choosing = knobs.kinds(SELECTING)
    if knobs.task == "candidates" or choosing:
        arm = arm_name(choosing[0]) if choosing else candidate_name(0)
        for table in candidate_losses(knobs, federation):
            yield Frame(0, arm, seed, {"candidates": table.astype(np.float32)})


def _members(knobs: Knobs, seed: int, federation: Federation) -> list[Member]:
    if knobs.task == "candidates":
        learners = {candidate_name(c): build_candidate(c, knobs, federation) for c in range(knobs.pool_size)}
        return [Member(name, seed, learner, federation, knobs) for name, learner in learners.items()]
    return [
        Member(
            arm_name(kind),
            seed,
            build_learner(kind, knobs, federation),
            federation,
            knobs,
            selects=kind in SELECTING and kind != "vanilla",
        )
        for kind in knobs.kinds()
    ]


class Member:
    """One arm with one seed, as :func:`interleave` sees it.

    Args:
        arm: its name.
        seed: of its federation.
        learner: what runs the rounds.
        federation: the data.
        knobs: the setting; masks are kept for its first seed.
        selects: its first round pays for the selection.
    """

    def __init__(
        self,
        arm: str,
        seed: int,
        learner: FedAvg,
        federation: Federation,
        knobs: Knobs,
        *,
        selects: bool = False,
    ) -> None:
        self.arm, self.seed, self.learner, self.federation = arm, seed, learner, federation
        self.samples = sum(len(x) for x, _ in federation.clients) / len(federation.clients)
        self.shown = seed == knobs.first_seed
        self.pool_size = knobs.pool_size if selects else 0
        self.most = self.total = Cost(0.0, 0.0, 0.0)
        model = learner.model
        plain = model.model if isinstance(model, SparseModel) else model
        self.dense = round_cost(plain, federation.input_shape, self.samples, learner.epochs)
        self.masks = self.start = masks_of(learner)
        self.masks_changed = bool(self.masks)
        self.cells: NDArray[np.float32] | None = cells(self.masks, self.masks, self.masks)
        self.exchanged: NDArray[np.float32] | None = None

    def step(self, at: int) -> dict[str, Value]:
        """One round, and what it cost a device with the mean number of samples.

        Raises:
            Diverged: a weight of the global network is not finite.
        """
        del at
        before = copy.deepcopy(self.learner.model)
        self.learner.run(1)
        if not all(bool(p.isfinite().all()) for p in self.learner.model.parameters()):
            raise Diverged("a weight of the global network is not finite", lost=("test_loss",))
        adjustment = adjustment_of(self.learner, self.samples)
        cost = round_cost(
            before,
            self.federation.input_shape,
            self.samples,
            self.learner.epochs,
            adjustment=adjustment,
            masks_changed=self.masks_changed,
            pool_size=self.pool_size if self.learner.round == 1 else 0,
        )
        self.most = Cost(*map(max, self.most, cost))
        self.total = Cost(*(a + b for a, b in zip(self.total, cost, strict=True)))
        after = masks_of(self.learner)
        self.masks_changed = any(not torch.equal(after[name], mask) for name, mask in self.masks.items())
        self.cells = self.exchanged = None
        if adjustment is not None:
            self.cells = cells(self.start, self.masks, after)
            self.exchanged = exchanged(self.masks, after, adjustment.names)
        self.masks = after
        return {"round_mflops": cost.flops / 1e6, "round_kb": cost.sent / 1e3}


def masks_of(learner: FedAvg) -> dict[str, Tensor]:
    """Copies of the global network's masks; none if it is dense."""
    model = learner.model
    return {n: m.clone() for n, m in model.masks.items()} if isinstance(model, SparseModel) else {}


def cells(
    start: dict[str, Tensor], before: dict[str, Tensor], after: dict[str, Tensor]
) -> NDArray[np.float32]:
    """What the picture of the masks shows: rows (place of the layer, flat index, code), see :mod:`recorded`."""
    rows = [np.empty((0, 3))]
    for place, layer in enumerate(LAYERS):
        if layer.weight not in after:
            continue
        first, old, new = (m[layer.weight].flatten().cpu().numpy() for m in (start, before, after))
        stays = old & new
        kinds = {KEPT: stays & first, ENTERED: stays & ~first, GROWN: new & ~old, PRUNED: old & ~new}
        for kind, chosen in kinds.items():
            index = np.flatnonzero(chosen)
            rows.append(np.column_stack([np.full(len(index), place), index, np.full(len(index), kind)]))
    return np.concatenate(rows).astype(np.float32)


def exchanged(
    before: dict[str, Tensor], after: dict[str, Tensor], names: Collection[str]
) -> NDArray[np.float32]:
    """(layers,), how many weights entered; NaN for layers that were not asked."""
    grown = [
        int((after[layer.weight] & ~before[layer.weight]).sum()) if layer.weight in names else np.nan
        for layer in LAYERS
    ]
    return np.array(grown, dtype=np.float32)


def _share(right: Tensor) -> float:
    """Mean; NaN of none, as for a class that the reader's own images do not have."""
    return float(right.mean()) if len(right) else math.nan


@torch.no_grad()
def _evaluate(member: Trainee, at: int) -> dict[str, Value]:
    """Accuracy, what is kept in each layer, costs so far; the masks where they may have moved."""
    assert isinstance(member, Member)
    model, (x, y) = member.learner.model, member.federation.test
    model.eval()
    logits = model(x)
    model.train()
    right = (logits.argmax(1) == y).float()
    density = [float(member.masks[la.weight].float().mean()) if member.masks else 1.0 for la in LAYERS]
    values: dict[str, Value] = {
        "accuracy": float(right.mean()),
        "test_loss": float(F.cross_entropy(logits, y)),
        "recall": np.array([_share(right[y == c]) for c in range(CLASSES)], dtype=np.float32),
        "layer_density": np.array(density, dtype=np.float32),
    }
    if at:
        values["flops"] = member.most.flops / member.dense.flops
        values["memory"] = member.most.memory / member.dense.memory
        values["sent"] = member.total.sent / (at * member.dense.sent)
    if member.shown and member.cells is not None and len(member.cells):
        values["cells"] = member.cells
    if member.shown and member.exchanged is not None:
        values["exchanged"] = member.exchanged
    return values
