"""The space of style codes: planes between the art domains, and walks along their normals."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from normviz.experiments.conditional_normalization.painted_world import PaintedWorld, region_colours
from normviz.experiments.conditional_normalization.recorded import DOMAINS, POSITIONS
from normviz.frame import Value
from normviz.norms import domain_hyperplane, edit_latent

__all__ = ["latent_values", "nearest_domain", "plane_map"]

Paint = Callable[[Tensor, Tensor], Tensor]
"""Layouts and codes to pictures."""

WALKERS = 24
"""Test pictures that walk to each domain."""


def latent_values(
    world: PaintedWorld, train_codes: Tensor, test_codes: Tensor, paint: Paint, *, walks: bool, drawn: bool
) -> dict[str, Value]:
    """How far planes separate the domains, what walks along their normals paint, and a map of the codes.

    Args:
        world: the pictures.
        train_codes: of the pictures that the planes are fitted to (N, Z).
        test_codes: of the test pictures.
        paint: the painter.
        walks: also walk.
        drawn: also the pictures of one walk and the map.
    """
    labels = world.fitted.domain
    planes = [domain_hyperplane(train_codes, labels, d) for d in range(len(DOMAINS))]
    distances = torch.stack([test_codes @ normal + offset for normal, offset in planes], 1)  # (N, domains)
    right = distances.argmax(1) == world.test.domain
    values: dict[str, Value] = {"separated": float(right.float().mean())}
    normals = [normal for normal, _ in planes]
    reaches = [_reach(train_codes @ normal, labels == d) for d, normal in enumerate(normals)]
    if walks:
        share = _shares(world, test_codes, paint, normals, reaches)
        values["moves"] = share.cpu().numpy()
        values["at_the_start"] = float(share[POSITIONS.index(0.0)])
        values["at_the_end"] = float(share[-1])
        values["least_rise"] = float(share.diff().min())
        if drawn:
            pictures, nearest = _strips(world, test_codes, paint, normals, reaches)
            values["strips"] = pictures.cpu().numpy()
            values["strip_domains"] = nearest.float().cpu().numpy()
    if drawn:
        values["codes"] = plane_map(test_codes, world.test.domain).cpu().numpy()
    return values


def _reach(along: Tensor, own: Tensor) -> float:
    """Distance along a normal from the mean of the other domains' codes to that of the domain's own."""
    return float(along[own].mean() - along[~own].mean())


def _shares(
    world: PaintedWorld, codes: Tensor, paint: Paint, normals: list[Tensor], reaches: list[float]
) -> Tensor:
    """Share of pictures nearest to the target domain's palette at each position, mean over targets, (positions,)."""
    found = []
    for target, (normal, reach) in enumerate(zip(normals, reaches, strict=True)):
        others = (world.test.domain != target).nonzero()[:WALKERS, 0]
        segmap = world.test.segmap[others].repeat(len(POSITIONS), 1, 1)
        moved = torch.cat([edit_latent(codes[others], normal, p * reach) for p in POSITIONS])
        nearest = nearest_domain(paint(segmap, moved), segmap, world.palettes)
        found.append((nearest == target).double().view(len(POSITIONS), -1).mean(1))
    return torch.stack(found).mean(0)


def _strips(
    world: PaintedWorld, codes: Tensor, paint: Paint, normals: list[Tensor], reaches: list[float]
) -> tuple[Tensor, Tensor]:
    """One picture of the first domain on its way to each other one: (3, positions, 3, 16, 16), nearest domains."""
    start = int((world.test.domain == 0).nonzero()[0, 0])
    z = codes[start : start + 1]
    targets = range(1, len(DOMAINS))
    moved = torch.cat([edit_latent(z, normals[t], p * reaches[t]) for t in targets for p in POSITIONS])
    segmap = world.test.segmap[start : start + 1].expand(len(moved), -1, -1)
    painted = paint(segmap, moved)
    nearest = nearest_domain(painted, segmap, world.palettes)
    shape = (len(targets), len(POSITIONS))
    return painted.view(*shape, *painted.shape[1:]), nearest.view(shape)


def nearest_domain(painted: Tensor, segmap: Tensor, palettes: Tensor) -> Tensor:
    """The domain whose palette is nearest to each picture's region colours, by mean absolute difference.

    Args:
        painted: (N, 3, H, W).
        segmap: (N, H, W); regions that a layout lacks count nothing.
        palettes: of the domains (K, 4, 3).
    """
    colours, there = region_colours(painted, segmap)
    apart = (colours[:, None] - palettes).abs().mean(-1)  # (N, K, 4)
    return (apart * there[:, None]).sum(-1).argmin(1)


def plane_map(codes: Tensor, domain: Tensor) -> Tensor:
    """The two directions in which codes differ most (N, 2), so turned that domain A lies left and domain B above.

    The second direction's sign is that in which domain B lies higher than domain A.
    """
    centred = codes - codes.mean(0)
    _, _, directions = torch.linalg.svd(centred.double(), full_matrices=False)
    flat = centred.double() @ directions[:2].T
    first, second = flat[domain == 0].mean(0), flat[domain == 1].mean(0)
    signs = torch.tensor([1.0 if first[0] <= 0 else -1.0, 1.0 if second[1] >= first[1] else -1.0])
    turned: Tensor = flat * signs.to(flat)
    return turned
