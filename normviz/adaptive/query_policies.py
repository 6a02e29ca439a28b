"""Policies that are not learned: what a learned one is compared with.

Baselines of Zhang, Jain, Jamieson, arXiv 2010.15382: elimination and RAGE (Fiez et al. 2019) come from theory,
generalized binary search from Nowak 2011. All are functions of the features of ``history_features``, so they play in
``rollout`` like a network. Ties go to the lowest index, within 1e-9.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normviz.adaptive.bandit_problem import TIE, BanditProblem, first_largest
from normviz.adaptive.design_complexity import complexity, optimal_design, span_basis
from normviz.adaptive.history_policy import answer_counts, estimate, precision, recommend
from normviz.validation import check_integer, check_real

__all__ = [
    "GeneralizedBinarySearchPolicy",
    "GreedyUncertaintyPolicy",
    "OracleDesignPolicy",
    "RagePolicy",
    "RoundRobinPolicy",
    "SuccessiveEliminationPolicy",
    "UniformPolicy",
]

SEPARATES = 1e-12
"""An action tells two decisions apart if <x, z - z'> is larger than this."""
PAIR_ITERS, PAIR_TOL = 500, 1e-6


def _only(index: Tensor, n: int, like: Tensor) -> Tensor:
    """Logits [B, n]: 0 for the chosen action, minus infinity for the others."""
    logits = like.new_full((index.shape[0], n), -math.inf)
    return logits.scatter_(1, index[:, None], 0.0)


class _QueryPolicy:
    """A policy of a problem and a budget."""

    def __init__(self, problem: BanditProblem, budget: int) -> None:
        self.problem = problem
        self.budget = check_integer("budget", budget, 1)
        self.num_actions = problem.actions.shape[0]

    def __call__(self, features: Tensor) -> Tensor:
        """Logits [B, n] from features [B, n, f]."""
        return _only(self._choose(features.detach()), self.num_actions, features)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_actions={self.num_actions}, budget={self.budget})"

    def _choose(self, features: Tensor) -> Tensor:
        """Index [B] of the next action."""
        raise NotImplementedError

    def _step(self, features: Tensor) -> Tensor:
        """t [B], the answers so far."""
        return (features[:, 0, -1].double() * self.budget).round()


class UniformPolicy(_QueryPolicy):
    """Every action with the same probability, whatever was answered (baseline of arXiv 2010.15382).

    Args:
        problem: what is asked.
        budget: T, at least 1.

    Raises:
        ValueError: budget below 1.
    """

    def __call__(self, features: Tensor) -> Tensor:
        """Logits 0 [B, n]."""
        return features.new_zeros(features.shape[0], self.num_actions)


class RoundRobinPolicy(_QueryPolicy):
    """Action t mod n at step t (baseline of arXiv 2010.15382).

    Args:
        problem: what is asked.
        budget: T, at least 1.

    Raises:
        ValueError: budget below 1.
    """

    def _choose(self, features: Tensor) -> Tensor:
        return self._step(features).long() % self.num_actions


class GreedyUncertaintyPolicy(_QueryPolicy):
    """The action whose value is least certain: argmax_x x^T (A + 0.1 I)^-1 x (baseline of arXiv 2010.15382).

    A = sum of x x^T over the pulls. It does not look at the answers.

    Args:
        problem: what is asked.
        budget: T, at least 1.

    Raises:
        ValueError: budget below 1.
    """

    def _choose(self, features: Tensor) -> Tensor:
        pulls, _ = answer_counts(self.problem, features, self.budget)
        X = self.problem.actions.to(pulls)
        solved = torch.linalg.solve(
            precision(self.problem, pulls), X.T.expand(len(pulls), -1, -1)
        )  # [B, d, n]
        return first_largest((X.T * solved).sum(1))


