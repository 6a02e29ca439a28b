"""What theory promises for the last iterate of each schedule, where the distance D and the bound G are known."""

from __future__ import annotations

from collections.abc import Sequence

from normviz.experiments.schedule_refinement.convex_tasks import ConvexTask
from normviz.experiments.schedule_refinement.knobs import Knobs
from normviz.experiments.schedule_refinement.multipliers import multipliers
from normviz.schedules import last_iterate_bound, smooth_gradient_norms, theory_learning_rates

__all__ = ["guarantee"]


def guarantee(
    kind: str, knobs: Knobs, task: ConvexTask, norms: Sequence[float], rates: Sequence[float]
) -> float:
    """The bound of a schedule's gap under SGD.

    - Linear decay at the theory's own rate: D G / sqrt(T).
    - Refined, with the recorded norms in place of G: D / sqrt(sum G_t^-2). A heuristic, for the norms of the next run
      are others.
    - The others, whose last step is not 0: the bound for arbitrary steps with G_t = G, at the best rate of the grid.

    Args:
        kind: key of the schedule.
        knobs: the setting.
        task: its D and G.
        norms: what the first run recorded.
        rates: learning rates of the grid.
    """
    if kind == "linear":
        return theory_learning_rates(knobs.steps, task.D, task.G)[1]
    if kind == "refined":
        return theory_learning_rates(smooth_gradient_norms(norms, knobs.tau), task.D)[1]
    curves = [multipliers(kind, knobs, offset=offset) for offset in knobs.offsets(kind)]
    most = [task.G] * knobs.steps
    return min(last_iterate_bound(rate * curve, most, task.D) for rate in rates for curve in curves)
