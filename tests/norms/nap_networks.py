"""Small networks and norms in NumPy for the tests of Normalize-and-Project."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normviz.norms.nap import NaPMLP

Array = np.ndarray[Any, np.dtype[Any]]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def numpy_norm(x: Array, kind: str, eps: float, axes: tuple[int, ...] = (-1,)) -> Array:
    if kind == "layer":
        x = x - x.mean(axes, keepdims=True)
    return np.asarray(x / np.sqrt((x**2).mean(axes, keepdims=True) + eps))


def mlp(seed: int = 0, **options: Any) -> NaPMLP:
    torch.manual_seed(seed)
    options = {"hidden": (7, 6), "eps": 0.0, **options}
    return NaPMLP(5, 3, **options).double()


def loss_of(model: nn.Module, seed: int = 1) -> Tensor:
    x, y = randn(16, 5, seed=seed), randn(16, 3, seed=seed + 100)
    out: Tensor = model(x)
    return (out - y).square().mean()


def hidden_weights(model: nn.Module) -> list[nn.Parameter]:
    return [m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)][:-1]
