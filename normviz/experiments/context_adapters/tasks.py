"""Two tasks on the same digits, the network that knows the first one, and what its layers have seen.

The first task is the digits with pixels from 0 to 1 (8 x 8 of them, or MNIST's 28 x 28), or the signals of MNIST-1D as
they are. The new task has the same pictures with their pixels
shuffled (or turned by 90 degrees, or as they are) and their labels shifted by 5. Pixels are not centred: a pixel that
is always black is 0, so that a covariance without centring calls it quiet.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normviz.adapters import CovarianceCollector, damped_covariance
from normviz.data import TensorBatches, load_digit_source, seeded_generator
from normviz.digit_sources import digit_source
from normviz.experiments.context_adapters.knobs import Knobs
from normviz.experiments.context_adapters.recorded import CLASSES, HIDDEN, LAYERS, SOURCES
from normviz.models import MLP
from normviz.training.seeding import seeded

__all__ = ["Context", "Task", "World", "changed", "context_of"]

LABEL_SHIFT = 5
FIRST_RATE = 1e-3
"""Learning rate of Adam on the first task."""
SHUFFLING, CALIBRATION, NOISE, FIRST_BATCHES = 11, 12, 13, 14
"""Independent streams of a seed's random numbers."""


class Task(NamedTuple):
    """Pictures [n, values] and labels [n] for training and for testing."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


class Context(NamedTuple):
    """What the adapted layers are given by calibration samples, by layer.

    Attributes:
        covariances: uncentred, [in, in].
        abs_means: sum over the samples of |x|, [in], as ASVD takes it.
    """

    covariances: dict[str, Tensor]
    abs_means: dict[str, Tensor]


class World:
    """All that the arms of a seed share.

    Args:
        knobs: the setting.
        seed: of split, shuffling, network, batches and samples.
        device: where everything lies; it is drawn on the CPU, so that every device has the same.

    Attributes:
        first: the task that the network knows.
        new: the task that is learned.
        samples: calibration pictures [n, values] by their source.
        base: the network after the first task.
        contexts: what its layers see, by the source of the samples.
        damped: covariances of the first task as they are inverted, by layer.
    """

    def __init__(self, knobs: Knobs, seed: int, device: torch.device) -> None:
        self.knobs, self.seed, self.device = knobs, seed, device
        source = digit_source(knobs.data)
        data = load_digit_source(knobs.data, "flat", seed=seed)
        pictures = [data.unscale(x) for x in (data.x_train, data.x_test)]
        if source.picture:
            pictures = [x.clamp(0, source.white) / source.white for x in pictures]
        x, x_test = (p.to(device) for p in pictures)
        y, y_test = data.y_train.to(device), data.y_test.to(device)
        self.first = Task(x, y, x_test, y_test)
        self.new = Task(*(changed(part, knobs.new_task, seed, source.shape) for part in self.first))
        chosen = torch.randperm(len(x), generator=seeded_generator(seed, CALIBRATION))[: knobs.samples]
        noise = torch.rand(knobs.samples, source.values, generator=seeded_generator(seed, NOISE))
        pictures = [self.first.x[chosen.to(device)], self.new.x[chosen.to(device)], noise.to(device)]
        self.samples = dict(zip(SOURCES, pictures, strict=True))
        self.base = trained_base(self.first, knobs, seed)
        self.contexts = {name: context_of(self.base, samples) for name, samples in self.samples.items()}
        known = self.contexts[SOURCES[0]].covariances
        self.damped = {name: damped_covariance(C, knobs.damp)[0] for name, C in known.items()}

    def batches(self) -> TensorBatches:
        """Batches of the new task, the same for every arm."""
        return TensorBatches((self.new.x, self.new.y), self.knobs.batch_size)


def changed(values: Tensor, how: str, seed: int, shape: tuple[int, ...] = (8, 8)) -> Tensor:
    """Pictures [n, values] or labels [n] of the first task as the new task has them.

    Args:
        values: of the first task.
        how: "permuted", "rotated" (a signal is read backwards) or "relabelled".
        seed: of the shuffling.
        shape: of one picture or signal.
    """
    if values.ndim == 1:
        return (values + LABEL_SHIFT) % CLASSES
    if how == "relabelled":
        return values
    if how == "rotated":
        if len(shape) == 1:
            return values.flip(1)
        return torch.rot90(values.reshape(-1, *shape), 1, (1, 2)).flatten(1)
    order = torch.randperm(values.shape[1], generator=seeded_generator(seed, SHUFFLING))
    return values[:, order.to(values.device)]


def trained_base(task: Task, knobs: Knobs, seed: int) -> nn.Module:
    """A network of two hidden layers of 128 units after so many steps of Adam on the first task."""
    with seeded(seed):
        model = MLP(task.x.shape[1], [HIDDEN, HIDDEN], CLASSES)
    model = model.to(task.x.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=FIRST_RATE)
    source = TensorBatches((task.x, task.y), knobs.batch_size, stream=FIRST_BATCHES)
    for at in range(knobs.first_steps):
        x, y = source(seed, at)
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


@torch.no_grad()
def context_of(model: nn.Module, samples: Tensor) -> Context:
    """Covariances and sums of sizes at the inputs of the adapted layers; each picture is a sample of one token."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name in LAYERS:

        def note(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
            seen[name] = args[0].abs().sum((0, 1))

        handles.append(model.get_submodule(name).register_forward_pre_hook(note))
    with CovarianceCollector(model, LAYERS) as collector:
        model(samples[:, None])  # (samples, 1 token, pixels)
    for handle in handles:
        handle.remove()
    return Context(collector.covariances(), seen)
