"""Small paintings with known layouts and palettes, in several domains: a world of ours in place of ArtSem."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normviz.validation import check_integer, check_real

__all__ = ["make_artsem_like"]

_TEXTURE = 0.15
"""Amplitude of the texture."""

_BRIGHTEST = 0.9
"""Largest absolute value of a domain's colours before jitter."""


def make_artsem_like(
    n: int, size: int = 32, domains: int = 4, seed: int = 0, jitter: float = 0.25
) -> dict[str, Tensor]:
    """Images of four regions, painted in the palette and texture of a domain.

    In place of the paper's ArtSem (arXiv 2308.10111: 40,000 images of 4 domains, whose layouts come from photographs):
    a wavy horizon between sky and ground, a disc in the sky, a strip of water on the ground. A domain has a palette of
    one colour per class and a sinusoidal texture of amplitude 0.15; both depend on the domain alone, so that another
    seed gives a held-out set of the same domains. An image's own palette is its domain's plus N(0, jitter^2), clamped
    to [-1, 1]: its style.

    Args:
        n: images.
        size: height and width, at least 8. Default 32.
        domains: K. Default 4 (the paper's number).
        seed: of layouts, domains' order and jitter; the generator is its own. Default 0.
        jitter: standard deviation of an image's colours, >= 0. Default 0.25.

    Returns:
        ``image`` float32 (n, 3, size, size) in [-1, 1]; ``segmap`` int64 (n, size, size) with 0 sky, 1 ground, 2 disc,
        3 water; ``domain`` int64 (n,), equally frequent up to one; ``palette`` float32 (n, 4, 3).

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> data = make_artsem_like(8, size=16)
        >>> data["image"].shape, data["palette"].shape
        (torch.Size([8, 3, 16, 16]), torch.Size([8, 4, 3]))
    """
    check_integer("n", n, 1)
    check_integer("size", size, 8)
    check_integer("domains", domains, 1)
    check_integer("seed", seed, 0)
    check_real("jitter", jitter, 0, math.inf, high_open=True)
    generator = torch.Generator().manual_seed(int(seed))
    order = torch.randperm(n, generator=generator, device="cpu")
    domain = order % domains
    segmap = _layouts(n, size, generator)
    noise = torch.randn(n, 4, 3, generator=generator, dtype=torch.float32, device="cpu")
    palettes = torch.stack([_palette(d) for d in range(domains)])  # (K, 4, 3)
    palette = (palettes[domain] + jitter * noise).clamp(-1, 1)
    textures = torch.stack([_texture(d, size) for d in range(domains)])  # (K, H, W)
    samples = torch.arange(n, device="cpu").view(n, 1, 1)
    flat = palette[samples, segmap].movedim(-1, 1)  # (n, 3, H, W)
    image = (flat + textures[domain].unsqueeze(1)).clamp(-1, 1)
    return {"image": image, "segmap": segmap, "domain": domain, "palette": palette}


def _palette(domain: int) -> Tensor:
    """Colours (4, 3) of a domain's classes."""
    own = torch.Generator().manual_seed(10_000 + domain)
    uniform = torch.rand(4, 3, generator=own, dtype=torch.float32, device="cpu")
    return _BRIGHTEST * (2 * uniform - 1)


def _texture(domain: int, size: int) -> Tensor:
    """Waves (H, W) with a direction and a frequency of the domain."""
    angle = domain * math.pi * (3 - math.sqrt(5))  # the golden angle: no two domains have the same direction
    cycles = 3 + domain % 3
    at = torch.arange(size, dtype=torch.float32, device="cpu") / size
    along = math.cos(angle) * at[None, :] + math.sin(angle) * at[:, None]
    return _TEXTURE * (2 * math.pi * cycles * along).sin()


def _layouts(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Labels (n, size, size)."""

    def uniform(low: float, high: float) -> Tensor:
        draw = torch.rand(n, 1, 1, generator=generator, dtype=torch.float32, device="cpu")
        return low + (high - low) * draw

    at = (torch.arange(size, dtype=torch.float32, device="cpu") + 0.5) / size
    x, y = at.view(1, 1, size), at.view(1, size, 1)
    wave = uniform(0.02, 0.08) * (2 * math.pi * (uniform(0.5, 2.0) * x + uniform(0.0, 1.0))).sin()
    segmap = (y > uniform(0.4, 0.6) + wave).long()  # (n, H, W)
    shore = uniform(0.7, 0.8)
    segmap[(y > shore) & (y < shore + uniform(0.13, 0.2)) & (segmap == 1)] = 3
    radius = uniform(0.1, 0.18)
    inside = (x - uniform(0.2, 0.8)).square() + (y - uniform(0.12, 0.25)).square() < radius.square()
    segmap[inside & (segmap == 0)] = 2
    return segmap
