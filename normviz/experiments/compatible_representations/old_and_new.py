"""The models of a seed, from the oldest to the newest, and their features; nothing of it is trained afterwards.

Each is a small perceptron that learns upright digits (of 8 x 8 pixels, of MNIST-1D or of MNIST). The oldest sees few
classes and trains for few steps. Features are the activations before the last layer, computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normviz.data import IndexSampler, load_digit_source, seeded_generator
from normviz.digit_sources import digit_source
from normviz.experiments.compatible_representations.knobs import Knobs
from normviz.models import MLP
from normviz.training.seeding import seeded

__all__ = ["FIT", "TEST", "ZERO_SHOT", "OldAndNew"]

FIT, TEST, ZERO_SHOT = "fit", "test", "zero-shot"
"""Digits that the maps are fitted on; those of the new task and the upright ones that they are tested with."""

TESTED = {"digits": 261, "mnist1d": 264, "mnist": 264}
"""Digits held out; each is query and gallery item. The others are whole batches of 64: 1,536, or 4,736 of 5,000."""
BACKBONE_BATCH, BACKBONE_RATE = 64, 2e-3
HIDDEN = (32, 128)
"""Hidden units of the oldest and of the newest model."""
BATCHES, NOISE = 31, 32
"""Streams of random numbers."""


@dataclass(frozen=True)
class Backbone:
    """Size and training of one model.

    Args:
        classes: it sees the digits below this one.
        steps: updates.
        hidden: hidden units.
        width: features.
    """

    classes: int
    steps: int
    hidden: int
    width: int


def backbones(knobs: Knobs) -> list[Backbone]:
    """From the oldest to the newest; those between lie half-way in everything."""
    found = []
    for t in range(knobs.models):
        share = t / (knobs.models - 1)

        def between(low: int, high: int, share: float = share) -> int:
            return round(low + share * (high - low))

        width = knobs.new_width if t else knobs.old_width
        found.append(
            Backbone(
                between(knobs.old_classes, 10),
                between(knobs.old_steps, knobs.new_steps),
                between(*HIDDEN),
                width,
            )
        )
    return found


class OldAndNew:
    """What a seed's maps are fitted on and tested with.

    Args:
        knobs: the setting.
        seed: of the split, the models and the noise.
        device: where all of it is kept.

    Attributes:
        shape: of one digit.
        features: by model, oldest first, and by :data:`FIT`, :data:`TEST`, :data:`ZERO_SHOT`: (N, width).
        labels: of the same sets (N,).
        pixels: the test digits of the new task as they look, (N, 8, 8) from 0 to 16, (N, 28, 28) from 0 to 255, or
            signals (N, 40).
    """

    def __init__(self, knobs: Knobs, seed: int, device: torch.device) -> None:
        self.knobs, self.seed = knobs, seed
        self.shape = digit_source(knobs.data).shape
        data = load_digit_source(knobs.data, "flat", test_size=TESTED[knobs.data], seed=seed)
        images = {
            FIT: self._of_new_task(data.x_train, 0),
            TEST: self._of_new_task(data.x_test, 1),
            ZERO_SHOT: data.x_test,
        }
        self.pixels = data.unscale(images[TEST]).reshape(-1, *self.shape)
        self.labels = {FIT: data.y_train, TEST: data.y_test, ZERO_SHOT: data.y_test}
        self.labels = {name: y.to(device) for name, y in self.labels.items()}
        self.features: list[dict[str, Tensor]] = []
        for age, shape in enumerate(backbones(knobs)):
            model = _trained(shape, data.x_train.to(device), self.labels[FIT], seed, age)
            with torch.no_grad():
                self.features.append({name: model.features(x.to(device)) for name, x in images.items()})

    def _of_new_task(self, x: Tensor, stream: int) -> Tensor:
        """Digits (N, values) as the new task shows them; a signal is turned by reading it backwards."""
        if self.knobs.downstream == "rotated":
            if len(self.shape) == 1:
                return x.flip(1)
            return x.reshape(-1, *self.shape).rot90(1, (1, 2)).reshape(len(x), -1)
        if self.knobs.downstream == "noisy":
            return x + self.knobs.noise * torch.randn(
                x.shape, generator=seeded_generator(self.seed, NOISE, stream)
            )
        return x


def _trained(shape: Backbone, x: Tensor, y: Tensor, seed: int, age: int) -> MLP:
    """One model, trained on the classes it sees; leaves torch's random state as it was."""
    known = y < shape.classes
    x, y = x[known], y[known]
    with seeded(1000 * seed + age):
        model = MLP(x.shape[1], [shape.hidden, shape.width], shape.classes).to(x.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=BACKBONE_RATE, fused=True)
    sampler = IndexSampler(len(x), BACKBONE_BATCH, stream=BATCHES + age)
    for step in range(shape.steps):
        chosen = sampler.indices(seed, step).to(x.device)
        optimizer.zero_grad()
        loss = cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    frozen: nn.Module = model.eval().requires_grad_(False)
    assert isinstance(frozen, MLP)
    return frozen
