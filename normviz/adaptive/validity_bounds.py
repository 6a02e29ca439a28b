"""How many samples keep answers valid, and how much privacy noisy answers spend: closed forms.

Dwork, Feldman, Hardt, Pitassi, Reingold, Roth, "Preserving Statistical Validity in Adaptive Data Analysis", STOC 2015,
arXiv 1411.2664; the theorem on Thresholdout: "Guilt-Free Data Analysis", Communications of the ACM 60(4), 2017.

The constants of the transfer theorem and of the (eps, delta) form of the sparse test are quoted from memory of the
papers; the other formulas are derived. At the sizes of a demonstration the adaptive bounds are vacuous: they ask for
far more samples than there are. Nothing here is rounded.
"""

from __future__ import annotations

import math

from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "gaussian_privacy",
    "laplace_privacy",
    "sample_size",
    "sparse_privacy",
    "thresholdout_parameters",
    "transfer_sample_size",
]


def _error_level(tau: float) -> float:
    return check_real("tau", tau, 0, math.inf, low_open=True, high_open=True)


def _failure(beta: float) -> float:
    return check_real("beta", beta, 0, 1, low_open=True, high_open=True)


def _delta(delta: float) -> float:
    return check_real("delta", delta, 0, 1, high_open=True)


def sample_size(kind: str, m: int, tau: float, beta: float) -> float:
    """Samples that make m answers accurate to tau, all at once, with probability 1 - beta (Hoeffding's inequality).

    "nonadaptive": n = ln(2 m / beta) / (2 tau^2), all m queries fixed beforehand. "splitting": m times as many, each
    query, however chosen, on samples of its own.

    Args:
        kind: "nonadaptive" or "splitting".
        m: number of queries, at least 1.
        tau: largest allowed error, above 0.
        beta: probability of failure, in (0, 1).

    Returns:
        The number of samples, not rounded.

    Raises:
        ValueError: an unknown kind, or a number outside its range.

    Example:
        >>> round(sample_size("nonadaptive", 100, 0.1, 0.05), 1)
        414.7
    """
    check_choice("kind", kind, ("nonadaptive", "splitting"))
    m, tau, beta = check_integer("m", m, 1), _error_level(tau), _failure(beta)
    fixed = math.log(2 * m / beta) / (2 * tau * tau)
    return fixed if kind == "nonadaptive" else m * fixed


def transfer_sample_size(tau: float, beta: float, delta_form: bool = False) -> float:
    """Samples from which the transfer theorem holds (arXiv 1411.2664; constants from memory).

    A is differentially private and outputs a query phi = A(S). Then Pr[abs(P[phi] - E_S[phi]) > tau] <= beta in the
    pure form if eps <= tau / 2 and n >= 12 ln(4 / beta) / tau^2, in the ``delta_form`` if eps <= tau / 4,
    delta = exp(-4 ln(8 / beta) / tau) and n >= 48 ln(4 / beta) / tau^2.

    Args:
        tau: difference of sample and population, above 0.
        beta: probability of failure, in (0, 1).
        delta_form: the (eps, delta) form instead of the pure one.

    Returns:
        The number of samples, not rounded.

    Raises:
        ValueError: tau or beta outside its range.
    """
    tau, beta = _error_level(tau), _failure(beta)
    return (48 if delta_form else 12) * math.log(4 / beta) / (tau * tau)


def thresholdout_parameters(tau: float, m: int, beta: float) -> tuple[float, float]:
    """Threshold T = 3 tau / 4 and noise scale sigma = tau / (96 ln(4 m / beta)) of Thresholdout's theorem (CACM 2017).

    Args:
        tau: largest allowed error, above 0.
        m: number of queries, at least 1.
        beta: probability of failure, in (0, 1).

    Returns:
        (T, sigma), for Laplace noise.

    Raises:
        ValueError: a number outside its range.

    Example:
        >>> thresholdout_parameters(0.1, 100, 0.05)[1] == 0.1 / (96 * math.log(8000))
        True
    """
    tau, m, beta = _error_level(tau), check_integer("m", m, 1), _failure(beta)
    return 3 * tau / 4, tau / (96 * math.log(4 * m / beta))


def laplace_privacy(m: int, n: int, scale: float) -> float:
    """Eps of m means of n values in [0, 1], each with noise Lap(scale): m / (n scale), basic composition.

    Args:
        m: number of answers, at least 0.
        n: number of samples, at least 1.
        scale: scale of the Laplace density exp(-abs(x) / scale) / (2 scale); its standard deviation is sqrt(2) scale.

    Returns:
        eps; 0 for no answers, else infinity for scale 0.

    Raises:
        ValueError: a number outside its range.
    """
    m, n, scale = check_integer("m", m, 0), check_integer("n", n, 1), check_real("scale", scale, 0)
    if m == 0:
        return 0.0
    return m / (n * scale) if scale else math.inf


def gaussian_privacy(m: int, n: int, std: float, delta: float) -> float:
    """Eps of m means of n values in [0, 1], each with noise N(0, std^2): rho + 2 sqrt(rho ln(1 / delta)).

    rho = m / (2 n^2 std^2) is the zero-concentrated privacy, which adds up over answers.

    Args:
        m: number of answers, at least 0.
        n: number of samples, at least 1.
        std: standard deviation of the noise, at least 0.
        delta: in [0, 1).

    Returns:
        eps; 0 for no answers, else infinity for std 0 or delta 0.

    Raises:
        ValueError: a number outside its range.
    """
    m, n = check_integer("m", m, 0), check_integer("n", n, 1)
    std, delta = check_real("std", std, 0), _delta(delta)
    if m == 0:
        return 0.0
    if not std or not delta:
        return math.inf
    rho = m / (2 * (n * std) ** 2)
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def sparse_privacy(budget: int, sigma: float, n: int, delta: float = 0.0) -> float:
    """Eps of the sparse test with Laplace noise: 2 B / (sigma n); for delta > 0 sqrt(32 B ln(2 / delta)) / (sigma n).

    Why 2 B / (sigma n): between two over-threshold answers, the noise 2 sigma of the threshold and 4 sigma of the test
    cost 1 / (2 sigma n) + 2 / (4 sigma n), the noise sigma of the answer 1 / (sigma n). The form with delta is quoted
    from memory of arXiv 1506.02629; it is the smaller one only for large B.

    Args:
        budget: B, the over-threshold answers allowed, at least 1.
        sigma: scale of the answers' noise, at least 0.
        n: number of samples, at least 1.
        delta: in [0, 1); 0 (default) for the pure form.

    Returns:
        eps; infinity for sigma 0.

    Raises:
        ValueError: a number outside its range.

    Example:
        >>> sparse_privacy(10, 0.05, 1000)
        0.4
    """
    budget, n = check_integer("budget", budget, 1), check_integer("n", n, 1)
    sigma, delta = check_real("sigma", sigma, 0), _delta(delta)
    if not sigma:
        return math.inf
    spent = math.sqrt(32 * budget * math.log(2 / delta)) if delta else 2 * budget
    return spent / (sigma * n)
