r"""The Gaussian integrals behind the SELU moment map, and the map and its Jacobian on checked arrays.

The public side, with the equations, is ``normviz.norms.selu_moments`` (Klambauer et al., arXiv:1706.02515).

Notation, once for both files::

    mu, nu        mean and variance of the activations going in; mu~, nu~ ("2" in the code) coming out
    omega, tau    sum_i w_i and sum_i w_i^2 of the weights of one unit
    m, v          mu omega and nu tau: the pre-activation is z ~ N(m, v) by the central limit theorem
    f             SELU, f(z) = scale z for z > 0, scale alpha (e^z - 1) for z <= 0
    Phi, Q        P(z > 0) and P(z <= 0) = 1 - Phi
    phi           e^{-m^2/(2v)} / sqrt(2 pi), so that the density of z at 0 is phi / sqrt(v)
    E1, E2        E[e^z; z <= 0] and E[e^{2z}; z <= 0]

Numerics. E1 and E2 are products of a huge and a tiny number when v is large; with t1 = (m + v)/sqrt(2v) and
t2 = (m + 2v)/sqrt(2v), E_k = e^{-m^2/(2v)} erfcx(t_k)/2 is the same number without overflow when t_k >= 0,
and the plain form has a negative exponent when t_k < 0. The variance is E[(f-c)^2] - (E[f]-c)^2 with
c = f(m): any c gives the same number, this one loses no digits when |m| is large against sqrt(v). What
remains is a rounding error of about 1e-16 max(1, v) in nu~, so nu~ has few digits for v below 1e-12.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import erfc, erfcx

__all__ = [
    "ALPHA01",
    "LAMBDA01",
    "Array",
    "Pieces",
    "apply_jacobian",
    "apply_map",
    "bounded_step",
    "checked",
    "pieces",
]

ALPHA01 = 1.6732632423543772848170429916717
"""SELU's alpha for the fixed point (0, 1): -sqrt(2/pi) / (erfc(1/sqrt 2) e^{1/2} - 1)."""

LAMBDA01 = 1.0507009873554804934193349852946
"""SELU's scale lambda for the fixed point (0, 1)."""

_FAR = 1e150  # a diverging trajectory stops here: its square is still a float
_TINY = float(np.finfo(np.float64).tiny)

Array = npt.NDArray[np.float64]


class Pieces(NamedTuple):
    """The Gaussian integrals that map and Jacobian are made of; names as in the module docstring."""

    m: Array
    v: Array
    s: Array  # sqrt(v)
    Phi: Array
    Q: Array
    phi: Array
    E1: Array
    E2: Array


def pieces(m: Array, v: Array) -> Pieces:
    s = np.sqrt(v)
    with np.errstate(over="ignore"):  # (m/s)^2 may be infinite: its exponential is then the 0 it should be
        e0 = np.exp(-0.5 * np.square(m / s))
    root = math.sqrt(2.0) * s

    def truncated(k: int) -> Array:
        """E[e^{kz}; z <= 0]; both branches see arguments at which they cannot overflow."""
        t = (m + k * v) / root
        above = e0 * erfcx(np.maximum(t, 0.0))
        below = np.exp(np.minimum(k * m + 0.5 * k * k * v, 0.0)) * erfc(np.minimum(t, 0.0))
        return np.asarray(0.5 * np.where(t >= 0.0, above, below))

    return Pieces(
        m=m,
        v=v,
        s=s,
        Phi=0.5 * erfc(-m / root),
        Q=0.5 * erfc(m / root),
        phi=e0 / math.sqrt(2.0 * math.pi),
        E1=truncated(1),
        E2=truncated(2),
    )


def _origin(m: Array, alpha: Array) -> tuple[Array, Array]:
    """(c, alpha + c) in units of scale, c = f(m)/scale; the sum is exact where f saturates."""
    below = np.exp(np.minimum(m, 0.0))
    c = np.where(m > 0.0, m, alpha * np.expm1(np.minimum(m, 0.0)))
    return c, np.where(m > 0.0, alpha + m, alpha * below)


def _as_float(name: str, value: npt.ArrayLike) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {value!r}.")
    return array


def _as_positive(name: str, value: npt.ArrayLike) -> Array:
    array = _as_float(name, value)
    if not (array > 0.0).all():
        raise ValueError(f"{name} must be > 0, got {value!r}.")
    return array


def checked(
    mu: npt.ArrayLike,
    nu: npt.ArrayLike,
    omega: npt.ArrayLike,
    tau: npt.ArrayLike,
    alpha: npt.ArrayLike,
    scale: npt.ArrayLike,
) -> list[Array]:
    return [
        _as_float("mu", mu),
        _as_positive("nu", nu),
        _as_float("omega", omega),
        _as_positive("tau", tau),
        _as_float("alpha", alpha),
        _as_float("scale", scale),
    ]


def _shifted_mean(p: Pieces, alpha: Array, c: Array, d: Array) -> Array:
    """E[f]/scale - c."""
    return (p.m - c) * p.Phi + p.s * p.phi + alpha * p.E1 - d * p.Q


def apply_map(
    mu: Array, nu: Array, omega: Array, tau: Array, alpha: Array, scale: Array
) -> tuple[Array, Array]:
    p = pieces(mu * omega, nu * tau)
    c, d = _origin(p.m, alpha)
    mean = _shifted_mean(p, alpha, c, d)
    second = (
        (np.square(p.m - c) + p.v) * p.Phi
        + (p.m - 2.0 * c) * p.s * p.phi
        + alpha * alpha * p.E2
        - 2.0 * alpha * d * p.E1
        + d * d * p.Q
    )
    return scale * (c + mean), scale * scale * np.maximum(second - mean * mean, 0.0)


def apply_jacobian(mu: Array, nu: Array, omega: Array, tau: Array, alpha: Array, scale: Array) -> Array:
    p = pieces(mu * omega, nu * tau)
    c, d = _origin(p.m, alpha)
    jump = (1.0 - alpha) * p.phi / p.s  # f' jumps by scale (1 - alpha) at 0
    mean = _shifted_mean(p, alpha, c, d)
    M_m = p.Phi + alpha * p.E1  # d E[f] / dm = E[f']
    M_v = 0.5 * (alpha * p.E1 + jump)  # d E[f] / dv = E[f''] / 2
    X_m = 2.0 * ((p.m - c) * p.Phi + p.s * p.phi + alpha * alpha * p.E2 - alpha * d * p.E1)
    X_v = p.Phi + 2.0 * alpha * alpha * p.E2 - alpha * d * p.E1 - c * jump  # of E[(f - c)^2]
    entries = [
        omega * scale * M_m,
        tau * scale * M_v,
        omega * scale * scale * (X_m - 2.0 * mean * M_m),
        tau * scale * scale * (X_v - 2.0 * mean * M_v),
    ]
    flat = np.stack(np.broadcast_arrays(*entries), axis=-1)  # (..., 4)
    return flat.reshape(*flat.shape[:-1], 2, 2)


def bounded_step(mu: Array, nu: Array, *rest: Array) -> tuple[Array, Array]:
    """``apply_map``, its result kept where it can be mapped again."""
    mean, var = apply_map(mu, nu, *rest)
    return np.clip(mean, -_FAR, _FAR), np.clip(var, _TINY, _FAR)
