"""What all policies of a seed are judged on: fresh problems of every class, and the losses of the class experts.

Expected losses are exact sums over all questions and answers (:func:`normviz.adaptive.exact_expected_loss`), so that a
largest loss over problems has no noise that would bias it upward. The problems are not those of the training.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normviz.adaptive.active_learning import (
    BanditProblem,
    GeneralizedBinarySearchPolicy,
    RoundRobinPolicy,
    SuccessiveEliminationPolicy,
    UniformPolicy,
    complexity,
    exact_expected_loss,
    project_to_class,
    rollout,
)
from normviz.adaptive.history_policy import Policy
from normviz.experiments.active_learning.knobs import Knobs

__all__ = ["SLACK", "Contest", "Pool", "build_problem", "build_rival"]

Array = NDArray[np.float64]

CHECKED, TESTED = 32, 64
"""Problems per class on which an iterate is chosen, and on which policies are compared."""
SLACK = 1.01
"""A problem counts to a class up to this factor: the precision of a complexity that has no closed form."""
ATTACK_STEPS, ATTACK_RATE, ATTACKED = 6, 0.06, 4
"""Gradient steps, their length per coordinate, and problems per class of the attack at the end."""
SHOWN_EPISODES = 200
EDGE_SHARE = 1 / 3
"""Share of a problem's coordinates that are put on an edge of the box before projection: the hardest lie there."""
SOFT_EPS = 0.2
"""Probability of a wrong answer that the soft search assumes where the problems decide how noisy they are."""


def build_problem(knobs: Knobs) -> BanditProblem:
    """The family of problems of a setting (not of the game about animals)."""
    make = BanditProblem.multi_armed if knobs.task == "arms" else BanditProblem.thresholds
    return make(knobs.size(), noise="bernoulli", loss=knobs.loss)


def build_rival(kind: str, problem: BanditProblem, budget: int, eps: float = SOFT_EPS) -> Policy:
    """A policy that is not trained, by its key in the knobs."""
    makers: dict[str, Policy] = {
        "uniform": UniformPolicy(problem, budget),
        "robin": RoundRobinPolicy(problem, budget),
        "elimination": SuccessiveEliminationPolicy(problem, budget),
        "gbs": GeneralizedBinarySearchPolicy(problem, budget),
        "soft": GeneralizedBinarySearchPolicy(problem, budget, eps),
    }
    return makers[kind]


@dataclass(frozen=True)
class Pool:
    """Problems with their complexities.

    Attributes:
        theta: [N, d].
        hardness: C [N].
        home: index of the class from which each was drawn [N].
    """

    theta: Tensor
    hardness: Tensor
    home: Tensor

    def inside(self, k: int, radius: float) -> Tensor:
        """Which problems are in class k [N]."""
        return (self.home <= k) | (self.hardness <= radius * SLACK)


@dataclass
class Contest:
    """Problems and yardsticks of one seed.

    Args:
        knobs: the setting.
        seed: of the problems.

    Attributes:
        checked: problems on which an iterate is chosen.
        tested: other ones, on which policies are compared.
        lhat: worst losses of the class experts so far, by what they were measured on (``"checked"``, ``"tested"``,
            ``"attacked"``); each is at least the one before.
    """

    knobs: Knobs
    seed: int
    lhat: dict[str, list[float]] = field(
        default_factory=lambda: {"checked": [], "tested": [], "attacked": []}
    )

    def __post_init__(self) -> None:
        self.problem = build_problem(self.knobs)
        self.budget, self.radii = self.knobs.budget(), self.knobs.radii()
        streams = np.random.SeedSequence([self.seed, 15382]).generate_state(4)
        self.streams = [int(s) for s in streams]
        self.checked, self.tested = (
            self._pool(count, stream)
            for count, stream in zip((CHECKED, TESTED), self.streams[:2], strict=True)
        )
        losses = self.losses(UniformPolicy(self.problem, self.budget), self.tested)
        hard = self.tested.theta[int(losses.argmax())]
        self.shown = hard.sort(descending=True).values if self.knobs.task == "arms" else hard

    def _pool(self, count: int, stream: int) -> Pool:
        generator = torch.Generator().manual_seed(stream)
        low, high = self.problem.box
        parts = []
        for radius in self.radii:
            shape = (count, self.problem.actions.shape[1])
            inner, edge, which = (torch.rand(shape, generator=generator).double() for _ in range(3))
            corner = torch.where(edge < 0.5, low, high)
            drawn = torch.where(which < EDGE_SHARE, corner, low + (high - low) * inner)
            parts.append(project_to_class(self.problem, drawn, radius))
        theta = torch.cat(parts)
        home = torch.arange(len(self.radii)).repeat_interleave(count)
        return Pool(theta, complexity(self.problem, theta)[0], home)

    @torch.no_grad()
    def losses(self, policy: Policy, pool: Pool) -> Tensor:
        """Expected loss on every problem of a pool [N]."""
        return exact_expected_loss(self.problem, policy, pool.theta, self.budget)

    def worst(self, losses: Tensor, pool: Pool) -> list[float]:
        """Largest loss in each class [K]."""
        return [float(losses[pool.inside(k, r)].max()) for k, r in enumerate(self.radii)]

    def attacked(self, policy: Policy, losses: Tensor) -> list[float]:
        """Largest loss in each class after gradient ascent from its worst tested problems [K].

        Each of six steps moves every coordinate by 0.06 against the policy and projects back onto the class.
        """
        found = self.worst(losses, self.tested)
        for k, radius in enumerate(self.radii):
            mine = self.tested.theta[self.tested.inside(k, radius)]
            order = losses[self.tested.inside(k, radius)].topk(min(ATTACKED, len(mine))).indices
            theta = mine[order]
            for _ in range(ATTACK_STEPS):
                moved = theta.clone().requires_grad_()
                value = exact_expected_loss(self.problem, policy, moved, self.budget)
                slope = torch.autograd.grad(value.sum(), moved)[0]
                theta = project_to_class(self.problem, theta + ATTACK_RATE * slope.sign(), radius)
            with torch.no_grad():
                last = exact_expected_loss(self.problem, policy, theta, self.budget)
            found[k] = max(found[k], float(last.max()))
        return [max(found[: k + 1]) for k in range(len(found))]

    def add_expert(self, k: int, policy: Policy) -> None:
        """Measure the expert of class k; a later class's loss is at least an earlier one's."""
        on_checked = self.worst(self.losses(policy, self.checked), self.checked)[k]
        losses = self.losses(policy, self.tested)
        measured = {
            "checked": on_checked,
            "tested": self.worst(losses, self.tested)[k],
            "attacked": self.attacked(policy, losses)[k],
        }
        for name, value in measured.items():
            self.lhat[name].append(max([value, *self.lhat[name][-1:]]))

    @property
    def complete(self) -> bool:
        """Whether every class has its expert."""
        return len(self.lhat["tested"]) == len(self.radii)

    def gap(self, worst: list[float], name: str) -> float:
        """Largest distance to the class experts over the classes."""
        return max(w - best for w, best in zip(worst, self.lhat[name], strict=True))

    @torch.no_grad()
    def asked(self, policy: Policy) -> Array:
        """Shares of episodes in which each option was asked at each question [T, n], on one hard problem."""
        generator = torch.Generator().manual_seed(self.streams[2])
        theta = self.shown.expand(SHOWN_EPISODES, -1)
        actions = rollout(policy, self.problem, theta, self.budget, generator).actions.numpy()
        n = self.problem.actions.shape[0]
        return np.stack([np.bincount(actions[:, t], minlength=n) for t in range(self.budget)]) / len(actions)
