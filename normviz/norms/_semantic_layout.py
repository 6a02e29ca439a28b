"""What the norms steered by a semantic layout share: the layout as one-hot maps, the norms without gain, the start."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.norms._rows import computing_dtype, values_readable
from normviz.validation import check_choice, check_integer

__all__ = [
    "NORMS",
    "check_images",
    "check_kernel_size",
    "check_vectors",
    "modulate",
    "one_hot_layout",
    "parameter_free_norm",
    "resized",
    "start_like_spade",
]

NORMS = ("batch", "instance")


def parameter_free_norm(name: str, norm: object, channels: int) -> nn.Module:
    """torch's batch or instance norm of images without gain and bias; ValueError names the argument."""
    kind = check_choice(name, norm, NORMS)
    if kind == "batch":
        return nn.BatchNorm2d(channels, affine=False)
    return nn.InstanceNorm2d(channels, affine=False)


def check_kernel_size(kernel_size: object) -> int:
    """Return it if it is odd; an even one would shift the maps by padding."""
    size = check_integer("kernel_size", kernel_size, 1)
    if size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {size}.")
    return size


def start_like_spade(module: nn.Module) -> None:
    """Xavier normal weights with gain 0.02 and zero biases, for every convolution and Linear inside."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(part.weight, gain=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def check_images(name: str, x: Tensor, channels: int) -> None:
    """Raise unless x is a floating (N, channels, H, W)."""
    computing_dtype(name, x)
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"{name} must have shape (N, {channels}, H, W), got {tuple(x.shape)}.")


def check_vectors(name: str, z: object, shape: tuple[int, ...]) -> Tensor:
    """Return z if it is floating and of the shape; nothing is broadcast."""
    if not isinstance(z, Tensor) or not z.is_floating_point():
        given = z.dtype if isinstance(z, Tensor) else type(z).__name__
        raise TypeError(f"{name} must be a floating point tensor, got {given}.")
    if tuple(z.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(z.shape)}.")
    return z


def one_hot_layout(segmap: object, labels: int, samples: int, dtype: torch.dtype) -> Tensor:
    """The layout as maps (N, L, H, W) of a dtype.

    Args:
        segmap: (N, L, H, W) floating, taken as it is, or integer labels (N, H, W).
        labels: L.
        samples: N.
        dtype: of the result.

    Raises:
        TypeError: no tensor, or neither floating nor integer.
        ValueError: another shape, or a label outside 0..L-1. Where values cannot be read (compiled, under vmap, on the
            device meta) a pixel with such a label belongs to no class.
    """
    if not isinstance(segmap, Tensor):
        raise TypeError(f"segmap must be a tensor, got {type(segmap).__name__}.")
    shape = tuple(segmap.shape)
    if segmap.is_floating_point():
        if segmap.ndim != 4 or shape[:2] != (samples, labels):
            raise ValueError(
                f"segmap must have shape ({samples}, {labels}, H, W) if it is floating point, got {shape}."
            )
        return segmap.to(dtype)
    if segmap.dtype == torch.bool or segmap.is_complex():
        raise TypeError(f"segmap must be one-hot floating point or integer labels, got {segmap.dtype}.")
    if segmap.ndim != 3 or shape[0] != samples:
        raise ValueError(f"segmap must have shape ({samples}, H, W) if it holds labels, got {shape}.")
    number = segmap.to(torch.long)
    if values_readable(number):
        wrong = number[(number < 0) | (number >= labels)]
        if wrong.numel():
            raise ValueError(f"segmap must hold labels in [0, {labels - 1}], got {int(wrong[0])}.")
    known = torch.arange(labels, device=number.device).view(1, labels, 1, 1)
    return (number.unsqueeze(1) == known).to(dtype)


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, L, H, W) at another size, by torch's "nearest": one-hot maps stay one-hot."""
    return maps if tuple(maps.shape[-2:]) == size else F.interpolate(maps, size, mode="nearest")


def modulate(normed: Tensor, gamma: Tensor, beta: Tensor, dtype: torch.dtype) -> Tensor:
    """``normed (1 + gamma) + beta``, computed in float32 at least, in a dtype."""
    kind = torch.promote_types(normed.dtype, torch.float32)
    return (normed.to(kind) * (1 + gamma.to(kind)) + beta.to(kind)).to(dtype)
