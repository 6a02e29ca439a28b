"""What the paper of the page *Federated pruning* claims, measured here."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from normviz.claims import Claim, Effect, Identity
from normviz.experiments.federated_pruning.knobs import arm_name, candidate_name
from normviz.experiments.federated_pruning.ranking import ranking_gain
from normviz.experiments.pools import TEST_DIGITS
from normviz.measures import Measure, derived, scalar

__all__ = ["CLAIMS"]

POINT = 1.0
"""Least difference of a percentage that counts."""

WINDOW = 3
"""Rounds at the end over which an accuracy is averaged: with clients that differ it jumps from round to round."""

LESS = 0.1
"""One order of magnitude, which the paper's reductions of computation and memory are."""

METHODS: dict[str, Any] = {"task": "methods"}
GAIN = "+2.61 % accuracy over the best of several other methods, at very low densities (ResNet-18, VGG-11)."
SELECTION_NUMBERS = "An ablation of the paper; its numbers could not be confirmed."


def _accuracy(arm: str) -> Measure:
    return scalar("accuracy", arm_name(arm), window=WINDOW, bad=-math.inf) * 100.0


def _gain(rival: str) -> Measure:
    """FedTiny minus a rival at the end, in percentage points."""
    return _accuracy("fedtiny") - _accuracy(rival)


def _share(name: str, arm: str) -> Measure:
    return scalar(name, arm_name(arm))


_accuracy_claim = partial(
    Claim,
    paper="fedtiny",
    rule=Effect("above", floor=POINT),
    unit="points",
    resolution=100 / TEST_DIGITS,
)

CLAIMS: tuple[Claim, ...] = (
    _accuracy_claim(
        id="better-than-one-shot",
        statement="At equal density FedTiny is more accurate than a mask that the server makes once, by magnitude.",
        paper_figure=GAIN,
        measured="test accuracy of FedTiny minus One-shot magnitude, mean of the last three rounds",
        measure=_gain("one_shot"),
        preset="best-rates",
        given=METHODS,
        caveat="Both have the same budget; a candidate with noise may keep fewer weights, never more.",
    ),
    _accuracy_claim(
        id="better-than-vanilla-selection",
        statement="Selecting with the clients' batch statistics gives a better network than with the server's.",
        paper_figure=SELECTION_NUMBERS,
        measured="test accuracy of FedTiny minus Vanilla selection, mean of the last three rounds",
        measure=_gain("vanilla"),
        preset="parts",
        given=METHODS,
        caveat="Where both select the same candidate, both are the same network from round 0 on.",
    ),
    _accuracy_claim(
        id="better-than-rivals",
        statement="At equal density FedTiny is more accurate than SynFlow, PruneFL and FedDST.",
        paper_figure=GAIN,
        measured="test accuracy of FedTiny minus the rival, mean of the last three rounds",
        measure={arm_name(rival): _gain(rival) for rival in ("synflow", "prunefl", "feddst")},
        preset="rivals",
        given={**METHODS, "rule": "uniform"},
        caveat="SynFlow and PruneFL choose among all layers together, FedTiny keeps each layer's share; at 14,288 "
        "weights a layer's share can be nine weights.",
    ),
    Claim(
        id="losses-rank-candidates",
        paper="fedtiny",
        statement="Losses under the clients' statistics rank the candidates better than those under the server's.",
        paper_figure=SELECTION_NUMBERS,
        measured="rank correlation of low loss and final accuracy: with the clients' statistics minus the server's",
        measure=derived(ranking_gain, arms=[candidate_name(c) for c in range(8)]),
        rule=Effect("above", floor=0.1),
        preset="every-candidate",
        given={"task": "candidates", "pool_size": 8},
        unit="of rank correlation",
    ),
    _accuracy_claim(
        id="output-to-input",
        statement="Adjusting blocks from output to input is better than from input to output.",
        paper_figure=SELECTION_NUMBERS,
        measured="test accuracy of FedTiny minus FedTiny with the other order, mean of the last three rounds",
        measure=_gain("forward"),
        preset="parts",
        given={**METHODS, "granularity": "block"},
    ),
    Claim(
        id="fewer-operations",
        paper="fedtiny",
        statement="A device needs more than ten times fewer operations than for dense training.",
        paper_figure="−95.91 % computation, against other methods. That figure is not what is tested here: the "
        "comparison is with dense FedAvg, for the order of magnitude.",
        measured="operations of FedTiny's most expensive round over those of Dense FedAvg",
        measure=_share("flops", "fedtiny"),
        rule=Identity("below", LESS),
        preset="three-percent",
        given={**METHODS, "density": lambda density: density <= 0.05},
        given_words="a density of at most 0.05",
        unit="of dense",
        caveat="A count: it follows from the masks, by the convention that is stated under Maths and code.",
    ),
    Claim(
        id="less-memory",
        paper="fedtiny",
        statement="A device needs more than ten times less memory than for dense training.",
        paper_figure="−94.01 % memory, against other methods. That figure is not what is tested here: the comparison "
        "is with dense FedAvg, for the order of magnitude.",
        measured="bytes for weights, gradients and top-K buffer in FedTiny's largest round over those of Dense FedAvg",
        measure=_share("memory", "fedtiny"),
        rule=Identity("below", LESS),
        preset="three-percent",
        given={**METHODS, "density": lambda density: density <= 0.05},
        given_words="a density of at most 0.05",
        unit="of dense",
        caveat="A count: it follows from the masks. Activations, which both need, are not counted.",
    ),
    Claim(
        id="less-memory-than-dense-gradients",
        paper="fedtiny",
        statement="Uploading the top-K gradients needs less memory than holding dense gradients, as PruneFL does.",
        paper_figure="−94.01 % memory against other methods; only the sign is tested here.",
        measured="memory of FedTiny over that of PruneFL, each in its largest round",
        measure=_share("memory", "fedtiny") / _share("memory", "prunefl"),
        rule=Identity("below", 1.0),
        preset="rivals",
        given=METHODS,
        unit="times",
        caveat="A count: it follows from the masks.",
    ),
)
