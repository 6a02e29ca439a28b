"""The data: points in the plane. The base model knows eight round spots, every concept is another shape."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from normviz.experiments.modular_diffusion.recorded import CONCEPTS

__all__ = ["base_points", "concept_points"]

SPOTS, SPOT_RADIUS, SPOT_SPREAD = 8, 1.6, 0.12
LINE_SPREAD = 0.06
"""Standard deviation of the points around the line of a concept."""


def base_points(count: int, draw: Generator) -> Tensor:
    """Points [count, 2] of eight round spots on a circle: what the base model is trained on."""
    angle = torch.randint(SPOTS, (count,), generator=draw) * (2 * math.pi / SPOTS)
    return SPOT_RADIUS * _on_circle(angle) + SPOT_SPREAD * torch.randn(count, 2, generator=draw)


def concept_points(name: str, count: int, draw: Generator) -> Tensor:
    """Points [count, 2] of a concept.

    Args:
        name: one of :data:`~normviz.experiments.modular_diffusion.recorded.CONCEPTS`.
        count: number of points.
        draw: where randomness comes from.
    """
    along, which = torch.rand(count, generator=draw), torch.randint(2, (count,), generator=draw)
    return LINES[name](along, 2.0 * which - 1.0) + LINE_SPREAD * torch.randn(count, 2, generator=draw)


def _on_circle(angle: Tensor) -> Tensor:
    return torch.stack((angle.cos(), angle.sin()), -1)


def _ring(u: Tensor, side: Tensor) -> Tensor:  # noqa: ARG001 - every line has the same arguments
    return 0.7 * _on_circle(2 * math.pi * u)


def _wave(u: Tensor, side: Tensor) -> Tensor:  # noqa: ARG001
    x = 3.2 * u - 1.6
    return torch.stack((x, 0.7 * (3 * x).sin()), -1)


def _spiral(u: Tensor, side: Tensor) -> Tensor:  # noqa: ARG001
    turn = u.sqrt()  # the root spreads the points evenly along the line
    return 1.4 * turn[:, None] * _on_circle(3 * math.pi * turn)


def _bars(u: Tensor, side: Tensor) -> Tensor:
    return torch.stack((0.6 * side, 2.4 * u - 1.2), -1)


def _cross(u: Tensor, side: Tensor) -> Tensor:
    x = 2.4 * u - 1.2
    return torch.stack((x, side * x), -1)


def _moons(u: Tensor, side: Tensor) -> Tensor:
    bow = _on_circle(math.pi * u)
    return side[:, None] * (bow - bow.new_tensor([0.5, 0.25]))


LINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = dict(
    zip(CONCEPTS, (_ring, _wave, _spiral, _bars, _cross, _moons), strict=True)
)
"""(place along the line in [0, 1], side -1 or 1) -> points [count, 2]."""
