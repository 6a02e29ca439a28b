"""Classes of problems of bounded complexity, and how to get into them: projection and sampling.

Zhang, Jain, Jamieson, arXiv 2010.15382: Theta^(r) = {theta in the box: C(theta) <= r}. Classes are nested; small r
means easy. Sampler and projection are our resolution, the paper's are not known to us.

For a fixed best decision the class is convex: with A(lambda) as in ``complexity``, |v|_{A(lambda)^-1} is convex in
lambda and <z* - z, theta> is linear in theta. So on a segment towards an easy member with the same best decision
membership switches once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from normviz.adaptive._queries import Array
from normviz.adaptive.bandit_problem import BanditProblem
from normviz.adaptive.design_complexity import Design, design_targets, solve, span_basis
from normviz.validation import check_integer, check_real

__all__ = ["EasyMembers", "easy_members", "project", "project_to_class", "sample_class"]

MEMBER_SLACK = 1e-9
"""Members are told with this relative tolerance, so that a projected theta is a member."""
ALTERNATIONS, SETTLED = 16, 1e-8
SMALLEST_MARGIN, SMALLEST_SHARE = 1e-9, 1e-9
"""Below these a decision counts as never best, an action as not asked."""
SEARCH_ITERS = 60
SEGMENT_POINTS, BISECTIONS = 32, 12
FIRST_STEP = 1e-4
"""Of the way that is left on a segment; doubled until the point is measured inside."""


@dataclass(frozen=True)
class EasyMembers:
    """For every decision the easiest theta in the box that has it as its best (float64).

    Attributes:
        theta: [k, d].
        complexity: C [k]; infinity for a decision that is never best.
        shares: their designs [k, n].
    """

    theta: Tensor
    complexity: Tensor
    shares: Tensor

    @property
    def minimum(self) -> float:
        """The least C in the box."""
        return float(self.complexity.min())


_MEMO: WeakKeyDictionary[BanditProblem, EasyMembers] = WeakKeyDictionary()


def easy_members(problem: BanditProblem) -> EasyMembers:
    """The easiest member of each decision, computed once per problem.

    Where one corner of the box makes every <z* - z, theta> as large as it can be (arms, thresholds), that corner; else
    a convex program in theta and the design at once.
    """
    if problem not in _MEMO:
        _MEMO[problem] = _easy_members(problem)
    return _MEMO[problem]


def _easy_members(problem: BanditProblem) -> EasyMembers:
    decisions = problem.decisions.detach().cpu().double()
    low, high = problem.box
    k, d = decisions.shape
    direction = decisions[:, None] - decisions  # [k, k, d]
    corner = torch.where((direction >= 0).all(1), high, low).double()
    dominant = ((direction >= 0).all(1) | (direction <= 0).all(1)).all(1)
    theta = torch.where(dominant[:, None], corner, (low + high) / 2)
    rest = [b for b in range(k) if not bool(dominant[b])]
    if not rest:
        return _evaluated(problem, theta)
    actions = problem.actions.detach().cpu().double()
    basis = torch.eye(d, dtype=torch.float64) if problem.unit_actions else span_basis(actions)
    for b in rest:
        others = direction[b, torch.arange(k) != b]  # [k - 1, d]
        found = _easiest(others.numpy(), (others @ basis).numpy(), (actions @ basis).numpy(), problem.box)
        if found is not None:
            theta[b] = torch.from_numpy(found)
    return _evaluated(problem, theta)


def _easiest(others: Array, reduced: Array, actions: Array, box: tuple[float, float]) -> Array | None:
    """theta in the box of least C with <v, theta> > 0 for all v = z* - z; None if there is none.

    With mu = C lambda, C = sum(mu) is to be minimised subject to <v, theta> >= |v|_{A(mu)^-1} for all v, a convex
    program in (theta, mu), solved by sequential quadratic programming from a linear program's theta at equal shares.

    Args:
        others: v [k - 1, d].
        reduced: v in a basis of the actions' span [k - 1, q].
        actions: [n, q] in the same basis.
        box: bounds of theta.
    """
    n, d = actions.shape[0], others.shape[1]
    low, high = box

    def lengths(mu: Array) -> tuple[Array, Array]:
        solved = np.linalg.solve(actions.T @ (mu[:, None] * actions), reduced.T)  # [q, k - 1]
        length = np.sqrt((reduced.T * solved).sum(axis=0))
        return length, -((actions @ solved) ** 2) / (2 * length)  # [k - 1], [n, k - 1]

    even = lengths(np.full(n, 1 / n))[0]
    program = linprog(
        np.append(np.zeros(d), -1.0),
        A_ub=np.column_stack([-others, even]),
        b_ub=np.zeros(len(others)),
        bounds=[(low, high)] * d + [(0, None)],
    )
    if not program.success or program.x[-1] <= SMALLEST_MARGIN:
        return None
    start = program.x[:d]
    scale = program.x[-1] ** -2  # C at equal shares

    def slack(w: Array) -> Array:
        found: Array = others @ w[:d] - lengths(scale * w[d:])[0]
        return found

    def slope(w: Array) -> Array:
        return np.hstack([others, -scale * lengths(scale * w[d:])[1].T])

    result = minimize(
        lambda w: w[d:].sum(),
        np.append(start, np.full(n, 1 / n)),
        jac=lambda _: np.append(np.zeros(d), np.ones(n)),
        bounds=[(low, high)] * d + [(SMALLEST_SHARE, None)] * n,
        constraints=[{"type": "ineq", "fun": slack, "jac": slope}],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-10},
    )
    better = np.isfinite(result.x).all() and slack(result.x).min() > -1e-6 and result.fun <= 1
    theta: Array = np.clip(result.x[:d] if better else start, low, high)
    return theta


def _evaluated(problem: BanditProblem, theta: Tensor) -> EasyMembers:
    design = solve(problem, theta)
    same = problem.best(theta) == torch.arange(len(theta))
    return EasyMembers(theta, torch.where(same, design.value, math.inf), design.shares)


def project_to_class(problem: BanditProblem, theta: Tensor, r: float) -> Tensor:
    """The theta of the class Theta^(r) that stands for a given one; see the module.

    Clipped to the box; a member is left alone; else theta sqrt(C / r) if that lies in the box (C is homogeneous, so it
    lies on the class's edge); else the first member on the segment from the clipped theta to an easy member of the
    class, one with the same best decision if there is one.

    Args:
        problem: actions, decisions, box.
        theta: [B, d], or [d].
        r: radius, at least the minimum of C over the box.

    Returns:
        In theta's shape and dtype. C <= r up to 1e-6 relative for a multi-armed bandit, up to 1 percent otherwise,
        as ``complexity`` measures it.

    Raises:
        ValueError: r below the least C in the box, which the message gives; theta of another width.
    """
    problem.check_theta(theta)
    rows = theta if theta.ndim > 1 else theta[None]
    projected, _ = project(problem, rows, r)
    return projected if theta.ndim > 1 else projected[0]


def check_radius(problem: BanditProblem, r: float) -> float:
    """Return r if the class has members."""
    r = check_real("r", r, 0, math.inf, low_open=True, high_open=True)
    minimum = easy_members(problem).minimum
    if r < minimum * (1 - MEMBER_SLACK):
        raise ValueError(f"r must be at least {minimum:g}, the least complexity in the box, got {r:g}.")
    return r


@torch.no_grad()
def project(
    problem: BanditProblem,
    theta: Tensor,
    r: float,
    start: Design | None = None,
    iters: int = 500,
) -> tuple[Tensor, Design]:
    """``project_to_class`` of rows [B, d], with the designs that certify them; ``start``: earlier designs."""
    r = check_radius(problem, r)
    low, high = problem.box
    out = theta.detach().clamp(low, high)
    work = out.double()
    # Rounding to a narrower type moves each <z* - z, theta> by about eps, which C feels by eps sqrt(r) at most.
    eps = torch.finfo(theta.dtype).eps
    reach = max(abs(low), abs(high), 1.0)
    target = r * (1 - max(0.0, 1.5 * eps * reach * math.sqrt(r) - 5e-7))
    design = solve(problem, work, iters, start=start)
    rows = (design.value > r * (1 + MEMBER_SLACK)).nonzero()[:, 0]
    if not rows.numel():
        return out, design
    bad, value = work[rows], design.value[rows]
    grown = bad * (value / target).sqrt().nan_to_num(posinf=1.0)[:, None]
    fits = torch.isfinite(value) & ((grown >= low) & (grown <= high)).all(1)
    result = torch.where(fits[:, None], grown, bad)
    design.value[rows[fits]] = target
    rest = (~fits).nonzero()[:, 0]
    if rest.numel():
        moved, found = _onto_segment(problem, bad[rest], target, iters)
        result[rest] = moved
        for part, new in zip(design, found, strict=True):
            part[rows[rest]] = new
    out[rows] = result.to(out.dtype)
    return out, design


def _onto_segment(problem: BanditProblem, theta: Tensor, r: float, iters: int) -> tuple[Tensor, Design]:
    """First members on the segments from theta [B, d] to easy members."""
    easy = easy_members(problem)
    ends = easy.theta.to(theta)
    best = problem.best(theta)
    reachable = (easy.complexity <= r * (1 + MEMBER_SLACK)).to(theta.device)
    same = reachable[best]
    goal = torch.where(same[:, None], ends[best], ends[int(easy.complexity.argmin())])
    position = theta.new_ones(len(theta))
    for rows, search in ((same, _by_turns), (~same, _by_scan)):
        index = rows.nonzero()[:, 0]
        if index.numel():
            position[index] = search(problem, theta[index], goal[index], r)
    moved = theta + position[:, None] * (goal - theta)
    design = solve(problem, moved, iters)
    # A point that was certified by another design may be measured a little above r: a short way on is enough.
    step = FIRST_STEP
    while bool((above := (design.value > r * (1 + MEMBER_SLACK)) & (position < 1)).any()):
        position = torch.where(above, position + step * (1 - position), position)
        step = min(2 * step, 1.0)
        index = above.nonzero()[:, 0]
        moved[index] = theta[index] + position[index, None] * (goal - theta)[index]
        for part, new in zip(design, solve(problem, moved[index], iters), strict=True):
            part[index] = new
    return moved, design


def _by_turns(problem: BanditProblem, start: Tensor, goal: Tensor, r: float) -> Tensor:
    """Where the segments enter the class, start and goal having the same best decision.

    At a fixed lambda the members have <z* - z, theta> sqrt(r) >= |z* - z|_{A(lambda)^-1}, linear inequalities, whose
    first solution on the segment is closed form; then lambda* of that solution, and again.
    """
    position = start.new_ones(len(start))
    design = None
    for _ in range(ALTERNATIONS):
        here = start + position[:, None] * (goal - start)
        design = solve(problem, here, SEARCH_ITERS, start=design)
        actions, targets, _ = design_targets(problem, here)
        A = torch.einsum("bn,nd,ne->bde", design.shares, actions, actions)
        length = (targets.mT * torch.linalg.solve_ex(A, targets.mT)[0]).sum(1).sqrt()  # |z* - z| / gap here
        best = problem.best(here)
        decisions = problem.decisions.to(start)
        direction = decisions[best][:, None] - decisions
        at_start, at_goal, at_here = ((direction @ x[..., None]).squeeze(-1) for x in (start, goal, here))
        needed = length * at_here / math.sqrt(r)
        slope = at_goal - at_start
        # Only inequalities that the start violates bind; where start and goal are equal, the rest is rounding.
        binding = (needed > at_start) & (slope > 0)
        entry = torch.where(binding, (needed - at_start) / torch.where(binding, slope, 1.0), 0.0).amax(1)
        before, position = position, torch.minimum(position, entry.clamp(0, 1))
        if not bool((before - position > SETTLED).any()):
            break
    return position


def _by_scan(problem: BanditProblem, start: Tensor, goal: Tensor, r: float) -> Tensor:
    """The first member among points of the segments, then bisection between it and the point before."""

    def outside(position: Tensor) -> Tensor:
        points = start[:, None] + position[..., None] * (goal - start)[:, None]  # [B, m, d]
        return (solve(problem, points.flatten(0, 1), SEARCH_ITERS).value > r).view(position.shape)

    grid = torch.arange(1, SEGMENT_POINTS + 1).to(start).expand(len(start), -1) / SEGMENT_POINTS
    first = (~outside(grid[:, :-1])).to(torch.int8)
    # The end of the segment is a member, whatever a short search says.
    index = torch.where(first.any(1), first.argmax(1), SEGMENT_POINTS - 1)
    high = grid.gather(1, index[:, None])
    low = high - 1 / SEGMENT_POINTS
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        out = outside(middle)
        low, high = torch.where(out, middle, low), torch.where(out, high, middle)
    return high[:, 0]


def sample_class(
    problem: BanditProblem, r: float, n: int, generator: torch.Generator | None = None
) -> Tensor:
    """n problems of the class Theta^(r): uniform in the box, then ``project_to_class``.

    Args:
        problem: actions, decisions, box.
        r: radius.
        n: how many, at least 1.
        generator: of the draws, on the CPU.

    Returns:
        [n, d] in the dtype of the problem's actions.

    Raises:
        ValueError: r below the least C in the box, which the message gives; n below 1.
    """
    r, n = check_radius(problem, r), check_integer("n", n, 1)
    low, high = problem.box
    device = "cpu" if generator is None else generator.device
    d = problem.actions.shape[1]
    theta = torch.rand(n, d, generator=generator, dtype=torch.float64, device=device) * (high - low) + low
    return project_to_class(problem, theta.to(problem.actions.dtype), r)
