"""What an optimizer's update of a weight matrix looks like: spectrum, row and column balance, size, direction.

The five optimizer papers argue with the geometry of the update U (m, n): MultiNorm/SinkGD (arXiv 2502.06742) balances
row and column norms, SWAN (2412.13148) and Muon flatten the singular values, NorMuon (2510.05491) equalises the rows
of Muon's update, Conda (2509.24218) improves Adam's conditioning, Fira (2410.01623) restores the rank that GaLore
gives up. The measures, with singular values s_1 >= s_2 >= ... of U:

    rank               number of s > 1e-12 s_1                   ``numerical_rank``
    condition number   s_1 / s_min over s > 1e-12 s_1            ``condition_number``
    stable rank        ||U||_F^2 / s_1^2                         ``stable_rank``
    effective rank     exp(entropy of s_i^2 / sum s^2)           ``effective_rank``
    row/column spread  std/mean of the L2 norms (biased std)     ``row_norm_cv``, ``col_norm_cv``
    size               ||U||_F / sqrt(m n)                       ``rms``
    direction          <U, G> / (||U|| ||G||)                    ``cosine``

Ranks of a zero matrix are 0 and its condition number is nan, so that no infinity reaches a plot. A matrix with a
non-finite entry gives nan everywhere: a diverged run is measured, not raised.

Rank and condition number jump when a singular value crosses the tolerance. 1e-12 fits a matrix that was computed in
float64. An update that was computed in float32, or recovered from weights, carries more rounding: take its singular
values from :meth:`normviz.probes.UpdateRecord.singular_values`, which sets those below the rounding to zero.
"""

from __future__ import annotations

import math
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "SpectrumValues",
    "col_norm_cv",
    "condition_number",
    "cosine",
    "effective_rank",
    "numerical_rank",
    "rms",
    "row_norm_cv",
    "singular_values",
    "spectrum_values",
    "stable_rank",
    "update_spectrum",
]

NEGLIGIBLE = 1e-12
"""Singular values up to this fraction of the largest one are rounding of float64."""


def singular_values(X: Tensor) -> Tensor:
    """Singular values of each matrix, descending: (..., m, n) -> (..., min(m, n)) in float64; nan if not finite."""
    X = X.to(torch.float64)
    finite = X.isfinite().all(-1).all(-1)  # (...)
    s = torch.linalg.svdvals(torch.where(finite[..., None, None], X, 0.0))
    return torch.where(finite[..., None], s, math.nan)


def numerical_rank(s: Tensor) -> Tensor:
    """Number of singular values above 1e-12 s_1: (..., r) -> (...), a float so that it can be nan; 0 for zero.

    Args:
        s: singular values, descending, from :func:`singular_values`; of an update in float32 from
            :meth:`normviz.probes.UpdateRecord.singular_values`.
    """
    largest = s[..., :1]
    return torch.where(largest[..., 0].isnan(), math.nan, (s > NEGLIGIBLE * largest).sum(-1).to(s.dtype))


def condition_number(s: Tensor) -> Tensor:
    """s_1 over the smallest singular value above 1e-12 s_1: (..., r) -> (...); nan for a zero matrix.

    Args:
        s: singular values, descending, from :func:`singular_values`.
    """
    largest = s[..., :1]
    smallest = torch.where(s > NEGLIGIBLE * largest, s, math.inf).amin(-1)
    return torch.where(largest[..., 0] > 0, largest[..., 0] / smallest, math.nan)


def stable_rank(s: Tensor) -> Tensor:
    """||U||_F^2 / s_1^2: (..., r) -> (...), between 1 and the rank; 0 for a zero matrix.

    Args:
        s: singular values, descending, from :func:`singular_values`.
    """
    largest = s[..., :1]
    return torch.where(largest[..., 0] == 0, 0.0, (s / largest).square().sum(-1))


def effective_rank(s: Tensor) -> Tensor:
    """exp(-sum p log p) with p_i = s_i^2 / sum s^2: (..., r) -> (...); 0 for a zero matrix.

    Args:
        s: singular values, descending, from :func:`singular_values`.
    """
    largest = s[..., :1]
    energy = (s / largest).square()
    entropy = torch.special.entr(energy / energy.sum(-1, keepdim=True)).sum(-1)
    return torch.where(largest[..., 0] == 0, 0.0, entropy.exp())


