"""Fira: Can We Achieve Full-Rank Training of LLMs Under Low-Rank Constraint?

Chen, Feng, Li, Lai, Yue, Yuan, Wang, arXiv 2410.01623 (2024; NeurIPS 2025). Followed: the released `fira_adamw.py`
and `fira_rmsprop.py`; ``residual="orthogonal"`` gives the paper's formula where the two differ.

GaLore (:mod:`normviz.optim.galore`) keeps Adam's moments for r directions of the gradient and drops the rest. Fira
sends the rest through as SGD, scaled column by column with the factor by which Adam rescales the low-rank part, and
limits how fast the norm of that part may grow.

W, G are (m, n); R, N are the low-rank gradient and its Adam (RMSProp) direction, without bias correction; eta brings
the correction for both parts; back(R) = alpha P R.

    paper                                           code
    phi_j = ||N_:,j|| / (||R_:,j|| + 1e-8)          norm_scaling_factor
    S = phi (G - P P^T G)                           residual="orthogonal"
    S = phi (G - back(R)), as released              residual="official": for alpha < 1 it keeps (1 - alpha) of the
                                                    gradient inside the subspace; equal for alpha = 1
    q = max(s/(s_prev + 1e-8), gamma)/gamma,        NormGrowthLimiter, `limiter_norm`
      S <- S/q, s_prev <- s/q  with s = ||S||_F
    W <- W - eta (back(N) + S), then decay          FiraAdamW, FiraRMSProp

Departures from the released code: while the stored norm is 0 (zero gradients so far) the limiter treats the step as
the first, because the formula would divide S by about s/1e-8 and freeze it for thousands of steps; "full" has one
factor for the whole matrix (the released code fails there); and those of :mod:`normviz.optim.galore`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from normviz.optim._each import Each
from normviz.optim._matrix import at_least_float32
from normviz.optim._projected import AdamRule, Basis, Slots, add_back, add_each, linear_weight_groups
from normviz.optim._steps import Group
from normviz.optim.galore import (
    GaLoreAdamW,
    GaLoreRMSProp,
    LowRankOptimizer,
    LowRankProjector,
    RMSPropRule,
    check_low_rank,
)
from normviz.validation import check_choice, check_real

__all__ = [
    "FiraAdamW",
    "FiraRMSProp",
    "GaLoreAdamW",
    "GaLoreRMSProp",
    "LowRankProjector",
    "NormGrowthLimiter",
    "fira_param_groups",
    "norm_scaling_factor",
]

RESIDUALS = ("official", "orthogonal")
_NORM_AXES: dict[str, tuple[int, ...]] = {"left": (-2,), "right": (-1,), "full": (-2, -1)}


def norm_scaling_factor(N: Tensor, R: Tensor, side: str, eps: float = 1e-8) -> Tensor:
    """phi = ||N|| / (||R|| + eps) along the projected axis: how much Adam rescaled each column (row) of R.

    A column whose R vanished while its momentum did not has a huge factor, up to ||N||/eps; the limiter bounds the
    total norm of what it multiplies.

    Args:
        N: normalised direction, (..., r, n) on the left, (..., m, r) on the right, (..., r, r) for "full".
        R: low-rank gradient, of N's shape.
        side: "left" (one factor per column of W), "right" (one per row) or "full" (one for the matrix).
        eps: added to ||R||. Default 1e-8: the released code.

    Returns:
        (..., 1, n), (..., m, 1) or (..., 1, 1), which broadcasts against W, in N's dtype; norms are taken in at
        least float32.

    Raises:
        ValueError: unknown ``side``.
    """
    axes = _NORM_AXES[check_choice("side", side, _NORM_AXES)]
    numerator = torch.linalg.vector_norm(at_least_float32(N), dim=axes, keepdim=True)
    denominator = torch.linalg.vector_norm(at_least_float32(R), dim=axes, keepdim=True)
    phi: Tensor = numerator / (denominator + eps)
    return phi.to(N.dtype)


def _lengths(X: Tensor, side: str) -> Tensor:
    """Norms of a matrix along the projected axis, as :func:`norm_scaling_factor` takes them.

    For columns by the sum of squares, which torch computes several times as fast as their norm.
    """
    if side == "left":
        return X.square().sum(-2, keepdim=True).sqrt_()
    lengths: Tensor = torch.linalg.vector_norm(X, dim=_NORM_AXES[side], keepdim=True)
    return lengths


def _check_gamma(gamma: object) -> None:
    if gamma is not None:
        check_real("gamma", gamma, 1.0)


def _excess(s: Tensor, prev: Tensor, gamma: float | None) -> Tensor:
    """q = max(s/(prev + 1e-8), gamma)/gamma; 1 where prev is 0 or without a limit."""
    if gamma is None or math.isinf(gamma):  # the formula would give inf/inf
        return torch.ones_like(s)
    q = torch.clamp(s / (prev + 1e-8), min=gamma) / gamma
    return q.masked_fill(prev == 0, 1.0)


class NormGrowthLimiter:
    """Let the Frobenius norm of a matrix grow by at most a factor gamma from one step to the next.

    q = max(s/(prev + 1e-8), gamma)/gamma ; S <- S/q ; stored norm s/q, with s = ||S||_F. A norm that grows less, or
    shrinks, gives q = 1. Without a previous norm, or with one of 0, S passes unchanged.

    Args:
        gamma: largest growth, >= 1. Default 1.01: the paper. None or inf: no limit.

    Raises:
        ValueError: gamma < 1 or no number.

    Example:
        >>> import torch
        >>> limiter = NormGrowthLimiter(gamma=1.5)
        >>> S, norm = limiter(torch.full((2, 2), 10.0), prev=4.0)
        >>> round(float(norm), 6), round(float(S[0, 0]), 6)
        (6.0, 3.0)

    Reference: Chen et al., "Fira: Can We Achieve Full-Rank Training of LLMs Under Low-Rank Constraint?", arXiv
        2410.01623, the norm-growth limiter.
    """

    def __init__(self, gamma: float | None = 1.01) -> None:
        _check_gamma(gamma)
        self.gamma = gamma

    def __call__(self, S: Tensor, prev: Tensor | float | None = None) -> tuple[Tensor, Tensor]:
        """Limit S.

        Args:
            S: any shape; the norm is over all entries, in at least float32.
            prev: the norm that the previous call returned (number or 0-dim tensor); None at the first step.

        Returns:
            (S limited, in its dtype; its norm, a 0-dim tensor in at least float32).
        """
        wide = at_least_float32(S)
        s = torch.linalg.vector_norm(wide)
        if prev is None:
            return S, s
        q = _excess(s, torch.as_tensor(prev, dtype=s.dtype, device=s.device), self.gamma)
        return (wide / q).to(S.dtype), s / q

    def __repr__(self) -> str:
        return f"NormGrowthLimiter(gamma={self.gamma})"


class _FiraDirection(LowRankOptimizer):
    """GaLore's direction plus the scaled and limited residual."""

    def check_group(self, group: Mapping[str, Any]) -> None:
        super().check_group(group)
        _check_gamma(group["gamma"])
        check_choice("residual", group["residual"], RESIDUALS)

    def direction(
        self,
        group: Group,
        slots: Slots,
        G: Tensor,
        R: Tensor,
        N: Tensor,
        side: str,
        basis: Basis,
    ) -> tuple[Tensor, float]:
        alpha = group["alpha"] if group["residual"] == "official" else 1.0
        S = add_back(G, R, side, basis, -alpha)  # (k, m, n), before its factors phi and 1/q
        phi = norm_scaling_factor(N, R, side)  # (k, 1, n), (k, m, 1) or (k, 1, 1)
        lengths = torch.linalg.vector_norm(S, dim=_NORM_AXES[side], keepdim=True)
        s = torch.linalg.vector_norm(phi * lengths, dim=(-2, -1), keepdim=True)  # (k, 1, 1)
        # Zero at the start, which the limiter reads as "no previous norm".
        prev = torch.stack(self.stored("limiter_norm", slots, s.flatten().unbind(0)))
        q = _excess(s, prev.view_as(s), group["gamma"])
        self.store("limiter_norm", slots, (s / q).flatten().unbind(0))
        S.mul_(phi / q)
        return add_back(S, N, side, basis, group["alpha"], out=S), 1.0

    def add_directions(
        self,
        group: Group,
        slots: Slots,
        each: Each,
        R: Sequence[Tensor],
        N: Sequence[Tensor],
        factor: float,
    ) -> None:
        alpha = group["alpha"] if group["residual"] == "official" else 1.0
        matrices = list(zip(each.grads, R, each.sides, each.bases, strict=True))
        S = [add_back(g, r, side, basis, -alpha) for g, r, side, basis in matrices]
        of_N, of_R, of_S = (
            [_lengths(x, side) for x, side in zip(X, each.sides, strict=True)] for X in (N, R, S)
        )
        torch._foreach_add_(of_R, 1e-8)
        phi = list(torch._foreach_div(of_N, of_R))  # (m, 1), (1, n) or (1, 1)
        s = torch.stack(torch._foreach_norm(torch._foreach_mul(phi, of_S)))  # (k,)
        q = _excess(s, torch.stack(self.stored("limiter_norm", slots, s.unbind(0))), group["gamma"])
        self.store("limiter_norm", slots, (s / q).unbind(0))
        torch._foreach_div_(phi, list(q.unbind(0)))
        for W, residual, factors in zip(each.weights, S, phi, strict=True):
            W.addcmul_(residual, factors, value=factor)
        add_each(each, N, factor * group["alpha"])


