"""Checks of ``torch.compile(optimizer.step)``."""

from __future__ import annotations

import torch
from torch._dynamo.utils import counters
from torch.optim.lr_scheduler import LambdaLR

from normviz.testing._values import assert_near, require
from normviz.testing.optimizers import SHAPES, Make, Shapes, Training

__all__ = ["assert_compiles_once"]

STEPS = 10
WARM_UP = 2
"""Steps after which nothing may be compiled any more: the first makes the state, the second finds it there."""


def assert_compiles_once(make: Make, lr: float, *, shapes: Shapes = SHAPES, graphs: int = 1) -> None:
    """Ten compiled steps under a schedule that changes the learning rate every time cost a fixed number of graphs.

    Torch's own counter is read. The backend is "aot_eager", which generates no code. With "eager" the check would pass
    where every real backend compiles anew: numbers that change become inputs of the traced graph, and backends that
    cannot keep them as such turn them into constants again.

    Args:
        make: builds the optimizer, called with ``lr``.
        lr: first learning rate.
        shapes: of the parameters.
        graphs: how many a compiled step may have in all, new bases of projections and the first step included.

    Raises:
        AssertionError: another number of graphs was compiled, one of them after the second step, or the compiled
            steps are not near the eager ones.
    """
    torch.compiler.reset()  # graphs of other optimizers of the class count towards torch's limit
    before = counters["stats"]["unique_graphs"]
    eager, other = Training(make, shapes, lr=lr), Training(make, shapes, lr=lr)
    schedulers = [LambdaLR(training.optimizer, lambda t: 1 - t / STEPS) for training in (eager, other)]
    step = torch.compile(other.optimizer.step, backend="aot_eager")
    history = []
    for i in range(STEPS):
        other.set_gradients(i)
        step()
        eager.step(i)
        history.append(counters["stats"]["unique_graphs"] - before)
        for scheduler in schedulers:
            scheduler.step()
    torch.compiler.reset()
    compiled = history[-1]
    require(compiled > 0, "the compiled step has no graph: everything runs eagerly.")
    late = compiled - history[WARM_UP - 1]
    require(not late, f"{late} graphs were compiled after step {WARM_UP}; in all after each step: {history}.")
    require(compiled <= graphs, f"{compiled} graphs were compiled, expected at most {graphs}: {history}.")
    assert_near(other.values(), eager.values(), "compiled steps: ", rtol=1e-4)
