"""What UnifiedNorm smooths and filters while it trains (Yang et al. 2022, arXiv 2208.01313)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normviz.frame import Value
from normviz.norms import UnifiedNorm1d
from normviz.probes.probe import Probe

__all__ = ["OutlierFiltration"]


class OutlierFiltration(Probe):
    """The first UnifiedNorm of a network at every measured step.

    Values: ``filter/gap`` (largest AM - GM over channels), ``filter/threshold`` (M_f V), ``filter/skipped`` (1 where
    the batch was filtered out); ``filter/batch_distance`` and ``filter/smoothed_distance``, the mean over channels of
    |psi^2 - running| for the batch alone and of |GM - running| for the window. Networks without one give no value.

    Args:
        every: cadence in steps.

    Reference: Yang et al., "Unified Normalization for Accelerating and Stabilizing Transformers", arXiv 2208.01313,
        the outlier filtration.
    """

    @contextmanager
    def forward(self, model: nn.Module, values: dict[str, Value]) -> Iterator[None]:
        """Watch the input and the state of the first UnifiedNorm."""
        norm = next((module for module in model.modules() if isinstance(module, UnifiedNorm1d)), None)
        if norm is None:
            yield
            return
        seen: dict[str, Tensor] = {}

        def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs["x"]
            with torch.no_grad():
                seen["psi"] = x.float().square().flatten(0, -2).mean(0)  # (C,)
                seen["running"] = module.get_buffer("running_var").clone()

        handle = norm.register_forward_pre_hook(watch, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
        stats = norm.last_stats
        if not stats or not seen:
            return
        values["filter/gap"] = float(stats["gap"].max())
        values["filter/threshold"] = float(stats["threshold"].max())
        values["filter/skipped"] = float(stats["skipped"])
        values["filter/batch_distance"] = float((seen["psi"] - seen["running"]).abs().mean())
        values["filter/smoothed_distance"] = float((stats["gm"] - seen["running"]).abs().mean())
