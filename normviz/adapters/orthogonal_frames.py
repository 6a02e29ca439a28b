r"""The frozen factors of Orthogonal Adaptation: random frames that hardly overlap although nobody agrees on them.

Po, Yang, Aberman, Wetzstein 2024, "Orthogonal Adaptation for Modular Customization of Diffusion Models", CVPR 2024,
arXiv 2312.02432. Concept i trains A_i of ``Delta theta_i = s A_i B_i^T``; B_i [n, r] is drawn once and stays. Three
ways to draw it:

    orthogonal   r columns of one orthogonal matrix O_n [n, n] that all users share, at random without replacement
    gaussian     entries N(0, 1/n)
    disjoint     columns concept r .. (concept + 1) r - 1 of O_n: needs somebody who numbers the concepts

The first two are the paper's. The third is an addition, with exact zeros for up to floor(n / r) concepts of one rank.
The variance 1/n is a choice made here, so that ``E[B^T B] = I`` and a layer has the same scale for all three.

What is not true: random columns do not overlap less than Gaussian ones on average. ``E||B_i^T B_j||_F^2 = r^2 / n`` for
both. They overlap differently: shared columns are counted, ``||B_i^T B_j||_F^2`` is an integer and often exactly 0; the
Gaussian overlap is never 0 and always near its mean.

O_n is the Q of a Gaussian matrix, with the signs of R's diagonal moved into it, which makes it uniform (Haar) over the
orthogonal matrices. Everything is drawn on the CPU in float64 by generators of its own, seeded by SHA-256, so that
torch's random state is untouched and two processes draw the same.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from normviz.validation import check_choice, check_integer

__all__ = [
    "FRAMES",
    "SHARED_FRAMES",
    "SharedOrthogonalBasis",
    "concept_basis",
    "draw_frame",
    "expected_overlap",
    "probability_disjoint",
]

FRAMES = ("orthogonal", "gaussian", "disjoint")
"""How a concept's frame is drawn."""

SHARED_FRAMES = ("orthogonal", "disjoint")
"""Those that take columns of a matrix that all concepts share."""


