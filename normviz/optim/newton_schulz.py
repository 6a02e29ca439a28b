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
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from normviz.optim._matrix import matrix_shape
from normviz.optim._precision import full_precision, native_bfloat16, widen
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["MUON_COEFFICIENTS", "newton_schulz"]

MUON_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NS_EPS = 1e-7
NS_CPU_BATCH = 2**22
"""Entries of one batch on the CPU. Its bfloat16 products are up to three times as fast in a batch; float32 is alike."""
NS_BFLOAT16_SIDE = 128
"""Least min(m, n) that the CPU iterates in bfloat16 by default: below, converting and packing cost what it saves."""


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
    """The dtype in which matrices ``G`` (..., m, n) are iterated by default.

    float64 stays. Else bfloat16 on CUDA, as in the official codes, and on a CPU that multiplies it natively if
    min(m, n) >= NS_BFLOAT16_SIDE; float32 elsewhere.
    """
    return _dtype_for(G, min(G.shape[-2:]))


def group_dtype(params: Iterable[Tensor]) -> torch.dtype | None:
    """One dtype for all these parameters, as :func:`iteration_dtype` has it for the largest min(m, n) among them.

    None where there are no parameters, or where they differ by device or precision: then each has its own.
    """
    params = list(params)
    side = max((min(matrix_shape(p)) for p in params), default=0)
    dtypes = {_dtype_for(p, side) for p in params}
    return dtypes.pop() if len(dtypes) == 1 else None


def choose_dtype(group: dict[str, Any], matrices: Iterable[Tensor]) -> torch.dtype | None:
    """The group's ``ns_dtype``; where it is None, what :func:`group_dtype` says, which is also written into the group.

    A compiler never writes: the part of a step that runs before it has done so.
    """
    if group["ns_dtype"] is None and not torch.compiler.is_compiling():
        group["ns_dtype"] = group_dtype(matrices)
    chosen: torch.dtype | None = group["ns_dtype"]
    return chosen


def _dtype_for(G: Tensor, side: int) -> torch.dtype:
    if G.dtype == torch.float64:
        return torch.float64
    if G.device.type == "cuda" or (
        G.device.type == "cpu" and side >= NS_BFLOAT16_SIDE and _native_bfloat16()
    ):
        return torch.bfloat16
    return torch.float32


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator,unused-ignore]
def _native_bfloat16() -> bool:
    return native_bfloat16()


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
        dtype: in which to iterate; the official codes always take bfloat16. None (ours): float64 for float64 input;
            else bfloat16 on CUDA, and on a CPU that multiplies it natively (AMX, AVX512-BF16) if min(m, n) >= 128;
            float32 elsewhere. So float32 input may give other digits on another processor; name a dtype where
            they must not.
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
    return orthogonalize_in(G, steps, coefficients, eps, dtype, eps_mode)


def orthogonalize_in(
    G: Tensor,
    steps: int,
    coefficients: tuple[float, float, float],
    eps: float,
    dtype: torch.dtype | None,
    eps_mode: str,
) -> Tensor:
    """:func:`newton_schulz` with arguments that were checked before."""
    return orthogonalize(G.to(dtype or iteration_dtype(G)), steps, coefficients, eps, eps_mode).to(G.dtype)


def orthogonalize(
    X: Tensor,
    steps: int,
    coefficients: tuple[float, float, float],
    eps: float,
    eps_mode: str,
    *,
    overwrite: bool = False,
) -> Tensor:
    """:func:`newton_schulz` in the dtype that X has; with ``overwrite`` X itself is divided by its norm."""
    a, b, c = coefficients
    shape = X.shape
    m, n = shape[-2:]
    tall = m > n
    with full_precision(X):
        X = X.reshape(math.prod(shape[:-2]), m, n)  # (batch, m, n)
        # bfloat16 products of a batch of one take torch's slow path on the CPU.
        X, add_product = (X[0], torch.addmm) if len(X) == 1 else (X, torch.baddbmm)
        norm = X.norm(dim=(-2, -1), keepdim=True)  # (batch, 1, 1)
        divisor = norm + eps if eps_mode == "add" else norm.clamp(min=eps)
        X = X.div_(divisor) if overwrite else X / divisor
        for _ in range(steps):
            A = X.mT @ X if tall else X @ X.mT
            B = add_product(A, A, A, beta=b, alpha=c)  # b A + c A A
            X = add_product(X, *((X, B) if tall else (B, X)), beta=a)  # a X + B X or a X + X B
    return X.reshape(shape)