class SuccessiveEliminationPolicy(_QueryPolicy):
    """Asks what tells the surviving decisions apart, the least asked first (baseline of arXiv 2010.15382).

    With V = (A + 0.1 I)^-1, theta_hat the ridge estimate and z_lead the recommendation, z survives if

        <z_lead - z, theta_hat> <= sqrt(2 |z_lead - z|^2_V log(k max(t, 1)^2 / delta)).

    The query is the action of fewest pulls among those with abs(<x, z - z'>) > 1e-12 for two survivors; among all
    actions once one survivor is left, or if no action tells two apart.

    Args:
        problem: what is asked.
        budget: T, at least 1.
        delta: probability of an error, in (0, 1) (0.1).

    Raises:
        ValueError: budget below 1, delta outside (0, 1).
    """

    def __init__(self, problem: BanditProblem, budget: int, delta: float = 0.1) -> None:
        super().__init__(problem, budget)
        self.delta = check_real("delta", delta, 0, 1, low_open=True, high_open=True)

    def survivors(self, features: Tensor) -> Tensor:
        """Which decisions are left [B, k], given features [B, n, f]."""
        features = features.detach()
        pulls, sums = answer_counts(self.problem, features, self.budget)
        theta = estimate(self.problem, pulls, sums)
        Z = self.problem.decisions.to(theta)
        lead = Z[recommend(self.problem, features, self.budget)][:, None] - Z  # [B, k, d]
        behind = (lead @ theta[..., None]).squeeze(-1)
        solved = torch.linalg.solve(precision(self.problem, pulls), lead.mT)  # [B, d, k]
        variance = (lead.mT * solved).sum(1)
        t = self._step(features).clamp_min(1)[:, None]
        left: Tensor = behind <= (2 * variance * (Z.shape[0] * t * t / self.delta).log()).sqrt()
        return left

    def _choose(self, features: Tensor) -> Tensor:
        pulls, _ = answer_counts(self.problem, features, self.budget)
        useful = self._separating(self.survivors(features))
        useful |= ~useful.any(1, keepdim=True)
        return first_largest(torch.where(useful, -pulls, -math.inf))

    def _separating(self, alive: Tensor) -> Tensor:
        """Actions [B, n] that tell two survivors [B, k] apart."""
        values = (self.problem.actions @ self.problem.decisions.to(self.problem.actions).T).to(alive.device)
        largest = torch.where(alive[:, None], values, -math.inf).amax(-1)
        smallest = torch.where(alive[:, None], values, math.inf).amin(-1)
        telling: Tensor = largest - smallest > SEPARATES
        return telling


class RagePolicy(SuccessiveEliminationPolicy):
    """Follows the design that is best for the differences of survivors (after RAGE, Fiez et al. 2019).

    Survivors as in ``SuccessiveEliminationPolicy``; lambda* = argmin over lambda of the largest
    |z - z'|^2_{A(lambda)^-1} over pairs of survivors; the query is the action of largest (t + 1) lambda*_j - pulls_j.
    One survivor: lambda* uniform. A pair whose difference no action measures is left out.

    Args:
        problem: what is asked.
        budget: T, at least 1.
        delta: probability of an error, in (0, 1) (0.1).

    Raises:
        ValueError: budget below 1, delta outside (0, 1).

    Reference: Fiez et al. 2019 (RAGE), as a baseline of Zhang, Jain, Jamieson, arXiv 2010.15382; the design
    minimises the numerator of the paper's complexity C(theta) over the survivors.
    """

    def __init__(self, problem: BanditProblem, budget: int, delta: float = 0.1) -> None:
        super().__init__(problem, budget, delta)
        self._designs: dict[tuple[bool, ...], Tensor] = {}

    def _choose(self, features: Tensor) -> Tensor:
        pulls, _ = answer_counts(self.problem, features, self.budget)
        sets, which = torch.unique(self.survivors(features), dim=0, return_inverse=True)
        shares = torch.stack([self._design(tuple(row)) for row in sets.tolist()]).to(pulls)[which]
        return first_largest((self._step(features)[:, None] + 1) * shares - pulls)

    def _design(self, alive: tuple[bool, ...]) -> Tensor:
        """lambda* [n] of a set of survivors; each set is solved once."""
        if alive not in self._designs:
            self._designs[alive] = self._solve(torch.tensor(alive))
        return self._designs[alive]

    def _solve(self, alive: Tensor) -> Tensor:
        X = self.problem.actions.detach().cpu().double()
        Z = self.problem.decisions.detach().cpu().double()[alive]
        first, second = torch.triu_indices(len(Z), len(Z), offset=1)
        pairs = Z[first] - Z[second]
        if not self.problem.unit_actions:
            basis = span_basis(X)
            seen = (pairs - pairs @ basis @ basis.T).norm(dim=1) <= TIE * pairs.norm(dim=1)
            X, pairs = X @ basis, (pairs @ basis)[seen]
        if not bool((pairs != 0).any()):
            return torch.full((len(X),), 1 / len(X), dtype=torch.float64)
        unit = self.problem.unit_actions
        return optimal_design(X, pairs[None], PAIR_ITERS, PAIR_TOL, unit=unit).shares[0]


