"""Time of the gradients of one attention head with LoRA adapters, exact against low-rank, over the sequence's length.

    python -m benchmarks.lora_limits

The exact gradients need every pair of tokens, the low-rank ones as many columns as there are monomials of the degree.
Both take turns at each length, on the thread's own CPU time; the exact ones stop where their matrices would not fit.
Exponents are least-squares slopes of log time over log length, over the upper half of the lengths.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.report import report
from normviz.adapters import LoRAWeight, lora_attention_gradients

LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
LONGEST_EXACT = 8192
"""Tokens: three matrices of this length squared in float64 are 1.6 GB."""

HEAD, RANK, DEGREES = 3, 2, (2, 4)
REPEATS = 3


def gradients(length: int, **method: object) -> Callable[[], object]:
    """The gradients for random inputs of this length whose scores are small enough for the polynomials."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    x1, x2, x3, target = (0.3 * draw(length, HEAD) for _ in range(4))
    weights = [LoRAWeight(draw(HEAD, HEAD), draw(RANK, HEAD), draw(HEAD, RANK)) for _ in range(3)]
    return partial(lora_attention_gradients, x1, x2, x3, target, *weights, scale=1 / HEAD, **method)


def seconds(call: Callable[[], object]) -> float:
    """The shortest of a few calls, CPU time of one thread."""
    times = []
    for _ in range(REPEATS):
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return min(times)


def exponent(times: dict[int, float]) -> float:
    """Slope of log time over log length in the upper half of the lengths."""
    upper = sorted(times)[len(times) // 2 :]
    return float(np.polyfit(np.log(upper), np.log([times[n] for n in upper]), 1)[0])


def main() -> None:
    """Measure and report."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    methods: dict[str, dict[str, object]] = {
        "exact": {"method": "exact"},
        **{f"low rank, degree {g}": {"method": "lowrank", "degree": g} for g in DEGREES},
    }
    found: dict[str, dict[int, float]] = {name: {} for name in methods}
    for length in LENGTHS:
        for name, method in methods.items():
            if name != "exact" or length <= LONGEST_EXACT:
                found[name][length] = seconds(gradients(length, **method))
    torch.set_num_threads(threads)
    rows = [
        (name, *(f"{1e3 * times[n]:.3g}" if n in times else "" for n in LENGTHS), exponent(times))
        for name, times in found.items()
    ]
    report(
        "lora_limits",
        "LoRA gradients of one attention head",
        ("method", *(f"{n:,}" for n in LENGTHS), "exponent"),
        rows,
        f"Milliseconds by length; head size {HEAD}, adapter rank {RANK}, float64, one thread, shortest of {REPEATS}.",
    )


if __name__ == "__main__":
    main()
