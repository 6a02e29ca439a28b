"""What runs on the page *LoRA limits*: the same adapters trained with exact and with low-rank gradients, side by side.

Between the steps each arm measures: how far its gradient is from the exact one at the same weights, which rank the
norms need now, the spectrum of the attention matrix, and, at one more length each time, what a gradient costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from normviz.adapters import critical_radius, exp_polynomial, gradient_error_bound, polynomial_relative_error
from normviz.experiments.lora_limits.adapter_task import build_task
from normviz.experiments.lora_limits.gradient_cost import cost_at, counted
from normviz.experiments.lora_limits.knobs import Knobs, arm_name
from normviz.experiments.lora_limits.learners import (
    Learner,
    Polynomial,
    adapter_gradient,
    mean_loss,
    relative_error,
)
from normviz.experiments.lora_limits.recorded import DEGREES, SPECTRUM_TOKENS, SPECTRUM_VALUES
from normviz.frame import Frame, Value
from normviz.training import Diverged, interleave, resolve_device

__all__ = ["CROSSING_LENGTHS", "Member", "frames"]

CROSSING_LENGTHS, CROSSING_DIM = (256, 16384), 3
"""Lengths and head size for which the critical norms are compared. Two channels end in float64 before rank = L does."""

ROUNDING = 1e-12
"""Errors of the gradient below it are rounding, not the polynomial's."""


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train every arm and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    if where.type == "mps":  # it has no float64
        where = torch.device("cpu")
    yield from (Frame(0, arm_name(knobs.kinds()[0]), seed) for seed in knobs.seed_range())
    members = []
    for seed in knobs.seed_range():
        task = build_task(knobs, seed, where)
        members += [Member(Learner(kind, knobs, task, seed)) for kind in knobs.kinds()]
    by_member = {(member.arm, member.seed): member for member in members}
    running = interleave(
        members,
        until=knobs.steps,
        evaluate=lambda trainee, at: by_member[trainee.arm, trainee.seed].evaluate(at),
        eval_every=knobs.stride(),
    )
    for frame in running:
        yield frame
        member = by_member[frame.arm, frame.seed]
        if member.note is not None:
            yield Frame(frame.step, frame.arm, frame.seed, {}, member.note)
            member.note = None


