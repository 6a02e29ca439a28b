"""How far the largest activation of a layer stands out from its ordinary ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normviz.frame import Value
from normviz.probes.probe import Probe

__all__ = ["ActivationOutliers"]

SMALLEST = 1e-12
"""The median of a layer is never taken to be smaller, so that a layer without any signal does not divide by zero."""


class ActivationOutliers(Probe):
    """Largest absolute input of each chosen layer over the median absolute input of that layer.

    Values: ``outliers_by_layer``, one ratio per layer in the order they run, over all entries of the layer's input
    (rows that a boolean ``pad_mask`` marks as padding are left out); ``outliers``, the mean over the layers of its
    decadic logarithm: orders of magnitude. For comparison: of 8,192 independent normal numbers the ratio is about 6.

    Args:
        select: which modules are layers, by qualified name and module.
        every: cadence in steps.

    Reference: the outliers of activations across layers in Yang et al., "Unified Normalization for Accelerating and
        Stabilizing Transformers", arXiv 2208.01313, abstract; the ratio itself is no formula of the paper.
    """

    def __init__(self, select: Callable[[str, nn.Module], bool], every: int = 1) -> None:
        super().__init__(every)
        self.select = select

    @contextmanager
    def forward(self, model: nn.Module, values: dict[str, Value]) -> Iterator[None]:
        """Hook the selected layers; put the ratios into ``values`` on leaving."""
        ratios: list[Tensor] = []

        def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
            x = args[0] if args else next(v for v in kwargs.values() if isinstance(v, Tensor))
            mask = args[1] if len(args) > 1 else kwargs.get("pad_mask")
            sizes = x.detach().float().abs()
            if isinstance(mask, Tensor):
                sizes = sizes[~mask]
            ratios.append(sizes.max() / sizes.median().clamp(min=SMALLEST))

        layers = [module for name, module in model.named_modules() if self.select(name, module)]
        handles = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if ratios:
            by_layer = torch.stack(ratios)
            values["outliers_by_layer"] = by_layer.cpu().numpy()
            values["outliers"] = float(by_layer.double().log10().mean())
