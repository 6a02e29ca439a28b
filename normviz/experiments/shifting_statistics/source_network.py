"""The source network of the page *Shifting statistics*, and the corrupted digits that it meets.

A thousand digits, split off by the member's seed, train a small ConvNet with three batch norms; of the others some are
corrupted and become the test stream. A corruption acts on pixel values in [0, 1]; then the digits are scaled as the
training digits were.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normviz.adaptive import corruptions
from normviz.data import IndexSampler, SupervisedData, seeded_generator
from normviz.experiments.shifting_statistics.digit_pictures import load_pictures, white_of
from normviz.experiments.shifting_statistics.knobs import held_out
from normviz.experiments.shifting_statistics.recorded import CLASSES
from normviz.models import ConvNet
from normviz.training.seeding import seeded

__all__ = ["Stream", "corrupted_stream", "train_source"]

CHANNELS = (16, 32, 32)
SOURCE_BATCH, SOURCE_RATE = 50, 3e-3


def _load(data: str, seed: int) -> SupervisedData:
    return load_pictures(data, test_size=held_out(data), seed=seed)


@lru_cache(maxsize=16)
def train_source(data: str, seed: int, epochs: int, device: torch.device) -> nn.Module:
    """The network trained on clean digits, in eval mode; kept, so that another corruption does not train it anew.

    Args:
        data: which pictures.
        seed: of the split, the weights and the batches.
        epochs: passes over the 1000 training digits.
        device: where it is trained and kept.
    """
    source = _load(data, seed).to(device)
    with seeded(seed):
        model = ConvNet(1, CHANNELS, CLASSES, norm=nn.BatchNorm2d)
    model = model.to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=SOURCE_RATE)
    sampler = IndexSampler(len(source.x_train), SOURCE_BATCH)
    for step in range(epochs * sampler.steps_per_epoch):
        chosen = sampler.indices(seed, step).to(device)
        optimizer.zero_grad()
        cross_entropy(model(source.x_train[chosen]), source.y_train[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Stream:
    """The test digits in the order in which they come.

    Attributes:
        x: what the network sees (n, 1, side, side), scaled as in training.
        y: labels (n,), for judging only.
        pixels: the same digits as they look, in [0, 1] (n, side, side).
        clean: the digits before the corruption, in [0, 1] (n, side, side).
    """

    x: Tensor
    y: Tensor
    pixels: np.ndarray
    clean: np.ndarray


@lru_cache(maxsize=64)
def corrupted_stream(
    data: str, seed: int, corruption: str, severity: int, order: str, length: int, device: torch.device
) -> Stream:
    """The first ``length`` corrupted test digits of a seed; sorted by label only after they have been chosen.

    Args:
        data: which pictures.
        seed: of the split, the choice, the order and the noise.
        corruption: a function of :mod:`normviz.adaptive.corruptions`.
        severity: 1 to 5.
        order: ``"iid"`` or ``"sorted"``.
        length: digits.
        device: of x and y.
    """
    whole = _load(data, seed)
    chosen = torch.randperm(len(whole.y_test), generator=seeded_generator(seed, 21))[:length]
    if order == "sorted":
        chosen = chosen[torch.argsort(whole.y_test[chosen], stable=True)]
    clean = whole.unscale(whole.x_test) / white_of(data)
    corrupt = getattr(corruptions, corruption)
    pixels = corrupt(clean, severity, seeded_generator(seed, 22))[chosen]
    x = (pixels * white_of(data) - whole.mean) / whole.scale
    return Stream(
        x=x.to(device),
        y=whole.y_test[chosen].to(device),
        pixels=pixels[:, 0].numpy(),
        clean=clean[chosen][:, 0].numpy(),
    )
