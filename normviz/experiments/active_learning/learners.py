"""Who is trained: the robust policy through its stages, the plain minimax, and a policy for a fixed prior.

Algorithms A and B of Zhang, Jain, Jamieson, arXiv 2010.15382, one update per step of the page. The inner game goes in
circles, so that the last iterate need not be the best: every tenth is compared on problems that are used for nothing
else, by the learner's own objective, and the best one counts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from normviz.adaptive.active_learning import AdversarialTrainer, HistoryPolicy
from normviz.adaptive.history_policy import Policy
from normviz.experiments.active_learning.contest import Contest, build_rival
from normviz.experiments.active_learning.knobs import ROBUST, arm_name
from normviz.frame import Value
from normviz.training import Diverged
from normviz.training.seeding import seeded

__all__ = ["Learner", "Rival", "build_trainee"]

HIDDEN, SAMPLES, ROLLOUTS = 32, 32, 8
RATES = {"arms": (1e-2, 0.1), "thresholds": (3e-3, 0.02)}
"""Rates of the policy and of the mixture. Without a network that treats all options alike, faster ones collapse."""
ENTROPY = 0.01
CHECK_EVERY = 10
PRIOR_PARTICLES = 64
SHOWN_PARTICLES = 24

Objective = Literal["class", "gap", "worst", "mean"]


@dataclass(frozen=True)
class Stage:
    """A part of a training: steps against problems of one class.

    Attributes:
        k: index of the class.
        steps: updates.
        objective: by what an iterate is chosen: the class's worst loss, the largest gap to the experts, the worst loss
            of all, or the mean.
        fixed: the problems and their weights stay as they are drawn.
    """

    k: int
    steps: int
    objective: Objective
    fixed: bool = False


def stages_of(kind: str, contest: Contest) -> list[Stage]:
    """The training of a learner."""
    steps, last = contest.knobs.stage_steps(), len(contest.radii) - 1
    if kind == ROBUST:
        return [*(Stage(k, steps[k], "class") for k in range(last + 1)), Stage(last, steps[-1], "gap")]
    return [Stage(last, sum(steps), "worst" if kind == "minimax" else "mean", fixed=kind == "prior")]


class Learner:
    """A policy in training.

    Args:
        kind: its key in the knobs.
        contest: problems and yardsticks of the seed.
    """

    stride = 1

    def __init__(self, kind: str, contest: Contest) -> None:
        self.arm, self.seed = arm_name(kind), contest.seed
        self._contest, self._stages = contest, stages_of(kind, contest)
        symmetric = contest.knobs.task == "arms"
        with seeded(contest.streams[3]):
            self.policy = HistoryPolicy(contest.problem, contest.budget, HIDDEN, symmetric)
        self.best = copy.deepcopy(self.policy)
        self._score = math.inf
        self._trainer: AdversarialTrainer | None = None
        self._starts = np.cumsum([0, *(stage.steps for stage in self._stages)])

    def step(self, at: int) -> Mapping[str, Value]:
        """One update of the inner game."""
        i = int(np.searchsorted(self._starts, at, side="right")) - 1
        stage, within = self._stages[i], at - int(self._starts[i])
        if within == 0:
            self._begin(i)
        assert self._trainer is not None
        self._trainer.entropy_coef = ENTROPY * (1 - within / stage.steps)
        metrics = self._trainer.step()
        if not math.isfinite(metrics["mean_loss"]):
            raise Diverged(f"the loss is {metrics['mean_loss']}")
        last = within + 1 == stage.steps
        if last or (within + 1) % CHECK_EVERY == 0:
            self._compare(stage)
        if last and stage.objective == "class":
            self._contest.add_expert(stage.k, self.best)
        return {"loss": metrics["mean_loss"], "effective": metrics["effective_particles"]}

    def evaluate(self, at: int) -> Mapping[str, Value]:
        """Exact worst losses of the best iterate so far, and what the charts show of it."""
        values = measured(self.best, self._contest, at)
        if self._trainer is not None and self.seed == self._contest.knobs.first_seed:
            values |= self._hardest()
        return values

    def _begin(self, i: int) -> None:
        """Start a stage from the best policy of the one before."""
        stage, contest = self._stages[i], self._contest
        self.policy.load_state_dict(self.best.state_dict())
        rate, weight_rate = RATES[contest.knobs.task]
        robust = stage.objective == "gap"
        self._trainer = AdversarialTrainer(
            contest.problem,
            self.policy,
            contest.budget,
            contest.radii[stage.k],
            num_particles=PRIOR_PARTICLES if stage.fixed else contest.knobs.particles,
            num_samples=SAMPLES,
            num_rollouts=ROLLOUTS,
            lr_policy=rate,
            lr_weights=0.0 if stage.fixed else weight_rate,
            lr_particles=0.0 if stage.fixed else 1e-2,
            baseline=torch.tensor(contest.lhat["checked"], dtype=torch.float64) if robust else 0.0,
            class_radii=contest.radii if robust else None,
            entropy_coef=ENTROPY,
            seed=int(np.random.SeedSequence([contest.seed, i, len(self._stages)]).generate_state(1)[0]),
        )
        self._score = math.inf
        self._compare(stage)

    def _compare(self, stage: Stage) -> None:
        """Keep the policy if it is the best of its stage so far."""
        contest = self._contest
        losses = contest.losses(self.policy, contest.checked)
        worst = contest.worst(losses, contest.checked)
        score = {
            "class": worst[stage.k],
            "worst": worst[-1],
            "mean": float(losses[contest.checked.home == stage.k].mean()),
        }.get(stage.objective)
        if score is None:
            score = contest.gap(worst, "checked")
        if score < self._score:
            self._score = score
            self.best.load_state_dict(self.policy.state_dict())

    def _hardest(self) -> dict[str, Value]:
        """The particles of largest weight: their answers' probabilities and their weights over an even share."""
        assert self._trainer is not None
        weights = self._trainer.weights.detach()
        top = weights.topk(min(SHOWN_PARTICLES, len(weights))).indices
        theta: Tensor = self._trainer.particles[top]
        if self._contest.knobs.task == "arms":
            theta = theta.sort(dim=1, descending=True).values
        return {
            "hardest": ((1 + theta) / 2).numpy(),
            "hardest_weight": (weights[top] * len(weights)).numpy(),
        }


