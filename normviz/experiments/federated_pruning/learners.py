"""The arms: each method of the page as a federated learner, and what it asks of a device in an adjustment round."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from normviz.experiments.federated_pruning.candidates import pool_of
from normviz.experiments.federated_pruning.clients import Federation
from normviz.experiments.federated_pruning.costs import Adjustment
from normviz.experiments.federated_pruning.knobs import SELECTING, Knobs
from normviz.experiments.federated_pruning.layers import LAYERS
from normviz.federated import (
    AdaptiveBNSelection,
    FedAvg,
    FedDST,
    FedTiny,
    OneShotMagnitude,
    PruneFL,
    SparseModel,
    adjust_count,
    snip_masks,
    synflow_masks,
)

__all__ = ["adjustment_of", "build_candidate", "build_learner"]


def build_learner(kind: str, knobs: Knobs, federation: Federation) -> FedAvg:
    """The learner of an arm; those that select have selected their start."""
    network, clients, shared = federation.network, federation.clients, _shared(knobs, federation)
    schedule: dict[str, Any] = {"rule": knobs.rule, "interval": knobs.interval, "stop": knobs.stop}
    if kind == "fixed":
        chosen = _fed_tiny("fedtiny", knobs, federation).run(0).model
        return FedAvg(lambda: copy.deepcopy(chosen), clients, **shared)
    if kind in SELECTING or kind == "clean":
        return _fed_tiny(kind, knobs, federation).run(0)
    if kind == "prunefl":
        return PruneFL(network, clients, knobs.density, **shared, **schedule)
    if kind == "feddst":
        rate = knobs.adjust_rate
        return FedDST(network, clients, knobs.density, **shared, **schedule, adjust_rate=rate)
    if kind == "one_shot":
        return OneShotMagnitude(network, clients, knobs.density, **shared, rule=knobs.rule)
    return FedAvg(lambda: _pruned_once(kind, knobs, federation), clients, **shared)


def build_candidate(candidate: int, knobs: Knobs, federation: Federation) -> FedTiny:
    """FedTiny as if its selection had taken this candidate."""
    learner = _fed_tiny("fedtiny", knobs, federation)
    selection = AdaptiveBNSelection(
        pool_of(knobs, federation),
        federation.clients,
        knobs.dev_fraction,
        batch_size=knobs.batch_size,
        seed=federation.seed,
    )
    start = selection.evaluate(candidate).state_dict()
    learner.load_state_dict({**learner.state_dict(), "model": start, "selected": True})
    return learner


def _pruned_once(kind: str, knobs: Knobs, federation: Federation) -> nn.Module:
    """The server's network, pruned before training by SNIP or SynFlow; as it is for dense training."""
    network = federation.network()
    if kind == "snip":
        return SparseModel.with_masks(network, snip_masks(network, *federation.public, knobs.density))
    if kind == "synflow":
        masks = synflow_masks(network, federation.input_shape, knobs.density)
        return SparseModel.with_masks(network, masks)
    return network


def _shared(knobs: Knobs, federation: Federation) -> dict[str, Any]:
    return {
        "lr": knobs.learning_rate,
        "epochs": knobs.epochs,
        "batch_size": knobs.batch_size,
        "seed": federation.seed,
    }


def _fed_tiny(kind: str, knobs: Knobs, federation: Federation) -> FedTiny:
    clean = kind == "clean"
    return FedTiny(
        federation.network,
        federation.clients,
        knobs.density,
        1 if clean else knobs.pool_size,
        knobs.interval,
        knobs.stop,
        knobs.adjust_rate,
        rule=knobs.rule,
        noise=knobs.noise,
        adapt=kind not in ("vanilla", "clean"),
        dev_fraction=knobs.dev_fraction,
        blocks=[[layer.weight] for layer in LAYERS],
        order="forward" if kind == "forward" else "backward",
        granularity="entire" if clean else knobs.granularity,
        upload="dense" if clean else "topk",
        **_shared(knobs, federation),
    )


def adjustment_of(learner: FedAvg, samples: float) -> Adjustment | None:
    """What the learner asked of a client in its last round, None if it only trained.

    Args:
        learner: after a round.
        samples: of a client.
    """
    batch = min(float(learner.batch_size), samples)
    if isinstance(learner, FedTiny):
        names = learner.last["names"]
        if not names:
            return None
        if learner.upload == "dense":
            return Adjustment(names, batch, dense=True)
        return Adjustment(names, batch, pairs=sum(len(grown) for grown in learner.last["grown"].values()))
    if isinstance(learner, PruneFL):
        names = learner.schedule.names(learner.round)
        return Adjustment(names, samples, dense=True) if names else None
    if isinstance(learner, FedDST):
        names = learner.schedule.names(learner.round)
        stop, rate = learner.schedule.stop, learner.adjust_rate
        pairs = sum(adjust_count(learner.round, stop, learner.active[name], rate) for name in names)
        return Adjustment(names, batch, pairs, uploads_pairs=False, masks_up=True) if names else None
    return None
