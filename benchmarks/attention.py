"""Linear attention against PyTorch's scaled_dot_product_attention over the sequence length, with fitted exponents.

Forward and backward of one batch of four heads, width 32; the linear forms bidirectional and causal (in chunks of 64).
The clock is the processor time of one thread, so that other programs on the machine count for little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.report import report
from normviz.attention import linear_attention, norm_aware_linear_attention
from normviz.attention.nalaformer import NormAwareFeatureMap

LENGTHS = (512, 1024, 2048, 4096)
HEADS, WIDTH = 4, 32
REPEATS = 3
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def with_its_matrix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention that forms N x N weights."""
    with sdpa_kernel(SDPBackend.MATH):
        return scaled_dot_product_attention(q, k, v)


def contenders() -> dict[str, Attend]:
    """What is timed, the reference first."""
    sign = NormAwareFeatureMap(direction="sign")
    return {
        "scaled_dot_product_attention": scaled_dot_product_attention,
        "the same, with its matrix": with_its_matrix,
        "elu+1": linear_attention,
        "ReLU": partial(linear_attention, kind="relu"),
        "NaLa cosine": norm_aware_linear_attention,
        "NaLa sign": partial(norm_aware_linear_attention, feature_map=sign),
        "scaled_dot_product_attention, causal": partial(scaled_dot_product_attention, is_causal=True),
        "NaLa cosine, causal": partial(norm_aware_linear_attention, causal=True),
    }


def milliseconds(attend: Attend, n: int) -> float:
    """Least of some repeats of a forward and a backward pass."""
    generator = torch.Generator().manual_seed(n)
    tensors = [torch.randn(1, HEADS, n, WIDTH, generator=generator).requires_grad_() for _ in range(3)]
    weight = torch.randn(1, HEADS, n, WIDTH, generator=generator)

    def once() -> float:
        start = time.thread_time()
        torch.autograd.grad((attend(*tensors) * weight).sum(), tensors)
        return 1e3 * (time.thread_time() - start)

    once()
    return min(once() for _ in range(REPEATS))


def main() -> None:
    """Time every contender at every length; exponents by least squares on logarithms."""
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    reference: dict[bool, list[float]] = {}
    for name, attend in contenders().items():
        times = [milliseconds(attend, n) for n in LENGTHS]
        causal = name.endswith("causal")
        base = reference.setdefault(causal, times)
        slope = float(np.polyfit(np.log(LENGTHS), np.log(times), 1)[0])
        rows.append([name, *times, slope, base[-1] / times[-1]])
    columns = (
        "forward and backward (ms)",
        *(f"N = {n}" for n in LENGTHS),
        "exponent",
        f"speed-up at {LENGTHS[-1]}",
    )
    note = "Goal: exponent of the linear forms at most 1.1, of softmax about 2. Processor time, one thread."
    report("attention", "Attention over the sequence length", columns, rows, note)


if __name__ == "__main__":
    main()
