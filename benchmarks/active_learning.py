"""Time of one step of the learned question policy, over the least that any step must do.

    python -m benchmarks.active_learning

A step plays the policy on every worst problem that is attacked, estimates gradients for the policy and for the problems
and moves both. The bare loop does the same plays' forward passes of the network with random states, a backward pass and
Adam: what no implementation can save. Both take turns, on the thread's own CPU time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.report import paired_ratio, report
from normviz.adaptive import AdversarialTrainer, BanditProblem, HistoryPolicy

RADIUS = 100.0
BUDGET, STEPS, REPEATS = 20, 4, 7


def measured(call: Callable[[], object]) -> Callable[[], float]:
    """CPU seconds of a call, mean of several."""

    def measure() -> float:
        start = time.thread_time()
        for _ in range(STEPS):
            call()
        return (time.thread_time() - start) / STEPS

    return measure


def contenders(problem: BanditProblem, symmetric: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    """A step of the trainer, and the bare loop over the same number of network calls."""
    torch.manual_seed(0)
    trainer = AdversarialTrainer(
        problem,
        HistoryPolicy(problem, BUDGET, symmetric=symmetric),
        BUDGET,
        RADIUS,
        num_particles=16,
        num_samples=16,
        num_rollouts=4,
    )
    bare = HistoryPolicy(problem, BUDGET, symmetric=symmetric)
    adam = torch.optim.Adam(bare.parameters(), lr=1e-3)
    states = torch.randn(BUDGET, 64, bare.num_actions, bare.num_features)

    def loop() -> None:
        adam.zero_grad()
        torch.stack([bare(state).log_softmax(-1) for state in states]).mean().backward()
        adam.step()

    return trainer.step, loop


def main() -> None:
    """Measure and report."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    problems = {
        "4 arms": (BanditProblem.multi_armed(4, loss="best_identification"), True),
        "12 points on a line": (BanditProblem.thresholds(12), False),
    }
    rows = []
    for name, (problem, symmetric) in problems.items():
        step, loop = contenders(problem, symmetric)
        plain = measured(loop)
        ratio, low, high = paired_ratio(measured(step), plain, REPEATS)
        rows.append((name, 1e3 * plain(), ratio, low, high))
    torch.set_num_threads(threads)
    report(
        "active_learning",
        "A step of the learned question policy",
        ("problem", "bare loop, ms", "step ÷ bare loop", "lowest", "highest"),
        rows,
        f"16 problems with 4 plays each, {BUDGET} questions, network 128-128; one thread, {REPEATS} pairs.",
    )


if __name__ == "__main__":
    main()
