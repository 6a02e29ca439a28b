r"""Counting the paths and trees of a residual tower, and the weights of its levels. Loads no PyTorch.

B. Dherin, M. Munn, "On residual network depth", 2025, arXiv 2510.03470.

Multiplied out, h_n = (1 + lam f_n) o ... o (1 + lam f_1)(x) is a sum over levels k = 0..n: level k is lam^k times the
sum of the C(n, k) ways to pass through exactly k of the n modules.

=========================================================  =========================
C(n, k) paths on level k, 2^n in all                       ``path_count``, ``ensemble_size``
trees of the expansion for smooth modules                  ``tree_count``
c_k = C(n, k) lam^k, and log |c_k|                         ``level_weights``, ``log_level_weights``
lam = 1, 1/sqrt(n), 1/n                                    ``residual_scale``
|x| sum_{k > K} C(n, k) (|lam| L)^k                        ``remainder_bound``
E |h_n|^2 / |x|^2 = (1 + lam^2 s^2)^n, independent f_i     ``expected_norm_ratio``
=========================================================  =========================

The paper counts the C(n, k) choices of modules. For modules that are not affine each choice carries (k-1)! trees, and
from level 3 on trees with repeated modules join them; ``tree_count`` counts all of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "ensemble_size",
    "expected_norm_ratio",
    "level_weights",
    "log_level_weights",
    "path_count",
    "remainder_bound",
    "residual_scale",
    "tree_count",
]

_RULES: dict[str, Callable[[int], float]] = {
    "one": lambda _: 1.0,
    "inv_sqrt": lambda n: 1 / math.sqrt(n),
    "inv": lambda n: 1 / n,
}


def residual_scale(n: int, rule: float | str) -> float:
    """The scale lam of a tower of n modules.

    Args:
        n: number of modules.
        rule: "one" (1), "inv_sqrt" (1/sqrt(n), for paths that add up like independent ones), "inv" (1/n, for paths
            that all point the same way; the paper's proposal), or a number, returned as it is.

    Raises:
        ValueError: n < 1, unknown rule, NaN.

    Example:
        >>> residual_scale(16, "inv_sqrt")
        0.25
    """
    check_integer("n", n, 1)
    if isinstance(rule, str):
        return _RULES[check_choice("rule", rule, _RULES)](n)
    return check_real("rule", rule)


def path_count(n: int, k: int) -> int:
    """C(n, k): paths through exactly k of n modules, 0 for k > n.

    Raises:
        ValueError: n < 1 or k < 0.

    Example:
        >>> [path_count(6, k) for k in range(7)]
        [1, 6, 15, 20, 15, 6, 1]
    """
    return math.comb(check_integer("n", n, 1), check_integer("k", k, 0))


def ensemble_size(n: int) -> int:
    """2^n: all paths through n modules.

    Raises:
        ValueError: n < 1.
    """
    return 1 << check_integer("n", n, 1)


def tree_count(n: int, k: int) -> int:
    r"""Number of trees on level k of the expansion of n smooth modules.

    A tree has k nodes labelled by modules, children below their parent in the tower; two children of one node may carry
    the same label. With a_m(i) the trees of m nodes and root i, a node's subtrees are a multiset of trees with
    smaller roots, so

        a_k(j) = [z^{k-1}] prod_{i<j} prod_m (1 - z^m)^{-a_m(i)},   tree_count = sum_j a_k(j).

    Values: n, C(n,2), 2 C(n,3) + C(n,2) for k = 1, 2, 3; 1 for k = 0 (the skip path alone).

    Raises:
        ValueError: n < 1 or k < 0.

    Example:
        >>> [tree_count(5, k) for k in range(6)]
        [1, 5, 10, 30, 90, 279]
    """
    check_integer("n", n, 1)
    if check_integer("k", k, 0) == 0:
        return 1
    total = 0
    forests = [1] + [0] * (k - 1)  # [z^m] of the product over the roots so far
    for _ in range(n):
        trees = forests  # a_{m+1}(j) = forests of m nodes below j
        total += trees[k - 1]
        for size in range(1, k):
            forests = _with_multiset(forests, size, trees[size - 1])
    return total


def _with_multiset(forests: list[int], size: int, kinds: int) -> list[int]:
    """Multiply a truncated power series by (1 - z^size)^(-kinds)."""
    if kinds == 0:
        return forests
    return [
        sum(math.comb(kinds + r - 1, r) * forests[m - r * size] for r in range(m // size + 1))
        for m in range(len(forests))
    ]


def log_level_weights(n: int, lam: float, order: int | None = None) -> NDArray[np.float64]:
    """log |c_k| = log C(n, k) + k log |lam| for k = 0..order, by log-gamma; -inf where c_k = 0.

    Args:
        n: number of modules.
        lam: scale, finite.
        order: last k (n).

    Returns:
        (order + 1,).

    Raises:
        ValueError: n < 1, order < 0, lam not finite.
    """
    check_integer("n", n, 1)
    _check_finite("lam", lam)
    order = n if order is None else check_integer("order", order, 0)
    log_lam = math.log(abs(lam)) if lam else -math.inf
    logs = np.full(order + 1, -math.inf)
    logs[0] = 0.0
    for k in range(1, min(order, n) + 1):
        logs[k] = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_lam
    return logs


def level_weights(n: int, lam: float, order: int | None = None) -> NDArray[np.float64]:
    """c_k = C(n, k) lam^k for k = 0..order, with the sign of lam^k; inf only where c_k itself exceeds float64.

    Args:
        n: number of modules.
        lam: scale, finite. For 1/n, c_k -> 1/k! and sum c_k -> e.
        order: last k (n); c_k = 0 for k > n.

    Returns:
        (order + 1,).

    Raises:
        ValueError: n < 1, order < 0, lam not finite.

    Example:
        >>> level_weights(4, -0.5).round(4).tolist()
        [1.0, -2.0, 1.5, -0.5, 0.0625]
    """
    with np.errstate(over="ignore"):
        weights: NDArray[np.float64] = np.exp(log_level_weights(n, lam, order))
    if lam < 0:
        weights[1::2] *= -1
    return weights


def remainder_bound(n: int, lam: float, lipschitz: float, x_norm: float, order: int) -> float:
    """Bound on |h_n - sum_{k <= order} lam^k T_k| for linear modules of operator norm at most ``lipschitz``.

    x_norm * sum_{k > order} C(n, k) (|lam| lipschitz)^k; 0 for order >= n.

    Args:
        n: number of modules.
        lam: scale, finite.
        lipschitz: L >= 0, finite.
        x_norm: |x| >= 0, finite.
        order: last level kept.

    Raises:
        ValueError: n < 1, order < 0, a negative or infinite lipschitz or x_norm, lam not finite.
    """
    _check_finite("lam", lam)
    check_real("lipschitz", lipschitz, 0, math.inf, high_open=True)
    check_real("x_norm", x_norm, 0, math.inf, high_open=True)
    check_integer("order", order, 0)
    left_out = level_weights(n, abs(lam) * lipschitz)[order + 1 :]
    return x_norm * float(left_out.sum()) if x_norm else 0.0


def expected_norm_ratio(n: int, lam: float, sigma2: float = 1.0) -> float:
    """E |h_n|^2 / |x|^2 = (1 + lam^2 sigma2)^n for f_i(h) = W_i h, entries of W_i independent N(0, sigma2 / d).

    1/sqrt(n) gives about e^sigma2 at any depth, 1/n about 1, and 1 gives (1 + sigma2)^n (inf where float64 ends).

    Args:
        n: number of modules.
        lam: scale, finite.
        sigma2: d times the variance of an entry (1).

    Raises:
        ValueError: n < 1, lam not finite, sigma2 negative or infinite.

    Example:
        >>> round(expected_norm_ratio(16, 0.25), 3)
        2.638
    """
    check_integer("n", n, 1)
    _check_finite("lam", lam)
    check_real("sigma2", sigma2, 0, math.inf, high_open=True)
    with np.errstate(over="ignore"):
        return float(np.exp(n * np.log1p(np.float64(lam) ** 2 * sigma2)))


def _check_finite(name: str, value: float) -> None:
    check_real(name, value, -math.inf, math.inf, low_open=True, high_open=True)
