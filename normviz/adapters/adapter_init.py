r"""Where an adapter starts: LoRA, PiSSA and CorDA, as functions ``(A, B, W_res)`` with ``W = W_res + s B A``.

Yang, Li, Zhou, Song, Wu, Nie, Ghanem 2024 (CorDA), NeurIPS 2024, arXiv 2406.05223. From the context-oriented
decomposition ``W = U diag(S) Vhat^T`` (:mod:`normviz.adapters.context_svd`) r components become the adapter, the rest
is frozen; s = alpha / r:

    "UV" (default)   B = U_r sqrt(S_r / s) [out, r],   A = sqrt(S_r / s) Vhat_r^T [r, in],   W_res = W - s B A
    "U"              B = U_r (S_r / s),                A = Vhat_r^T
    "V"              B = U_r,                          A = (S_r / s) Vhat_r^T

Knowledge-preserved adaptation (KPA in the paper, ``kpm`` in peft and here) trains the r smallest components, for a
covariance of data to keep; instruction-previewed adaptation (IPA, ``ipm``) the r largest, for a covariance of data to
learn. PiSSA (Meng et al. 2024, arXiv 2404.02948) takes the r largest of the SVD of W alone; LoRA (Hu et al. 2021, arXiv
2106.09685) starts with B = 0.

The official code of CorDA has no alpha (s = 1); peft divides S by s first, as here. Vhat is not orthonormal: in kpm,
after the inverse of C', trailing components may have a large plain norm, because they live where the data is quiet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from normviz.adapters._values import check_matrix, full_precision
from normviz.adapters.context_svd import oriented_svd, signed_svd, widest
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["FUSIONS", "MODES", "adapter_scaling", "check_rank_of", "corda_init", "lora_init", "pissa_init"]

MODES = ("kpm", "ipm")
"""Which components are trained: the smallest (knowledge preserved) or the largest (instruction previewed)."""

FUSIONS = ("UV", "U", "V")
"""Which factor takes the singular values: both by their root, B, or A."""

Adapter = tuple[Tensor, Tensor, Tensor]


def check_rank_of(r: int, out_features: int, in_features: int) -> int:
    """Return r if it is an integer in 1..min(out, in), else raise ValueError."""
    return check_integer("r", r, 1, min(out_features, in_features))


def adapter_scaling(alpha: float | None, r: int) -> float:
    """``alpha / r``; alpha None is r. ValueError unless alpha is finite and > 0."""
    return (
        1.0 if alpha is None else check_real("alpha", alpha, 0, math.inf, low_open=True, high_open=True) / r
    )


def corda_init(
    W: Tensor,
    C: Tensor,
    r: int,
    mode: str = "kpm",
    alpha: float | None = None,
    sigma_fuse: str = "UV",
    damp: float = 0.01,
) -> Adapter:
    """CorDA's adapter: r components of the context-oriented SVD of W.

    Yang et al. 2024, arXiv 2406.05223, sections 3.2 and 3.3; formulas in the module's docstring.
    ``||s B A C'||_F^2`` is the sum of the chosen S^2. W_res is taken from the rounded A and B, so that W_res + s B A is
    W to one rounding also for half types.

    Args:
        W: [out, in].
        C: [in, in] covariance of the layer's inputs; its scale does not matter for B A and W_res.
        r: rank, 1..min(out, in).
        mode: "kpm" (default: smallest components) or "ipm" (largest).
        alpha: s = alpha / r, > 0. None: r, so s = 1 (official code).
        sigma_fuse: "UV" (default, official code), "U" or "V".
        damp: the first damping of C, > 0. Default 0.01 (official code).

    Returns:
        A [r, in], B [out, r], W_res [out, in], in W's dtype.

    Raises:
        ValueError: r, alpha or damp out of range; unknown mode or sigma_fuse; C of another shape, not finite, or with a
            mean diagonal <= 0.
        TypeError: W or C is not floating.

    Example:
        >>> W, X = torch.randn(3, 4), torch.randn(20, 4)
        >>> A, B, W_res = corda_init(W, X.mT @ X, r=2, mode="ipm")
        >>> torch.allclose(W_res + B @ A, W, atol=1e-5)
        True
    """
    check_matrix("W", W)
    r = check_rank_of(r, *W.shape)
    check_choice("mode", mode, MODES)
    check_choice("sigma_fuse", sigma_fuse, FUSIONS)
    scaling = adapter_scaling(alpha, r)
    U, S, V_hat, _ = oriented_svd(W, C, damp)
    chosen = slice(len(S) - r, None) if mode == "kpm" else slice(r)
    return _fused(W, U[:, chosen], S[chosen], V_hat[:, chosen], scaling, sigma_fuse)


def pissa_init(W: Tensor, r: int, alpha: float | None = None) -> Adapter:
    """PiSSA's adapter: the r largest components of the SVD of W, ``A = sqrt(S / s) V^T``, ``B = U sqrt(S / s)``.

    Meng et al. 2024, arXiv 2404.02948; a baseline of Yang et al. 2024, arXiv 2406.05223.

    Args:
        W: [out, in].
        r: rank, 1..min(out, in).
        alpha: s = alpha / r, > 0. None: r.

    Returns:
        A [r, in], B [out, r], W_res [out, in], in W's dtype.

    Raises:
        ValueError: r or alpha out of range, W not a matrix.
        TypeError: W is not floating.
    """
    check_matrix("W", W)
    r = check_rank_of(r, *W.shape)
    scaling = adapter_scaling(alpha, r)
    with torch.no_grad(), full_precision(W):
        U, S, Vh = signed_svd(W.detach().to(widest(W)))
    return _fused(W, U[:, :r], S[:r], Vh[:r].mT, scaling, "UV")


def lora_init(W: Tensor, r: int, generator: torch.Generator | None = None) -> Adapter:
    """LoRA's adapter: A uniform in +- 1 / sqrt(in) (``kaiming_uniform(a = sqrt 5)``), B = 0, W_res a copy of W.

    Hu et al. 2021, arXiv 2106.09685, in the form of its public code; a baseline of arXiv 2406.05223.

    Args:
        W: [out, in].
        r: rank, 1..min(out, in).
        generator: of A. None: torch's own.

    Returns:
        A [r, in], B [out, r], W_res [out, in], in W's dtype.

    Raises:
        ValueError: r out of range, W not a matrix.
        TypeError: W is not floating.
    """
    check_matrix("W", W)
    r = check_rank_of(r, *W.shape)
    W = W.detach()
    A = nn.init.kaiming_uniform_(W.new_empty(r, W.shape[1]), a=math.sqrt(5), generator=generator)
    return A, W.new_zeros(W.shape[0], r), W.clone()


def _fused(W: Tensor, U: Tensor, S: Tensor, V: Tensor, scaling: float, sigma_fuse: str) -> Adapter:
    """A, B, W_res of the components U diag(S) V^T."""
    with torch.no_grad(), full_precision(W):
        S = S / scaling
        to_B, to_A = {"UV": (S.sqrt(), S.sqrt()), "U": (S, S.new_ones(())), "V": (S.new_ones(()), S)}[
            sigma_fuse
        ]
        B = (U * to_B).to(W.dtype).contiguous()
        A = (V * to_A).mT.to(W.dtype).contiguous()
        residual = W.detach().to(S.dtype) - scaling * (B.to(S.dtype) @ A.to(S.dtype))
        return A, B, residual.to(W.dtype).contiguous()
