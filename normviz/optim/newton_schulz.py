"""Newton-Schulz iteration: replace the singular values of a matrix by numbers near one with matrix products only.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), whose quintic coefficients NorMuon
(Li et al., arXiv 2510.05491) uses unchanged.

With X = U S V^T every step keeps U and V and maps each singular value s by

    s <- a s + b s^3 + c s^5,        (a, b, c) = (3.4445, -4.7750, 2.0315).

The coefficients make the slope at zero as large as possible, which lifts small values fast, and pay for it with
accuracy: the iteration does NOT converge to one, however many steps are taken. After five steps an input value
s/||G||_F in [0.003, 1] lands in [0.682, 1.203]; one of 0.001 only reaches 0.47. So the result is U S' V^T with S'
near the identity, not the polar factor U V^T.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normviz.optim._precision import full_precision, widen
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["MUON_COEFFICIENTS", "newton_schulz"]

MUON_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NS_EPS = 1e-7
NS_CPU_BATCH = 2**22
"""Entries of one batch on the CPU. Its bfloat16 products are up to three times as fast in a batch; float32 is alike."""


def check_newton_schulz(
    steps: object, dtype: object, name: str = "ns_steps", dtype_name: str = "ns_dtype"
) -> None:
    """Raise ValueError unless 1 <= ``steps`` < 100 and ``dtype`` is None or a real floating dtype."""
    check_integer(name, steps, 1, 99)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"{dtype_name} must be None or a real floating torch.dtype, got {dtype!r}.")


def check_coefficients(coefficients: object, name: str = "coefficients") -> None:
    """Raise ValueError unless ``coefficients`` are three numbers (a, b, c)."""
    if not isinstance(coefficients, tuple | list) or len(coefficients) != 3:
        raise ValueError(f"{name} must be three numbers (a, b, c), got {coefficients!r}.")
    for letter, value in zip("abc", coefficients, strict=True):
        check_real(f"{name} {letter}", value, -math.inf, math.inf, low_open=True, high_open=True)


def iteration_dtype(G: Tensor) -> torch.dtype:
    """The dtype in which ``G`` is iterated by default: float64 stays, else bfloat16 on CUDA and float32 elsewhere."""
    if G.dtype == torch.float64:
        return torch.float64
    return torch.bfloat16 if G.device.type == "cuda" else torch.float32


def newton_schulz(
    G: Tensor,
    steps: int = 5,
    coefficients: tuple[float, float, float] = MUON_COEFFICIENTS,
    eps: float = NS_EPS,
    dtype: torch.dtype | None = None,
    eps_mode: str = "add",
) -> Tensor:
    """Orthogonalise matrices approximately: U S V^T -> U S' V^T with S' near the identity.

    X = G / (||G||_F + eps); then ``steps`` times X <- a X + (b A + c A A) X with A = X X^T, or for a tall matrix, whose
    small Gram matrix is A = X^T X, X <- a X + X (b A + c A A): the same X. Zero stays zero; added zero rows or columns
    change nothing else.

    Args:
        G: matrices (..., m, n); leading axes are a batch.
        steps: number of iterations (5, Muon and NorMuon), 1 to 99.
        coefficients: (a, b, c); default Muon's.
        eps: guards the division by the norm (1e-7, both official codes).
        dtype: in which to iterate. None (ours): float64 for float64 input, bfloat16 on CUDA, float32 elsewhere; the
            official codes always take bfloat16.
        eps_mode: "add" (NorMuon's code: ||G||_F + eps) or "clamp" (torch.optim.Muon: max(||G||_F, eps)).

    Returns:
        (..., m, n) in G's dtype.

    Raises:
        ValueError: G has fewer than two axes or is not real floating, steps outside 1..99, coefficients not three
            numbers, eps < 0, unknown eps_mode, dtype not floating.

    Example:
        >>> O = newton_schulz(torch.randn(64, 256, generator=torch.Generator().manual_seed(0)))
        >>> s = torch.linalg.svdvals(O)
        >>> 0.68 < float(s.min()) < float(s.max()) < 1.14
        True
    """
    widen("G", G)
    check_newton_schulz(steps, dtype, "steps", "dtype")
    check_coefficients(coefficients)
    check_real("eps", eps, 0.0, math.inf, high_open=True)
    check_choice("eps_mode", eps_mode, ("add", "clamp"))
    return orthogonalize(G, steps, coefficients, eps, dtype, eps_mode)


def orthogonalize(
    G: Tensor,
    steps: int,
    coefficients: tuple[float, float, float],
    eps: float,
    dtype: torch.dtype | None,
    eps_mode: str,
) -> Tensor:
    """:func:`newton_schulz` with arguments that were checked before."""
    a, b, c = coefficients
    m, n = G.shape[-2:]
    tall = m > n
    with full_precision(G):
        X = G.to(dtype or iteration_dtype(G)).reshape(math.prod(G.shape[:-2]), m, n)  # (batch, m, n)
        # bfloat16 products of a batch of one take torch's slow path on the CPU.
        X, add_product = (X[0], torch.addmm) if len(X) == 1 else (X, torch.baddbmm)
        norm = X.norm(dim=(-2, -1), keepdim=True)  # (batch, 1, 1)
        X = X / (norm + eps if eps_mode == "add" else norm.clamp(min=eps))
        for _ in range(steps):
            A = X.mT @ X if tall else X @ X.mT
            B = add_product(A, A, A, beta=b, alpha=c)  # b A + c A A
            X = add_product(X, *((X, B) if tall else (B, X)), beta=a)  # a X + B X or a X + X B
    return X.reshape(G.shape).to(G.dtype)