class FiraAdamW(AdamRule, _FiraDirection):
    """Adam in r singular directions of the gradient, SGD with Adam's column-wise scaling for the rest.

    Groups, defaults and order of decay as in :class:`GaLoreAdamW`: only a group with the key ``rank`` is projected,
    everything else is plain Adam. :func:`fira_param_groups` builds the groups.

    Args:
        params: parameters or groups.
        lr: learning rate. Default 1e-3: the released class (runs: 0.01).
        betas: decay of the moments. Default (0.9, 0.999): the released class.
        eps: added to sqrt(v). Default 1e-6: the released class.
        weight_decay: decoupled, on the updated weight. Default 0.0: the released class.
        correct_bias: eta = lr sqrt(1-b2^t)/(1-b1^t) instead of lr. Default True: the released class.
        gamma: the residual's norm grows by at most this factor per step. Default 1.01: the paper. None: no limit.
        residual: "official" subtracts back(R), which contains alpha; "orthogonal" subtracts P P^T G. Default
            "official": the released runs.
        maximize: climb instead of descend: steps with the negative gradient. Default False.

    ``gamma`` and ``residual`` may differ between groups.

    State per projected matrix: GaLore's and ``limiter_norm`` (0-dim, in the parameter's dtype, 0 until the first
    nonzero residual).

    Raises:
        ValueError: an option out of range, or a projected group with a parameter of fewer than two axes.

    Warns:
        UserWarning: once for each parameter with min(m, n) < rank, which is clipped; two or more matrices and no group
            with the key ``rank``, which is no Fira.

    Example:
        >>> import torch
        >>> W = torch.nn.Parameter(torch.zeros(6, 4))
        >>> optimizer = FiraAdamW([{"params": [W], "rank": 2, "alpha": 0.25}], lr=0.01)
        >>> W.grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        >>> optimizer.step()
        >>> int(torch.linalg.matrix_rank(W.detach()))
        4

    Reference: Chen et al., "Fira: Can We Achieve Full-Rank Training of LLMs Under Low-Rank Constraint?", arXiv
        2410.01623; equations in the module's docstring.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
        gamma: float | None = 1.01,
        residual: str = "official",
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "correct_bias": correct_bias,
            "gamma": gamma,
            "residual": residual,
            "maximize": maximize,
        }
        super().__init__(params, defaults)


class FiraRMSProp(RMSPropRule, _FiraDirection):
    """Fira on RMSProp; with momentum, N (and so phi) contains it. Groups as in :class:`FiraAdamW`, no weight decay.

    Args:
        params: parameters or groups.
        lr: learning rate. Default 1e-3: the released class.
        beta: decay of the averages. Default 0.9: the released class.
        eps: added to sqrt(v). Default 1e-6: the released class.
        momentum: mu; 0 turns it off. Default 0.0: the released class.
        centered: divide by the standard deviation instead of the root mean square. Default False.
        gamma: as in :class:`FiraAdamW`.
        residual: as in :class:`FiraAdamW`.
        maximize: climb instead of descend: steps with the negative gradient. Default False.

    Raises:
        ValueError: an option out of range, weight decay, or a projected parameter of fewer than two axes.

    Warns:
        UserWarning: once for each parameter with min(m, n) < rank, which is clipped; two or more matrices and no group
            with the key ``rank``, which is no Fira.

    Reference: Chen et al., "Fira: Can We Achieve Full-Rank Training of LLMs Under Low-Rank Constraint?", arXiv
        2410.01623, RMSProp form of the released code; equations in the module's docstring.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        beta: float = 0.9,
        eps: float = 1e-6,
        momentum: float = 0.0,
        centered: bool = False,
        gamma: float | None = 1.01,
        residual: str = "official",
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "beta": beta,
            "eps": eps,
            "momentum": momentum,
            "centered": centered,
            "gamma": gamma,
            "residual": residual,
            "maximize": maximize,
        }
        super().__init__(params, defaults)


