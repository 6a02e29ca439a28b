"""The federation of a seed: a few public samples at the server, the rest dealt out to clients, and a test set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normviz.data import SupervisedData, load_digits, load_mnist_sample, load_own_images
from normviz.experiments.federated_pruning.knobs import PUBLIC, Knobs
from normviz.federated import dirichlet_partition, train_client
from normviz.models import ConvNet

__all__ = ["CLASSES", "Federation", "build_federation"]

SERVER_RATE = 0.1
"""Learning rate of the server, the same whatever the clients' is, so that all of a grid start alike."""
CLASSES = 10
CHANNELS = (16, 32, 32)


@dataclass(frozen=True, eq=False)
class Federation:
    """Who has which data.

    Attributes:
        clients: pairs (x, y).
        public: the server's pair.
        test: held-out pair.
        counts: (clients, classes), samples of each class that a client has.
        seed: of all of it, and of the network.
        server_epochs, batch_size: of the server's pre-training.
    """

    clients: list[tuple[Tensor, Tensor]]
    public: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    counts: NDArray[np.float32]
    seed: int
    server_epochs: int
    batch_size: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one picture."""
        return tuple(self.test[0].shape[1:])

    def network(self) -> nn.Module:
        """The server's dense network after its epochs on the public samples; the same each time."""
        device = self.test[0].device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            net = ConvNet(1, CHANNELS, CLASSES, norm=nn.BatchNorm2d, bias=False)
        net.to(device)
        train_client(
            net,
            *self.public,
            lr=SERVER_RATE,
            epochs=self.server_epochs,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        return net


def _load(knobs: Knobs, seed: int) -> SupervisedData:
    if knobs.data == "own":
        return load_own_images(knobs.own_images, side=14, seed=seed)
    return load_digits(seed=seed) if knobs.data == "digits" else load_mnist_sample(side=14, seed=seed)


def build_federation(knobs: Knobs, seed: int, device: torch.device) -> Federation:
    """The federation of one seed, which draws the test set, the public samples and the clients."""
    data = _load(knobs, seed)
    order = np.random.default_rng(seed).permutation(len(data.y_train))
    public, rest = np.sort(order[:PUBLIC]), np.sort(order[PUBLIC:])
    labels = data.y_train.numpy()[rest]
    parts = dirichlet_partition(labels, knobs.clients, knobs.alpha, seed=seed)

    def pair(indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        chosen = torch.from_numpy(indices)
        return data.x_train[chosen].to(device), data.y_train[chosen].to(device)

    counts = np.stack([np.bincount(labels[part], minlength=CLASSES) for part in parts])
    return Federation(
        clients=[pair(rest[part]) for part in parts],
        public=pair(public),
        test=(data.x_test.to(device), data.y_test.to(device)),
        counts=counts.astype(np.float32),
        seed=seed,
        server_epochs=knobs.server_epochs,
        batch_size=knobs.batch_size,
    )
