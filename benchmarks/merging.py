"""Adding up adapters of Orthogonal Adaptation against gradient fusion, over the number of merged concepts.

One key projection of Stable Diffusion 1.5's cross-attention, 768 to 320, adapters of rank 20, and for every concept the
inputs of its two tokens in two prompts; and one projection of spatial attention, 320 to 320, with 256 recorded inputs.
L-BFGS has 50 iterations, as the public script for the U-Net. The clock is the processor time of one thread, so that
other programs on the machine count for little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import paired_ratio, report
from normviz.adapters import concept_basis, merge_adapters

CONCEPTS = (2, 4, 8, 12)
RANK = 20
LAYERS = {"cross-attention, 768 to 320": (768, 320, 4), "spatial attention, 320 to 320": (320, 320, 256)}
"""Inputs, outputs, and recorded rows of a concept."""
REPEATS = 3

Adapter = Mapping[str, Mapping[str, Any]]


def concepts_of(width: int, out: int, count: int) -> list[Adapter]:
    """Adapters with random orthogonal frames and random trained factors."""
    draw = torch.Generator().manual_seed(0)
    found: list[Adapter] = []
    for concept in range(count):
        basis = concept_basis(width, min(RANK, width), concept=concept).float()
        up = 0.01 * torch.randn(out, basis.shape[1], generator=draw)
        found.append({"k": {"lora_up": up, "basis": basis}})
    return found


def seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def main() -> None:
    """Time all merges for every layer and number of concepts."""
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    for layer, (width, out, recorded) in LAYERS.items():
        draw = torch.Generator().manual_seed(1)
        base = {"k.weight": torch.randn(out, width, generator=draw) / width**0.5}
        for count in CONCEPTS:
            adapters = concepts_of(width, out, count)
            inputs: list[Mapping[str, Tensor]] = [
                {"k": torch.randn(recorded, width, generator=draw)} for _ in range(count)
            ]

            merge = partial(merge_adapters, base, adapters)
            fuse = partial(merge, "gradient_fusion", inputs=inputs)
            added = partial(seconds, merge)
            lbfgs = paired_ratio(added, partial(seconds, partial(fuse, solver="lbfgs")), REPEATS)
            closed = paired_ratio(added, partial(seconds, partial(fuse, solver="closed_form")), REPEATS)
            rows.append([layer, count, 1e3 * min(added() for _ in range(REPEATS)), *lbfgs, closed[0]])
    report(
        "merging",
        "Merging concepts: time of the sum over that of gradient fusion",
        (
            "layer",
            "concepts",
            "sum (ms)",
            "sum / L-BFGS, median",
            "lowest",
            "highest",
            "sum / closed form, median",
        ),
        rows,
        "Goal: the sum takes less than a hundredth of the time of gradient fusion by L-BFGS.",
    )


if __name__ == "__main__":
    main()