class GeneralizedBinarySearchPolicy(_QueryPolicy):
    """Asks where the hypotheses that are left disagree most (Nowak 2011; baseline of arXiv 2010.15382).

    For sign hypotheses h_z(x) = sign <x, z> and answers 1 / 0 read as + / -: posterior
    w_z ~ (1 - eps)^agree eps^disagree, query argmin_x abs(sum_z w_z h_z(x)), recommendation argmax_z w_z. eps = 0 is
    the limit: uniform on the hypotheses of least disagreement. An answer where <x, z> = 0 counts neither way.

    Args:
        problem: with Bernoulli noise.
        budget: T, at least 1.
        eps: assumed probability of a wrong answer, in [0, 0.5) (0: binary search without noise; above 0: soft).

    Raises:
        ValueError: budget below 1, eps outside [0, 0.5), Gaussian noise.
    """

    def __init__(self, problem: BanditProblem, budget: int, eps: float = 0.0) -> None:
        super().__init__(problem, budget)
        self.eps = check_real("eps", eps, 0, 0.5, high_open=True)
        if problem.noise != "bernoulli":
            raise ValueError(f"noise must be 'bernoulli' for answers of two kinds, got {problem.noise!r}.")

    def posterior(self, features: Tensor) -> Tensor:
        """w [B, k] from features [B, n, f]."""
        pulls, sums = answer_counts(self.problem, features.detach(), self.budget)
        ones, zeros = (pulls + sums) / 2, (pulls - sums) / 2
        plus, minus = ((s * self._signs(pulls)).clamp_min(0).T for s in (1, -1))  # [n, k]
        agree, disagree = ones @ plus + zeros @ minus, ones @ minus + zeros @ plus
        if self.eps:
            return (agree * math.log1p(-self.eps) + disagree * math.log(self.eps)).softmax(-1)
        least = (disagree == disagree.amin(1, keepdim=True)).to(pulls)
        return least / least.sum(1, keepdim=True)

    def recommend(self, features: Tensor) -> Tensor:
        """The most probable hypothesis [B]."""
        return first_largest(self.posterior(features))

    def _choose(self, features: Tensor) -> Tensor:
        w = self.posterior(features)
        return first_largest(-(w @ self._signs(w)).abs())

    def _signs(self, like: Tensor) -> Tensor:
        """h_z(x) [k, n]."""
        return torch.sign(self.problem.decisions.to(like) @ self.problem.actions.to(like).T)


class OracleDesignPolicy(_QueryPolicy):
    """Samples from the optimal static design of the true theta: logits log lambda*(theta) (arXiv 2010.15382).

    It knows theta and does not adapt.

    Args:
        problem: what is asked.
        budget: T, at least 1.
        theta: the problem [d].

    Raises:
        ValueError: budget below 1, theta of another shape.
    """

    def __init__(self, problem: BanditProblem, budget: int, theta: Tensor) -> None:
        super().__init__(problem, budget)
        if problem.check_theta(theta).ndim != 1:
            raise ValueError(f"theta must be a vector [d], got shape {tuple(theta.shape)}.")
        self.design = complexity(problem, theta.detach().double())[1]

    def __call__(self, features: Tensor) -> Tensor:
        """Logits log lambda* [B, n]."""
        return self.design.log().to(features).expand(features.shape[0], -1)
