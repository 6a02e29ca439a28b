"""The painted world: small pictures with known layouts and palettes, in four art domains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from normviz.experiments.conditional_normalization.knobs import Knobs
from normviz.experiments.conditional_normalization.recorded import DOMAINS, LAYOUTS, PAINTED, REGIONS
from normviz.norms import make_artsem_like, region_average_pool

__all__ = ["BATCH", "SIZE", "PaintedWorld", "Pictures", "as_maps", "region_colours"]

SIZE = 16
"""Pixels per side."""
TRAINED, FITTED, BATCH = 512, 256, 16
"""Training pictures, those whose codes the planes are fitted to, pictures of a step."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Some pictures.

    Args:
        image: (N, 3, 16, 16) in [-1, 1].
        segmap: layout (N, 16, 16), classes as in ``REGIONS``.
        domain: (N,).
        palette: colours of the regions (N, 4, 3): the style.
    """

    image: Tensor
    segmap: Tensor
    domain: Tensor
    palette: Tensor

    def at(self, index: Tensor | slice) -> Pictures:
        """Those at some positions."""
        return Pictures(self.image[index], self.segmap[index], self.domain[index], self.palette[index])


class PaintedWorld:
    """The pictures of one seed; test pictures are drawn with another seed of the same four domains.

    Args:
        knobs: the setting.
        seed: of the draws.
        device: where the tensors lie.
    """

    def __init__(self, knobs: Knobs, seed: int, device: torch.device) -> None:
        self.knobs, self.seed = knobs, seed

        def drawn(count: int, seed: int, jitter: float) -> Pictures:
            made = make_artsem_like(count, size=SIZE, domains=len(DOMAINS), seed=seed, jitter=jitter)
            return Pictures(**{name: values.to(device) for name, values in made.items()})

        self.train = drawn(TRAINED, 2 * seed, knobs.jitter)
        self.fitted = self.train.at(slice(FITTED))
        self.test = drawn(PAINTED, 2 * seed + 1, knobs.jitter)
        pure = drawn(len(DOMAINS), 0, 0.0)
        self.palettes = pure.palette[pure.domain.argsort()]  # (4, 4, 3): domain, region, colour
        firsts = torch.stack([(self.test.domain == d).nonzero()[0, 0] for d in range(len(DOMAINS))])
        self.styles = self.test.at(firsts)
        others = torch.ones(PAINTED, dtype=torch.bool, device=device)
        others[firsts] = False
        self.layouts = self.test.at(others.nonzero()[:LAYOUTS, 0])

    def batch(self, step: int) -> Pictures:
        """The training pictures of a step, drawn by seed and step alone."""
        index = torch.randint(TRAINED, (BATCH,), generator=self.generator(step))
        return self.train.at(index.to(self.train.domain.device))

    def generator(self, step: int) -> torch.Generator:
        """Random numbers of a step, the same for every painter."""
        return torch.Generator().manual_seed(1_000_003 * self.seed + step)


def as_maps(segmap: Tensor) -> Tensor:
    """A layout (N, H, W) as one map per class (N, 4, H, W)."""
    return one_hot(segmap, len(REGIONS)).movedim(-1, 1).float()


def region_colours(image: Tensor, segmap: Tensor) -> tuple[Tensor, Tensor]:
    """Mean colour of each region (N, 4, 3), and whether the layout has it (N, 4)."""
    maps = as_maps(segmap)
    return region_average_pool(image, maps), maps.flatten(2).any(2)