class Rival:
    """A policy that is not trained: measured once, and again at the end.

    Args:
        kind: its key in the knobs.
        contest: problems and yardsticks of the seed.
    """

    def __init__(self, kind: str, contest: Contest) -> None:
        self.arm, self.seed = arm_name(kind), contest.seed
        self.stride = contest.knobs.stride()
        self._contest = contest
        self._policy = build_rival(kind, contest.problem, contest.budget)
        self._first: dict[str, Value] | None = None

    def step(self, at: int) -> Mapping[str, Value]:  # noqa: ARG002
        """Nothing is trained."""
        return {}

    def evaluate(self, at: int) -> Mapping[str, Value]:
        """The same worst losses at every moment, and the gap as soon as the experts are there."""
        contest = self._contest
        if at >= contest.knobs.total_steps():
            return measured(self._policy, contest, at)
        if self._first is None:
            self._first = measured(self._policy, contest, at)
            return self._first
        worst = np.asarray(self._first["worst"]).tolist()
        again: dict[str, Value] = {"hard": self._first["hard"]}
        if contest.complete:
            again["gap"] = contest.gap(worst, "tested")
        return again


def measured(policy: Policy, contest: Contest, at: int) -> dict[str, Value]:
    """Worst losses by class [K], that of the hardest class, the gap; for the first seed the pictures' data."""
    losses = contest.losses(policy, contest.tested)
    worst = contest.worst(losses, contest.tested)
    values: dict[str, Value] = {"worst": np.array(worst), "hard": worst[-1]}
    if contest.complete:
        values["gap"] = contest.gap(worst, "tested")
    if at >= contest.knobs.total_steps():
        attacked = contest.attacked(policy, losses)
        values |= {"attacked_worst": np.array(attacked), "attacked_hard": attacked[-1]}
        values["attacked_gap"] = contest.gap(attacked, "attacked")
    if contest.seed == contest.knobs.first_seed:
        values["losses"] = losses.float().numpy()
        values["hardness"] = contest.tested.hardness.float().numpy()
        values["asked"] = contest.asked(policy).astype(np.float32)
    return values


def build_trainee(kind: str, contest: Contest) -> Learner | Rival:
    """The member of a kind."""
    return (Learner if kind in (ROBUST, "minimax", "prior") else Rival)(kind, contest)
