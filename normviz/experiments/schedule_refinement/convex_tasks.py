"""Absolute and logistic regression: convex losses whose minimum, distance and gradient bound are known.

The loss is f(x) = mean_i loss(a_i . x, y_i); training sees batches of 16 rows, drawn with replacement. A batch's
subgradient is a mean of rows a_i with factors in [-1, 1], so G = max_i |a_i| bounds it; the first point is 0, so D is
the length of the minimiser.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from normviz.data.sampling import TensorBatches

__all__ = ["ConvexTask", "absolute_minimum", "convex_task", "logistic_minimum"]

Array = NDArray[np.float64]

ROWS = {"absolute": 500, "logistic": 2000}
FEATURES, BATCH = 20, 16


class ConvexTask:
    """One data set of a seed.

    Args:
        kind: ``"absolute"`` (labels are real numbers, loss |a.x - y|) or ``"logistic"`` (labels are -1 and 1, loss
            log(1 + exp(-y a.x))).
        seed: of the data.
        device: where it is trained.

    Attributes:
        D: length of the minimiser, the distance from the first point.
        G: bound of the norm of every batch's subgradient.
        minimum: smallest value of the loss.
        minimiser: where it is, (features,).
        dtype: of the parameters.
    """

    dtype = torch.float64

    def __init__(self, kind: str, seed: int, device: torch.device) -> None:
        self.kind, self.device = kind, device
        rng = np.random.default_rng([seed, 43])
        rows = rng.standard_normal((ROWS[kind], FEATURES))
        truth = rng.standard_normal(FEATURES) / np.sqrt(FEATURES)
        if kind == "absolute":
            labels = rows @ truth + 0.5 * rng.laplace(size=len(rows))
            self.minimiser, self.minimum = absolute_minimum(rows, labels)
        else:
            labels = np.where(rng.random(len(rows)) < 1 / (1 + np.exp(-2 * rows @ truth)), 1.0, -1.0)
            self.minimiser, self.minimum = logistic_minimum(rows, labels)
        self.D = float(np.linalg.norm(self.minimiser))
        self.G = float(np.linalg.norm(rows, axis=1).max())
        self.rows, self.labels = torch.from_numpy(rows).to(device), torch.from_numpy(labels).to(device)
        self._batches = tuple(
            TensorBatches((self.rows, self.labels), BATCH, replacement=True, stream=run) for run in (0, 1)
        )

    def start(self, seed: int, run: int) -> Tensor:  # noqa: ARG002
        """The origin."""
        return torch.zeros(FEATURES, dtype=self.dtype, device=self.device)

    def losses(self, weights: Tensor, seed: int, run: int, step: int) -> Tensor:
        """Loss of every point (M, features) on the batch of a step, (M,)."""
        rows, labels = self._batches[run](seed, step)
        return self._loss(rows, labels, weights)

    @torch.no_grad()
    def measured(self, weights: Tensor) -> Tensor:
        """The gap f(x) - f* of every point (M, features), (M,)."""
        return self._loss(self.rows, self.labels, weights) - self.minimum

    def _loss(self, rows: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        scores = rows @ weights.T  # (rows, M)
        if self.kind == "absolute":
            return (scores - labels[:, None]).abs().mean(0)
        return softplus(-labels[:, None] * scores).mean(0)


def absolute_minimum(rows: Array, labels: Array) -> tuple[Array, float]:
    """Minimiser and minimum of mean |rows x - labels|, by linear programming: -u <= rows x - labels <= u.

    Raises:
        RuntimeError: the program finds no solution.
    """
    from scipy.optimize import linprog

    n, d = rows.shape
    above = np.hstack([rows, -np.eye(n)])
    below = np.hstack([-rows, -np.eye(n)])
    result: Any = linprog(
        np.concatenate([np.zeros(d), np.full(n, 1 / n)]),
        A_ub=np.vstack([above, below]),
        b_ub=np.concatenate([labels, -labels]),
        bounds=[(None, None)] * d + [(0, None)] * n,
        method="highs",
    )
    if result.status != 0:
        raise RuntimeError(f"no minimum was found: {result.message}")
    x: Array = result.x[:d]
    return x, float(np.abs(rows @ x - labels).mean())


def logistic_minimum(rows: Array, labels: Array) -> tuple[Array, float]:
    """Minimiser and minimum of mean log(1 + exp(-labels * rows x)), by Newton's method.

    Raises:
        RuntimeError: the gradient is not 0 after 50 steps.
    """
    x: Array = np.zeros(rows.shape[1])
    signed = labels[:, None] * rows
    for _ in range(50):
        p = 1 / (1 + np.exp(signed @ x))  # share of the loss's slope
        gradient = -(signed * p[:, None]).mean(0)
        if np.linalg.norm(gradient) < 1e-12:
            return x, float(np.logaddexp(0, -(signed @ x)).mean())
        hessian = (signed * (p * (1 - p))[:, None]).T @ signed / len(rows)
        x = x - np.linalg.solve(hessian, gradient)
    raise RuntimeError("no minimum was found in 50 Newton steps.")


@lru_cache(maxsize=32)
def convex_task(kind: str, seed: int, device: torch.device) -> ConvexTask:
    """The task of a seed; kept, since finding the minimum takes a while."""
    return ConvexTask(kind, seed, device)
