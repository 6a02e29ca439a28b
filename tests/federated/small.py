"""Small networks and clients in float64 that the tests of this folder share."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def mlp(seed=0):
    """5 -> 8 with batch norm -> 3, float64; weights 0.weight (40) and 3.weight (24), 19 dense parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(5, 8, bias=False, dtype=F64),
            nn.BatchNorm1d(8, dtype=F64),
            nn.ReLU(),
            nn.Linear(8, 3, dtype=F64),
        )


def convnet(seed=0):
    """Two convolutions with batch norm and a linear head for 6 x 6 images, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
            nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            nn.Sequential(nn.Flatten(), nn.Linear(72, 4)),
        ).double()


def clients(sizes=(12, 20, 7), features=(5,), classes=3):
    """Client k has samples around its own mean."""
    return [
        (
            randn(n, *features, seed=100 + k) + 0.5 * k,
            torch.from_numpy(np.random.default_rng(k).integers(classes, size=n)),
        )
        for k, n in enumerate(sizes)
    ]


def images(sizes=(12, 20, 7)):
    return clients(sizes, (1, 6, 6), 4)


def same_state(model, other):
    a, b = model.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)
