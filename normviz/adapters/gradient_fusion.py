r"""Gradient fusion of Mix-of-Show: one weight whose responses are those of every tuned layer on its own inputs.

Gu et al. 2023, "Mix-of-Show: Decentralized Low-Rank Adaptation for Multi-Concept Customization of Diffusion Models",
arXiv 2305.18292; its public code (TencentARC/Mix-of-Show, ``gradient_fusion.py``). The baseline of Po et al. 2024
(Orthogonal Adaptation), arXiv 2312.02432. For one linear layer theta [out, in] with residuals D_i and recorded inputs
X_i [n_i, in] of N concepts:

    W = argmin_W  mean of (X_i (theta + D_i - W)^T)^2 over all entries of all i

"lbfgs", as in the public code: torch's L-BFGS from W = theta with rate 1, strong Wolfe line search, history 25 and
tolerances 1e-16; the best iterate is kept. "closed_form" is the limit of that optimisation. Every gradient is a
combination of the rows of X, so that W - theta never leaves their span, and the limit is the minimiser of least norm,

    W = theta + (sum_i D_i C_i) (sum_i C_i)^+,      C_i = X_i^T X_i,

computed here as ``(X^+ Y)^T`` for the stacked X and ``Y_i = X_i D_i^T``, which does not square the condition number of
X.

Both fit W - theta from zero. Biases play no part.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["SOLVERS", "fused_delta"]

SOLVERS = ("lbfgs", "closed_form")
"""How the least squares problem is solved."""


def fused_delta(
    deltas: Sequence[Tensor], inputs: Sequence[Tensor], solver: str = "lbfgs", iters: int = 50
) -> Tensor:
    """W - theta [out, in] of gradient fusion, in float64.

    Gu et al. 2023, arXiv 2305.18292, as above.

    Args:
        deltas: N residuals [out, in], float64.
        inputs: N matrices X_i [n_i, in], any floating dtype, on the device of the residuals.
        solver: "lbfgs" (default, public code) or "closed_form".
        iters: of L-BFGS. Default 50 (the public script's value for the U-Net; 500 for the text encoder).
    """
    X = torch.cat([x.detach().double() for x in inputs])  # [sum of n_i, in]
    Y = torch.cat([x.detach().double() @ D.detach().mT for x, D in zip(inputs, deltas, strict=True)])
    if solver == "lbfgs":
        return _lbfgs(X, Y, iters)
    # Directions in which the inputs differ only by the rounding of their own dtype are no directions of theirs.
    rounding = max(X.shape) * max(torch.finfo(x.dtype).eps for x in inputs)
    solution: Tensor = torch.linalg.pinv(X, rtol=rounding) @ Y
    return solution.mT


def _lbfgs(X: Tensor, Y: Tensor, iters: int) -> Tensor:
    """The best iterate of L-BFGS on the mean of (X W^T - Y)^2, from zero."""
    W = nn.Parameter(X.new_zeros(Y.shape[1], X.shape[1]))
    optimizer = torch.optim.LBFGS(
        [W],
        lr=1,
        max_iter=iters,
        history_size=25,
        tolerance_grad=1e-16,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )
    best, lowest = W.detach().clone(), Y.square().mean()

    def closure() -> Tensor:
        nonlocal best, lowest
        with torch.no_grad():
            residual = X @ W.mT - Y
            W.grad = residual.mT @ X * (2 / residual.numel())
            loss = residual.square().mean()
            if loss < lowest:
                best, lowest = W.detach().clone(), loss
            return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return best
