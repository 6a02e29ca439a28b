r"""Polynomials that stand for exp on [-R, R], and the degree that a relative error needs.

Hu et al. 2024 (arXiv 2406.03136) build their almost linear algorithm on the polynomial method of Aggarwal and Alman
2022: a polynomial P of degree g with ``|P(x) / exp(x) - 1| <= eps`` for ``|x| <= R`` exists when

    g = Theta( max( log(1/eps) / log(log(1/eps) / R), R ) ).

Two families are offered. The Taylor polynomial of exp has the a-priori error ``exp(2R) R^(g+1) / (g+1)!``. The
Chebyshev interpolant (points ``R cos(pi (j + 1/2) / (g+1))``) has the smaller largest error, the Taylor polynomial the
smaller error near 0, where most scores lie. Degrees for eps = 1e-3:

    R          0.5   1    2    4    8
    Taylor      4    6   10   17   31
    Chebyshev   3    5    7   11   20

All coefficients multiply powers of x and are float64. Rounding alone then adds a relative error of about
``exp(2R) 1e-16``: near x = -R numbers of size exp(R) cancel to exp(-R). At eps = 1e-3 nothing is reached above R of
about 16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from decimal import Decimal, localcontext
from itertools import zip_longest

import numpy as np
import torch
from numpy.polynomial.polynomial import polyval
from numpy.typing import NDArray
from torch import Tensor

from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "KINDS",
    "LARGEST_RADIUS",
    "exp_polynomial",
    "polynomial_relative_error",
    "polynomial_with_error",
    "required_degree",
]

KINDS = ("taylor", "chebyshev")
"""The families of polynomials."""

GRID = 4001
"""Points of [-R, R] at which a relative error is taken."""

LARGEST_EXPONENT = 700.0
"""exp of more is no finite float64 number."""

LARGEST_RADIUS = 24.0
"""Above it no polynomial in powers is near exp in float64: exp(2 * 24) * 2^-53 is about 10^5."""

Array = NDArray[np.float64]


def exp_polynomial(kind: str, degree: int, radius: float) -> Tensor:
    """Coefficients c_i of a polynomial ``P(x) = sum_i c_i x^i`` near exp on [-radius, radius].

    "taylor": ``c_i = 1/i!``, whatever the radius. "chebyshev": the interpolant of exp in the degree + 1 roots of
    ``T_{degree+1}(x / radius)``, rewritten in powers of x. Its coefficients in the basis T_k are sums of modified
    Bessel functions, ``exp(R t) = I_0(R) + 2 sum_n I_n(R) T_n(t)``, folded by ``T_{2mN +- k} = (-1)^m T_k`` at the N
    points; they are taken in decimal arithmetic and rounded once. Radius 0 gives the Taylor polynomial, their limit.

    Method: the polynomial step of Hu et al. 2024, arXiv 2406.03136, section 3.

    Args:
        kind: "taylor" or "chebyshev".
        degree: g >= 0.
        radius: R >= 0, finite.

    Returns:
        [degree + 1] float64 on the CPU, ascending powers.

    Raises:
        ValueError: unknown kind, degree < 0, radius < 0; Chebyshev with a radius above 700, whose exp overflows.

    Example:
        >>> exp_polynomial("taylor", 2, 1.0)
        tensor([1.0000, 1.0000, 0.5000], dtype=torch.float64)
    """
    check_choice("kind", kind, KINDS)
    degree = check_integer("degree", degree, 0)
    radius = check_real("radius", radius, 0, math.inf, high_open=True)
    return torch.from_numpy(_coefficients(kind, degree, radius))


def _coefficients(kind: str, degree: int, radius: float) -> Array:
    if kind == "taylor":
        return np.array([1 / math.factorial(i) for i in range(degree + 1)])
    return _chebyshev(degree, radius)


def _chebyshev(degree: int, radius: float) -> Array:
    if radius == 0:
        return _coefficients("taylor", degree, radius)
    if radius > LARGEST_EXPONENT:
        raise ValueError(f"radius must be at most {LARGEST_EXPONENT:g} (exp in float64), got {radius:g}.")
    points = degree + 1
    folds = math.ceil((6 * radius + 60) / (2 * points))  # beyond, I_n(R) is below the rounding of exp(-R)
    # Coefficients of T_k and of powers cancel to one part in exp(2.4 R): decimal numbers carry the digits for that.
    with localcontext(prec=60 + 2 * math.ceil(radius)):
        bessel = _bessel(2 * folds * points + degree, Decimal(radius))
        powers = [Decimal(0)] * points
        for k, row in enumerate(_chebyshev_rows(degree)):
            b = bessel[k]
            for m in range(1, folds + 1):
                b += (-1) ** m * (bessel[2 * m * points - k] + bessel[2 * m * points + k])
            b *= 1 if k == 0 else 2
            for i, t in enumerate(row):
                if t:
                    powers[i] += t * b
        if degree == 0:
            return np.array([float(powers[0])])
        return np.array([float(c / Decimal(radius) ** i) for i, c in enumerate(powers)])


def _bessel(highest: int, x: Decimal) -> list[Decimal]:
    """Modified Bessel functions I_0(x)..I_highest(x) by backward recurrence, scaled by ``exp(x) = I_0 + 2 sum I_n``."""
    start = highest + 40
    values = [Decimal(0)] * (start + 2)
    values[start] = Decimal(1)
    for n in range(start, 0, -1):
        values[n - 1] = values[n + 1] + 2 * n * values[n] / x
    total = values[0] + 2 * sum(values[1:])
    size = x.exp() / total
    return [size * value for value in values[: highest + 1]]


def _chebyshev_rows(degree: int) -> Iterator[list[int]]:
    """Coefficients of T_0, ..., T_degree in ascending powers."""
    before, row = [0], [1]
    for k in range(degree + 1):
        yield row
        doubled = [0, *(t if k == 0 else 2 * t for t in row)]
        before, row = row, [t - s for t, s in zip_longest(doubled, before, fillvalue=0)]


def polynomial_relative_error(coeffs: Tensor | Sequence[float], radius: float) -> float:
    """``max |P(x) exp(-x) - 1|`` over 4001 equal steps of [-radius, radius], in float64.

    Args:
        coeffs: [g + 1], ascending powers, as :func:`exp_polynomial` returns them.
        radius: R >= 0, finite.

    Returns:
        The error; inf where float64 overflows.

    Raises:
        ValueError: coeffs is not a non-empty vector, radius < 0.
    """
    values = (
        coeffs.detach().cpu().double().numpy() if isinstance(coeffs, Tensor) else np.asarray(coeffs, float)
    )
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"coeffs must be a vector of at least one number, got shape {values.shape}.")
    return _relative_error(values, check_real("radius", radius, 0, math.inf, high_open=True))


def polynomial_with_error(kind: str, degree: int, radius: float) -> tuple[Tensor, float]:
    """:func:`exp_polynomial` and its :func:`polynomial_relative_error`, also where tensors have no values to read."""
    values = _coefficients(kind, degree, radius)
    return torch.tensor(values, dtype=torch.float64), _relative_error(values, radius)


def _relative_error(coeffs: Array, radius: float) -> float:
    x = np.linspace(-radius, radius, GRID)
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.abs(polyval(x, coeffs) * np.exp(-x) - 1).max())
    return math.inf if math.isnan(error) else error


def required_degree(radius: float, eps: float, kind: str = "taylor", max_degree: int = 200) -> int:
    """The smallest degree whose relative error on [-radius, radius] is at most ``eps``, by evaluating each degree.

    Args:
        radius: R >= 0. Radius 0 needs degree 0.
        eps: target of :func:`polynomial_relative_error`, in (0, 1).
        kind: "taylor" (default) or "chebyshev".
        max_degree: the highest degree that is tried. Default 200.

    Returns:
        g.

    Raises:
        ValueError: arguments out of range; no degree reaches eps, because the radius is too large for float64 or for
            max_degree (the message names ``radius``).

    Example:
        >>> [required_degree(r, 1e-3) for r in (0.5, 1, 2, 4, 8)]
        [4, 6, 10, 17, 31]
    """
    radius = check_real("radius", radius, 0, math.inf, high_open=True)
    eps = check_real("eps", eps, 0, 1, low_open=True, high_open=True)
    check_choice("kind", kind, KINDS)
    max_degree = check_integer("max_degree", max_degree, 0)
    if radius <= LARGEST_RADIUS:
        # From 4 R + 40 on, further terms are below the rounding of exp(-R) and change nothing.
        for degree in range(min(max_degree, math.ceil(4 * radius + 40)) + 1):
            if _relative_error(_coefficients(kind, degree, radius), radius) <= eps:
                return degree
    raise ValueError(
        f"radius must be smaller: at {radius:g} no {kind} polynomial of degree <= {max_degree} has a relative error"
        f" of {eps:g} or less (float64 rounding alone adds about exp(2 radius) * 1e-16)."
    )
