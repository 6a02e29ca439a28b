"""LoRA as an arm of the page *Optimizer spectra*: every weight matrix stays as drawn and gets a trained B A.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685. Fira and GaLore compare themselves
with it in pre-training: W = W_0 + B A with a frozen random W_0, so that no change of W has a rank above r. Here A is
drawn uniformly, B starts at zero and the scaling alpha / r is 1 (the paper sets alpha to the first r that is tried).
Biases of the adapted layers are trained as in every other arm.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from normviz.adapters import LoRALinear
from normviz.models import BilinearMap
from normviz.optim import split_matrix_params
from normviz.probes import UpdateRecord

__all__ = ["AdaptedBilinear", "AdapterSpectrum", "adapted", "watched_adapter"]


class AdaptedBilinear(nn.Module):
    """A W B with the W of a :class:`BilinearMap` frozen and adapted.

    Args:
        base: its W is copied.
        rank: of the adapter.
    """

    def __init__(self, base: BilinearMap, rank: int) -> None:
        super().__init__()
        m, n = base.weight.shape
        layer = nn.Linear(n, m, bias=False, dtype=base.weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(base.weight)
        self.adapter = LoRALinear(layer, rank)

    def forward(self, A: Tensor, B: Tensor) -> Tensor:
        """The product A W B."""
        product: Tensor = A @ self.adapter(B.mT).mT  # the layer maps the rows of B^T to those of (W B)^T
        return product


def adapted(model: nn.Module, rank: int) -> nn.Module:
    """The model with a LoRA layer in place of every layer whose weight the other arms step as a matrix.

    Args:
        model: one that no other arm uses; its linear layers are replaced.
        rank: of the adapters, at most the shorter side of a matrix.

    Returns:
        A model that computes the same at the start. Its matrices (:func:`normviz.optim.split_matrix_params`) are the
        factors A and B.
    """
    if isinstance(model, BilinearMap):
        return AdaptedBilinear(model, min(rank, *model.weight.shape))
    chosen = {id(p) for p in split_matrix_params(model)[0]["params"]}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and id(module.weight) in chosen:
            layer = LoRALinear(module, min(rank, *module.weight.shape))
            bias = layer.bias
            if bias is not None:
                del layer.bias
                layer.register_parameter("bias", nn.Parameter(bias))
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer)
    return model


def watched_adapter(model: nn.Module, weight: str) -> LoRALinear:
    """The adapter of a model from :func:`adapted` that stands for the parameter called ``weight`` before."""
    layer = model.get_submodule(weight.rpartition(".")[0])
    found = layer.adapter if isinstance(layer, AdaptedBilinear) else layer
    assert isinstance(found, LoRALinear)
    return found


class AdapterSpectrum:
    """What a step does to W_0 + B A, in the steps for which it is armed: :class:`~normviz.probes.UpdateSpectrum` of it.

    The gradient of that sum is made of the layer's input and the gradient of its output, since W_0 has none.

    Args:
        optimizer: steps the factors.
        layer: the adapter.
        name: of its record.

    Attributes:
        armed: whether the next step is recorded.
    """

    def __init__(self, optimizer: Optimizer, layer: LoRALinear, name: str = "probed") -> None:
        self.layer, self.name = layer, name
        self.armed = False
        self._before: Tensor | None = None
        self._gradient: Tensor | None = None
        self._records: dict[str, UpdateRecord] = {}
        layer.register_forward_hook(self._watch)
        optimizer.register_step_pre_hook(self._remember)
        optimizer.register_step_post_hook(self._record)

    def arm(self) -> None:
        """Record the next step."""
        self.armed = True

    def read(self) -> dict[str, UpdateRecord]:
        """The record of the last armed step; empty before the first."""
        return dict(self._records)

    @torch.no_grad()
    def _sum(self) -> Tensor:
        """W_0 + B A in float64: rounding it to the weights' type would give a change of W more directions."""
        layer = self.layer
        return layer.weight.double() + layer.scaling * (layer.lora_B.double() @ layer.lora_A.double())

    def _watch(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG002
        if self.armed and output.requires_grad:
            output.register_hook(partial(self._keep, args[0].detach()))  # type: ignore[no-untyped-call]

    def _keep(self, x: Tensor, of_output: Tensor) -> None:
        self._gradient = of_output.flatten(0, -2).mT @ x.flatten(0, -2)  # (out, in)

    def _remember(self, *args: Any) -> None:  # noqa: ARG002
        if self.armed:
            self._before = self._sum()

    def _record(self, optimizer: Optimizer, *args: Any) -> None:  # noqa: ARG002
        if not self.armed:
            return
        self.armed = False
        assert self._before is not None
        self._records[self.name] = UpdateRecord(
            before=self._before,
            after=self._sum(),
            gradient=self._gradient,
            rate=float(optimizer.param_groups[0]["lr"]),
            decay=1.0,
            order="before",
        )
        self._before = self._gradient = None
