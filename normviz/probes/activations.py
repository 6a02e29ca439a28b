"""Histograms of activations, layer by layer, while a network trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from normviz.frame import Value
from normviz.probes.probe import Probe

__all__ = ["ActivationHistogram"]


class ActivationHistogram(Probe):
    """Histogram, mean and standard deviation of what chosen layers put out.

    Values: ``activations`` (layers x bins, densities over the fixed range), ``activation_mean`` and
    ``activation_std`` (one entry per layer, input side first). What falls outside the range is counted in the
    outermost bins, so that each row integrates to one.

    Args:
        select: which modules are layers, by qualified name and module.
        every: cadence in steps.
        low, high: range of the histogram.
        bins: number of equal bins.

    Raises:
        ValueError: an empty range, or fewer than two bins.

    Reference: none, no paper.
    """

    def __init__(
        self,
        select: Callable[[str, nn.Module], bool],
        every: int = 10,
        *,
        low: float = -4.0,
        high: float = 4.0,
        bins: int = 48,
    ) -> None:
        super().__init__(every)
        if not low < high:
            raise ValueError(f"low must be smaller than high, got {low!r} and {high!r}.")
        if bins < 2:
            raise ValueError(f"bins must be an integer >= 2, got {bins!r}.")
        self.select, self.low, self.high, self.bins = select, low, high, bins

    @contextmanager
    def forward(self, model: nn.Module, values: dict[str, Value]) -> Iterator[None]:
        """Hook the selected layers; put histogram and moments into ``values`` on leaving."""
        rows: list[np.ndarray] = []
        moments: list[tuple[float, float]] = []

        def watch(module: nn.Module, args: object, output: object) -> None:  # noqa: ARG001
            tensor = output[0] if isinstance(output, tuple) else output
            if isinstance(tensor, Tensor):
                flat = tensor.detach().float().flatten()
                moments.append((float(flat.mean()), float(flat.std(correction=0))))
                counts = torch.histc(flat.clamp(self.low, self.high), self.bins, self.low, self.high)
                width = (self.high - self.low) / self.bins
                rows.append((counts / (counts.sum().clamp(min=1) * width)).cpu().numpy())

        layers = [module for name, module in model.named_modules() if self.select(name, module)]
        handles = [layer.register_forward_hook(watch) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if rows:
            values["activations"] = np.stack(rows).astype(np.float32)
            values["activation_mean"] = np.array([m for m, _ in moments], dtype=np.float32)
            values["activation_std"] = np.array([s for _, s in moments], dtype=np.float32)
