"""Inputs that the rows of several norms take, and those that every norm must refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from normviz.testing._values import Inputs
from normviz.testing.assertions import Bad

__all__ = [
    "BAD_MASKS",
    "NOT_IMAGES",
    "NOT_TOKENS",
    "batch",
    "images",
    "mask_of",
    "padded_tokens",
    "plain_network",
    "tokens",
    "wrong",
]


def tokens(channels: int = 6) -> Callable[[], Inputs]:
    """(B, T, C) = (4, 5, channels)."""
    return lambda: (torch.randn(4, 5, channels),)


def padded_tokens(time_first: bool = False, channels: int = 6) -> Callable[[], Inputs]:
    """(B, T, C) or (T, B, C) with a mask (B, T) = (4, 5), True at padding; at least three real tokens a row."""

    def inputs() -> Inputs:
        lengths = torch.randint(3, 6, (4, 1))
        shape = (5, 4, channels) if time_first else (4, 5, channels)
        return torch.randn(shape), torch.arange(5) >= lengths

    return inputs


def images() -> Inputs:
    """(N, C, H, W) = (4, 6, 3, 3)."""
    return (torch.randn(4, 6, 3, 3),)


def batch(width: int = 6) -> Callable[[], Inputs]:
    """(N, width) with N = 4."""
    return lambda: (torch.randn(4, width),)


def wrong(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[], Inputs]:
    """Zeros of a shape or dtype that must be refused."""
    return lambda: (torch.zeros(shape, dtype=dtype),)


def mask_of(shape: Sequence[int], dtype: torch.dtype = torch.bool) -> Callable[[], Inputs]:
    """Tokens (4, 5, 6) with a mask that must be refused."""
    return lambda: (torch.zeros(4, 5, 6), torch.ones(*shape, dtype=dtype))


NOT_TOKENS = (
    Bad(inputs=wrong(4, 5, 7), names="x"),
    Bad(inputs=wrong(4, 5, 6, dtype=torch.long), names="x", error=TypeError),
)


NOT_IMAGES = (
    Bad(inputs=wrong(4, 6), names="input"),
    Bad(inputs=wrong(4, 7, 3, 3), names="input"),
    Bad(inputs=wrong(4, 6, 3, 3, dtype=torch.long), names="input", error=TypeError),
)


BAD_MASKS = (
    Bad(inputs=mask_of((5, 3)), names="pad_mask"),
    Bad(inputs=mask_of((4, 5), torch.float32), names="pad_mask", error=TypeError),
)


def plain_network() -> Inputs:
    """A network without norms."""
    return (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)),)
