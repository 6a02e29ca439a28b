"""Path counts and the expansion of a residual tower of 100 layers, in interactive time.

Every row is the median of a few repeats; the last column says how many times it fits into a tenth of a second, which
readers feel as at once.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.report import report
from normviz.experiments.residual_depth.symbolic import written_out
from normviz.residual import (
    MLPBlock,
    ResidualTower,
    ensemble_size,
    expansion_terms,
    level_weights,
    path_count,
    tree_count,
)

DEPTH, LEVELS, WIDTH, BATCH = 100, 4, 32, 32
REPEATS = 7
AT_ONCE = 0.1
"""Seconds."""


def median_seconds(call: Callable[[], object]) -> float:
    """Median processor time of one call, after one warm-up: other programs on the machine do not count."""
    call()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def tower(module: Callable[[], nn.Module]) -> ResidualTower:
    return ResidualTower([module() for _ in range(DEPTH)])


def all_counts(n: int) -> list[int]:
    return [path_count(n, k) for k in range(n + 1)] + [ensemble_size(n)]


def write_out_afresh() -> object:
    written_out.cache_clear()
    return written_out(4, 3, "smooth")


def main() -> None:
    """Measure, print, write ``results/residual.json``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(BATCH, WIDTH)
    linear = tower(lambda: nn.Linear(WIDTH, WIDTH))
    smooth = tower(lambda: MLPBlock(WIDTH, activation="tanh"))
    kinked = tower(lambda: MLPBlock(WIDTH))
    warnings.filterwarnings("ignore", message="a module has a kink")

    def expand(of: ResidualTower, method: str, order: int = LEVELS) -> Callable[[], object]:
        return lambda: expansion_terms(of, x, order, method)

    cases: dict[str, Callable[[], object]] = {
        f"all path counts, n = {DEPTH}, exact": lambda: all_counts(DEPTH),
        "all path counts, n = 1000, exact": lambda: all_counts(1000),
        "weights of all levels, n = 1000": lambda: level_weights(1000, 1000**-0.5),
        f"tree count, n = {DEPTH}, level 12, exact": lambda: tree_count(DEPTH, 12),
        f"{LEVELS}-level expansion, {DEPTH} linear modules": expand(linear, "linear"),
        f"all {DEPTH} levels, {DEPTH} linear modules": expand(linear, "linear", DEPTH),
        f"{LEVELS}-level expansion, {DEPTH} tanh branches": expand(smooth, "jet"),
        f"{LEVELS}-level expansion, {DEPTH} ReLU branches": expand(kinked, "jet"),
        f"one forward pass, {DEPTH} tanh branches": lambda: smooth(x),
        "expansion written out, n = 4, level 3": write_out_afresh,
    }
    with torch.no_grad():
        rows = [
            (name, 1e3 * (seconds := median_seconds(case)), AT_ONCE / seconds) for name, case in cases.items()
        ]
    report(
        "residual",
        f"Residual towers: counts and expansion, width {WIDTH}, batch {BATCH}, one thread",
        ["what", "ms of processor time", "times in 0.1 s"],
        rows,
        "On the page the charts of path counts are computed in the browser and follow the drag by themselves.",
    )


if __name__ == "__main__":
    main()
