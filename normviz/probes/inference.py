"""Time and memory of one forward pass, of one network relative to another."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["allocated_bytes", "compare_inference"]


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of storages that operators return and were not given."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.bytes += tensor.untyped_storage().nbytes()
        return result


def allocated_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes of the new tensors that one forward pass without gradient makes, summed over its operators."""
    with torch.no_grad(), _Counter() as counter:
        model(x)
    total: int = counter.bytes
    return total


def compare_inference(
    model: nn.Module, reference: nn.Module, x: Tensor, *, repeats: int = 15
) -> dict[str, float]:
    """Compare forward passes, alternating, so that a busy machine slows both.

    Args:
        model: the network in question, in eval mode.
        reference: the network it is compared with, in eval mode.
        x: one batch.
        repeats: paired repeats after one warm-up of each.

    Returns:
        ``fused/time_ratio``: median of the paired time ratios; ``fused/memory_ratio``: ratio of
        :func:`allocated_bytes`.
    """

    def seconds(network: nn.Module) -> float:
        start = time.perf_counter()
        network(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    with torch.no_grad():
        seconds(model)
        seconds(reference)
        ratios = [seconds(model) / seconds(reference) for _ in range(repeats)]
    return {
        "fused/time_ratio": statistics.median(ratios),
        "fused/memory_ratio": allocated_bytes(model, x) / allocated_bytes(reference, x),
    }
