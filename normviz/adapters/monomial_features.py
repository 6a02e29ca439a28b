r"""Monomial features: a polynomial of a score ``<a, b>`` as an inner product of features of a and of b.

For a polynomial ``P(x) = sum_i c_i x^i`` of degree g and vectors of d coordinates (multi-indices m in N^d),

    P(tau <a, b>) = sum_{|m| <= g} c_|m| (|m|!/m!) (tau a)^m b^m = <Psi(a), Phi(b)>,
    Phi(b)_m = b^m,    Psi(a)_m = c_|m| (|m|!/m!) (tau a)^m.

There are C(d + g, g) monomials. All coefficients stand on one side, because those of a Chebyshev polynomial can be
negative and have no square roots. The softmax matrix ``f = D^-1 exp(tau Q K^T)`` becomes ``U1 V1^T`` with
``U1 = D~^-1 Psi(Q)``, ``V1 = Phi(K)``, ``D~ = Psi(Q) (Phi(K)^T 1)``: rank C(d + g, g), no L x L matrix, rows that sum
to 1, and an entrywise relative error of at most ``2 eps / (1 - eps)`` where eps is the relative error of P.

Method: Hu et al. 2024, arXiv 2406.03136 (low-rank factors in its sections 3 and 4, after Alman and Song 2023). The
count C(d + g, g) is the exact number of monomials; the paper bounds it by C(2(g + d), 2g).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normviz.adapters._values import check_floating, readable
from normviz.validation import check_integer, check_real

__all__ = [
    "MonomialFeatureMap",
    "check_rank",
    "feature_rank",
    "lowrank_attention_factors",
    "monomials",
    "row_khatri_rao",
    "unchecked_factors",
]


def feature_rank(dim: int, degree: int) -> int:
    """The number of monomials of degree <= ``degree`` in ``dim`` variables, C(dim + degree, degree).

    The rank of the approximated softmax matrix (Hu et al. 2024, arXiv 2406.03136).

    Raises:
        ValueError: dim < 1 or degree < 0.

    Example:
        >>> [feature_rank(2, 4), feature_rank(3, 4), feature_rank(64, 4)]
        [15, 35, 814385]
    """
    dim, degree = check_integer("dim", dim, 1), check_integer("degree", degree, 0)
    return math.comb(dim + degree, degree)


def check_rank(dim: int, degree: int, max_rank: int) -> int:
    """The rank of these features, or ValueError naming ``max_rank`` if it is above it."""
    max_rank = check_integer("max_rank", max_rank, 1)
    rank = feature_rank(dim, degree)
    if rank > max_rank:
        raise ValueError(
            f"max_rank must be at least the {rank} monomials of degree <= {degree} in {dim} variables, got {max_rank}."
        )
    return rank


def monomials(x: Tensor, degree: int) -> Tensor:
    """All monomials of degree <= ``degree`` of x [..., d], in x's dtype [..., C(d + degree, degree)].

    Those of degree i are the coordinates times the monomials of degree i - 1; coordinate a only multiplies those
    without a coordinate before a, which are the last ones. No tensor holds more entries than the result.
    """
    blocks = [torch.ones_like(x[..., :1])]
    starts = [0] * x.shape[-1]
    for _ in range(degree):
        previous, pieces, first = blocks[-1], [], 0
        for a, start in enumerate(starts):
            pieces.append(x[..., a : a + 1] * previous[..., start:])
            starts[a] = first
            first += pieces[-1].shape[-1]
        blocks.append(torch.cat(pieces, -1))
    return torch.cat(blocks, -1)


def _table(dim: int, degree: int) -> tuple[Tensor, Tensor]:
    """Exponents [m, dim] and |m|!/m! [m] float64 in the order of :func:`monomials`, on the CPU."""
    exponents = [torch.zeros(1, dim, dtype=torch.int64)]
    multinomials = [torch.ones(1, dtype=torch.float64)]
    starts = [0] * dim
    for i in range(1, degree + 1):
        pieces, weights, first = [], [], 0
        for a, start in enumerate(starts):
            piece = exponents[-1][start:].clone()
            piece[:, a] += 1
            # (|m| + 1)! / (m + e_a)! from |m|! / m!; integers, so rounding removes what the division left
            weights.append((multinomials[-1][start:] * i / piece[:, a]).round())
            pieces.append(piece)
            starts[a] = first
            first += len(piece)
        exponents.append(torch.cat(pieces))
        multinomials.append(torch.cat(weights))
    return torch.cat(exponents), torch.cat(multinomials)


class MonomialFeatureMap:
    """The monomials of degree <= g of a vector of d coordinates, float64.

    ``Phi(x)_m = x^m`` for all multi-indices m with |m| <= g; ``<a, b>^i = sum_{|m| = i} (|m|!/m!) a^m b^m``.
    The feature map of Hu et al. 2024 (arXiv 2406.03136, sections 3 and 4), without the coefficients of the polynomial.

    Args:
        dim: d >= 1.
        degree: g >= 0.
        max_rank: refuse more monomials than this. Default 20000.

    Attributes:
        exponents: [m, dim] int64; degree ascending.
        degrees: [m] int64, the row sums of exponents.
        multinomials: [m] float64, |m|!/m!.
        rank: m = C(dim + degree, degree).

    Raises:
        ValueError: dim < 1, degree < 0, more than max_rank monomials (before anything is allocated); in a call: the
            last axis is not dim.
        TypeError: in a call: x is not floating.

    Example:
        >>> phi = MonomialFeatureMap(2, 2)
        >>> phi(torch.tensor([2.0, 3.0])).tolist()
        [1.0, 2.0, 3.0, 4.0, 6.0, 9.0]
        >>> phi.multinomials.tolist()
        [1.0, 1.0, 1.0, 1.0, 2.0, 1.0]
    """

    def __init__(self, dim: int, degree: int, max_rank: int = 20000) -> None:
        self.rank = check_rank(dim, degree, max_rank)
        self.dim, self.degree = int(dim), int(degree)
        self.exponents, self.multinomials = _table(self.dim, self.degree)
        self.degrees = self.exponents.sum(1)

    def __call__(self, x: Tensor) -> Tensor:
        """Features of x [..., dim]: [..., m] float64."""
        check_floating("x", x)
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"x must have {self.dim} entries on its last axis, got shape {tuple(x.shape)}.")
        return monomials(x.double(), self.degree)

    def __repr__(self) -> str:
        return f"MonomialFeatureMap(dim={self.dim}, degree={self.degree}, rank={self.rank})"


def lowrank_attention_factors(
    q: Tensor, k: Tensor, scale: float, coeffs: Tensor, max_rank: int = 20000
) -> tuple[Tensor, Tensor]:
    """Factors U1, V1 with ``U1 V1^T`` near ``softmax(scale q k^T)``, from a polynomial near exp.

    ``U1 V1^T = D~^-1 P(scale q k^T)`` with D~ its row sums; entrywise within ``2 eps / (1 - eps)`` of the softmax, if P
    is within eps of exp on the range of the scores. O(L m) memory and time, m = C(d + g, g).

    Method: Hu et al. 2024, arXiv 2406.03136, low-rank factors of f.

    Args:
        q: [..., Lq, d].
        k: [..., Lk, d].
        scale: tau, any finite number.
        coeffs: [g + 1] from :func:`exp_polynomial`.
        max_rank: refuse more monomials than this. Default 20000.

    Returns:
        U1 [..., Lq, m] and V1 [..., Lk, m], float64.

    Raises:
        ValueError: shapes that do not fit; more than max_rank monomials; a row sum <= 0, which only a polynomial with a
            relative error of 1 or more can have (checked where values can be read: not compiled, not inside vmap).
        TypeError: q or k is not floating.
    """
    check_queries_and_keys(q, k)
    scale = check_real("scale", scale, low=-math.inf, high=math.inf, low_open=True, high_open=True)
    if coeffs.ndim != 1 or coeffs.numel() == 0:
        raise ValueError(f"coeffs must be a vector of at least one number, got shape {tuple(coeffs.shape)}.")
    check_rank(q.shape[-1], coeffs.shape[0] - 1, max_rank)
    psi, phi = unchecked_factors(q.double(), k.double(), scale, coeffs)
    row_sums = psi @ phi.sum(-2).unsqueeze(-1)
    check_row_sums(row_sums)
    return psi / row_sums, phi


def unchecked_factors(q: Tensor, k: Tensor, scale: float, coeffs: Tensor) -> tuple[Tensor, Tensor]:
    """Psi(q) [..., Lq, m] and Phi(k) [..., Lk, m] for float64 q, k: ``Psi Phi^T = P(scale q k^T)``."""
    dim, degree = q.shape[-1], coeffs.shape[0] - 1
    exponents, multinomials = _table(dim, degree)
    of_degree = exponents.sum(1).to(coeffs.device)
    weights = (coeffs.double()[of_degree] * multinomials.to(coeffs.device)).to(q.device)
    return weights * monomials(scale * q, degree), monomials(k, degree)


def check_queries_and_keys(q: Tensor, k: Tensor) -> None:
    """Raise unless q [..., Lq, d] and k [..., Lk, d] are floating and fit."""
    for name, x in {"q": q, "k": k}.items():
        check_floating(name, x)
        if x.ndim < 2 or x.shape[-1] == 0 or x.shape[-2] == 0:
            raise ValueError(f"{name} must have shape (..., L, d) with L, d >= 1, got {tuple(x.shape)}.")
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"k must have {q.shape[-1]} columns like q, got shape {tuple(k.shape)}.")


def check_row_sums(row_sums: Tensor) -> None:
    """Raise ValueError where a row of ``P(scale q k^T)`` does not sum to a positive number."""
    if readable(row_sums) and not bool((row_sums > 0).all()):
        raise ValueError(
            "The polynomial's rows must have positive sums, and one has not: raise the degree (an even degree keeps a"
            " Taylor polynomial positive)."
        )


def row_khatri_rao(a: Tensor, b: Tensor) -> Tensor:
    """Row-wise Kronecker (face-splitting) product: column ``i s + j`` is ``a_i b_j``.

    Used for ``(a b^T) * (u v^T) = kr(a, u) kr(b, v)^T``: the entrywise product of two low-rank matrices has a low rank.
    (Hu et al. 2024, arXiv 2406.03136, the chained low-rank factors of p1.)

    Args:
        a: [..., L, p].
        b: [..., L, s], the same leading axes.

    Returns:
        [..., L, p s] in the inputs' (promoted) dtype.

    Raises:
        ValueError: fewer than two axes, or other leading axes.

    Example:
        >>> row_khatri_rao(torch.tensor([[1, 2]]), torch.tensor([[3, 5, 7]]))
        tensor([[ 3,  5,  7,  6, 10, 14]])
    """
    if a.ndim < 2:
        raise ValueError(f"a must have shape (..., L, p), got {tuple(a.shape)}.")
    if b.ndim < 2 or b.shape[:-1] != a.shape[:-1]:
        raise ValueError(f"b must have shape {(*a.shape[:-1], 's')} like a, got {tuple(b.shape)}.")
    return (a.unsqueeze(-1) * b.unsqueeze(-2)).flatten(-2)
