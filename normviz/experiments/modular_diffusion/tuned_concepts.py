"""Concepts of one arm, each tuned by a user of its own: base model, token and adapters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from normviz.adapters import LoRALinear, OrthogonalLoRALinear, adapter_state, apply_orthogonal_adaptation
from normviz.data.sampling import seeded_generator
from normviz.experiments.modular_diffusion.knobs import SHARED
from normviz.experiments.modular_diffusion.world import World
from normviz.models import FiLMDenoiser

__all__ = ["TunedConcepts", "build_concept"]

FRAMES = {
    "orthogonal": "orthogonal",
    "frozen": "orthogonal",
    "shared": "orthogonal",
    "disjoint": "disjoint",
    "gaussian": "gaussian",
}
"""How an arm draws its frames; arms of LoRA have none."""

USERS = 1000
"""Concept seeds of a run's seed: from this many times the seed on."""
LORA_INIT = 100
"""Stream of random numbers of LoRA's first factors."""

Adapter = OrthogonalLoRALinear | LoRALinear


def build_concept(kind: str, world: World, i: int) -> FiLMDenoiser:
    """The base model with the adapters and the token of concept ``i``; only they can be trained."""
    knobs, model = world.knobs, copy.deepcopy(world.base)
    target = "linear" if kind in SHARED else "film"
    if kind in FRAMES:
        frame = FRAMES[kind]
        concept = i if frame == "disjoint" else USERS * world.seed + i
        apply_orthogonal_adaptation(model, [target], knobs.rank, concept, seed=world.seed, method=frame)
    else:
        model.requires_grad_(False)
        draw = seeded_generator(world.seed, LORA_INIT, i)
        for block in model.blocks:
            assert isinstance(block, nn.ModuleDict)
            layer = block[target]
            assert isinstance(layer, nn.Linear)
            block[target] = LoRALinear(layer, knobs.rank, generator=draw)
    with torch.no_grad():
        model.token.copy_(world.tokens[i])
    model.token.requires_grad_(kind != "frozen")
    return model


class TunedConcepts:
    """The models of all concepts of an arm, trained in one stack without knowing each other.

    Args:
        kind: the arm's key in the knobs.
        world: of its seed.

    Attributes:
        models: one per concept; what is trained are views of the stack.
        optimizer: Adam over the stack; it treats every number by itself, as an optimizer for each concept would.
    """

    def __init__(self, kind: str, world: World) -> None:
        self.kind, self.world = kind, world
        self.models = [build_concept(kind, world, i) for i in range(world.knobs.concepts)]
        self._template = copy.deepcopy(self.models[0]).requires_grad_(False)
        self._trained = {
            name: nn.Parameter(torch.stack([model.get_parameter(name).detach() for model in self.models]))
            for name, parameter in self.models[0].named_parameters()
            if parameter.requires_grad
        }
        for i, model in enumerate(self.models):
            for name, stacked in self._trained.items():
                model.get_parameter(name).data = stacked.detach()[i]
        self._fixed = {
            name: torch.stack([model.state_dict()[name] for model in self.models])
            for name in self.models[0].state_dict()
            if name.endswith(".basis") or (name == "token" and name not in self._trained)
        }
        self.optimizer = torch.optim.Adam(self._trained.values(), lr=world.knobs.learning_rate)

    def _denoise(self, own: dict[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
        """The noise in x as one concept's model sees it."""
        found: Tensor = functional_call(self._template, own, (x, t))
        return found

    def update(self, step: int) -> float:
        """One step of every concept on its own batch; returns the mean loss before it."""

        def loss(own: dict[str, Tensor], x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
            return self.world.process.loss(lambda x, at: self._denoise(own, x, at), x0, t, eps)

        self.optimizer.zero_grad()
        losses = vmap(loss)(self._trained | self._fixed, *self.world.batches(step))
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(losses.detach().mean())

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Samples of every concept's own model, [C, 256, 2]."""
        own, world = self._trained | self._fixed, self.world
        denoise = vmap(self._denoise, in_dims=(0, 0, None))
        start, noise = world.stacked_noise(len(self.models))
        return world.process.sample(lambda x, t: denoise(own, x, t), start, noise)

    @property
    def tokens(self) -> Tensor:
        """All tokens, [C, n]."""
        return torch.stack([model.token.detach() for model in self.models])

    def layers(self) -> list[str]:
        """Names of the adapted layers."""
        return [name for name, module in self.models[0].named_modules() if isinstance(module, Adapter)]

    def states(self) -> list[Mapping[str, Mapping[str, Any]]]:
        """What every user hands over for merging."""
        if self.kind in FRAMES:
            return [adapter_state(model) for model in self.models]
        return [
            {
                name: {
                    "lora_up": module.lora_B.detach().clone(),
                    "basis": module.lora_A.detach().mT.clone(),
                    "scaling": module.scaling,
                }
                for name, module in model.named_modules()
                if isinstance(module, LoRALinear)
            }
            for model in self.models
        ]

    @torch.no_grad()
    def deltas(self, layer: str) -> list[Tensor]:
        """What every concept adds to the weight of a layer, [out, in] each."""
        found = []
        for model in self.models:
            module = model.get_submodule(layer)
            assert isinstance(module, Adapter)
            found.append(module.delta_weight())
        return found

    @torch.no_grad()
    def inputs(self) -> list[dict[str, Tensor]]:
        """Inputs [rows, in] of the adapted layers of every concept's model, on noisy points of its own data.

        A layer that reads the token alone has one row: the token.
        """
        found: list[dict[str, Tensor]] = []
        for i, model in enumerate(self.models):
            rows: dict[str, Tensor] = {}
            handles = [
                model.get_submodule(name).register_forward_pre_hook(_keep_input(name, rows))
                for name in self.layers()
            ]
            try:
                self.world.process.loss(model, *self.world.recorded(i))
            finally:
                for handle in handles:
                    handle.remove()
            found.append(rows)
        return found


def _keep_input(name: str, rows: dict[str, Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that keeps a layer's input under a name."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:  # noqa: ARG001 - torch hands both over
        rows[name] = args[0].detach().reshape(-1, args[0].shape[-1])

    return hook
