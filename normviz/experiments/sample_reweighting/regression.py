"""Linear regression by gradient descent with loss-based weights, in the setting of the bound.

Sample i has the loss f_i(theta) = (x_i . theta - y_i)^2 / 2 with curvature L_i = |x_i|^2. Without corrupted targets all
samples share the minimiser theta* (interpolation) and Delta_i = f_i(theta). All samples are in every step:
theta <- theta - (step size / L) sum_i w_i grad f_i, L = max_i L_i. Everything is float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from normviz.data import seeded_generator
from normviz.experiments.sample_reweighting.devices import device_values
from normviz.experiments.sample_reweighting.knobs import REGRESSION_SOURCES, Knobs, arm_name
from normviz.frame import Frame, Value
from normviz.training import Diverged, Trainee, interleave
from normviz.weighting import AnnealedR, ConstantR, DynamicLossReweighter, weighted_gap_bound

__all__ = ["make_reweighter", "regression_frames"]

DIMENSIONS = 16
SPREAD = 0.7
"""Standard deviation of the logarithm of a regular sample's length: the largest is some 20 times the smallest."""
JITTER = 0.02
"""Relative distance of a redundant sample from the direction it repeats."""
CORRUPTION = 5.0
"""Standard deviation of a corrupted target's error, in units of the typical target."""
HELD_OUT = 512
BOUND_EVERY = 5
ARRAYS_EVERY = 10

REGULAR, REDUNDANT, CORRUPTED = range(len(REGRESSION_SOURCES))


class Problem(NamedTuple):
    """Inputs (M, d), targets (M,), source of each (M,), held-out regular inputs (n, d), the true theta (d,)."""

    x: Tensor
    y: Tensor
    source: Tensor
    held_out: Tensor
    theta: Tensor

    @property
    def smoothness(self) -> float:
        """L, the largest curvature of a sample's loss."""
        return float(self.x.square().sum(1).max())


def make_problem(knobs: Knobs, seed: int) -> Problem:
    """The samples of a seed: first the redundant, then the corrupted, the rest regular."""
    generator = seeded_generator(seed, 0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    def regular(n: int) -> Tensor:
        direction = torch.nn.functional.normalize(normal(n, DIMENSIONS), dim=1)
        return direction * torch.exp(SPREAD * normal(n, 1))

    M = knobs.samples
    copies, wrong = round(knobs.redundant * M), round(knobs.corrupted * M)
    theta = normal(DIMENSIONS)
    x = regular(M)
    centres = torch.nn.functional.normalize(normal(knobs.duplicates, DIMENSIONS), dim=1)
    x[:copies] = centres[torch.arange(copies) % knobs.duplicates] + JITTER * normal(copies, DIMENSIONS)
    y = x @ theta
    y[copies : copies + wrong] += CORRUPTION * normal(wrong)
    source = torch.full((M,), REGULAR)
    source[:copies] = REDUNDANT
    source[copies : copies + wrong] = CORRUPTED
    return Problem(x, y, source, regular(HELD_OUT), theta)


def make_reweighter(strategy: str, knobs: Knobs) -> DynamicLossReweighter:
    """The module that turns losses into a weighted loss, as the knobs want it."""
    if knobs.schedule == "constant":
        return DynamicLossReweighter(strategy, r_schedule=ConstantR(knobs.r, knobs.warmup))
    falling = AnnealedR(5 * knobs.r, knobs.r, knobs.warmup, max(1, knobs.steps - knobs.warmup))
    return DynamicLossReweighter(strategy, r_schedule=falling)


class Learner:
    """One strategy on one problem, as :func:`interleave` sees it.

    Args:
        strategy: key of the arm.
        seed: the problem's.
        problem: the samples.
        knobs: the setting.
    """

    def __init__(self, strategy: str, seed: int, problem: Problem, knobs: Knobs) -> None:
        self.arm, self.seed, self.problem, self.knobs = arm_name(strategy), seed, problem, knobs
        self.reweight = make_reweighter(strategy, knobs)
        self.theta = torch.zeros(DIMENSIONS, dtype=torch.float64)
        self.gaps: list[Tensor] = []  # Delta before each step, (M,) each
        self.weights: list[Tensor] = []

    def losses(self, theta: Tensor) -> Tensor:
        """f_i(theta), (M,)."""
        return 0.5 * (self.problem.x @ theta - self.problem.y).square()

    def held_out_loss(self) -> float:
        """Mean loss over fresh regular samples with right targets."""
        error = self.problem.held_out @ (self.theta - self.problem.theta)
        return float(0.5 * error.square().mean())

    def step(self, at: int) -> dict[str, Value]:
        """One weighted gradient step: the losses before it, and what the weights were."""
        held_out = self.held_out_loss()
        if not math.isfinite(held_out) or held_out > 1e12:
            raise Diverged(f"the held-out loss is {held_out:.3g}", lost=("loss", "heldout_loss"))
        losses, weights = self._update()
        source = self.problem.source
        values: dict[str, Value] = {"loss": float(losses.mean()), "heldout_loss": held_out}
        values |= {
            f"share/{name}": float(weights[source == number].sum())
            for number, name in enumerate(REGRESSION_SOURCES)
        }
        values["weight_log_ratio"] = float((weights.max() / weights.min()).log())
        if at % BOUND_EVERY == 0:
            values |= device_values(losses, self.reweight.strategy, self.knobs.r, self.knobs.devices)
            if not self.knobs.corrupted:
                values |= self.bound()
        if at % ARRAYS_EVERY == 0:
            values |= {"sample_loss": losses.numpy(), "sample_weight": weights.numpy()}
            values["sample_source"] = source.numpy()
        return values

    def _update(self) -> tuple[Tensor, Tensor]:
        """Take the step; returns the losses and the weights it used."""
        theta = self.theta.clone().requires_grad_(True)
        losses = self.losses(theta)
        (gradient,) = torch.autograd.grad(self.reweight(losses), theta)
        self.theta = self.theta - self.knobs.step_size / self.problem.smoothness * gradient
        assert self.reweight.weights is not None
        self.gaps.append(losses.detach())
        self.weights.append(self.reweight.weights)
        return losses.detach(), self.reweight.weights

    def bound(self) -> dict[str, Value]:
        """Both sides of the bound after the steps so far, and what the weights take off the right side."""
        gaps, weights = torch.stack(self.gaps), torch.stack(self.weights)  # (T, M)
        eta = self.knobs.step_size / self.problem.smoothness
        distance = float(self.problem.theta.square().sum())
        lhs, rhs = weighted_gap_bound(gaps, weights, eta, distance)
        _, uniform = weighted_gap_bound(gaps, torch.full_like(weights, 1 / gaps.shape[1]), eta, distance)
        return {"average_gap": float(lhs), "bound": float(rhs), "bound_saving": float(uniform - rhs)}


def regression_frames(knobs: Knobs) -> Iterator[Frame]:
    """A frame per strategy, seed and step; see the module."""
    learners: list[Learner] = []
    for seed in knobs.seed_range():
        problem = make_problem(knobs, seed)
        for strategy in knobs.strategies:
            learners.append(Learner(strategy, seed, problem, knobs))
            yield Frame(0, learners[-1].arm, seed)

    def at_end(trainee: Trainee, at: int) -> dict[str, Value] | None:
        assert isinstance(trainee, Learner)
        return {"heldout_loss": trainee.held_out_loss()} if at == knobs.steps else None

    yield from interleave(
        learners, until=knobs.steps, evaluate=at_end, eval_every=knobs.steps, evaluate_all_first=True
    )
