"""One model out of all concepts: summed, averaged or fused adapters, and what that does to every concept."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from normviz.adapters import activation_crosstalk, merge_adapters, weight_crosstalk
from normviz.experiments.modular_diffusion.tuned_concepts import FRAMES, TunedConcepts
from normviz.experiments.modular_diffusion.world import World
from normviz.models import FiLMDenoiser

__all__ = ["MergedModels", "added_by_count", "crosstalk", "merge_times", "token_shares"]

METHODS = {"sum": "sum", "average": "fedavg", "fused": "gradient_fusion"}
"""Names of the merges here and in the library."""

REPEATS = 5
"""A time is the least of so many."""

States = Sequence[Mapping[str, Mapping[str, Any]]]


class MergedModels:
    """Merges of the concepts of an arm as they are now.

    Args:
        tuned: the concepts.
    """

    def __init__(self, tuned: TunedConcepts) -> None:
        self.world, self.tokens = tuned.world, tuned.tokens
        self.states, self.inputs = tuned.states(), tuned.inputs()
        self._base = tuned.world.base.state_dict()

    def model(self, method: str, count: int) -> FiLMDenoiser:
        """The merged model of the first ``count`` concepts: "sum" with strength λ, "average" or "fused".

        "fused" takes the closed form, the limit of the optimisation.
        """
        options: dict[str, Any] = {}
        if method == "sum":
            options["weights"] = [self.world.knobs.strength] * count
        if method == "fused":
            options |= {"inputs": self.inputs[:count], "solver": "closed_form"}
        merged = copy.deepcopy(self.world.base)
        merged.load_state_dict(merge_adapters(self._base, self.states[:count], METHODS[method], **options))
        return merged

    def samples(self, method: str, count: int | None = None) -> Tensor:
        """Samples [count, 256, 2] of the merged model for the tokens of the merged concepts."""
        count = len(self.tokens) if count is None else count
        return self.world.sample(self.model(method, count), self.tokens[:count])


def merge_times(tuned: TunedConcepts) -> tuple[float, float]:
    """Milliseconds of the sum, and of gradient fusion by L-BFGS as the public code has it (50 iterations)."""
    base, states, inputs = tuned.world.base.state_dict(), tuned.states(), tuned.inputs()

    def least(repeats: int, method: str, **options: Any) -> float:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            merge_adapters(base, states, method, **options)
            times.append(time.perf_counter() - start)
        return 1e3 * min(times)

    return least(REPEATS, "sum"), least(1, "gradient_fusion", inputs=inputs)


def crosstalk(tuned: TunedConcepts) -> tuple[Tensor, Tensor]:
    """Crosstalk by weights [C, C] and on the concepts' own inputs [C], both as means over the adapted layers."""
    inputs = tuned.inputs()
    by_weight, by_input = [], []
    for layer in tuned.layers():
        deltas = tuned.deltas(layer)
        by_weight.append(weight_crosstalk(deltas))
        by_input.append(activation_crosstalk(deltas, [rows[layer] for rows in inputs]))
    return torch.stack(by_weight).mean(0), torch.stack(by_input).mean(0)


def token_shares(tuned: TunedConcepts) -> tuple[float, float] | None:
    """Share of a token's squared length in its own frames, and in those of the other concepts: means over all.

    None where the adapters do not read the token, or have no frames.
    """
    if tuned.kind not in FRAMES or not tuned.layers()[0].endswith("film"):
        return None
    tokens = tuned.tokens.double()
    shares = []
    for layer in tuned.layers():
        frames = torch.stack([state[layer]["basis"].double() for state in tuned.states()])  # (C, n, r)
        parts = torch.einsum("cn,knr->ckr", tokens, frames).square().sum(-1)  # token c in frame k
        shares.append(parts / tokens.square().sum(-1, keepdim=True))
    share = torch.stack(shares).mean(0)
    own = share.diagonal().mean()
    count = len(share)
    others = (share.sum() - share.diagonal().sum()) / (count * (count - 1))
    return float(own), float(others)


def added_by_count(world: World, merged: MergedModels, alone: Tensor, summed: Tensor) -> list[float]:
    """For the sum of the first 1, 2, … C concepts: their mean distance minus that before merging.

    Args:
        world: of the seed.
        merged: the concepts.
        alone: distances before merging, [C].
        summed: distances after merging all, [C].
    """
    found = []
    for count in range(1, len(alone)):
        distances = world.distances(merged.samples("sum", count))
        found.append(float((distances - alone[:count]).mean()))
    return [*found, float((summed - alone).mean())]