class Member:
    """One arm with one seed, as :func:`interleave` sees it.

    Args:
        learner: what takes the steps.

    Attributes:
        note: something to tell the reader, once.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner, self.seed, self.arm = learner, learner.seed, arm_name(learner.kind)
        self.note: str | None = None
        self._told = False
        self._lengths = list(learner.knobs.lengths(learner.kind))
        self._costs: list[tuple[int, float, float]] = []

    def step(self, at: int) -> dict[str, Value]:  # noqa: ARG002
        """One update of the adapters."""
        try:
            loss = self.learner.update()
        except ValueError as error:
            raise Diverged(str(error)) from error
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss}")
        return {"loss": loss}

    def evaluate(self, at: int) -> dict[str, Value]:
        """Norms, ranks, errors, and the cost at one more length; at the end at all that are left."""
        learner = self.learner
        exact = learner.gradients()
        radius = learner.radius()
        values: dict[str, Value] = {
            "exact_loss": mean_loss(exact, learner.task),
            "radius": radius,
            "norm": math.sqrt(radius),
            **self._ranks(at),
            **self._gradient_error(adapter_gradient(exact)),
            **self._costs_by_length(at),
        }
        if learner.kind in ("taylor", "chebyshev"):
            values |= self._errors_by_degree(radius)
        if learner.kind == learner.knobs.kinds()[0] and at >= learner.knobs.steps:
            values["crossing_growth"] = crossing_growth(learner.knobs.eps)
        if self.seed == learner.knobs.first_seed:
            values["spectrum"] = spectrum(learner)
        return values

    def _ranks(self, at: int) -> dict[str, Value]:
        """Degree and rank in use; for the exact arm those that its norms would need."""
        learner = self.learner
        used = learner.needed("taylor") if learner.kind == "exact" else learner.polynomial()
        if used is None:
            return {}
        length = learner.knobs.length
        if used.rank >= length and not self._told and learner.kind in ("taylor", "chebyshev"):
            self._told = True
            if self.seed == learner.knobs.first_seed:
                self.note = (
                    f"step {at}: {used.rank} columns for {length} tokens, no gain: use the exact method"
                )
        return {"degree": float(used.degree), "rank": float(used.rank)}

    def _gradient_error(self, exact: torch.Tensor) -> dict[str, Value]:
        """Relative error and counted operations of this arm's gradient at the present weights."""
        learner, used = self.learner, self.learner.polynomial()
        if learner.kind == "exact":
            return {"operations": counted(learner.gradients)}
        if used is None:
            return {}
        operations = counted(lambda: learner.gradients(used))
        found = learner.gradients(used)
        values: dict[str, Value] = {"operations": operations}
        if found.eps is not None and math.isfinite(found.eps):
            values["eps"] = found.eps
        error = relative_error(adapter_gradient(found), exact)
        return values | ({"gradient_error": error} if math.isfinite(error) else {})

    def _errors_by_degree(self, radius: float) -> dict[str, Value]:
        """For each of :data:`DEGREES`: the largest error of G_Q, its certificate, the polynomial's error."""
        learner, task = self.learner, self.learner.task
        exact, at = learner.gradients(), learner.projected()
        G = exact.dQ.mT @ task.x
        true, bound, eps = [], [], []
        for degree in DEGREES:
            error = polynomial_relative_error(exp_polynomial(learner.kind, degree, radius), radius)
            c = exact.output - task.target
            bound.append(gradient_error_bound(error, task.x, c, at["v"], at["k"], task.tau))
            eps.append(error)
            true.append(self._true_error(Polynomial(learner.kind, degree, 0), G))
        values: dict[str, Value] = {
            "true_error": np.array(true),
            "certificate": np.array(bound),
            "eps_by_degree": np.array(eps),
        }
        if ratios := certificate_ratios(bound, true):
            values |= {"certificate_ratio": float(np.median(ratios)), "least_ratio": min(ratios)}
        return values

    def _true_error(self, polynomial: Polynomial, G: torch.Tensor) -> float:
        try:
            found = self.learner.gradients(polynomial)
        except ValueError:  # a row of the polynomial's matrix has no positive sum: there is no gradient
            return math.nan
        return float((found.dQ.mT @ self.learner.task.x - G).abs().max())

    def _costs_by_length(self, at: int) -> dict[str, Value]:
        """Cost over the length so far, [lengths, 2] each."""
        learner = self.learner
        last = at >= learner.knobs.steps
        method = "exact" if learner.kind == "exact" else "lowrank"
        while self._lengths:
            length = self._lengths.pop(0)
            cost = cost_at(learner.task, learner.weights(), method, length, self.seed)
            self._costs.append((length, *cost))
            if not last:
                break
        if not self._costs:
            return {}
        table = np.array(self._costs)
        return {"seconds_by_length": table[:, :2], "operations_by_length": table[:, ::2]}


def spectrum(learner: Learner) -> np.ndarray:
    """The largest singular values of the attention matrix of the first tokens, relative to the first one."""
    at = learner.projected()
    q, k = (at[name][:SPECTRUM_TOKENS] for name in "qk")
    f = torch.softmax(learner.task.tau * (q @ k.mT), dim=-1)
    values = torch.linalg.svdvals(f)
    relative: np.ndarray = (values / values[0])[:SPECTRUM_VALUES].cpu().numpy()
    return relative


@lru_cache(maxsize=8)
def crossing_growth(eps: float) -> float:
    """How many times larger the critical norm, the root of the critical radius, is at the longer of two lengths."""
    shorter, longer = (critical_radius(length, CROSSING_DIM, eps) for length in CROSSING_LENGTHS)
    return math.sqrt(longer / shorter)


def certificate_ratios(bound: list[float], true: list[float]) -> list[float]:
    """Certificate over true error where there is a certificate and the error is more than rounding."""
    return [b / t for b, t in zip(bound, true, strict=True) if math.isfinite(b) and t > ROUNDING]
