"""STORM's step in NumPy, and what its tests share."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from normviz.weighting.storm import LossRescaler

D, C, N, NV = 5, 3, 6, 4


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(n: int, seed: int, classes: int = C) -> tuple[Tensor, Tensor]:
    g = generator(seed)
    return torch.randn(n, D, generator=g, dtype=torch.float64), torch.randint(classes, (n,), generator=g)


def linear_model(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(D, C).double()


def noisy_model(seed: int = 0) -> nn.Sequential:
    """Two layers with batch norm and dropout, in training mode."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(D, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(0.3), nn.Linear(7, C)
    ).double()


def rescaler_of(seed: int = 1, features: int = 7, normalize: str = "mean") -> LossRescaler:
    """A rescaler whose weights are not all equal."""
    torch.manual_seed(seed)
    omega = LossRescaler(features, hidden=4, normalize=normalize).double()
    with torch.no_grad():
        for p in omega.parameters():
            p.copy_(torch.randn_like(p))
    return omega


def fixed_features(model: nn.Module, x: Tensor, y: Tensor, num_passes: int) -> Tensor:
    """Features that do not depend on the model, so that finite differences see what the method differentiates."""
    return x[:, :3].sigmoid()


def snapshot(model: nn.Module) -> list[Tensor]:
    return [t.detach().clone() for t in model.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def np_softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Reference:
    """L_out(omega) of a linear softmax model in NumPy, one sample at a time."""

    def __init__(self, model: nn.Linear, batch: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]) -> None:
        self.W, self.b = (p.detach().numpy().copy() for p in (model.weight, model.bias))
        self.x, self.y = (t.numpy() for t in batch)
        self.xv, self.yv = (t.numpy() for t in val)

    def weights(self, omega: list[np.ndarray], F: np.ndarray) -> np.ndarray:
        W1, b1, W2, b2 = omega
        s = [1 / (1 + math.exp(-float((W2 @ np.tanh(W1 @ f + b1))[0] + b2[0]))) for f in F]
        return len(s) * np.array(s) / (sum(s) + 1e-8)

    def gradients(self, W: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        """grad l_i, W and b in one vector."""
        out = []
        for xi, yi in zip(x, y, strict=True):
            e = np_softmax(W @ xi + b)
            e[yi] -= 1
            out.append(np.concatenate([np.outer(e, xi).ravel(), e]))
        return out

    def losses(self, theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        W, b = theta[: self.W.size].reshape(self.W.shape), theta[self.W.size :]
        return np.array([-math.log(np_softmax(W @ xi + b)[yi]) for xi, yi in zip(x, y, strict=True)])

    @property
    def theta(self) -> np.ndarray:
        return np.concatenate([self.W.ravel(), self.b])

    def inner_gradient(self, theta: np.ndarray, w: np.ndarray) -> np.ndarray:
        W, b = theta[: self.W.size].reshape(self.W.shape), theta[self.W.size :]
        g = self.gradients(W, b, self.x, self.y)
        return sum(wi * gi for wi, gi in zip(w, g, strict=True)) / len(g)  # type: ignore[no-any-return]


def finite_differences(f: Callable[[list[np.ndarray]], float], omega: list[np.ndarray]) -> list[np.ndarray]:
    h = 1e-5
    out = []
    for k, p in enumerate(omega):
        g = np.zeros_like(p)
        for at in np.ndindex(p.shape):
            ends = []
            for sign in (1, -1):
                moved = [q.copy() for q in omega]
                moved[k][at] += sign * h
                ends.append(f(moved))
            g[at] = (ends[0] - ends[1]) / (2 * h)
        out.append(g)
    return out


def arrays(omega: nn.Module) -> list[np.ndarray]:
    return [p.detach().numpy().copy() for p in omega.parameters()]


def close(got: list[Tensor], want: list[Tensor], rtol: float = 1e-8) -> None:
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=rtol, atol=1e-12)
