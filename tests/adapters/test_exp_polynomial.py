"""Polynomials near exp: coefficients against NumPy's and Python's own, degrees of the card, refusals."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev

from normviz.adapters import exp_polynomial, polynomial_relative_error, required_degree


def test_taylor_coefficients_are_inverse_factorials() -> None:
    coeffs = exp_polynomial("taylor", 175, 2.0)
    assert coeffs.dtype == torch.float64
    assert coeffs.tolist() == [float(Fraction(1, math.factorial(i))) for i in range(176)]


@pytest.mark.parametrize("radius", [0.5, 1.0, 4.0, 8.0])
@pytest.mark.parametrize("degree", [0, 1, 2, 5, 9])
def test_chebyshev_is_numpys_interpolant(degree: int, radius: float) -> None:
    basis = chebyshev.chebinterpolate(lambda t: np.exp(radius * t), degree)
    x = np.linspace(-radius, radius, 201)
    expected = chebyshev.chebval(x / radius, basis)
    ours = np.polynomial.polynomial.polyval(x, exp_polynomial("chebyshev", degree, radius).numpy())
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-13 * np.exp(radius))
    nodes = radius * np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    at_nodes = np.polynomial.polynomial.polyval(nodes, exp_polynomial("chebyshev", degree, radius).numpy())
    np.testing.assert_allclose(at_nodes, np.exp(nodes), rtol=1e-12 * np.exp(2 * radius) / radius, atol=0)


@pytest.mark.parametrize("radius", [0.0, 1e-300, 1e-9])
def test_chebyshev_of_a_vanishing_radius_is_taylor(radius: float) -> None:
    torch.testing.assert_close(
        exp_polynomial("chebyshev", 8, radius), exp_polynomial("taylor", 8, radius), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("kind", ["taylor", "chebyshev"])
def test_relative_error_is_the_largest_over_the_interval(kind: str) -> None:
    coeffs = exp_polynomial(kind, 4, 2.0)
    worst = 0.0
    for i in range(4001):
        x = -2 + 4 * i / 4000
        worst = max(worst, abs(sum(c * x**k for k, c in enumerate(coeffs.tolist())) * math.exp(-x) - 1))
    assert polynomial_relative_error(coeffs, 2.0) == pytest.approx(worst, rel=1e-10)
    assert polynomial_relative_error(coeffs.tolist(), 2.0) == polynomial_relative_error(coeffs, 2.0)
    if kind == "taylor":
        assert worst <= math.exp(4) * 2**5 / math.factorial(5)
    assert polynomial_relative_error(coeffs, 1e6) == math.inf


def test_check_5_required_degrees_of_the_card() -> None:
    radii = (0.5, 1, 2, 4, 8)
    assert [required_degree(r, 1e-3) for r in radii] == [4, 6, 10, 17, 31]
    assert [required_degree(r, 1e-3, "chebyshev") for r in radii] == [3, 5, 7, 11, 20]


@pytest.mark.parametrize("kind", ["taylor", "chebyshev"])
def test_check_5_required_degree_is_monotone_and_smallest(kind: str) -> None:
    by_radius = [required_degree(r, 1e-3, kind) for r in np.linspace(0, 8, 17)]
    by_eps = [required_degree(2.0, eps, kind) for eps in (0.5, 0.1, 1e-2, 1e-4, 1e-8)]
    assert by_radius == sorted(by_radius)
    assert by_eps == sorted(by_eps)
    assert by_radius[0] == 0
    for radius in (0.7, 3.0):
        g = required_degree(radius, 1e-4, kind)
        errors = [polynomial_relative_error(exp_polynomial(kind, i, radius), radius) for i in range(g + 1)]
        assert errors[g] <= 1e-4 < min(errors[:g])


@pytest.mark.parametrize("kind", ["taylor", "chebyshev"])
@pytest.mark.parametrize("radius", [18.0, 30.0, 1e6])
def test_no_degree_where_float64_ends(kind: str, radius: float) -> None:
    with pytest.raises(ValueError, match=r"^radius must be smaller"):
        required_degree(radius, 1e-3, kind)
    with pytest.raises(ValueError, match=r"^radius must be smaller.*degree <= 3 "):
        required_degree(8.0, 1e-3, kind, max_degree=3)


@pytest.mark.parametrize("kind", ["taylor", "chebyshev"])
def test_degrees_are_found_up_to_where_rounding_allows(kind: str) -> None:
    g = required_degree(13.0, 1e-3, kind)
    assert polynomial_relative_error(exp_polynomial(kind, g, 13.0), 13.0) <= 1e-3


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: exp_polynomial("pade", 3, 1.0), "kind"),
        (lambda: exp_polynomial("taylor", -1, 1.0), "degree"),
        (lambda: exp_polynomial("taylor", 1.5, 1.0), "degree"),
        (lambda: exp_polynomial("taylor", 3, -1.0), "radius"),
        (lambda: exp_polynomial("chebyshev", 3, 1e4), "radius"),
        (lambda: polynomial_relative_error(torch.ones(3), -1.0), "radius"),
        (lambda: polynomial_relative_error(torch.ones(0), 1.0), "coeffs"),
        (lambda: polynomial_relative_error(torch.ones(2, 2), 1.0), "coeffs"),
        (lambda: required_degree(-1.0, 1e-3), "radius"),
        (lambda: required_degree(math.nan, 1e-3), "radius"),
        (lambda: required_degree(1.0, 0.0), "eps"),
        (lambda: required_degree(1.0, 1.0), "eps"),
        (lambda: required_degree(1.0, 1e-3, "pade"), "kind"),
        (lambda: required_degree(1.0, 1e-3, max_degree=-1), "max_degree"),
    ],
)
def test_refusals(call, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must"):
        call()