def row_norm_cv(X: Tensor) -> Tensor:
    """std/mean of the L2 norms of the rows (biased std): (..., m, n) -> (...); 0 for a zero matrix."""
    norms = X.norm(dim=-1)  # (..., m)
    mean = norms.mean(-1)
    return torch.where(mean == 0, 0.0, norms.std(-1, correction=0) / mean)


def col_norm_cv(X: Tensor) -> Tensor:
    """std/mean of the L2 norms of the columns (biased std): (..., m, n) -> (...); 0 for a zero matrix."""
    return row_norm_cv(X.mT)


def rms(X: Tensor) -> Tensor:
    """||X||_F / sqrt(m n): (..., m, n) -> (...)."""
    return X.square().mean(dim=(-2, -1)).sqrt()


def cosine(X: Tensor, Y: Tensor) -> Tensor:
    """<X, Y> / (||X||_F ||Y||_F): two (..., m, n) -> (...); 0 if either is zero."""
    lengths = X.norm(dim=(-2, -1)) * Y.norm(dim=(-2, -1))
    return torch.where(lengths == 0, 0.0, (X * Y).sum(dim=(-2, -1)) / lengths)


class SpectrumValues(TypedDict):
    """What :func:`update_spectrum` returns; see there.

    Reference: measures in the module's docstring; none of one paper alone (arXiv 2502.06742, 2412.13148,
        2510.05491, 2509.24218, 2410.01623 argue with them).
    """

    singular_values: NDArray[np.float64]
    condition_number: float
    stable_rank: float
    effective_rank: float
    row_norm_cv: float
    col_norm_cv: float
    rms: float
    cosine_to_gradient: float


def update_spectrum(U: Tensor | NDArray[Any], G: Tensor | NDArray[Any] | None = None) -> SpectrumValues:
    """All measures of one update matrix, computed in float64 on the CPU.

    Args:
        U: applied direction (m, n), tensor or array, before learning rate and weight decay
            (:class:`UpdateSpectrum` extracts it).
        G: gradient (m, n) for the cosine; None gives cosine 0.

    Returns:
        A dict: ``singular_values``, a float64 numpy array (min(m, n),), descending, divided by their root mean square
        (zeros for a zero matrix); ``condition_number``, ``stable_rank``, ``effective_rank``, ``row_norm_cv``,
        ``col_norm_cv``, ``rms``, ``cosine_to_gradient`` as Python floats.

    Raises:
        ValueError: U is not 2-D, is empty or complex, or G has another shape.

    Example:
        >>> values = update_spectrum(torch.diag(torch.tensor([3.0, 1.0])))
        >>> values["condition_number"], round(values["stable_rank"], 3)
        (3.0, 1.111)
    """
    U = torch.as_tensor(U)
    G = None if G is None else torch.as_tensor(G)
    if U.ndim != 2 or U.numel() == 0 or U.is_complex():
        raise ValueError(
            f"U must be a real matrix (m, n) with entries, got {U.dtype} of shape {tuple(U.shape)}."
        )
    if G is not None and G.shape != U.shape:
        raise ValueError(f"G must have U's shape {tuple(U.shape)}, got {tuple(G.shape)}.")
    U = U.detach().to("cpu", torch.float64)
    return spectrum_values(singular_values(U), U, G)


def spectrum_values(s: Tensor, U: Tensor, G: Tensor | None) -> SpectrumValues:
    """The measures of :func:`update_spectrum` where the singular values are known already.

    Args:
        s: (min(m, n),), descending, float64.
        U: the update (m, n), float64 on the CPU.
        G: gradient (m, n) or None.
    """
    scale = s.square().mean().sqrt()
    return {
        "singular_values": torch.where(scale == 0, 0.0, s / scale).numpy(),
        "condition_number": float(condition_number(s)),
        "stable_rank": float(stable_rank(s)),
        "effective_rank": float(effective_rank(s)),
        "row_norm_cv": float(row_norm_cv(U)),
        "col_norm_cv": float(col_norm_cv(U)),
        "rms": float(rms(U)),
        "cosine_to_gradient": 0.0 if G is None else float(cosine(U, G.detach().to("cpu", torch.float64))),
    }
