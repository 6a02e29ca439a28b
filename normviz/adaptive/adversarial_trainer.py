"""The inner game: a policy against a mixture of particles, problems that move to where the policy is worst.

Algorithm B of Zhang, Jain, Jamieson, arXiv 2010.15382 (gradients as in the paper; sampler, projection, baselines for
the variance, entropy bonus, weight floor and rates are our resolution).

    J(psi, theta_1..N, w) = sum_i lambda_i (l(pi_psi, theta_i) - lhat_k(i)),
    lambda = (1 - floor) softmax(w) + floor / N,

is descended in psi and ascended in the particles theta_i and in w. k(i) = min{k: C(theta_i) <= r_k} is the class of a
particle, lhat_k the loss of the best policy of that class (0: plain minimax).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normviz.adaptive.bandit_problem import BanditProblem
from normviz.adaptive.complexity_classes import MEMBER_SLACK, check_radius, project, sample_class
from normviz.adaptive.design_complexity import Design, solve
from normviz.adaptive.history_policy import Policy
from normviz.adaptive.policy_rollout import Rollout, play, rollout
from normviz.validation import check_integer, check_real

__all__ = ["AdversarialTrainer", "GradientEstimate", "check_radii"]

BETAS, EPS = (0.9, 0.999), 1e-8
PROJECTION_ITERS = 40
IDLE_WEIGHT, IDLE_STEPS = 1e-4, 50
"""A particle with softmax(w) below 1e-4 / N for 50 iterations is drawn anew."""
MAX_ROWS = 1 << 15


class GradientEstimate(NamedTuple):
    """Unbiased estimates of the gradients of J (arXiv 2010.15382, Algorithm B).

    Attributes:
        policy: gradient of each parameter, by name.
        particles: [N, d].
        weights: by the logits w [N].
    """

    policy: dict[str, Tensor]
    particles: Tensor
    weights: Tensor


class _Batch(NamedTuple):
    """M x L episodes: which particles, what was played, its entropy, and the losses above the baseline [M, L]."""

    drawn: Tensor
    theta: Tensor
    episodes: Rollout
    entropy: Tensor
    excess: Tensor


def check_radii(name: str, radii: Sequence[float]) -> list[float]:
    """Return radii as floats if there is one and they are positive and increasing; ValueError otherwise."""
    values = [check_real(name, float(r), 0, math.inf, low_open=True, high_open=True) for r in radii]
    if not values or any(b <= a for a, b in pairwise(values)):
        raise ValueError(f"{name} must be increasing and not empty, got {values}.")
    return values


class AdversarialTrainer:
    """Trains a policy against particles of a class of problems (Algorithm B of arXiv 2010.15382).

    One ``step``: draw M particles from lambda, play L episodes with each, take the three gradients from that batch
    (score functions; the particles' also through the likelihood of the answers, and for simple regret through the
    loss), then Adam: descent for the policy, ascent for w and for the particles that were drawn, which are projected
    onto the class afterwards. For the variance the mean of the other episodes of the same particle is subtracted from
    a loss (L = 1: nothing), in the w-term the mean over the other draws (M = 1: nothing); both leave the estimates
    unbiased. A particle with softmax(w)_i < 1e-4 / N for 50 steps is drawn anew, with a weight that makes
    softmax(w)_i about 1 / N.

    ``lr_weights = lr_particles = 0`` trains for a fixed prior: nothing moves but the policy. ``baseline = 0`` is the
    plain minimax. Particles are float64 if the problem's tables are.

    Args:
        problem: what is asked and judged.
        policy: an nn.Module (trained), or any callable policy (then only the particles and w move).
        budget: T, at least 1.
        r: radius of the class that the particles stay in.
        num_particles: N (64).
        num_samples: M (64).
        num_rollouts: L (8).
        lr_policy, lr_weights, lr_particles: rates of Adam, at least 0 (1e-3, 0.1, 1e-2).
        baseline: lhat, a number or one per class [K]; 0 by default.
        class_radii: r_1 < .. < r_K. Particles then start spread over the classes.
        entropy_coef: factor of the entropy bonus in ``step`` (0.01); also an attribute that may be changed.
        weight_floor: share of lambda that is uniform, in [0, 1) (0.05).
        seed: of everything drawn.

    Attributes:
        particles: [N, d]; may be written in place.
        weight_logits: w [N], 0 at first; may be written in place.
        weights: lambda(w) [N].

    Raises:
        ValueError: a number outside its range, r below the least complexity in the box, radii that do not increase,
            a baseline of length K without as many class_radii.
    """

    def __init__(
        self,
        problem: BanditProblem,
        policy: Policy,
        budget: int,
        r: float,
        num_particles: int = 64,
        num_samples: int = 64,
        num_rollouts: int = 8,
        lr_policy: float = 1e-3,
        lr_weights: float = 0.1,
        lr_particles: float = 1e-2,
        baseline: float | Tensor = 0.0,
        class_radii: Sequence[float] | None = None,
        *,
        entropy_coef: float = 0.01,
        weight_floor: float = 0.05,
        seed: int = 0,
    ) -> None:
        self.problem, self.policy = problem, policy
        self.budget = check_integer("budget", budget, 1)
        self.r = check_radius(problem, r)
        self.num_particles = check_integer("num_particles", num_particles, 1)
        self.num_samples = check_integer("num_samples", num_samples, 1)
        self.num_rollouts = check_integer("num_rollouts", num_rollouts, 1)
        rates = {"lr_policy": lr_policy, "lr_weights": lr_weights, "lr_particles": lr_particles}
        for name, rate in rates.items():
            check_real(name, rate, 0, math.inf, high_open=True)
        self.lr_weights, self.lr_particles = float(lr_weights), float(lr_particles)
        self.entropy_coef = check_real("entropy_coef", entropy_coef, 0, math.inf, high_open=True)
        self.weight_floor = check_real("weight_floor", weight_floor, 0, 1, high_open=True)
        self.class_radii = None if class_radii is None else check_radii("class_radii", class_radii)
        self._params: dict[str, Tensor] = (
            {name: p for name, p in policy.named_parameters() if p.requires_grad}
            if isinstance(policy, nn.Module)
            else {}
        )
        device = next(iter(self._params.values())).device if self._params else torch.device("cpu")
        self.baseline = self._check_baseline(baseline).to(device)
        self.generator = torch.Generator(device).manual_seed(check_integer("seed", seed, 0))
        self.particles = self._draw(torch.arange(num_particles)).to(device)
        self.weight_logits = self.particles.new_zeros(num_particles)
        self._policy_adam = torch.optim.Adam(self._params.values(), lr=lr_policy) if self._params else None
        self._weight_adam = torch.optim.Adam(
            [self.weight_logits], lr=lr_weights, betas=BETAS, eps=EPS, maximize=True
        )
        self._moments = self.particles.new_zeros(2, *self.particles.shape)
        self._steps = torch.zeros(num_particles, dtype=torch.int64, device=device)
        self._idle = torch.zeros(num_particles, dtype=torch.int64, device=device)
        self._measured = self.particles.clone()
        self._design = solve(problem, self.particles)

    # ------------------------------------------------------------------------------------------------- mixture

    @property
    def weights(self) -> Tensor:
        """lambda(w) [N], a distribution."""
        floor = self.weight_floor
        return (1 - floor) * self.weight_logits.softmax(0) + floor / self.num_particles

    def _check_baseline(self, baseline: float | Tensor) -> Tensor:
        K = None if self.class_radii is None else len(self.class_radii)
        value = torch.as_tensor(baseline).detach().double()
        if value.ndim > 1 or (value.ndim == 1 and value.shape[0] != K):
            raise ValueError(
                f"baseline must be a number or have one entry per class_radii ({K}), got {tuple(value.shape)}."
            )
        if not bool(torch.isfinite(value).all()):
            raise ValueError("baseline must be finite.")
        return value

    def _draw(self, index: Tensor) -> Tensor:
        """New particles for these places: those of place i in class i mod K."""
        radii = [self.r] if self.class_radii is None else [min(r, self.r) for r in self.class_radii]
        found = torch.empty(len(index), self.problem.actions.shape[1], dtype=self.problem.actions.dtype)
        for k, radius in enumerate(radii):
            place = (index % len(radii) == k).nonzero()[:, 0].cpu()
            if place.numel():
                found[place] = sample_class(self.problem, radius, len(place), self.generator).cpu()
        return found

    def _designs(self) -> Design:
        """C and lambda* of all particles; those written from outside are measured anew."""
        changed = (self._measured != self.particles).any(1).nonzero()[:, 0]
        if not changed.numel():
            return self._design
        fresh = solve(self.problem, self.particles[changed])
        merged = [part.index_copy(0, changed, new) for part, new in zip(self._design, fresh, strict=True)]
        return Design(*merged)

    def _lhat(self, index: Tensor) -> Tensor:
        """Baseline of particles."""
        if self.baseline.ndim == 0:
            return self.baseline.expand(len(index))
        assert self.class_radii is not None
        radii = torch.tensor(self.class_radii, dtype=torch.float64, device=self.baseline.device)
        hardness = self._designs().value[index]
        k = torch.searchsorted(radii * (1 + MEMBER_SLACK), hardness).clamp_max(len(radii) - 1)
        return self.baseline[k]

    # ----------------------------------------------------------------------------------------------- gradients

    def _play(self) -> _Batch:
        M, L = self.num_samples, self.num_rollouts
        index = torch.multinomial(self.weights, M, replacement=True, generator=self.generator)
        theta = self.particles[index].repeat_interleave(L, 0).requires_grad_()
        episodes, entropy = play(self.policy, self.problem, theta, self.budget, self.generator)
        excess = episodes.loss.detach().view(M, L) - self._lhat(index).to(theta.dtype)[:, None]
        return _Batch(index, theta, episodes, entropy, excess)

    def _gradients(self, batch: _Batch, entropy_coef: float) -> GradientEstimate:
        index, theta, episodes, entropy, excess = batch
        M, L = excess.shape
        others = (excess.sum(1, keepdim=True) - excess) / (L - 1) if L > 1 else torch.zeros_like(excess)
        score = (excess - others).flatten()  # [M L]
        by_policy: dict[str, Tensor] = {}
        if self._params:
            objective = (score * episodes.log_prob).mean() - entropy_coef * entropy.mean()
            found = torch.autograd.grad(objective, list(self._params.values()), allow_unused=True)
            by_policy = {
                name: torch.zeros_like(p) if g is None else g
                for (name, p), g in zip(self._params.items(), found, strict=True)
            }
        by_theta = score[:, None] * episodes.obs_log_prob_grad
        if episodes.loss.requires_grad:
            by_theta = by_theta + torch.autograd.grad(episodes.loss.sum(), theta)[0]
        rows = index.repeat_interleave(L)
        by_particle = torch.zeros_like(self.particles).index_add(0, rows, by_theta / (M * L))
        means = excess.mean(1)
        centred = means - (means.sum() - means) / (M - 1) if M > 1 else means
        softmax, mixture = self.weight_logits.softmax(0), self.weights
        # grad_w log lambda_i = (1 - floor) softmax_i (onehot_i - softmax) / lambda_i
        pull = centred * (1 - self.weight_floor) * softmax[index] / mixture[index] / M
        by_weight = torch.zeros_like(softmax).index_add(0, index, pull) - pull.sum() * softmax
        return GradientEstimate(by_policy, by_particle.detach(), by_weight)

    def estimate_gradients(self) -> GradientEstimate:
        """Gradients of J by policy, particles and w from one fresh batch, without entropy bonus.

        Unbiased. Changes nothing but the generator.
        """
        return self._gradients(self._play(), 0.0)

    # ---------------------------------------------------------------------------------------------------- step

    def step(self) -> dict[str, float]:
        """One iteration.

        Returns:
            mean_loss; max_particle_loss and max_gap, the largest mean over one particle's episodes of the loss, and of
            the loss minus lhat; weight_entropy and effective_particles, entropy and 1 / sum lambda^2 of lambda after
            the step.
        """
        batch = self._play()
        gradients = self._gradients(batch, self.entropy_coef)
        metrics = self._metrics(batch)
        if self._policy_adam is not None:
            for name, p in self._params.items():
                p.grad = gradients.policy[name]
            self._policy_adam.step()
            self._policy_adam.zero_grad(set_to_none=True)
        if self.lr_weights:
            self.weight_logits.grad = gradients.weights
            self._weight_adam.step()
            self.weight_logits.grad = None
        if self.lr_particles:
            self._move_particles(torch.unique(batch.drawn), gradients.particles)
            if self.lr_weights:
                self._redraw_idle()
        mixture = self.weights
        metrics["weight_entropy"] = float(-(mixture * mixture.clamp_min(1e-300).log()).sum())
        metrics["effective_particles"] = float(1 / mixture.square().sum())
        return metrics

    def _metrics(self, batch: _Batch) -> dict[str, float]:
        loss = batch.episodes.loss.detach().view_as(batch.excess).mean(1)
        places, where, count = torch.unique(batch.drawn, return_inverse=True, return_counts=True)
        sums = loss.new_zeros(2, len(places)).index_add(1, where, torch.stack([loss, batch.excess.mean(1)]))
        worst = (sums / count).amax(1)
        return {
            "mean_loss": float(loss.mean()),
            "max_particle_loss": float(worst[0]),
            "max_gap": float(worst[1]),
        }

    @torch.no_grad()
    def _move_particles(self, rows: Tensor, gradient: Tensor) -> None:
        """Adam ascent on the rows that were drawn, each with moments and a count of its own; then projection."""
        design = self._designs()
        g = gradient[rows]
        self._steps[rows] += 1
        for moment, beta, power in zip(self._moments, BETAS, (g, g * g), strict=True):
            moment[rows] = beta * moment[rows] + (1 - beta) * power
        first, second = (
            moment[rows] / (1 - beta ** self._steps[rows, None].to(g))
            for moment, beta in zip(self._moments, BETAS, strict=True)
        )
        moved = self.particles[rows] + self.lr_particles * first / (second.sqrt() + EPS)
        start = Design(*(part[rows] for part in design))
        projected, found = project(self.problem, moved, self.r, start, PROJECTION_ITERS)
        self.particles[rows] = projected
        self._design = Design(
            *(part.index_copy(0, rows, new) for part, new in zip(design, found, strict=True))
        )
        self._measured = self.particles.clone()

    @torch.no_grad()
    def _redraw_idle(self) -> None:
        low = self.weight_logits.softmax(0) < IDLE_WEIGHT / self.num_particles
        self._idle = torch.where(low, self._idle + 1, 0)
        rows = (self._idle >= IDLE_STEPS).nonzero()[:, 0]
        if not rows.numel():
            return
        self.particles[rows] = self._draw(rows).to(self.particles)
        kept = torch.ones_like(low)
        kept[rows] = False
        self.weight_logits[rows] = self.weight_logits[kept].logsumexp(0) - math.log(int(kept.sum()))
        self._idle[rows], self._steps[rows] = 0, 0
        self._moments[:, rows] = 0
        for name in ("exp_avg", "exp_avg_sq"):
            self._weight_adam.state[self.weight_logits][name][rows] = 0
        self._design, self._measured = self._designs(), self.particles.clone()

    @torch.no_grad()
    def worst_loss(self, n_rollouts: int) -> float:
        """The largest mean loss over the particles, each of n_rollouts fresh episodes; nothing is subtracted.

        A maximum over noisy means is biased upward: for comparisons play the few worst again, with more episodes.

        Raises:
            ValueError: n_rollouts below 1.
        """
        n = check_integer("n_rollouts", n_rollouts, 1)
        return float(self.mean_losses(self.particles, n).max())

    @torch.no_grad()
    def mean_losses(self, theta: Tensor, n_rollouts: int) -> Tensor:
        """Mean loss [B] of n_rollouts fresh episodes for each row of theta [B, d]."""
        total = theta.new_zeros(len(theta))
        left = n_rollouts
        while left:
            repeats = min(left, max(1, MAX_ROWS // len(theta)))
            rows = theta.repeat_interleave(repeats, 0)
            episodes = rollout(self.policy, self.problem, rows, self.budget, self.generator)
            total += episodes.loss.view(len(theta), repeats).sum(1)
            left -= repeats
        return total / n_rollouts

    # --------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on; ``load_state_dict`` continues bit for bit."""
        return {
            "policy": self.policy.state_dict() if isinstance(self.policy, nn.Module) else {},
            "policy_adam": {} if self._policy_adam is None else self._policy_adam.state_dict(),
            "weight_adam": self._weight_adam.state_dict(),
            "particles": self.particles.clone(),
            "weight_logits": self.weight_logits.clone(),
            "moments": self._moments.clone(),
            "steps": self._steps.clone(),
            "idle": self._idle.clone(),
            "measured": self._measured.clone(),
            "design": [part.clone() for part in self._design],
            "entropy_coef": self.entropy_coef,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        if isinstance(self.policy, nn.Module):
            self.policy.load_state_dict(state["policy"])
        if self._policy_adam is not None:
            self._policy_adam.load_state_dict(state["policy_adam"])
        self._weight_adam.load_state_dict(state["weight_adam"])
        self.particles.copy_(state["particles"])
        self.weight_logits.copy_(state["weight_logits"])
        self._moments, self._steps = state["moments"].clone(), state["steps"].clone()
        self._idle, self._measured = state["idle"].clone(), state["measured"].clone()
        self._design = Design(*(part.clone() for part in state["design"]))
        self.entropy_coef = float(state["entropy_coef"])
        self.generator.set_state(state["generator"])
