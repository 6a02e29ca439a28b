"""What is measured without training: entropy against the norm of random queries, and time and memory of attention."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from normviz.attention import attention_weights, positive_sequence_entropy
from normviz.data import seeded_generator
from normviz.experiments.attention_entropy.kernels import LinearKernel
from normviz.experiments.attention_entropy.recorded import DIRECTIONS, HEAD_DIM, KEYS, NORMS
from normviz.probes import allocated_bytes

__all__ = [
    "Attend",
    "cpu_seconds",
    "entropy_by_norm",
    "explicit_softmax",
    "exponent",
    "growth",
    "slope_error",
]

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
ABLATIONS = ("nala_fixed", "nala_clipped")
"""Kinds that only :class:`LinearKernel` has."""
SLICE = 0.02
"""Least processor time of one measurement, in seconds."""
REPEATS = 3


def entropy_by_norm(kind: str, seed: int, **options: Any) -> np.ndarray:
    """Mean row entropy in nats for queries of each norm of ``NORMS``: the same directions, the same keys.

    Args:
        kind: "softmax", which takes plain products, not divided by sqrt(d); or as in :class:`LinearKernel`.
        seed: of directions and keys.
        **options: of the kind.
    """
    generator = seeded_generator(seed, 7)
    directions = torch.randn(1, 1, DIRECTIONS, HEAD_DIM, generator=generator)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    keys = torch.randn(1, 1, KEYS, HEAD_DIM, generator=generator)
    weights_of = LinearKernel(kind, 1, HEAD_DIM, **options).weights if kind in ABLATIONS else None
    means = []
    for norm in NORMS:
        own: dict[str, Any] = dict(options)
        if kind == "performer":
            own["generator"] = seeded_generator(seed, 8)  # the same features for every norm
        if kind == "softmax":
            own["scale"] = 1.0
        q = norm * directions
        weights = weights_of(q, keys) if weights_of else attention_weights(q, keys, kind, **own)
        means.append(float(positive_sequence_entropy(weights).mean()))
    return np.array(means, np.float32)


def slope_error(seed: int) -> float:
    """Largest difference between autograd's dH/dc of H(softmax(c s)) and -c Var_p(s), over 50 rows in float64."""
    generator = seeded_generator(seed, 9)
    s = torch.randn(50, KEYS, generator=generator, dtype=torch.float64)
    c = 5 * torch.rand(50, 1, generator=generator, dtype=torch.float64)
    c.requires_grad_()
    p = torch.softmax(c * s, -1)
    (slope,) = torch.autograd.grad(-(p * p.log()).sum(), c)
    p = p.detach()
    variance = (p * s**2).sum(-1, keepdim=True) - (p * s).sum(-1, keepdim=True) ** 2
    return float((slope + c.detach() * variance).abs().max())


def explicit_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention that forms its matrix."""
    with sdpa_kernel(SDPBackend.MATH):
        return scaled_dot_product_attention(q, k, v)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def cpu_seconds(attend: Attend, tensors: tuple[Tensor, Tensor, Tensor]) -> float:
    """Seconds of one call: the least of some repeats, each long enough for the clock.

    On the CPU one thread's processor time, which other programs on the machine do not count towards; on a GPU the time
    until it has finished.
    """
    on_cpu = tensors[0].device.type == "cpu"
    clock = time.thread_time if on_cpu else time.perf_counter

    def seconds(calls: int) -> float:
        start = clock()
        for _ in range(calls):
            attend(*tensors)
        if not on_cpu:
            torch.cuda.synchronize()
        return (clock() - start) / calls

    with torch.no_grad(), _one_thread():
        once = seconds(1)
        calls = max(1, int(SLICE / max(min(once, seconds(1)), 1e-6)))
        return min(seconds(calls) for _ in range(REPEATS))


class _AsModule(nn.Module):
    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.attend = attend

    def forward(self, qkv: Tensor) -> Tensor:
        return self.attend(*qkv.unbind(0))


def growth(
    attend: Attend, lengths: Sequence[int], head_dim: int, seed: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and bytes of one head on sequences of these lengths.

    Returns:
        Seconds of a forward pass, and bytes of the new tensors that it makes, each (lengths,).
    """
    seconds, size = [], []
    for n in lengths:
        qkv = torch.randn(3, 1, 1, n, head_dim, generator=seeded_generator(seed, 10, n)).to(device)
        q, k, v = qkv.unbind(0)
        seconds.append(cpu_seconds(attend, (q, k, v)))
        size.append(allocated_bytes(_AsModule(attend), qkv))
    return np.array(seconds), np.array(size, float)


def exponent(lengths: Sequence[int], values: np.ndarray) -> float:
    """The slope of log(values) against log(lengths) by least squares; NaN for a single length."""
    if len(lengths) < 2:
        return math.nan
    x, y = np.log(np.asarray(lengths, float)), np.log(np.asarray(values, float))
    return float(np.polyfit(x, y, 1)[0])
