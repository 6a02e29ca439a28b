"""GaLore and Fira as NumPy float64 loops written from the paper's equations, and the inputs that their tests share.

The loops call torch.linalg.svd: after a refresh a trajectory depends on the signs of the singular vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normviz.optim.fira import (
    FiraAdamW,
    FiraRMSProp,
    GaLoreAdamW,
    GaLoreRMSProp,
)

SHAPES = [(8, 5), (5, 8), (6, 6)]
TYPES = ["std", "reverse_std", "left", "right", "full"]
ADAMS = [GaLoreAdamW, FiraAdamW]
CLASSES = [GaLoreAdamW, FiraAdamW, GaLoreRMSProp, FiraRMSProp]


def gradients(shape: tuple[int, ...], steps: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(steps)]


def run(
    make: Callable[..., torch.optim.Optimizer],
    W: Tensor,
    grads: list[Tensor],
    group: dict[str, Any],
    **options: Any,
) -> list[Tensor]:
    """Weights after every step on one parameter."""
    p = nn.Parameter(W.clone())
    optimizer = make([{"params": [p], **group}], **options)
    path = []
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
        path.append(p.detach().clone())
    return path


class Reference:
    """One matrix in NumPy: projection, Adam or RMSProp direction, residual, limiter."""

    def __init__(self, W: Tensor, rank: int, T: int, alpha: float, proj_type: str) -> None:
        self.w = W.numpy().copy()
        rows, cols = self.w.shape
        self.alpha, self.T, self.rank = alpha, T, rank
        wide = rows < cols
        self.left, self.right = {
            "std": (wide, not wide),
            "reverse_std": (not wide, wide),
            "left": (True, False),
            "right": (False, True),
            "full": (True, True),
        }[proj_type]
        self.t = 0
        self.averages: dict[str, Any] = {}
        self.norm = 0.0
        self.quotients: list[float] = []

    def average(self, name: str, keep: float, add: np.ndarray) -> np.ndarray:
        self.averages[name] = keep * self.averages.get(name, 0.0) + add
        return self.averages[name]

    def low_rank(self, grad: np.ndarray) -> np.ndarray:
        if self.t % self.T == 0:
            u, _, vh = (x.numpy() for x in torch.linalg.svd(torch.from_numpy(grad), full_matrices=False))
            rows, cols = grad.shape
            self.P = u[:, : self.rank] if self.left else np.eye(rows)
            self.Q = vh[: self.rank].T if self.right else np.eye(cols)
        self.t += 1
        return self.P.T @ grad @ self.Q

    def adam(self, low: np.ndarray, betas: tuple[float, float], eps: float) -> np.ndarray:
        m = self.average("m", betas[0], (1 - betas[0]) * low)
        v = self.average("v", betas[1], (1 - betas[1]) * low**2)
        return m / (np.sqrt(v) + eps)

    def rmsprop(
        self, low: np.ndarray, beta: float, eps: float, momentum: float, centered: bool
    ) -> np.ndarray:
        v = self.average("v", beta, (1 - beta) * low**2)
        if centered:
            a = self.average("a", beta, (1 - beta) * low)
            v = np.maximum(v - a**2, 0)
        n = low / (np.sqrt(v) + eps)
        return self.average("buf", momentum, n) if momentum > 0 else n

    def back(self, low: np.ndarray, alpha: float) -> np.ndarray:
        return alpha * (self.P @ low @ self.Q.T)

    def residual(
        self, grad: np.ndarray, low: np.ndarray, n: np.ndarray, gamma: float | None, official: bool
    ) -> np.ndarray:
        phi = np.empty_like(grad)
        rows, cols = grad.shape
        if self.left and self.right:
            phi[:] = np.linalg.norm(n) / (np.linalg.norm(low) + 1e-8)
        elif self.left:
            for j in range(cols):
                phi[:, j] = np.linalg.norm(n[:, j]) / (np.linalg.norm(low[:, j]) + 1e-8)
        else:
            for i in range(rows):
                phi[i, :] = np.linalg.norm(n[i, :]) / (np.linalg.norm(low[i, :]) + 1e-8)
        S = phi * (grad - self.back(low, self.alpha if official else 1.0))
        s = np.linalg.norm(S)
        q = max(s / (self.norm + 1e-8), gamma) / gamma if gamma and self.norm > 0 else 1.0
        self.quotients.append(q)
        self.norm = s / q
        return S / q


def numpy_adam(
    W: Tensor,
    grads: list[Tensor],
    *,
    fira: bool,
    rank: int,
    T: int,
    alpha: float,
    proj_type: str,
    lr: float,
    betas: tuple[float, float],
    eps: float = 1e-6,
    wd: float = 0.0,
    gamma: float | None = 1.01,
    official: bool = True,
) -> tuple[list[np.ndarray], Reference]:
    ref, path = Reference(W, rank, T, alpha, proj_type), []
    for g in (g.numpy() for g in grads):
        low = ref.low_rank(g)
        n = ref.adam(low, betas, eps)
        eta = lr * np.sqrt(1 - betas[1] ** ref.t) / (1 - betas[0] ** ref.t)
        D = ref.back(n, alpha)
        if fira:
            D = D + ref.residual(g, low, n, gamma, official)
        ref.w = ref.w - eta * D
        ref.w = ref.w - lr * wd * ref.w
        path.append(ref.w)
    return path, ref


def mixed(make: type[FiraAdamW]) -> tuple[list[nn.Parameter], FiraAdamW]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 6), (4, 6), (6, 4), (5, 5), (4,), (3, 2)]
    params = [nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
    groups = [
        {"params": params[:2], "rank": 2, "update_proj_gap": 3, "alpha": 0.5},
        {"params": params[2:4], "rank": 2, "update_proj_gap": 3, "proj_type": "full"},
        {"params": params[4:]},
    ]
    extra = (
        {"momentum": 0.5, "centered": True, "eps": 1e-3}
        if "RMSProp" in make.__name__
        else {"weight_decay": 0.1}
    )
    return params, make(groups, lr=0.01, **extra)


def advance(params: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
    for t in steps:
        generator = torch.Generator().manual_seed(100 + t)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()
