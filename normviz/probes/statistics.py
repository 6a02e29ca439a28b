"""Distance between the statistics of a batch and the running statistics that evaluation will use.

The fluctuation picture of PowerNorm (Shen et al. 2020, arXiv 2003.07845): (1/C) sum_c |batch_c - running_c| at the
input of a norm, for the mean and variance of batch norm and the quadratic mean of power norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normviz.frame import Value
from normviz.norms import PowerNorm, PowerNormV, statistics_gap
from normviz.probes.probe import Probe

__all__ = ["StatisticsGap"]


def _keeps_statistics(module: nn.Module) -> bool:
    if isinstance(module, _BatchNorm):
        return module.running_mean is not None
    return isinstance(module, (PowerNorm, PowerNormV))


SMALLEST = 1e-12
"""A statistic is never taken to be smaller, so that a channel without any signal does not divide by zero."""


def _size(norm: nn.Module, name: str) -> float:
    """Mean size of a running statistic over the channels, before this batch updates it."""
    if name == "quadratic_mean":
        return float(norm.get_buffer("running_phi").mean())
    var = norm.get_buffer("running_var")
    return float(var.mean() if name == "var" else var.sqrt().mean())


class StatisticsGap(Probe):
    """The fluctuation picture for every norm of a network that keeps running statistics.

    Values: ``gap/mean``, ``gap/var``, ``gap/quadratic_mean`` (average over the layers that have the statistic),
    ``gap_by_layer/<statistic>`` (one entry per such layer, input side first), and ``relative_gap/<statistic>``: the gap
    over the size of the running statistic itself (for a mean: of the running standard deviation), averaged over the
    layers, which can be compared between networks and learning rates. Networks without running statistics give no
    value.

    Args:
        every: cadence in steps.

    Reference: Shen, Yao, Gholami, Mahoney, Keutzer, "PowerNorm: Rethinking Batch Normalization in Transformers",
        arXiv 2003.07845, the fluctuation of batch statistics; formula in the module's docstring.
    """

    @contextmanager
    def forward(self, model: nn.Module, values: dict[str, Value]) -> Iterator[None]:
        """Compare each norm's input with its running statistics before they are updated."""
        gaps: dict[str, list[float]] = {}
        relative: dict[str, list[float]] = {}

        def watch(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(v for v in kwargs.values() if isinstance(v, Tensor))
            mask = args[1] if len(args) > 1 else kwargs.get("pad_mask")
            with torch.no_grad():
                for name, gap in statistics_gap(norm, x, mask).items():
                    gaps.setdefault(name, []).append(gap)
                    relative.setdefault(name, []).append(gap / max(_size(norm, name), SMALLEST))

        norms = [module for module in model.modules() if _keeps_statistics(module)]
        handles = [norm.register_forward_pre_hook(watch, with_kwargs=True) for norm in norms]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        for name, by_layer in gaps.items():
            values[f"gap/{name}"] = float(np.mean(by_layer))
            values[f"gap_by_layer/{name}"] = np.array(by_layer, dtype=np.float32)
            values[f"relative_gap/{name}"] = float(np.mean(relative[name]))
