"""From a history of answers to the next question: features, the recommendation, and the policy network.

Zhang, Jain, Jamieson, arXiv 2010.15382; features, network and the ridge estimate are our resolution.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from normviz.adaptive.bandit_problem import BanditProblem, first_largest
from normviz.validation import check_integer

__all__ = [
    "RIDGE",
    "HistoryPolicy",
    "Policy",
    "answer_counts",
    "decide",
    "estimate",
    "history_features",
    "num_features",
    "precision",
    "recommend",
]

Policy = Callable[[Tensor], Tensor]
"""Maps features [B, n, f] to logits [B, n]; minus infinity: never. May have ``recommend(features) -> [B]``."""

RIDGE = 0.1


def num_features(problem: BanditProblem) -> int:
    """f: 4 for Gaussian noise, 3 for Bernoulli."""
    return 4 if problem.noise == "gaussian" else 3


def history_features(problem: BanditProblem, actions: Tensor, rewards: Tensor, budget: int) -> Tensor:
    """Features of a history, per action j and divided by the budget T.

    Gaussian: pulls of j, sum of its answers, sum of their squares, answers so far (the same for all j). Bernoulli:
    pulls of j, ones, answers so far.

    Args:
        problem: actions and noise.
        actions: indices of the actions taken [B, t].
        rewards: their answers [B, t], floating.
        budget: T, at least 1.

    Returns:
        [B, n, f], f = 4 or 3, in the dtype of ``rewards``.

    Raises:
        ValueError: budget below 1, histories of different shapes.
    """
    T = check_integer("budget", budget, 1)
    if actions.shape != rewards.shape or actions.ndim != 2:
        raise ValueError(
            f"actions must be [B, t] like rewards, got {tuple(actions.shape)} and {tuple(rewards.shape)}."
        )
    batch, t = rewards.shape
    pulled = torch.nn.functional.one_hot(actions, problem.actions.shape[0]).to(rewards.dtype)  # [B, t, n]
    parts = [pulled.sum(1), (pulled * rewards[..., None]).sum(1)]
    if problem.noise == "gaussian":
        parts.append((pulled * rewards[..., None].square()).sum(1))
    parts.append(rewards.new_full((batch, problem.actions.shape[0]), t))
    return torch.stack(parts, dim=-1) / T


def answer_counts(problem: BanditProblem, features: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """Pulls [B, n] and sums of answers [B, n] (Bernoulli: of 2 y - 1) in float64; counts recovered by rounding."""
    exact = features.double() * budget
    pulls = exact[..., 0].round()
    sums = exact[..., 1] if problem.noise == "gaussian" else 2 * exact[..., 1].round() - pulls
    return pulls, sums


def precision(problem: BanditProblem, pulls: Tensor) -> Tensor:
    """A + 0.1 I [B, d, d], A = sum over pulls of x x^T."""
    X = problem.actions.to(pulls)
    ridge = RIDGE * torch.eye(X.shape[1], dtype=X.dtype, device=X.device)
    information: Tensor = torch.einsum("bn,nd,ne->bde", pulls, X, X)
    return information + ridge


def estimate(problem: BanditProblem, pulls: Tensor, sums: Tensor) -> Tensor:
    """theta_hat = (A + 0.1 I)^-1 sum of x y [B, d]."""
    if problem.unit_actions:
        return sums / (pulls + RIDGE)
    X = problem.actions.to(pulls)
    theta: Tensor = torch.linalg.solve(precision(problem, pulls), (sums @ X)[..., None]).squeeze(-1)
    return theta


def recommend(problem: BanditProblem, features: Tensor, budget: int) -> Tensor:
    """The decision argmax_z <z, theta_hat> after a history.

    theta_hat = (A + 0.1 I)^-1 sum of x y over the answers (2 y - 1 for Bernoulli), in float64. Values within 1e-9 of
    the largest are tied; the lowest index wins.

    Args:
        problem: actions, decisions and noise.
        features: [B, n, f] of ``history_features``.
        budget: T by which the features were divided, at least 1.

    Returns:
        Indices [B].

    Raises:
        ValueError: budget below 1.
    """
    check_integer("budget", budget, 1)
    theta = estimate(problem, *answer_counts(problem, features.detach(), budget))
    return first_largest(theta @ problem.decisions.to(theta).T)


def decide(policy: Policy, problem: BanditProblem, features: Tensor, budget: int) -> Tensor:
    """The policy's own recommendation if it has one, else :func:`recommend`."""
    own = getattr(policy, "recommend", None)
    decision: Tensor = recommend(problem, features, budget) if own is None else own(features)
    return decision


class HistoryPolicy(nn.Module):
    """The learned policy: a small network from the history's features to a distribution over actions.

    arXiv 2010.15382; the architecture is ours: two hidden layers with ReLU, logits over the n actions.
    ``symmetric=False`` reads all features of all actions at once; ``symmetric=True`` applies one network per action to
    its own features and their mean over actions, so that renaming actions renames the logits: for arms that are
    exchangeable, where it needs far fewer samples.

    Args:
        problem: gives n and the noise.
        budget: T, at least 1.
        hidden: width of both hidden layers (128, ours).
        symmetric: equivariant under permutations of the actions; default False.

    Shape:
        features [B, n, f] -> logits [B, n], in the network's dtype, whatever that of the features.

    Raises:
        ValueError: budget or hidden below 1.

    Example:
        >>> problem = BanditProblem.multi_armed(4, noise="bernoulli")
        >>> HistoryPolicy(problem, budget=10, hidden=16)(torch.zeros(2, 4, 3)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self, problem: BanditProblem, budget: int, hidden: int = 128, symmetric: bool = False
    ) -> None:
        super().__init__()
        self.num_actions, self.num_features = problem.actions.shape[0], num_features(problem)
        self.budget, self.hidden = check_integer("budget", budget, 1), check_integer("hidden", hidden, 1)
        self.symmetric = symmetric
        width, out = (2, 1) if symmetric else (self.num_actions, self.num_actions)
        self.layers = nn.Sequential(
            nn.Linear(width * self.num_features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, out),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Logits of the next action."""
        features = features.to(next(self.layers.parameters()).dtype)
        if self.symmetric:
            mean = features.mean(-2, keepdim=True).expand_as(features)
            logits: Tensor = self.layers(torch.cat([features, mean], dim=-1)).squeeze(-1)
        else:
            logits = self.layers(features.flatten(-2))
        return logits

    def extra_repr(self) -> str:
        """The sizes."""
        return (
            f"num_actions={self.num_actions}, num_features={self.num_features}, budget={self.budget}, "
            f"symmetric={self.symmetric}"
        )
