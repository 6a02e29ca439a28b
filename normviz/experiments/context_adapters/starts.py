"""The network of an arm before its first step on the new task: what is frozen, and where its adapters start."""

from __future__ import annotations

import copy

from torch import nn

from normviz.adapters import LoRALinear, apply_corda
from normviz.data import seeded_generator
from normviz.experiments.context_adapters.recorded import LAYERS, SOURCES
from normviz.experiments.context_adapters.tasks import World

__all__ = ["SOURCE_OF", "merged", "started"]

FIRST, NEW, NOISE = SOURCES
SOURCE_OF = {
    "kpa": FIRST,
    "kpa_wrong": NEW,
    "kpa_noise": NOISE,
    "ipa": NEW,
    "ipa_wrong": FIRST,
    "ipa_noise": NOISE,
}
"""Where the calibration samples of each CorDA arm come from: KPA keeps what it sees, IPA learns what it sees."""
MODES = {"kpa": "kpm", "ipa": "ipm"}
RANDOM_START = 15
"""Stream of a seed's random numbers for LoRA's A."""


def started(kind: str, world: World) -> nn.Module:
    """A copy of the trained network with the arm's adapters in every layer but the head.

    Args:
        kind: the arm's key in the knobs.
        world: the network and what its layers have seen.
    """
    knobs, model = world.knobs, copy.deepcopy(world.base)
    if kind == "full":
        return model
    if kind in SOURCE_OF:
        covariances = world.contexts[SOURCE_OF[kind]].covariances
        mode = MODES[kind.partition("_")[0]]
        return apply_corda(
            model,
            covariances,
            knobs.rank,
            mode,
            knobs.alpha,
            sigma_fuse=knobs.sigma_fuse,
            damp=knobs.damp,
        )
    model.requires_grad_(False)
    draw = seeded_generator(world.seed, RANDOM_START)
    for name in LAYERS:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        # On the CPU, where the generator is: every device then has the same start.
        adapter = LoRALinear(layer.cpu(), knobs.rank, knobs.alpha, kind, generator=draw)
        model.set_submodule(name, adapter.to(world.device))
    return model


def merged(model: nn.Module) -> nn.Module:
    """A copy in which every adapter is merged into an ordinary linear layer."""
    plain = copy.deepcopy(model)
    for name in LAYERS:
        layer = plain.get_submodule(name)
        if isinstance(layer, LoRALinear):
            plain.set_submodule(name, layer.merge())
    return plain
