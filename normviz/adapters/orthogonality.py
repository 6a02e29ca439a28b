"""How far a matrix is from orthogonal, and a penalty that leaves it free up to a threshold.

Ricci, Biondi, Pernici, Patras, Del Bimbo, "lambda-Orthogonality Regularization for Compatible Representation Learning",
arXiv 2509.16664. The paper's abstract describes a threshold-controlled smooth relaxation of orthogonality; its formula
was not at hand, and the modes here are this library's reading of that description.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from normviz.adapters._values import at_least_float32, check_floating, full_precision
from normviz.validation import check_choice, check_real

__all__ = [
    "LAMBDA_MODES",
    "LambdaOrthogonalityLoss",
    "orthogonality_distance",
    "procrustes_orthogonal",
    "singular_value_band",
]

LAMBDA_MODES = ("gated", "hinge", "softplus", "soft")
MAX_BETA = 1e30
"""Slope above which products with distances would leave float32."""


def _check_two_axes(weight: Tensor) -> None:
    check_floating("weight", weight)
    if weight.ndim != 2:
        raise ValueError(f"weight must be a matrix (out, in), got shape {tuple(weight.shape)}.")


def orthogonality_distance(weight: Tensor) -> Tensor:
    """delta(W) = ||W^T W - I||_F, or ||W W^T - I||_F if W is wide: the Gram matrix of the smaller side.

    delta^2 = sum_i (s_i^2 - 1)^2 over the singular values of W.

    Args:
        weight: W [out, in].

    Returns:
        0-dim tensor in W's dtype, at least float32. The gradient is 2 W E / delta (tall W, E the matrix in the norm)
        and 0 where delta = 0.

    Raises:
        ValueError: weight is not a matrix. TypeError: not floating.

    References:
        Ricci et al., arXiv 2509.16664.

    Example:
        >>> import torch
        >>> orthogonality_distance(torch.eye(3)).item(), round(orthogonality_distance(2 * torch.eye(4)).item(), 5)
        (0.0, 6.0)
    """
    _check_two_axes(weight)
    w = weight.to(at_least_float32(weight))
    with full_precision(w):
        gram = w.mT @ w if w.shape[0] >= w.shape[1] else w @ w.mT  # (k, k), k = min(out, in)
        # This norm has gradient 0 at 0, unlike the root of a sum of squares; identity starts exactly there.
        delta: Tensor = torch.linalg.vector_norm(gram - torch.eye(len(gram), dtype=w.dtype, device=w.device))
    return delta


def singular_value_band(lam: float) -> tuple[float, float]:
    """Where the singular values lie if delta(W) <= lam: [sqrt(max(0, 1 - lam)), sqrt(1 + lam)].

    No norm or distance is stretched by more than the upper end (nor shrunk below the lower, on the smaller side).

    Args:
        lam: threshold >= 0, inf allowed.

    Raises:
        ValueError: lam negative or NaN.

    Example:
        >>> singular_value_band(3.0)
        (0.0, 2.0)
    """
    lam = check_real("lam", lam, 0)
    return math.sqrt(max(0.0, 1 - lam)), math.sqrt(1 + lam)


def procrustes_orthogonal(h_new: Tensor, h_old: Tensor) -> Tensor:
    """The orthogonal map that brings new features closest to old ones: argmin_W ||h_new W^T - h_old||_F.

    W = P R^T with the thin SVD h_old^T h_new = P S R^T. If d_o != d_n, W has orthonormal rows or columns.

    Args:
        h_new: [N, d_n].
        h_old: [N, d_o].

    Returns:
        W [d_o, d_n] in the wider dtype of the two; the SVD runs in at least float32.

    Raises:
        ValueError: not two matrices with the same number of rows. TypeError: not floating.

    Example:
        >>> import torch
        >>> h = torch.randn(20, 3, dtype=torch.float64)
        >>> turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        >>> torch.allclose(procrustes_orthogonal(h, h @ turn.T), turn)
        True
    """
    check_floating("h_new", h_new)
    check_floating("h_old", h_old)
    if h_new.ndim != 2 or h_old.ndim != 2 or len(h_new) != len(h_old):
        raise ValueError(
            f"h_new and h_old must be matrices [N, d_n] and [N, d_o], got {tuple(h_new.shape)} and "
            f"{tuple(h_old.shape)}."
        )
    dtype = at_least_float32(h_new, h_old)
    with full_precision(h_new):
        cross = h_old.to(dtype).mT @ h_new.to(dtype)  # (d_o, d_n)
        p, _, rt = torch.linalg.svd(cross, full_matrices=False)
        w: Tensor = (p @ rt).to(torch.promote_types(h_new.dtype, h_old.dtype))
    return w


class LambdaOrthogonalityLoss(nn.Module):
    """Penalty on delta(W) that sets in around a threshold lambda (arXiv 2509.16664).

    ::

        gated     sigmoid(beta (delta - lambda)) delta
        hinge     max(0, delta - lambda)
        softplus  log(1 + exp(beta (delta - lambda))) / beta
        soft      delta^2, whatever lambda (classical soft orthogonality)

    lambda is a distance, not the weight of the penalty. It leaves singular values free inside
    :func:`singular_value_band` and pulls W towards any orthogonal matrix, not towards I. A uniform scaling error s has
    delta = sqrt(d) |s^2 - 1|, hence lambda / sqrt(d) is what compares between widths (``relative``). "gated" settles
    near lambda / 2 in practice, since its slope peaks below lambda; "hinge" settles at lambda.

    The paper's formula was not at hand; "gated" is this library's reading of "smooth, with threshold lambda".

    Args:
        lam: lambda >= 0; 1 by default. 0: the penalty is delta itself (all modes but soft). inf: 0 in every mode.
        mode: one of LAMBDA_MODES, "gated" by default.
        beta: steepness > 0 of "gated" and "softplus"; None (default): max(1, 10 / lambda).
        relative: lambda is multiplied by sqrt(min(out, in)), also in beta's default (False).

    Shape:
        weight [out, in] -> 0-dim, in its dtype but at least float32. The gradient is finite everywhere, 0 at delta = 0.

    Raises:
        ValueError: lam negative or NaN, beta <= 0, unknown mode, weight not a matrix. TypeError: weight not floating.

    Example:
        >>> import torch
        >>> hinge = LambdaOrthogonalityLoss(lam=1.0, mode="hinge")
        >>> hinge(torch.eye(4)).item(), round(hinge(2 * torch.eye(4)).item(), 5)
        (0.0, 5.0)
    """

    def __init__(
        self, lam: float = 1.0, mode: str = "gated", beta: float | None = None, relative: bool = False
    ) -> None:
        super().__init__()
        self.lam = check_real("lam", lam, 0)
        self.mode = check_choice("mode", mode, LAMBDA_MODES)
        self.beta = None if beta is None else check_real("beta", beta, 0, low_open=True, high_open=True)
        self.relative = bool(relative)

    def extra_repr(self) -> str:
        """Threshold and form."""
        return f"lam={self.lam:g}, mode={self.mode!r}, beta={self.beta}, relative={self.relative}"

    def threshold(self, weight: Tensor) -> float:
        """lambda for this weight: ``lam``, times sqrt(min(out, in)) with ``relative``."""
        return self.lam * math.sqrt(min(weight.shape)) if self.relative else self.lam

    def steepness(self, weight: Tensor) -> float:
        """beta for this weight."""
        lam = self.threshold(weight)
        beta = self.beta if self.beta is not None else max(1.0, 10 / lam if lam else math.inf)
        return min(beta, MAX_BETA)

    def forward(self, weight: Tensor) -> Tensor:
        """The penalty of one weight matrix."""
        delta = orthogonality_distance(weight)
        if self.lam == math.inf:
            return (weight.to(delta.dtype) * 0).sum()
        if self.mode == "soft":
            return delta.square()
        if self.lam == 0:
            return delta
        excess = delta - self.threshold(weight)
        if self.mode == "hinge":
            return excess.relu()
        beta = self.steepness(weight)
        if self.mode == "gated":
            return torch.sigmoid(beta * excess) * delta
        return torch.logaddexp(beta * excess, torch.zeros_like(excess)) / beta
