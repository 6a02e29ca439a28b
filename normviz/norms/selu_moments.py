r"""The moment map of self-normalizing networks: how one SELU layer moves mean and variance.

Günter Klambauer, Thomas Unterthiner, Andreas Mayr, Sepp Hochreiter, "Self-Normalizing Neural Networks",
NeurIPS 2017, arXiv:1706.02515. The layers themselves are in ``normviz.norms.self_normalizing``.

Paper and official notebook (bioinf-jku/SNNs, ``getSELUparameters.ipynb``) agree on every formula here. Two
things are computed differently, with the same result: the variance is taken around a shifted origin (below),
and ``selu_parameters`` solves its two equations in closed form where the notebook calls a root finder.

Notation and numerics are explained in ``normviz.norms._selu_integrals``; in short, mu and nu are mean and
variance of the activations going in, mu~ and nu~ of those coming out, omega and tau are sum and sum of squares
of a unit's weights, z ~ N(m, v) with m = mu omega, v = nu tau is the pre-activation, Phi = P(z > 0), Q = 1 - Phi,
phi = e^{-m^2/(2v)}/sqrt(2 pi), E1 = E[e^z; z <= 0] and E2 = E[e^{2z}; z <= 0].

Equation -> code::

    g: (mu, nu) -> (mu~, nu~)                           moment_map
    J = d(mu~, nu~) / d(mu, nu)                         moment_map_jacobian
    g o g o ... o g                                     iterate_moment_map, fixed_point
    T1: largest singular value of J < 1 on a box        is_contraction    (theorem 1)
    mu~ = mean, nu~ = var solved for (alpha, scale)     selu_parameters
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from normviz.norms._selu_integrals import (
    ALPHA01,
    LAMBDA01,
    Array,
    apply_jacobian,
    apply_map,
    bounded_step,
    checked,
    pieces,
)
from normviz.validation import check_integer, check_real

__all__ = [
    "ALPHA01",
    "LAMBDA01",
    "ContractionReport",
    "fixed_point",
    "is_contraction",
    "iterate_moment_map",
    "moment_map",
    "moment_map_jacobian",
    "selu_parameters",
]


class ContractionReport(TypedDict):
    """What ``is_contraction`` found on its grid.

    Reference: Klambauer, Unterthiner, Mayr, Hochreiter, "Self-Normalizing Neural Networks", arXiv 1706.02515,
        theorem 1.
    """

    contraction: bool
    max_norm: float
    image: tuple[tuple[float, float], tuple[float, float]]


def moment_map(
    mu: npt.ArrayLike,
    nu: npt.ArrayLike,
    omega: npt.ArrayLike = 0.0,
    tau: npt.ArrayLike = 1.0,
    alpha: npt.ArrayLike = ALPHA01,
    scale: npt.ArrayLike = LAMBDA01,
) -> tuple[Array, Array]:
    r"""Mean and variance after one SELU layer, g(mu, nu) = (mu~, nu~).

    With z ~ N(mu omega, nu tau)::

        mu~ = scale ( m Phi + sqrt(v) phi + alpha (E1 - Q) )
        xi  = scale^2 ( (m^2 + v) Phi + m sqrt(v) phi + alpha^2 (E2 - 2 E1 + Q) ),    nu~ = xi - mu~^2

    Args:
        mu: mean of the incoming activations.
        nu: their variance, > 0.
        omega: sum of a unit's weights (0 in expectation for LeCun initialisation).
        tau: sum of its squared weights, > 0 (1 for LeCun, 2 for He initialisation).
        alpha: SELU's alpha (default: the paper's value for the fixed point (0, 1)).
        scale: SELU's lambda (same).

    All arguments broadcast against each other.

    Returns:
        ``(mu2, nu2)``, float64, of the common shape.

    Raises:
        ValueError: a nu or tau that is not > 0, or any number that is not finite.

    Example:
        >>> mean, var = moment_map(0.0, 1.0)
        >>> bool(abs(mean) < 1e-12), bool(abs(var - 1) < 1e-12)
        (True, True)
    """
    return apply_map(*checked(mu, nu, omega, tau, alpha, scale))


def moment_map_jacobian(
    mu: npt.ArrayLike,
    nu: npt.ArrayLike,
    omega: npt.ArrayLike = 0.0,
    tau: npt.ArrayLike = 1.0,
    alpha: npt.ArrayLike = ALPHA01,
    scale: npt.ArrayLike = LAMBDA01,
) -> Array:
    r"""Jacobian of :func:`moment_map` with respect to (mu, nu), shape (..., 2, 2).

    Rows are mu~ and nu~, columns mu and nu. From dE[h(z)]/dm = E[h'] and dE[h(z)]/dv = E[h'']/2, with the
    jump of f' at 0 counted once::

        M_m = scale (Phi + alpha E1)                M_v = scale (alpha E1 + (1-alpha) phi/sqrt(v)) / 2
        X_m = 2 scale^2 (m Phi + sqrt(v) phi + alpha^2 (E2 - E1))
        X_v = scale^2 (Phi + alpha^2 (2 E2 - E1))
        J = [[omega M_m,                     tau M_v                   ],
             [omega (X_m - 2 mu~ M_m),       tau (X_v - 2 mu~ M_v)     ]]

    Its largest singular value at (0, 1) with omega = 0, tau = 1 is 0.7877, so g contracts there.

    Args:
        mu: as in :func:`moment_map`.
        nu: as in :func:`moment_map`.
        omega: as in :func:`moment_map`.
        tau: as in :func:`moment_map`.
        alpha: as in :func:`moment_map`.
        scale: as in :func:`moment_map`.

    Raises:
        ValueError: as :func:`moment_map`.

    Example:
        >>> round(float(np.linalg.norm(moment_map_jacobian(0.0, 1.0), 2)), 4)
        0.7877
    """
    return apply_jacobian(*checked(mu, nu, omega, tau, alpha, scale))


def iterate_moment_map(
    mu: npt.ArrayLike,
    nu: npt.ArrayLike,
    steps: int,
    omega: npt.ArrayLike = 0.0,
    tau: npt.ArrayLike = 1.0,
    alpha: npt.ArrayLike = ALPHA01,
    scale: npt.ArrayLike = LAMBDA01,
) -> Array:
    """Trajectory of (mean, variance) through ``steps`` equal layers.

    A trajectory that diverges is held at +-1e150, one whose variance underflows at the smallest normal float,
    so that every row can be plotted.

    Args:
        mu: mean of the start.
        nu: variance of the start, > 0.
        steps: number of layers, >= 0.
        omega: as in :func:`moment_map`, equal in all layers.
        tau: as in :func:`moment_map`, equal in all layers.
        alpha: as in :func:`moment_map`.
        scale: as in :func:`moment_map`.

    Returns:
        Shape (steps + 1, ..., 2) with "..." the common shape of the arguments; row 0 is the start, the last
        axis holds (mu, nu). Scalars give (steps + 1, 2).

    Raises:
        ValueError: as :func:`moment_map`; steps negative or no integer.
    """
    steps = check_integer("steps", steps, 0)
    arguments = checked(mu, nu, omega, tau, alpha, scale)
    mean, var, *rest = np.broadcast_arrays(*arguments)
    rows = [np.stack([mean, var], axis=-1)]
    for _ in range(steps):
        mean, var = bounded_step(mean, var, *rest)
        rows.append(np.stack([mean, var], axis=-1))
    return np.stack(rows)


def fixed_point(
    omega: float = 0.0, tau: float = 1.0, alpha: float = ALPHA01, scale: float = LAMBDA01
) -> tuple[float, float]:
    """The attracting fixed point of the moment map that the start (0, 1) runs into.

    Iterates g until the change is below 1e-12 (1 + nu), then polishes with Newton steps on (mu, nu) - g = 0
    (slow convergence would otherwise leave an error larger than the last change). Fixed points that repel are
    not found: use :func:`selu_parameters` and :func:`moment_map_jacobian` to study those.

    For omega = 0 there is none when tau > 1 / (lambda^2 (1/2 - 1/(2 pi))), which is 2.66 for the standard SELU.

    Args:
        omega: sum of the weights of a unit.
        tau: sum of their squares, > 0.
        alpha: SELU's alpha.
        scale: SELU's lambda.

    Returns:
        ``(mu, nu)``, floats.

    Raises:
        ValueError: tau not > 0, or an argument that is not a finite number.
        RuntimeError: not reached within 1000 steps, or nu above 1e6 (the message holds the last change), or
            (0, 1) itself is a fixed point but repels, as with tau = 1 and omega = 1.

    Example:
        >>> mean, var = fixed_point(tau=2.0)  # He initialisation is the wrong partner of SELU
        >>> round(mean, 2), round(var, 1)
        (1.78, 18.5)
    """
    omega = check_real("omega", omega, low_open=True, high_open=True)
    tau = check_real("tau", tau, 0.0, low_open=True, high_open=True)
    alpha = check_real("alpha", alpha, low_open=True, high_open=True)
    scale = check_real("scale", scale, low_open=True, high_open=True)
    rest = [np.asarray(value, dtype=np.float64) for value in (omega, tau, alpha, scale)]

    def change(point: Array) -> Array:
        return np.stack(bounded_step(point[0], point[1], *rest)) - point

    point = np.array([0.0, 1.0])
    residual = math.inf
    for _ in range(1000):
        delta = change(point)
        residual = float(np.abs(delta).max())
        point = point + delta
        if point[1] > 1e6 or residual < 1e-12 * (1.0 + point[1]):
            break
    if point[1] > 1e6 or not residual < 1e-12 * (1.0 + point[1]):
        raise RuntimeError(
            f"no attracting fixed point reached from (0, 1) with omega={omega}, tau={tau}, alpha={alpha}, "
            f"scale={scale}: residual {residual:.3g} at (mu, nu) = ({point[0]:.6g}, {point[1]:.6g})."
        )
    for _ in range(3):
        delta = change(point)
        polished = point + np.linalg.solve(np.eye(2) - apply_jacobian(point[0], point[1], *rest), delta)
        if not (polished[1] > 0.0 and np.abs(change(polished)).max() < np.abs(delta).max()):
            break
        point = polished
    radius = float(np.abs(np.linalg.eigvals(apply_jacobian(point[0], point[1], *rest))).max())
    if radius > 1.0:
        raise RuntimeError(
            f"the fixed point ({point[0]:.6g}, {point[1]:.6g}) that (0, 1) leads to with omega={omega}, tau={tau}, "
            f"alpha={alpha}, scale={scale} repels (spectral radius {radius:.4g}, residual {residual:.3g})."
        )
    return float(point[0]), float(point[1])


def is_contraction(
    box: Mapping[str, tuple[float, float]], n: int = 9, alpha: float = ALPHA01, scale: float = LAMBDA01
) -> ContractionReport:
    """Is g a contraction of a box into itself, seen on an n^4 grid (theorem 1 of the paper).

    A grid is evidence, not a proof: the paper's own proof bounds the singular value between grid points too.

    Args:
        box: ``(low, high)`` for each of "mu", "nu", "omega" and "tau".
        n: points per axis, both ends included, >= 2.
        alpha: SELU's alpha.
        scale: SELU's lambda.

    Returns:
        A dict: ``max_norm`` is the largest spectral norm of the Jacobian, ``image`` is
        ((mu~ min, mu~ max), (nu~ min, nu~ max)), ``contraction`` is true when max_norm < 1 and the image lies
        inside the (mu, nu) sides of the box (up to rounding, 1e-12).

    Raises:
        ValueError: wrong keys, low > high, nu or tau not > 0, n < 2.

    Example:
        >>> theorem1 = {"mu": (-0.1, 0.1), "omega": (-0.1, 0.1), "nu": (0.8, 1.5), "tau": (0.95, 1.1)}
        >>> is_contraction(theorem1)["contraction"]
        True
    """
    n = check_integer("n", n, 2)
    names = ("mu", "nu", "omega", "tau")
    if set(box) != set(names):
        raise ValueError(
            f"box must have exactly the keys {', '.join(map(repr, names))}, got {sorted(box)!r}."
        )
    axes = []
    for name in names:
        low, high = box[name]
        if not low <= high:
            raise ValueError(f"box[{name!r}] must be (low, high) with low <= high, got {box[name]!r}.")
        axes.append(np.linspace(low, high, n))
    mu, nu, omega, tau = np.meshgrid(*axes, indexing="ij", sparse=True)
    mean, var = moment_map(mu, nu, omega, tau, alpha, scale)
    jacobian = moment_map_jacobian(mu, nu, omega, tau, alpha, scale)  # (n, n, n, n, 2, 2)
    max_norm = float(np.linalg.norm(jacobian, ord=2, axis=(-2, -1)).max())
    image = ((float(mean.min()), float(mean.max())), (float(var.min()), float(var.max())))
    inside = all(
        box[name][0] - 1e-12 <= low and high <= box[name][1] + 1e-12
        for name, (low, high) in zip(("mu", "nu"), image, strict=True)
    )
    return {"contraction": inside and max_norm < 1.0, "max_norm": max_norm, "image": image}


def selu_parameters(
    mean: float = 0.0, var: float = 1.0, *, omega: float = 1.0, tau: float = 1.0
) -> tuple[float, float]:
    r"""SELU's (alpha, scale) for which (mean, var) is a fixed point of the moment map.

    With beta = scale alpha and the integrals of this module at m = mean omega, v = var tau, the two equations
    are a line and an ellipse in the (scale, beta) plane::

        P scale + N beta = mean               P = m Phi + sqrt(v) phi > 0,      N = E1 - Q < 0
        R scale^2 + S beta^2 = mean^2 + var   R = (m^2+v) Phi + m sqrt(v) phi,  S = E2 - 2 E1 + Q

    which meet at most once with scale > 0 and beta > 0, namely, if
    N/sqrt(S) < mean/sqrt(mean^2+var) < P/sqrt(R). The default omega = tau = 1 is that of the official
    notebook: the *pre-activation* itself is N(mean, var). With mean != 0 and zero-sum weights pass omega=0:
    the answer for omega=1 is then NOT a fixed point. For mean = 0, omega does not matter.

    A fixed point need not attract: at mean -0.1, var 2, omega = tau = 1, the Jacobian has spectral radius 1.108.

    Args:
        mean: mean of the fixed point.
        var: its variance, > 0.
        omega: sum of the weights of a unit.
        tau: sum of their squares, > 0.

    Returns:
        ``(alpha, scale)``, both > 0.

    Raises:
        ValueError: var or tau not > 0, or an argument that is not a finite number.
        RuntimeError: no pair with alpha > 0 and scale > 0 exists, or float64 cannot resolve it (var tau
            below about 1e-6, all of N(m, v) on one side of 0, relative residual of 1e-9 or more).

    Example:
        >>> alpha, scale = selu_parameters(0.0, 1.0)
        >>> round(alpha, 6), round(scale, 6)
        (1.673263, 1.050701)
    """
    mean = check_real("mean", mean, low_open=True, high_open=True)
    var = check_real("var", var, 0.0, low_open=True, high_open=True)
    omega = check_real("omega", omega, low_open=True, high_open=True)
    tau = check_real("tau", tau, 0.0, low_open=True, high_open=True)
    p = pieces(np.asarray(mean * omega), np.asarray(var * tau))
    P = float(p.m * p.Phi + p.s * p.phi)
    N = float(p.E1 - p.Q)
    R = float((p.m * p.m + p.v) * p.Phi + p.m * p.s * p.phi)
    S = float(p.E2 - 2.0 * p.E1 + p.Q)
    where = f"mean={mean}, var={var}, omega={omega}, tau={tau}"
    # Each integral is a difference of these; where it cancels to under a millionth, its digits are rounding.
    parts = [(P, abs(p.m) * p.Phi), (-N, p.Q), (R, (p.m * p.m + p.v) * p.Phi), (S, p.Q)]
    if not all(value > 1e-6 * float(part) for value, part in parts):
        raise RuntimeError(
            f"no SELU found for {where}: float64 cannot resolve one side of 0 there (residual unknown)."
        )
    second = mean * mean + var
    reach = mean / math.sqrt(second)
    low, high = N / math.sqrt(S), P / math.sqrt(R)
    if not low < reach < high:
        raise RuntimeError(
            f"no SELU with alpha > 0 and scale > 0 has its fixed point at {where}: mean/sqrt(mean^2+var) must "
            f"lie in ({low:.6g}, {high:.6g}), it is {reach:.6g} (residual {max(low - reach, reach - high):.3g})."
        )
    G = S * P * P + R * N * N
    root = math.sqrt(second * G - S * R * mean * mean)
    scale = (P * S * mean - N * root) / G
    alpha = (N * R * mean + P * root) / G / scale
    mean2, var2 = moment_map(mean, var, omega, tau, alpha, scale)
    residual = float(max(abs(mean2 - mean), abs(var2 - var)))
    if not residual < 1e-9 * max(1.0, second):
        raise RuntimeError(
            f"SELU parameters for {where} not found: residual {residual:.3g} is not below 1e-9."
        )
    return alpha, scale
