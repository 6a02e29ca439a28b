"""Covariate shifts of images with five severities, as in ImageNet-C (Hendrycks, Dietterich, arXiv 1903.12261).

Every function maps x (N, C, H, W) with values in [0, 1] to a new tensor of the same shape and dtype in [0, 1]. The
strengths are ours, chosen for small images such as the 8 x 8 digits. ``generator`` draws the noise; the others are
deterministic and take it only so that all can be called alike. All raise ValueError for a severity that is not 1..5 or
an x without four axes, TypeError for an x that is not floating point.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from normviz.validation import check_integer

__all__ = ["blur", "brightness", "contrast", "gaussian_noise", "invert", "pixelate", "shift"]


def _pick(x: Tensor, severity: int, strengths: tuple[float, float, float, float, float]) -> float:
    """The strength of a severity, after the checks."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError("x must be a floating point tensor.")
    if x.ndim != 4:
        raise ValueError(f"x must have shape (N, C, H, W), got {tuple(x.shape)}.")
    return strengths[check_integer("severity", severity, 1, 5) - 1]


def _finish(y: Tensor, like: Tensor) -> Tensor:
    return y.clamp(0, 1).to(like.dtype)


def gaussian_noise(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Add normal noise of standard deviation 0.1 to 0.6.

    The noise is drawn on the generator's device (the CPU without one), so a seed gives the same everywhere.
    """
    scale = _pick(x, severity, (0.1, 0.2, 0.3, 0.45, 0.6))
    device = "cpu" if generator is None else generator.device
    noise = torch.randn(x.shape, generator=generator, device=device)
    return _finish(x.float() + scale * noise.to(x.device), x)


def contrast(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG001
    """Shrink the distance of every pixel to its image's mean, to 0.7 down to 0.1 of it."""
    kept = _pick(x, severity, (0.7, 0.5, 0.35, 0.2, 0.1))
    mean = x.float().mean((1, 2, 3), keepdim=True)
    return _finish(mean + kept * (x.float() - mean), x)


def brightness(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG001
    """Add 0.1 to 0.5."""
    return _finish(x.float() + _pick(x, severity, (0.1, 0.2, 0.3, 0.4, 0.5)), x)


def blur(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG001
    """Convolve with a normal density of standard deviation 0.4 to 1.6 pixels; the border is continued."""
    sigma = _pick(x, severity, (0.4, 0.6, 0.9, 1.2, 1.6))
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=torch.float32)
    kernel = (-0.5 * (offsets / sigma).square()).softmax(0)
    channels = x.shape[1]
    padded = F.pad(x.float(), (radius,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return _finish(F.conv2d(rows, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels), x)


def invert(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG001
    """Move every pixel p to (1 - s) p + s (1 - p) with s from 0.2 to 1 (the negative)."""
    s = _pick(x, severity, (0.2, 0.4, 0.6, 0.8, 1.0))
    return _finish((1 - s) * x.float() + s * (1 - x.float()), x)


def shift(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG001
    """Move the image down and right by 6 to 40 percent of its size, at least one pixel; what comes in is 0."""
    part = _pick(x, severity, (0.06, 0.13, 0.2, 0.3, 0.4))
    down, right = (min(size, max(1, round(part * size))) for size in x.shape[2:])
    moved = torch.zeros_like(x)
    moved[:, :, down:, right:] = x[:, :, : x.shape[2] - down, : x.shape[3] - right]
    return _finish(moved, x)


def pixelate(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG001
    """Average down to 85 to 30 percent of the size, then back with constant blocks."""
    part = _pick(x, severity, (0.85, 0.7, 0.6, 0.45, 0.3))
    height, width = (max(1, round(part * size)) for size in x.shape[2:])
    small = F.interpolate(x.float(), (height, width), mode="area")
    return _finish(F.interpolate(small, tuple(x.shape[2:]), mode="nearest"), x)
