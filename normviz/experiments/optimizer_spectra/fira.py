"""What the page *Optimizer spectra* measures of Fira: its scaling factors against full-rank Adam's, and its limiter.

Fira sends the part of the gradient outside its subspace through with the factor phi by which Adam rescaled the part
inside, column by column (row by row for a tall matrix). The paper's premise is that full-rank Adam would have used
nearly the same factors. :class:`Shadow` keeps that Adam beside each matrix, on the same gradients, and compares.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normviz.experiments.rank_correlation import kendall, spearman
from normviz.frame import Value
from normviz.optim import FiraAdamW, norm_scaling_factor

__all__ = ["Shadow"]


class Shadow:
    """Full-rank Adam's moments beside a Fira optimizer, and what its limiter does.

    Args:
        optimizer: the Fira optimizer; its first group holds the projected matrices.
        probed: the matrix whose factors are drawn.
    """

    def __init__(self, optimizer: FiraAdamW, probed: Tensor) -> None:
        self.optimizer = optimizer
        self.group = optimizer.param_groups[0]
        self.matrices: list[Tensor] = list(self.group["params"])
        self.probed = probed
        self.moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in self.matrices}
        self.before: dict[Tensor, float] = {}
        self.limited = 0
        self.steps = 0

    def update(self) -> None:
        """After a step of Fira: the shadows' moments, and whether the limiter held the probed residual back."""
        beta1, beta2 = self.group["betas"]
        for p in self.matrices:
            assert p.grad is not None
            m, v = self.moments[p]
            m.lerp_(p.grad, 1 - beta1)
            v.lerp_(p.grad.square(), 1 - beta2)
        norm, gamma = float(self.optimizer.state[self.probed]["limiter_norm"]), self.group["gamma"]
        previous = self.before.get(self.probed, 0.0)
        if gamma is not None and previous > 0:
            self.limited += norm >= gamma * previous * (1 - 1e-5)
            self.steps += 1
        self.before[self.probed] = norm

    def values(self) -> Mapping[str, Value]:
        """Factors of the probed matrix in both spaces, their rank correlations, residual norm and limiter share."""
        by_matrix = {p: self._factors(p) for p in self.matrices}
        low, full = by_matrix[self.probed]
        means = np.array([[x.mean() for x in pair] for pair in by_matrix.values()])  # (matrices, 2)
        values: dict[str, Value] = {
            "phi": np.stack([low, full]).astype(np.float32),  # (2, factors)
            "phi_spearman": spearman(low, full),
            "phi_kendall": kendall(low, full),
            "residual": self.before[self.probed],
            "residual_unlimited": self._residual(self.probed),
            "limiter_share": self.limited / max(self.steps, 1),
        }
        if len(means) > 2:
            values["phi_matrix_spearman"] = spearman(means[:, 0], means[:, 1])
        return values

    def _low_rank(self, p: Tensor) -> tuple[str, Tensor, Tensor]:
        """Side, R and N of the last step; the state still is what that step used."""
        state = self.optimizer.state[p]
        side = "right" if p.shape[0] >= p.shape[1] else "left"
        assert p.grad is not None
        R = p.grad @ state["basis"].mT if side == "right" else state["basis"].mT @ p.grad
        return side, R, state["exp_avg"] / (state["exp_avg_sq"].sqrt() + self.group["eps"])

    def _factors(self, p: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        side, R, N = self._low_rank(p)
        m, v = self.moments[p]
        assert p.grad is not None
        full = norm_scaling_factor(m / (v.sqrt() + self.group["eps"]), p.grad, side)
        low = norm_scaling_factor(N, R, side)
        a, b = (x.flatten().double().cpu().numpy() for x in (low, full))
        return a, b

    def _residual(self, p: Tensor) -> float:
        """The norm of the scaled residual before the limiter."""
        side, R, N = self._low_rank(p)
        basis = self.optimizer.state[p]["basis"]
        assert p.grad is not None
        back = R @ basis if side == "right" else basis @ R
        residual = p.grad - self.group["alpha"] * back
        return float((norm_scaling_factor(N, R, side) * residual).norm())
