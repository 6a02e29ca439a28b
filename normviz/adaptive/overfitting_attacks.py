"""Analysts that overfit to a sample by asking adaptively: sign aggregation, Freedman's paradox, the reused holdout.

Dwork et al., "Preserving Statistical Validity in Adaptive Data Analysis", arXiv 1411.2664; the holdout experiment and
its program: Science 349:636, 2015; Freedman, "A Note on Screening Regression Equations", The American Statistician 37,
1983.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, stdtr

from normviz.adaptive._queries import Array, as_float64, as_generator
from normviz.adaptive.reusable_holdout import Thresholdout
from normviz.adaptive.statistical_queries import StatisticalQueryMechanism
from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "FreedmanParadox",
    "ReusableHoldoutExperiment",
    "expected_attack_accuracy",
    "freedman_paradox",
    "holdout_selection",
    "reusable_holdout_experiment",
    "sign_aggregation_attack",
]

P_KEPT = 0.25
"""Variables with a smaller univariate p are kept (Freedman 1983)."""
SIGNAL_FEATURES, SIGNAL_SIZE = 20, 6.0
"""In the signal case the first 20 features carry 6 / sqrt(n) times the label (Science 349:636)."""


def _labelled(name: str, pair: Any) -> tuple[Array, Array]:
    """A pair (X [n, d], y [n]) in float64, checked."""
    if not (isinstance(pair, tuple | list) and len(pair) == 2):
        raise ValueError(f"{name} must be a pair (X, y), got {type(pair).__name__}.")
    X, y = as_float64(pair[0]), as_float64(pair[1])
    if X.ndim != 2 or X.size == 0 or y.shape != X.shape[:1]:
        raise ValueError(f"{name} must be a pair X [n, d], y [n], got shapes {X.shape} and {y.shape}.")
    return X, y


def sign_aggregation_attack(mechanism: StatisticalQueryMechanism | Thresholdout, X: Any, y: Any) -> Array:
    """Weights that fit pure noise: the signs of the answers to one query per feature (arXiv 1411.2664).

    Query j is (1 + x_j y) / 2, its answer a_j tells the correlation c_j = 2 a_j - 1. The classifier is
    sign(sum_j w_j x_j), w_j = sign(c_j), +1 for 0. On labels without signal its population accuracy is 1/2, on the
    sample that of ``expected_attack_accuracy``.

    Args:
        mechanism: answers the d queries, in order. For a ``Thresholdout`` X and y are pairs (train, holdout), and so is
            each query. For a mechanism on a universe they are those of all its elements.
        X: features [n, d], +-1 (or any in [-1, 1]).
        y: labels [n], +-1.

    Returns:
        Weights [d], each +1 or -1.

    Raises:
        ValueError: shapes that do not fit, products x y outside [-1, 1].
        BudgetExhausted: passed on from the mechanism.
    """
    if isinstance(mechanism, Thresholdout):
        if not (isinstance(X, tuple | list) and isinstance(y, tuple | list) and len(X) == len(y) == 2):
            raise ValueError("X and y must be pairs (train, holdout) for a Thresholdout.")
        train, holdout = _labelled("X, y", (X[0], y[0])), _labelled("X, y", (X[1], y[1]))
        columns = [(1 + features.T * labels) / 2 for features, labels in (train, holdout)]
        answers = [mechanism.answer(pair).value for pair in zip(*columns, strict=True)]
    else:
        features, labels = _labelled("X, y", (X, y))
        answers = [mechanism.answer(column) for column in (1 + features.T * labels) / 2]
    return np.where(2 * np.array(answers) - 1 >= 0, 1.0, -1.0)


def expected_attack_accuracy(n: int, d: int, noise_std: float = 0.0) -> float:
    """Accuracy of the sign aggregation attack on the sample itself, for +-1 noise as data.

    Phi(sqrt(2 d / pi) (1 / n) / sqrt(1 / n + s^2)): each weight agrees with a row's own x_j y with a margin of
    sqrt(2 / pi) (1 / n) / sqrt(1 / n + s^2), and the sum over features is nearly normal. 0.788 for d = n, s = 0.

    Args:
        n: samples, at least 1.
        d: features, at least 1.
        noise_std: s, standard deviation of the noise of c = 2 a - 1: twice that of the answers a.

    Raises:
        ValueError: a number outside its range.

    Example:
        >>> round(expected_attack_accuracy(1000, 1000), 3)
        0.788
    """
    n, d = check_integer("n", n, 1), check_integer("d", d, 1)
    s = check_real("noise_std", noise_std, 0, math.inf, high_open=True)
    return NormalDist().cdf(math.sqrt(2 * d / math.pi) / n / math.sqrt(1 / n + s * s))


def holdout_selection(
    train: Any,
    holdout: Any,
    fresh: Any,
    ks: Sequence[int],
    noise: str | None = None,
    rng: np.random.Generator | int | None = None,
) -> Array:
    """Select features with the help of a holdout, then report the classifier's accuracy on it (Science 349:636).

    c_train = X^T y / n, c_hold likewise. Kept are features with equal signs and both abs(c) > 1 / sqrt(n) of their set;
    c_train of the others becomes 0. For each k: w = sign(c_train) on the k features of largest abs(c_train), classifier
    sign(X w); a sign of 0 counts as an error. Features not kept weigh 0 also among the k largest.

    ``noise="gaussian"`` asks the holdout through Thresholdout with T = 4 / sqrt(n), tol = 1 / sqrt(n), n the holdout's:
    c_hold becomes abs(c_train - c_hold) > T + N(0, tol^2) ? c_hold + N(0, tol^2) : c_train, and the accuracy reported
    is abs(acc_train - acc_hold) < T + N(0, tol^2) ? acc_train : acc_hold + N(0, tol^2). Draws, in order:
    ``rng.normal(0, tol, d)`` for the tests, again for the answers, then per k > 0 one for the test and, if over, one
    for the answer.

    Args:
        train: pair (X [n, d], y [n] of +-1).
        holdout: likewise.
        fresh: likewise; what the accuracy really is.
        ks: numbers of features, each in 0..d; 0 reports 0.5 three times and draws nothing.
        noise: None (default) for the standard holdout, or "gaussian".
        rng: generator of the noise, or its seed.

    Returns:
        [len(ks), 3]: accuracy on train, reported on the holdout, on fresh.

    Raises:
        ValueError: pairs that do not fit, a k outside 0..d, an unknown noise.
    """
    sets = [_labelled(*item) for item in (("train", train), ("holdout", holdout), ("fresh", fresh))]
    d = sets[0][0].shape[1]
    for name, (X, _) in zip(("holdout", "fresh"), sets[1:], strict=True):
        if X.shape[1] != d:
            raise ValueError(f"{name} must have {d} features like train, got {X.shape[1]}.")
    sizes = [check_integer("ks", int(k) if isinstance(k, np.integer) else k, 0, d) for k in ks]
    if noise is not None:
        check_choice("noise", noise, ("gaussian",))
    generator = as_generator(rng)
    c_train, c_hold = (X.T @ y / len(y) for X, y in sets[:2])
    bound_train, bound_hold = (1 / math.sqrt(len(y)) for _, y in sets[:2])
    threshold, tol = 4 * bound_hold, bound_hold
    if noise is not None:
        test, answer = generator.normal(0.0, tol, d), generator.normal(0.0, tol, d)
        c_hold = np.where(np.abs(c_train - c_hold) > threshold + test, c_hold + answer, c_train)
    kept = (c_train * c_hold > 0) & (np.abs(c_train) > bound_train) & (np.abs(c_hold) > bound_hold)
    c_train = np.where(kept, c_train, 0.0)
    order = np.argsort(-np.abs(c_train), kind="stable")
    weights = np.zeros((d, len(sizes)))
    for column, k in enumerate(sizes):
        weights[order[:k], column] = np.sign(c_train[order[:k]])
    scores = np.stack([(np.sign(X @ weights) == y[:, None]).mean(axis=0) for X, y in sets], axis=1)
    for row, k in zip(scores, sizes, strict=True):
        if k == 0:
            row[:] = 0.5
        elif noise is not None:
            below = abs(row[0] - row[1]) < threshold + generator.normal(0.0, tol)
            row[1] = row[0] if below else row[1] + generator.normal(0.0, tol)
    return scores


@dataclass(frozen=True)
class ReusableHoldoutExperiment:
    """Result of ``reusable_holdout_experiment`` (Science 349:636).

    Attributes:
        ks: numbers of features.
        standard: [len(ks), 3], accuracy on train, reported on the holdout, on fresh data; holdout reused as it is.
        thresholdout: the same with the holdout behind Thresholdout.

    Reference: Dwork et al., Science 349:636, 2015, its experiment and program; the mechanism is that of arXiv
    1506.02629.
    """

    ks: tuple[int, ...]
    standard: Array
    thresholdout: Array


def reusable_holdout_experiment(
    n: int, d: int, ks: Sequence[int], signal: bool = False, noise: str = "gaussian", seed: int = 0
) -> ReusableHoldoutExperiment:
    """The experiment of the Science paper: the same data, with the holdout reused and behind Thresholdout.

    Train, holdout and fresh set, n rows each: X ~ N(0, 1), y = +-1 at random. With ``signal`` the first 20 features get
    (6 / sqrt(n)) y added in all three sets. The paper has n = d = 10000. Takes 24 n d bytes.

    Args:
        n: rows of each set, at least 1.
        d: features, at least 1.
        ks: numbers of features to report, each in 0..d.
        signal: whether the first 20 features (all, if d < 20) tell something.
        noise: "gaussian", that of the published program.
        seed: of data and noise.

    Raises:
        ValueError: a number outside its range, an unknown noise.
    """
    n, d, seed = check_integer("n", n, 1), check_integer("d", d, 1), check_integer("seed", seed, 0)
    check_choice("noise", noise, ("gaussian",))
    rng = np.random.default_rng(seed)

    def draw() -> tuple[Array, Array]:
        X, y = rng.standard_normal((n, d)), rng.choice((-1.0, 1.0), n)
        if signal:
            X[:, :SIGNAL_FEATURES] += SIGNAL_SIZE / math.sqrt(n) * y[:, None]
        return X, y

    train, holdout, fresh = draw(), draw(), draw()
    standard = holdout_selection(train, holdout, fresh, ks)
    guarded = holdout_selection(train, holdout, fresh, ks, noise, rng)
    return ReusableHoldoutExperiment(tuple(int(k) for k in ks), standard, guarded)


@dataclass(frozen=True)
class FreedmanParadox:
    """Result of ``freedman_paradox`` (Freedman 1983).

    Attributes:
        X: noise [n, d].
        y: noise [n].
        p_values: two-sided p of each univariate slope [d].
        selected: indices of the variables with p < 0.25.
        f_statistic: F of the refitted model.
        f_p_value: its p, as if the variables had not been selected on the same data.

    Reference: Freedman 1983, an example of the reuse of a sample that Dwork et al., arXiv 1411.2664, guard against.
    """

    X: Array
    y: Array
    p_values: Array
    selected: NDArray[np.int64]
    f_statistic: float
    f_p_value: float


def freedman_paradox(n: int = 100, d: int = 50, seed: int = 0) -> FreedmanParadox:
    """Screen pure noise, refit on the same data, and read an F test that believes it (Freedman 1983; 1411.2664).

    Each of d variables is regressed on alone, with intercept; those with p < 0.25 are kept and y is refitted on all of
    them with intercept. F = ((TSS - RSS) / k) / (RSS / (n - k - 1)), k variables kept.

    Args:
        n: rows, at least 3 (100, the paper's).
        d: variables, at least 1 (50, the paper's).
        seed: of the noise.

    Returns:
        Data, tests and the refit; F = 0 and p = 1 if nothing was kept.

    Raises:
        ValueError: a number outside its range, or so few rows that the refit leaves no residual (n <= k + 1).
    """
    n, d, seed = check_integer("n", n, 3), check_integer("d", d, 1), check_integer("seed", seed, 0)
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((n, d)), rng.standard_normal(n)
    centred, target = X - X.mean(axis=0), y - y.mean()
    total = target @ target
    r = centred.T @ target / np.sqrt((centred**2).sum(axis=0) * total)
    t = r * np.sqrt((n - 2) / (1 - r * r))
    p_values = 2 * stdtr(n - 2, -np.abs(t))
    selected = np.flatnonzero(p_values < P_KEPT)
    k = len(selected)
    if k == 0:
        return FreedmanParadox(X, y, p_values, selected, 0.0, 1.0)
    if n <= k + 1:
        raise ValueError(f"n must be above {k + 1} to refit the {k} variables kept, got {n}.")
    slopes = np.linalg.lstsq(centred[:, selected], target, rcond=None)[0]
    residual = target - centred[:, selected] @ slopes
    rss = residual @ residual
    f = float((total - rss) / k / (rss / (n - k - 1)))
    return FreedmanParadox(X, y, p_values, selected, f, float(fdtrc(k, n - k - 1, f)))
