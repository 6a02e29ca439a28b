"""What one gradient costs at a length: its time, and its operations in matrix products.

Counted operations do not depend on the machine; a time does, and only ratios of times from one run mean anything.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from normviz.adapters import LoRAWeight, lora_attention_gradients
from normviz.experiments.lora_limits.adapter_task import AdapterTask, cost_inputs
from normviz.experiments.lora_limits.recorded import COST_DEGREE

__all__ = ["cost_at", "counted", "without_gain_warning"]

REPEATS = 2
"""Timed runs, of which the faster one counts; an untimed one, whose operations are counted, comes before."""


@contextmanager
def without_gain_warning() -> Iterator[None]:
    """Factors wider than the sequence are what the page shows; the library's warning of them would only repeat it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no gain", category=UserWarning)
        yield


def counted(compute: Callable[[], object]) -> float:
    """Floating-point operations of what ``compute`` does in matrix products, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        compute()
    return float(counter.get_total_flops())


def cost_at(
    task: AdapterTask, weights: dict[str, LoRAWeight], method: str, length: int, seed: int
) -> tuple[float, float]:
    """Seconds and counted operations of one gradient on fresh inputs of this length.

    Args:
        task: scale and device.
        weights: the projections by letter, with their adapters.
        method: "exact" or "lowrank", which takes the Taylor polynomial of degree 4 at every length.
        length: L.
        seed: of the inputs.
    """
    x, target = cost_inputs(task, length, seed)
    degree = COST_DEGREE if method == "lowrank" else None

    def compute() -> None:
        lora_attention_gradients(
            x, x, x, target, *(weights[n] for n in "qkv"), scale=task.tau, method=method, degree=degree
        )
        if x.is_cuda:
            torch.cuda.synchronize(x.device)

    with without_gain_warning():
        operations = counted(compute)
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            compute()
            seconds.append(time.perf_counter() - start)
    return min(seconds), operations