def _generator(*parts: str | int) -> torch.Generator:
    """A CPU generator that depends on the parts and on nothing else."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def _gaussian(rows: int, columns: int, *parts: str | int) -> Tensor:
    return torch.randn(rows, columns, generator=_generator(*parts), dtype=torch.float64, device="cpu")


def _check_sizes(n: int, r: int) -> tuple[int, int]:
    n = check_integer("n", n, 1)
    return n, check_integer("r", r, 1, n)


@dataclass(frozen=True)
class SharedOrthogonalBasis:
    r"""Orthogonal matrices O_n that all users know, and random columns of them.

    Po et al. 2024, arXiv 2312.02432, "randomized orthogonal basis". ``B_i^T B_i = I``; ``B_i^T B_j`` has one 1 for each
    column that both concepts drew, and is exactly 0 if there is none.

    Args:
        seed: of the matrices, any integer. Default 0. Users share it.

    Raises:
        ValueError: seed is not an integer.

    Example:
        >>> shared = SharedOrthogonalBasis(seed=0)
        >>> B, columns = shared.sample(8, 2, concept_seed=3, key="to_k")
        >>> torch.equal(B, shared.matrix(8, "to_k")[:, columns])
        True
    """

    seed: int = 0
    _matrices: dict[tuple[int, str], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_integer("seed", self.seed))

    def matrix(self, n: int, key: str = "") -> Tensor:
        """O_n [n, n], float64 on the CPU: a function of (seed, key, n) alone, uniform over the seeds.

        Drawn once and kept; what is returned is a copy.

        Args:
            n: size, >= 1.
            key: name of the layer; other names, other matrices. Default "".

        Raises:
            ValueError: n < 1.
        """
        n = check_integer("n", n, 1)
        if (n, key) not in self._matrices:
            Q, R = torch.linalg.qr(_gaussian(n, n, "matrix", self.seed, key, n))
            self._matrices[n, key] = Q * torch.where(R.diagonal() < 0, -1.0, 1.0)
        return self._matrices[n, key].clone()

    def sample(self, n: int, r: int, concept_seed: int, key: str = "") -> tuple[Tensor, Tensor]:
        """A concept's frame: r different columns, every choice equally likely.

        Args:
            n: size of the matrix, >= 1.
            r: number of columns, 1..n.
            concept_seed: any integer. The columns depend on (concept_seed, key, n, r), not on ``seed``.
            key: name of the layer. Default "".

        Returns:
            B [n, r] = O_n[:, columns], float64, and columns [r], int64.

        Raises:
            ValueError: n, r or concept_seed out of range.
        """
        n, r = _check_sizes(n, r)
        concept_seed = check_integer("concept_seed", concept_seed)
        columns = torch.randperm(n, generator=_generator("columns", concept_seed, key, n, r), device="cpu")[
            :r
        ]
        return self.matrix(n, key)[:, columns], columns


def draw_frame(
    n: int, r: int, method: str = "orthogonal", seed: int = 0, concept: int = 0, key: str = ""
) -> tuple[Tensor, Tensor | None]:
    """:func:`concept_basis` together with the columns [r] of the shared matrix, None for "gaussian"."""
    n, r = _check_sizes(n, r)
    check_choice("method", method, FRAMES)
    seed, concept = check_integer("seed", seed), check_integer("concept", concept)
    if method == "gaussian":
        return _gaussian(n, r, "gaussian", seed, concept, key, n, r) / math.sqrt(n), None
    shared = SharedOrthogonalBasis(seed)
    if method == "orthogonal":
        return shared.sample(n, r, concept, key)
    capacity = n // r
    if not 0 <= concept < capacity:
        raise ValueError(
            f"concept must be in 0..{capacity - 1} for method 'disjoint': frames of rank {r} in {n} dimensions have a "
            f"capacity of {capacity} concepts, got {concept}."
        )
    columns = torch.arange(concept * r, (concept + 1) * r, device="cpu")
    return shared.matrix(n, key)[:, columns], columns


def concept_basis(
    n: int, r: int, *, method: str = "orthogonal", seed: int = 0, concept: int = 0, key: str = ""
) -> Tensor:
    r"""The frozen factor B [n, r] of one concept in one layer, float64 on the CPU.

    Po et al. 2024, arXiv 2312.02432.

    Args:
        n: input size of the layer, >= 1.
        r: rank, 1..n.
        method: "orthogonal" (default, the paper's main choice): ``SharedOrthogonalBasis(seed).sample(n, r, concept,
            key)``; "gaussian" (the paper's other one): N(0, 1/n), different for every seed, concept and key;
            "disjoint" (not in the paper): columns concept r .. (concept + 1) r - 1 of the shared matrix.
        seed: of the shared matrix, any integer. Default 0.
        concept: any integer, of a user's own choice; for "disjoint" a number in 0..floor(n / r) - 1. Default 0.
        key: name of the layer. Default "".

    Raises:
        ValueError: unknown method; n, r, seed or concept out of range; for "disjoint" the message names the capacity.

    Example:
        >>> B = [concept_basis(12, 3, method="disjoint", concept=i) for i in range(4)]
        >>> bool((B[0].mT @ B[3]).abs().max() < 1e-12)
        True
    """
    return draw_frame(n, r, method, seed, concept, key)[0]


def expected_overlap(n: int, r: int) -> float:
    r"""``E||B_i^T B_j||_F^2 = r^2 / n`` of two concepts, for "orthogonal" and for "gaussian".

    Orthogonal: each of the r columns of one concept is among the other's with probability r / n. Gaussian: each of the
    r^2 products is a sum of n terms of variance 1 / n^2. Derived here; for the method of arXiv 2312.02432.

    Args:
        n: input size, >= 1.
        r: rank, 1..n.

    Raises:
        ValueError: n or r out of range.
    """
    n, r = _check_sizes(n, r)
    return r * r / n


def probability_disjoint(n: int, r: int) -> float:
    r"""``C(n - r, r) / C(n, r)``, about ``exp(-r^2 / n)``: how likely two "orthogonal" frames share no column.

    Derived here; for the method of arXiv 2312.02432. 0 if 2 r > n.

    Args:
        n: input size, >= 1.
        r: rank, 1..n.

    Raises:
        ValueError: n or r out of range.

    Example:
        >>> round(probability_disjoint(768, 20), 3)
        0.586
    """
    n, r = _check_sizes(n, r)
    return math.comb(n - r, r) / math.comb(n, r)
