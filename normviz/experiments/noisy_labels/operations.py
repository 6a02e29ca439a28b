"""What an update costs in arithmetic, counted instead of timed: on a small network the clock measures Python."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode

from normviz.experiments.noisy_labels.learners import Batches, Learner, build_learner

__all__ = ["operations_of_update"]


def operations_of_update(kind: str, learner: Learner, seed: int, batches: Callable[[int], Batches]) -> float:
    """Floating-point operations of one update after the burn-in, in matrix products, as torch counts them.

    A twin of the learner takes a whole round of ``n_inner`` updates, and the mean is returned; the learner itself is
    left as it is. The global random state moves on.

    Args:
        kind: the arm's key in the knobs.
        learner: whose twin is built.
        seed: of the twin.
        batches: the batches of a step.
    """
    knobs = learner.knobs.model_copy(update={"burn_in": 0})
    twin = build_learner(kind, learner.task, knobs, seed)
    with FlopCounterMode(display=False) as counter:
        for step in range(knobs.n_inner):
            twin.update(batches(step))
    return float(counter.get_total_flops()) / knobs.n_inner
