"""What all arms of a seed share: the base model, the concepts' data and first tokens, and the noise of sampling."""

from __future__ import annotations

import copy
import math
from functools import lru_cache

import torch
from torch import Tensor

from normviz.data.sampling import seeded_generator
from normviz.experiments.modular_diffusion.concept_shapes import base_points, concept_points
from normviz.experiments.modular_diffusion.energy_distance import energy_distance, mean_distance
from normviz.experiments.modular_diffusion.knobs import Knobs
from normviz.experiments.modular_diffusion.recorded import CONCEPTS
from normviz.models import DDPM, FiLMDenoiser
from normviz.training.seeding import seeded

__all__ = ["World"]

INIT, BASE, TRAIN, TEST, TOKEN, SAMPLE, BATCH, RECORD = range(8)
"""Streams of random numbers of a seed."""

BASE_RATE, BASE_BATCH = 2e-3, 128
TRAINED, TESTED, SAMPLED = 512, 1024, 256
"""Points of a concept that are trained on, that samples are compared with, and samples of a concept."""
RECORDED = 64
"""Points at which the inputs of the adapted layers are recorded."""

Batch = tuple[Tensor, Tensor, Tensor]


@lru_cache(maxsize=8)
def _trained_base(seed: int, token_width: int, hidden: int, steps: int, device: torch.device) -> FiLMDenoiser:
    """The denoiser after its training on the eight spots; it is kept between runs and must not be changed."""
    with seeded(int(torch.randint(2**31, (1,), generator=seeded_generator(seed, INIT)))):
        net = FiLMDenoiser(hidden=(hidden,) * 3, token_features=token_width)
    net = net.to(device)
    process = DDPM().to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=BASE_RATE)
    draw = seeded_generator(seed, BASE)
    for _ in range(steps):
        x0 = base_points(BASE_BATCH, draw)
        t = torch.randint(process.steps, (BASE_BATCH,), generator=draw)
        eps = torch.randn(BASE_BATCH, 2, generator=draw)
        optimizer.zero_grad()
        process.loss(net, x0.to(device), t.to(device), eps.to(device)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return net.requires_grad_(False).eval()


class World:
    """Data, base model and noise of a seed.

    Args:
        knobs: the setting.
        seed: of everything random.
        device: where the model is.

    Attributes:
        base: the trained base model.
        process: the diffusion process.
        train: points of every concept that are trained on, [C, 512, 2].
        test: points that samples are compared with, [C, 1024, 2].
        tokens: first token of every concept, [C, n].
        start, noise: [256, 2] and [T, 256, 2], with which every sample of the seed is drawn.
    """

    def __init__(self, knobs: Knobs, seed: int, device: torch.device) -> None:
        self.knobs, self.seed, self.device = knobs, seed, device
        trained = _trained_base(seed, knobs.token_width, knobs.hidden, knobs.base_steps, device)
        self.base = copy.deepcopy(trained)
        self.process = DDPM().to(device)
        names = CONCEPTS[: knobs.concepts]
        self.train, self.test = (
            torch.stack([concept_points(c, n, seeded_generator(seed, s, i)) for i, c in enumerate(names)]).to(
                device
            )
            for s, n in ((TRAIN, TRAINED), (TEST, TESTED))
        )
        self._within = mean_distance(self.test, self.test)
        own = self.base.token.detach()
        noise = torch.stack(
            [torch.randn(len(own), generator=seeded_generator(seed, TOKEN, i)) for i in range(len(names))]
        )
        self.tokens = own + knobs.start_noise * own.norm() / math.sqrt(len(own)) * noise.to(device)
        draw = seeded_generator(seed, SAMPLE)
        self.start = torch.randn(SAMPLED, 2, generator=draw).to(device)
        self.noise = torch.randn(self.process.steps, SAMPLED, 2, generator=draw).to(device)
        self._batches: tuple[int, Batch] | None = None

    def batches(self, step: int) -> Batch:
        """Points [C, B, 2], times [C, B] and noise [C, B, 2] of all concepts at a step: the same for all arms."""
        if self._batches is None or self._batches[0] != step:
            size = self.knobs.batch_size
            drawn = [self._draw(i, size, BATCH, step) for i in range(self.knobs.concepts)]
            points, times, noise = (torch.stack(parts) for parts in zip(*drawn, strict=True))
            self._batches = step, (points, times, noise)
        return self._batches[1]

    def recorded(self, concept: int) -> Batch:
        """Points, times and noise at which a concept's inputs are recorded."""
        return self._draw(concept, RECORDED, RECORD, 0)

    def _draw(self, concept: int, size: int, stream: int, step: int) -> Batch:
        draw = seeded_generator(self.seed, stream, concept, step)
        at = torch.randint(TRAINED, (size,), generator=draw).to(self.device)
        t = torch.randint(self.process.steps, (size,), generator=draw).to(self.device)
        return self.train[concept][at], t, torch.randn(size, 2, generator=draw).to(self.device)

    @torch.no_grad()
    def sample(self, model: FiLMDenoiser, tokens: Tensor) -> Tensor:
        """Samples [k, 256, 2] of one model for k tokens [k, n]."""
        start, noise = self.stacked_noise(len(tokens))
        return self.process.sample(lambda x, t: model(x, t, tokens[:, None]), start, noise)

    def stacked_noise(self, k: int) -> tuple[Tensor, Tensor]:
        """Start [k, 256, 2] and noise [T, k, 256, 2]: the same for each of k concepts."""
        return self.start.expand(k, -1, -1), self.noise[:, None].expand(-1, k, -1, -1)

    def distances(self, samples: Tensor) -> Tensor:
        """Energy distance of samples [k, 256, 2] of the first k concepts to their data, [k]."""
        k = len(samples)
        return energy_distance(samples, self.test[:k], self._within[:k])
