"""How hard a problem is: the complexity C(theta) of telling the best decision from all others, and the optimal design.

Zhang, Jain, Jamieson, arXiv 2010.15382, group problems by this lower-bound quantity (rho* of transductive linear
bandits, Fiez et al. 2019; up to a factor of 2 the constant of Track-and-Stop):

    C(theta) = min over lambda in the simplex of max over z != z* of |z* - z|^2_{A(lambda)^-1} / <z* - z, theta>^2,
    A(lambda) = sum_x lambda_x x x^T.

It is a complexity and not a number of queries: about C log(1 / delta) queries identify z* with probability 1 - delta.
The same formula serves Bernoulli answers, because 2 y - 1 has variance at most 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from normviz.adaptive.bandit_problem import ROUNDING, BanditProblem
from normviz.validation import check_integer, check_real

__all__ = [
    "Design",
    "complexity",
    "design_targets",
    "multi_armed_complexity",
    "optimal_design",
    "solve",
    "span_basis",
]

SMALLEST_SHARE = 1e-12
"""Shares of a design stay above this, so that A(lambda) can be inverted."""
SPAN_TOLERANCE = 1e-9
NEWTON_STEPS = 20
LARGEST_RATIO = 1e90
"""Of two squared gaps: an arm that much further away counts as this far; its third power is finite."""


class Design(NamedTuple):
    """Solutions of ``optimal_design``.

    Attributes:
        value: [B], max over targets of |u|^2 under ``shares``.
        shares: lambda [B, n].
        multipliers: p [B, k] over the targets, for a warm start.
    """

    value: Tensor
    shares: Tensor
    multipliers: Tensor


def optimal_design(
    actions: Tensor,
    targets: Tensor,
    iters: int,
    tol: float,
    start: Design | None = None,
    *,
    unit: bool = False,
) -> Design:
    """Design that minimises the largest |u|^2_{A(lambda)^-1} over targets u, for each row of a batch.

    Alternates two multiplicative steps: p_z <- p_z f_z / sum, f_z = |u_z|^2_{A^-1}, and
    lambda_j <- lambda_j sqrt(sum_z p_z <x_j, A^-1 u_z>^2) / sum; the best iterate is kept. Since every f_z is convex in
    lambda and f_z(c lambda) = f_z(lambda) / c, the minimum is at least 2 sum_z p_z f_z - max_j sum_z p_z <x_j, A^-1
    u_z>^2; a row stops when its value is within ``tol`` of that. Against mirror descent on the largest f_z, the
    resolution that came first, it is about ten times as near to the minimum after as many steps.

    Args:
        actions: X [n, d] that span all targets.
        targets: u [B, k, d]; rows of zeros do not count.
        iters: steps at most.
        tol: relative distance to the lower bound.
        start: solution of a similar problem.
        unit: the actions are the unit vectors, so A^-1 = diag(1 / lambda).
    """
    batch, n = targets.shape[0], actions.shape[0]
    squares = targets.square()  # [B, k, d]
    if start is None:
        shares = targets.new_full((batch, n), 1 / n)
        p = (squares.sum(-1) > 0).to(targets.dtype)
    else:
        shares = start.shares.clamp_min(1e-4 / n)
        p = start.multipliers.clamp_min(1e-4 / targets.shape[1]) * (squares.sum(-1) > 0)
    shares, p = shares / shares.sum(1, keepdim=True), p / p.sum(1, keepdim=True).clamp_min(1e-300)
    value, best, kept = targets.new_full((batch,), math.inf), shares.clone(), p.clone()
    lower = torch.zeros_like(value)
    outer = (actions[:, :, None] * actions[:, None]).flatten(1)  # [n, d d]
    rows = torch.arange(batch, device=targets.device)
    for _ in range(iters + 1):
        u, sq = targets[rows], squares[rows]
        if unit:
            f, slopes = (sq @ (1 / shares)[..., None]).squeeze(-1), None  # [b, k]
        else:
            A = (shares @ outer).view(-1, actions.shape[1], actions.shape[1])  # [b, d, d]
            solved = torch.linalg.solve_ex(A, u.mT)[0]  # [b, d, k]
            f, slopes = (u.mT * solved).sum(1), (actions @ solved).square()  # [b, k], [b, n, k]
        now = f.amax(1)
        better = now < value[rows]
        value[rows[better]] = now[better]
        best[rows[better]], kept[rows[better]] = shares[better], p[better]
        slope = _slope(sq, shares, slopes, p)
        lower[rows] = torch.maximum(lower[rows], 2 * (p * f).sum(1) - slope.amax(1))
        active = value[rows] > lower[rows] * (1 + tol)
        if not bool(active.any()):
            break
        rows, shares, p, f, sq = rows[active], shares[active], p[active], f[active], sq[active]
        p = p * f
        p = p / p.sum(1, keepdim=True)
        shares = shares * _slope(sq, shares, None if slopes is None else slopes[active], p).sqrt()
        shares = (shares / shares.sum(1, keepdim=True)).clamp_min(SMALLEST_SHARE)
    return Design(value, best, kept)


def _slope(squares: Tensor, shares: Tensor, slopes: Tensor | None, p: Tensor) -> Tensor:
    """sum_z p_z <x_j, A^-1 u_z>^2 [b, n]: minus the gradient of sum_z p_z f_z."""
    if slopes is None:
        return (squares.mT @ p[..., None]).squeeze(-1) / shares.square()
    return (slopes @ p[..., None]).squeeze(-1)


def design_targets(problem: BanditProblem, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Actions [n, q] and targets (z* - z) / <z* - z, theta> [B, k, q] in a basis of the actions' span, and a mask.

    The mask is [B], True where C is infinite: a tie, or a direction z* - z that no action measures. Float64.
    """
    theta = theta.detach().double()
    actions, decisions = problem.actions.to(theta), problem.decisions.to(theta)
    best = problem.best(theta)
    direction = decisions[best][:, None] - decisions  # [B, k, d]
    gap = (direction @ theta[..., None]).squeeze(-1)  # [B, k]
    other = torch.arange(decisions.shape[0], device=theta.device) != best[:, None]
    impossible = (other & (gap <= ROUNDING)).any(1)
    if not problem.unit_actions:
        basis = span_basis(actions)  # [d, q]
        outside = direction - direction @ basis @ basis.T
        unseen = outside.norm(dim=-1) > SPAN_TOLERANCE * direction.norm(dim=-1)
        impossible |= (other & unseen).any(1)
        actions, direction = actions @ basis, direction @ basis
    usable = other & ~impossible[:, None]
    scale = torch.where(usable, gap, 1.0)
    targets = torch.where(usable[..., None], direction / scale[..., None], 0.0)
    return actions, targets, impossible


