"""How many weights may stay, how they are shared between layers, and how many are exchanged when.

Huang et al., "Distributed Pruning Towards Tiny Neural Networks in Federated Learning" (FedTiny), ICDCS 2023, arXiv
2212.01977; the density rules and the cosine as in the authors' library FedPruning. ER is from Mocanu et al. (arXiv
1707.04780), ERK and the cosine from Evci et al., "Rigging the Lottery" (arXiv 1911.11134).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from normviz.validation import check_choice, check_integer, check_real

__all__ = ["RULES", "adjust_count", "cosine_adjust_fraction", "layer_densities", "prunable_budget"]

RULES = ("uniform", "ER", "ERK")

ROUNDING = 1e-12
"""A density this near to 1 is 1: else a product of rounded numbers would cost a layer one of its weights."""


def prunable_budget(
    shapes: Mapping[str, Sequence[int]], prunable: Collection[str], density: float
) -> tuple[int, int]:
    """How many of the prunable weights may stay, and how many there are.

    ``int(density * all parameters)`` parameters stay, the dense ones (all that are not prunable) among them.

    Args:
        shapes: shape of every parameter, by name.
        prunable: names of those that are pruned.
        density: share of all parameters, in (0, 1].

    Returns:
        (weights that stay, prunable weights).

    Raises:
        ValueError: density out of range or not above the share of the dense parameters; names without a shape.
    """
    d = check_real("density", density, 0, 1, low_open=True)
    unknown = sorted(set(prunable) - set(shapes))
    if unknown or not prunable:
        raise ValueError(
            f"prunable must hold names of parameters, at least one, got {unknown or list(prunable)}."
        )
    total = sum(math.prod(shape) for shape in shapes.values())
    weights = sum(math.prod(shapes[name]) for name in prunable)
    keep, dense = int(d * total), total - weights
    if keep <= dense:
        raise ValueError(
            f"density must leave weights beside the {dense} dense parameters (norms, biases): more than "
            f"{dense / total:.6g} for {total} parameters, got {d:g}."
        )
    return keep - dense, weights


def layer_densities(
    shapes: Mapping[str, Sequence[int]], prunable: Collection[str], density: float, rule: str
) -> dict[str, float]:
    """The share of active weights of every prunable layer, so that all together meet the budget.

    - ``uniform``: rho in every layer, rho = (keep - dense) / (all - dense), keep = int(density * all).
    - ``ER``: proportional to (n_in + n_out) / (n_in n_out), the first two axes of the weight.
    - ``ERK``: proportional to (sum of the shape) / (product of the shape).

    For the last two a layer whose share would exceed 1 is made dense and the others are scaled again.

    Args:
        shapes: shape of every parameter of the network, also of the dense ones, by name.
        prunable: names of the weights that are pruned.
        density: share of *all* parameters that stays, in (0, 1].
        rule: "uniform", "ER" or "ERK".

    Returns:
        d_l in (0, 1] by name, in the order of ``prunable``; the sum of d_l * size_l is the budget.

    Raises:
        ValueError: unknown rule, density out of range or not above the share of the dense parameters.
    """
    check_choice("rule", rule, RULES)
    budget, weights = prunable_budget(shapes, prunable, density)
    if rule == "uniform":
        return dict.fromkeys(prunable, budget / weights)
    sizes = {name: math.prod(shapes[name]) for name in prunable}
    shares = {name: _share(shapes[name], rule) for name in prunable}
    dense: set[str] = set()
    while len(dense) < len(shares):
        free = [name for name in shares if name not in dense]
        room = budget - sum(sizes[name] for name in dense)
        scale = room / sum(shares[name] * sizes[name] for name in free)
        over = {name for name in free if scale * shares[name] > 1 - ROUNDING}
        if not over:
            return {name: 1.0 if name in dense else scale * share for name, share in shares.items()}
        dense |= over
    return dict.fromkeys(shares, 1.0)


def _share(shape: Sequence[int], rule: str) -> float:
    axes = list(shape)[:2] if rule == "ER" else list(shape)
    return sum(axes) / math.prod(axes)


def cosine_adjust_fraction(t: float, t_end: float, alpha: float = 0.2) -> float:
    """Share of the active weights that is exchanged at time t: (alpha / 2) (1 + cos(pi t / t_end)), 0 after t_end.

    Args:
        t: round, >= 0.
        t_end: round R_stop > 0 at which it has fallen to 0.
        alpha: share at t = 0, > 0; 0.2 as in the authors' library.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> [round(cosine_adjust_fraction(t, 100), 3) for t in (0, 50, 100, 101)]
        [0.2, 0.1, 0.0, 0.0]
    """
    time = check_real("t", t, 0, high_open=True)
    end = check_real("t_end", t_end, 0, low_open=True, high_open=True)
    rate = check_real("alpha", alpha, 0, low_open=True, high_open=True)
    return rate / 2 * (1 + math.cos(math.pi * time / end)) if time <= end else 0.0


def adjust_count(t: float, t_end: float, n_active: int, alpha: float = 0.2) -> int:
    """a_l = int(fraction * n_active): how many weights of a layer are exchanged at time t.

    Args:
        t: round, >= 0.
        t_end: round R_stop > 0.
        n_active: active weights of the layer, >= 0.
        alpha: share at t = 0, > 0.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> adjust_count(0, 100, 500)
        100
    """
    return int(cosine_adjust_fraction(t, t_end, alpha) * check_integer("n_active", n_active, 0))
