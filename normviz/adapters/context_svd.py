r"""Context-oriented singular value decomposition: the SVD of a weight times the covariance of its inputs.

Yang, Li, Zhou, Song, Wu, Nie, Ghanem 2024, "CorDA: Context-Oriented Decomposition Adaptation of Large Language Models
for Task-Aware Parameter-Efficient Fine-tuning", NeurIPS 2024, arXiv 2406.05223. For W [out, in] and the uncentred
covariance C [in, in] of the layer's inputs, R = min(out, in):

    C' = C + damp mean(diag C) I,  damp doubled from 0.01 until ||C' C'^-1 - I||_F < 0.05
    U, S, V^T = SVD(W C')           U [out, R], S [R] descending, V [in, R]
    Vhat = C'^-1 V                  W = U diag(S) Vhat^T exactly; U is orthonormal, Vhat is not

The leading components carry what the samples excite: discarding the k smallest gives the best rank R - k approximation
of W in ``||(W - W_k) C'||_F``. This is C itself, not its root: it is not the error of the layer's output.

Where sources differ: the official code divides C by a constant 256, peft by the number of calls; neither matters, since
a factor t of C scales S by t and Vhat by 1/t. The official loop never ends for C = 0; here that is an error.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from normviz.adapters._values import at_least_float32, check_matrix, full_precision
from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "DECOMPOSITIONS",
    "ContextSVD",
    "check_covariance",
    "context_energy",
    "context_oriented_svd",
    "damped_covariance",
    "oriented_svd",
    "truncated_reconstruction",
    "widest",
]

DECOMPOSITIONS = ("corda", "asvd", "svd")
"""Decompositions whose truncation is compared."""

DOUBLINGS = 200


class ContextSVD(NamedTuple):
    """``W = U diag(S) V_hat^T`` (Yang et al. 2024, arXiv 2406.05223, section 3.2).

    Attributes:
        U: [out, R], orthonormal columns; in each the entry of the largest size is positive.
        S: [R], descending.
        V_hat: [in, R], not orthonormal.
        damp: the damping that was used.
    """

    U: Tensor
    S: Tensor
    V_hat: Tensor
    damp: float


def check_covariance(C: Tensor, size: int | None = None, name: str = "C") -> None:
    """Raise unless C (called ``name``) is a square floating matrix, finite, with a positive mean on its diagonal."""
    check_matrix(name, C, rows=size, columns=size)
    if C.shape[0] != C.shape[1]:
        raise ValueError(f"{name} must be a square matrix, got shape {tuple(C.shape)}.")
    if not bool(torch.isfinite(C).all()):
        raise ValueError(f"{name} must be finite, got nan or inf in it.")
    level = float(C.detach().double().diagonal().mean())
    if level <= 0:
        raise ValueError(f"{name} must have a positive mean on its diagonal, got {level:g}.")


def damped_covariance(C: Tensor, damp: float = 0.01, tol: float = 0.05) -> tuple[Tensor, Tensor, float]:
    """``C' = C + damp mean(diag C) I`` and its inverse, with damp doubled until the inverse is one.

    The inverse is accepted when ``||C' C'^-1 - I||_F < tol``. A matrix that torch calls singular counts as a failure.

    Args:
        C: [in, in] covariance.
        damp: the first damping, > 0. Default 0.01 (official code).
        tol: > 0. Default 0.05 (official code).

    Returns:
        C', C'^-1 (C's dtype, at least float32) and the damping used.

    Raises:
        ValueError: C not square, not finite, or with a mean diagonal <= 0 (it would never be invertible); damp or tol
            <= 0; 200 doublings that did not help.
        TypeError: C is not floating.
    """
    damp = check_real("damp", damp, 0, math.inf, low_open=True, high_open=True)
    tol = check_real("tol", tol, 0, math.inf, low_open=True)
    check_covariance(C)
    with torch.no_grad(), full_precision(C):
        C = C.detach().to(at_least_float32(C))
        eye = torch.eye(C.shape[0], dtype=C.dtype, device=C.device)
        level = C.diagonal().mean()
        for _ in range(DOUBLINGS + 1):
            fixed = C + damp * level * eye
            inverse, info = torch.linalg.inv_ex(fixed)
            if not bool(info) and bool(torch.linalg.matrix_norm(fixed @ inverse - eye) < tol):
                return fixed, inverse, damp
            damp *= 2
    raise ValueError(f"C could not be inverted to tol = {tol:g} after {DOUBLINGS} doublings of damp.")


def widest(W: Tensor, C: Tensor | None = None) -> torch.dtype:
    """The dtype in which W (and C) are decomposed: the wider of theirs and float32."""
    return at_least_float32(W) if C is None else at_least_float32(W, C)


def oriented_svd(W: Tensor, C: Tensor, damp: float = 0.01, tol: float = 0.05) -> ContextSVD:
    """:func:`context_oriented_svd` in the computation's dtype, before it is cast to W's."""
    check_matrix("W", W)
    check_covariance(C, W.shape[1])
    dtype = widest(W, C)
    with torch.no_grad(), full_precision(W):
        fixed, inverse, damp = damped_covariance(C.to(W.device, dtype), damp, tol)
        U, S, Vh = signed_svd(W.detach().to(dtype) @ fixed)
        return ContextSVD(U, S, inverse.mT @ Vh.mT, damp)


def signed_svd(M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD whose signs are fixed: in each left vector the entry of the largest size is positive."""
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    sign = torch.where(U.gather(0, U.abs().argmax(0, keepdim=True)) < 0, -1, 1).to(M.dtype)  # [1, R]
    return U * sign, S, Vh * sign.mT


def context_oriented_svd(W: Tensor, C: Tensor, damp: float = 0.01, tol: float = 0.05) -> ContextSVD:
    """Decompose W along the directions that C excites: ``W = U diag(S) V_hat^T`` from the SVD of ``W C'``.

    Yang et al. 2024 (CorDA), arXiv 2406.05223, section 3.2. C' is :func:`damped_covariance` of C.

    Args:
        W: [out, in].
        C: [in, in] covariance of the inputs; its scale does not matter.
        damp: the first damping, > 0. Default 0.01 (official code).
        tol: of the inverse, > 0. Default 0.05 (official code).

    Returns:
        :class:`ContextSVD` in W's dtype, computed in the wider of W's, C's and float32.

    Raises:
        ValueError: shapes that do not fit; C as for :func:`damped_covariance`; damp or tol <= 0.
        TypeError: W or C is not floating.

    Example:
        >>> W, X = torch.randn(3, 4).double(), torch.randn(20, 4).double()
        >>> U, S, V_hat, damp = context_oriented_svd(W, X.mT @ X)
        >>> torch.allclose(U * S @ V_hat.mT, W), damp
        (True, 0.01)
    """
    U, S, V_hat, damp = oriented_svd(W, C, damp, tol)
    return ContextSVD(U.to(W.dtype), S.to(W.dtype), V_hat.to(W.dtype), damp)


def truncated_reconstruction(
    W: Tensor,
    discard: int,
    method: str = "corda",
    covariance: Tensor | None = None,
    abs_mean: Tensor | None = None,
    asvd_alpha: float = 0.5,
) -> Tensor:
    """W rebuilt without its ``discard`` smallest components, under one of three decompositions.

    The comparison of Yang et al. 2024 (arXiv 2406.05223, figure 2). "corda": SVD of ``W C'``. "asvd": SVD of ``W
    diag(d)``, ``d = abs_mean^asvd_alpha + 1e-6``, then divided by d (Yuan et al. 2023, arXiv 2312.05821). "svd": of W.

    Args:
        W: [out, in].
        discard: number of components left out, 0..min(out, in). All of them: zeros.
        method: "corda" (default), "asvd" or "svd".
        covariance: [in, in], for "corda".
        abs_mean: [in], for "asvd": the sum over samples of the mean of |x| over tokens, >= 0.
        asvd_alpha: exponent >= 0. Default 0.5 (official code). 0 is the plain SVD.

    Returns:
        W_k [out, in] in W's dtype.

    Raises:
        ValueError: unknown method, discard out of range, a missing or misshapen covariance or abs_mean, asvd_alpha < 0.
        TypeError: integer tensors.
    """
    check_matrix("W", W)
    check_choice("method", method, DECOMPOSITIONS)
    rank = min(W.shape)
    kept = rank - check_integer("discard", discard, 0, rank)
    asvd_alpha = check_real("asvd_alpha", asvd_alpha, 0, math.inf, high_open=True)
    with torch.no_grad(), full_precision(W):
        if method == "corda":
            if covariance is None:
                raise ValueError("covariance must be given for method 'corda'.")
            check_covariance(covariance, W.shape[1], "covariance")
            U, S, V_hat, _ = oriented_svd(W, covariance)
            return ((U * S)[:, :kept] @ V_hat[:, :kept].mT).to(W.dtype)
        if method == "svd":
            U, S, Vh = signed_svd(W.detach().to(widest(W)))
            return ((U * S)[:, :kept] @ Vh[:kept]).to(W.dtype)
        if abs_mean is None:
            raise ValueError("abs_mean must be given for method 'asvd'.")
        _check_abs_mean(abs_mean, W.shape[1])
        dtype = widest(W, abs_mean)
        d = abs_mean.detach().to(W.device, dtype) ** asvd_alpha + 1e-6
        U, S, Vh = signed_svd(W.detach().to(dtype) * d)
        return ((U * S)[:, :kept] @ (Vh[:kept] / d)).to(W.dtype)


def _check_abs_mean(abs_mean: Tensor, size: int) -> None:
    if not abs_mean.is_floating_point():
        raise TypeError(f"abs_mean must be a real floating tensor, got dtype {abs_mean.dtype}.")
    if abs_mean.shape != (size,):
        raise ValueError(f"abs_mean must have shape ({size},), got {tuple(abs_mean.shape)}.")
    if not bool((torch.isfinite(abs_mean) & (abs_mean >= 0)).all()):
        raise ValueError("abs_mean must be finite and >= 0.")


def context_energy(W: Tensor, C: Tensor, k: int) -> float:
    """The share of ``||W C'||_F^2`` in the k leading components: ``sum_{i<k} S_i^2 / sum S_i^2``.

    Yang et al. 2024, arXiv 2406.05223.

    Args:
        W: [out, in].
        C: [in, in].
        k: 0..min(out, in).

    Returns:
        A number in [0, 1]; 1.0 for W = 0.

    Raises:
        ValueError: k out of range, shapes that do not fit, C as for :func:`damped_covariance`.
        TypeError: integer tensors.
    """
    check_matrix("W", W)
    k = check_integer("k", k, 0, min(W.shape))
    energy = oriented_svd(W, C).S.double().square()
    total = float(energy.sum())
    return float(energy[:k].sum()) / total if total > 0 else 1.0