def span_basis(actions: Tensor) -> Tensor:
    """Orthonormal basis [d, q] of the span of the rows."""
    _, sizes, rows = torch.linalg.svd(actions, full_matrices=False)
    basis: Tensor = rows[sizes > 1e-10 * sizes[0].clamp_min(1e-300)].T
    return basis


def complexity(
    problem: BanditProblem, theta: Tensor, iters: int = 500, tol: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """C(theta) and the design lambda* that attains it (arXiv 2010.15382, complexity).

    For a multi-armed bandit exact, by ``multi_armed_complexity``; else by ``optimal_design``, never below the minimum
    and usually within 0.1 percent of it. Homogeneous: C(c theta) = C(theta) / c^2. Computed in float64.

    Args:
        problem: actions and decisions.
        theta: [B, d], or [d] for results without the first axis.
        iters: steps at most (500, more than enough for tens of decisions).
        tol: a row stops at this relative distance to a lower bound (1e-6).

    Returns:
        (C [B], lambda [B, n]) in theta's dtype. C is infinity for a tied best decision or a direction z* - z outside
        the span of the actions, 0 for a single decision; lambda is uniform there.

    Raises:
        ValueError: theta of another width, iters below 1, tol not above 0.

    Example:
        >>> complexity(BanditProblem.multi_armed(2), torch.tensor([0.5, 0.0]))[0]
        tensor(16.)
    """
    problem.check_theta(theta)
    check_integer("iters", iters, 1)
    check_real("tol", tol, 0, math.inf, low_open=True, high_open=True)
    rows = theta if theta.ndim > 1 else theta[None]
    design = solve(problem, rows, iters, tol)
    value, shares = design.value.to(theta.dtype), design.shares.to(theta.dtype)
    return (value, shares) if theta.ndim > 1 else (value[0], shares[0])


@torch.no_grad()
def solve(
    problem: BanditProblem, theta: Tensor, iters: int = 500, tol: float = 1e-6, start: Design | None = None
) -> Design:
    """C and lambda* of theta [B, d] in float64, from an earlier solution if there is one."""
    theta = theta.detach().double()
    n, k = problem.actions.shape[0], problem.decisions.shape[0]
    uniform = theta.new_full((theta.shape[0], n), 1 / n)
    p = theta.new_full((theta.shape[0], k), 1 / k)
    if k == 1:
        return Design(theta.new_zeros(theta.shape[0]), uniform, p)
    if problem.is_multi_armed:
        return Design(*_multi_armed(problem, theta), p)
    actions, targets, impossible = design_targets(problem, theta)
    value = theta.new_full((theta.shape[0],), math.inf)
    design = Design(value, uniform, p)
    rows = (~impossible).nonzero()[:, 0]
    if rows.numel():
        begin = None if start is None else Design(*(part[rows] for part in start))
        found = optimal_design(actions, targets[rows], iters, tol, begin, unit=problem.unit_actions)
        for part, solved in zip(design, found, strict=True):
            part[rows] = solved
    return design


def _multi_armed(problem: BanditProblem, theta: Tensor) -> tuple[Tensor, Tensor]:
    """C [B] and lambda* [B, n] of arms with means theta, exact."""
    n = theta.shape[1]
    best = problem.best(theta)[:, None]
    gap = theta.gather(1, best) - theta  # [B, n]
    other = torch.arange(n, device=theta.device) != best
    y, rho, scale = _balance(gap[other].view(-1, n - 1))
    ratio = gap.square() * scale[:, None]
    shares = torch.where(other, y[:, None] / (ratio * y[:, None] - 1), y[:, None]) / rho[:, None]
    tied = (other & (gap <= ROUNDING)).any(1)
    value = torch.where(tied, math.inf, rho * scale)
    return value, torch.where(tied[:, None], 1 / n, shares)


def multi_armed_complexity(gaps: Tensor) -> Tensor:
    """C of a multi-armed bandit from the gaps Delta_i of the other arms: one equation in one unknown.

    At the minimiser (1 / l_* + 1 / l_i) / Delta_i^2 is the same rho = C for all i, so with y = rho l_*
    rho = min_y y + sum_i y / (Delta_i^2 y - 1); the minimum is where sum_i (Delta_i^2 y - 1)^-2 = 1, inside
    [2, 1 + sqrt(n - 1)] / Delta_min^2, found by Newton's method. Two arms: 4 / Delta^2.

    Args:
        gaps: Delta [..., n - 1], each at least 0.

    Returns:
        C [...] in the dtype of ``gaps``; infinity if a gap is 0, and 0 if there is no other arm.

    Raises:
        ValueError: a negative gap or NaN.

    Example:
        >>> multi_armed_complexity(torch.tensor([0.5]))
        tensor(16.)
    """
    if not bool((gaps >= 0).all()):
        raise ValueError("gaps must be numbers >= 0.")
    if gaps.shape[-1] == 0:
        return gaps.new_zeros(gaps.shape[:-1])
    _, rho, scale = _balance(gaps.detach().double())
    return torch.where((gaps == 0).any(-1), math.inf, rho * scale).to(gaps.dtype)


def _balance(gaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The minimiser y and rho for gaps divided by the smallest one, and the scale 1 / Delta_min^2 [...]."""
    smallest = gaps.amin(-1)
    safe = torch.where(smallest > 0, smallest, 1.0)
    ratio = (gaps / safe[..., None]).square().clamp(1.0, LARGEST_RATIO)  # [..., n - 1], the smallest is 1
    y = torch.full_like(safe, 2.0)
    # With S(y) = sum_i (q_i y - 1)^-2 the root of S = 1 is that of S^(-1/2) = 1, whose left side is concave and
    # increasing (linear, if all q are equal): Newton's method from the left never passes it.
    for _ in range(NEWTON_STEPS):
        t = ratio * y[..., None] - 1
        S = t.pow(-2).sum(-1)
        y = y + (1 - S.rsqrt()) * S.pow(1.5) / (ratio * t.pow(-3)).sum(-1)
    rho = y + (y[..., None] / (ratio * y[..., None] - 1)).sum(-1)
    return y, rho, safe.pow(-2)