def fira_param_groups(
    model: nn.Module,
    targets: Iterable[str] | None = ("attn", "mlp"),
    rank: int = 8,
    update_proj_gap: int = 200,
    alpha: float = 0.25,
    proj_type: str = "std",
) -> list[Group]:
    """The groups of the authors' runs, for GaLore and Fira: attention and MLP weights projected, the rest plain.

    Args:
        model: any module; frozen parameters are in neither group.
        targets: an nn.Linear weight is projected if its module name contains one of these words. Default
            ("attn", "mlp"): the authors' scripts. None: every nn.Linear weight except the last one's, which works
            on any model.
        rank: r. Default 8, for small networks (runs: 128 at 60M parameters, 512 at 1B).
        update_proj_gap: T. Default 200: the authors' 60M script.
        alpha: factor of the low-rank part. Default 0.25: the authors' 60M script (1B: 0.0625).
        proj_type: see :class:`LowRankProjector`.

    Returns:
        [projected group, plain group]; only the plain group if no weight is chosen (the optimizers then warn).

    Raises:
        ValueError: an argument out of range, or ``targets`` a single string.

    Example:
        >>> from torch import nn
        >>> model = nn.ModuleDict({"mlp": nn.Linear(4, 8), "head": nn.Linear(8, 2)})
        >>> projected, plain = fira_param_groups(model, rank=2)
        >>> [tuple(p.shape) for p in projected["params"]], len(plain["params"])
        ([(8, 4)], 3)
    """
    check_low_rank(rank, update_proj_gap, alpha, proj_type)
    options = {"rank": rank, "update_proj_gap": update_proj_gap, "alpha": alpha, "proj_type": proj_type}
    return linear_weight_groups(model, targets, options)
