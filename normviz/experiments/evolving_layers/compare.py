"""The published layers side by side: a ConvNet or ResNet on images or signals, SGD with momentum, no tuning per layer.

Every seed has its own split into training and held-out images, the same for all layers. Every step sees the same
images, as many as the largest number. A smaller number means one of two things:

- several workers: each takes the statistics over its own share (:class:`normviz.models.PerWorker`) and one update
  follows, so that arms differ in nothing but what their normalization sees. The statistics of every worker go into the
  running ones, one worker after the other;
- a smaller batch, as in the paper: every share is a batch of its own and has an update of its own, with a learning rate
  in proportion to its size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normviz.data import (
    SupervisedData,
    by_seed,
    load_digit_source,
    load_own_images,
)
from normviz.experiments.evolving_layers.candidates import from_code
from normviz.experiments.evolving_layers.knobs import FOUND, Knobs, arm_name
from normviz.experiments.evolving_layers.recorded import RESPONSE_AT
from normviz.frame import Frame, Value
from normviz.models import ConvNet, PerWorker, ResNet
from normviz.norms import layer_factory, make_evonorm
from normviz.probes import GradientNorm
from normviz.training import Arm, Batch, Batches, Member, train

__all__ = ["GROUPS", "compare", "make_layer"]

GROUPS = 4
CHANNELS = {"convnet": (16, 32, 32), "resnet": (16, 32)}
RESPONSE_IMAGES = 16


def make_layer(name: str, found: str, channels: int) -> nn.Module:
    """A layer by its name on the page: norm and activation in one."""
    if name == FOUND:
        return layer_factory(from_code(found), GROUPS)(channels)
    if name.startswith("S"):
        return make_evonorm(name, channels, groups=GROUPS)
    if name.startswith("B") and name != "BN-ReLU":
        return make_evonorm(name, channels)
    norm, _, activation = name.partition("-")
    return nn.Sequential(
        nn.BatchNorm2d(channels) if norm == "BN" else nn.GroupNorm(GROUPS, channels),
        nn.ReLU() if activation == "ReLU" else nn.SiLU(),
    )


def sees_batch(name: str, found: str) -> bool:
    """Whether a layer takes statistics over several images, so that it matters which images a worker has."""
    if name == FOUND:
        return any(node.op.endswith("_bwh") for node in from_code(found).canonical().nodes)
    return name.startswith("B")


def compare(knobs: Knobs, device: torch.device) -> Iterator[Frame]:
    """Train every layer with every number of images per worker."""
    first = knobs.shown_arms().names[0]
    yield from (Frame(0, first, seed) for seed in knobs.seed_range())
    data = cache(lambda seed: _load(knobs, seed).to(device))
    some = data(knobs.first_seed)
    few = len(some.x_train) < knobs.batch_size()  # a step of a small set sees some images twice
    batches = by_seed(lambda seed: data(seed).train_batches(knobs.batch_size(), replacement=few))
    sizes = {arm_name(name, size): size for size in knobs.workers() for name in knobs.trained_layers()}
    shrinking = knobs.shrink == "batch"
    yield from train(
        [
            _arm(layer, size, knobs, some.num_classes)
            for size in knobs.workers()
            for layer in knobs.trained_layers()
        ],
        knobs.seed_range(),
        batches=batches,
        steps=knobs.steps,
        device=device,
        probes=[GradientNorm(every=2)],
        evaluate=partial(_evaluate, data=data),
        eval_every=max(5, knobs.steps // 10),
        before_step=partial(_earlier_updates, sizes=sizes, batches=batches) if shrinking else None,
        together=False if shrinking else None,
    )


def _load(knobs: Knobs, seed: int) -> SupervisedData:
    if knobs.data == "own":
        return load_own_images(knobs.own_images, seed=seed)
    return load_digit_source(knobs.data, "image", seed=seed)


def _arm(layer: str, size: int, knobs: Knobs, classes: int) -> Arm:
    share = size if sees_batch(layer, knobs.found) else knobs.batch_size()  # the same numbers, in one piece

    def slot(channels: int) -> nn.Module:
        return PerWorker(make_layer(layer, knobs.found, channels), share)

    network: Callable[..., nn.Module] = ConvNet if knobs.network == "convnet" else ResNet
    model = partial(network, 1, CHANNELS[knobs.network], classes, norm_act=slot)
    rate, loss = knobs.learning_rate, _class_loss
    if knobs.shrink == "batch":
        rate, loss = rate * size / knobs.batch_size(), partial(_last_loss, size=size)
    return Arm(arm_name(layer, size), model, partial(torch.optim.SGD, lr=rate, momentum=0.9), loss)


def _shares(batch: Batch, size: int) -> list[Batch]:
    """The examples of a step in batches of this size, in order."""
    return list(zip(*(torch.split(part, size) for part in batch), strict=True))


def _earlier_updates(
    member: Member, step: int, *, sizes: Mapping[str, int], batches: Batches
) -> Mapping[str, Value]:
    """The updates on all shares of a step but the last, which the training loop makes."""
    for share in _shares(batches(member.seed, step), sizes[member.arm.name])[:-1]:
        loss = _class_loss(member.model, share)
        if not torch.isfinite(loss):
            break  # the loop's own loss then is not finite either, and ends the member
        loss.backward()  # type: ignore[no-untyped-call]
        member.update()
    return {}


def _last_loss(call: Callable[..., Tensor], batch: Batch, *, size: int) -> Tensor:
    return _class_loss(call, _shares(batch, size)[-1])


def _class_loss(call: Callable[..., Tensor], batch: Batch) -> Tensor:
    images, labels = batch
    return cross_entropy(call(images), labels)


def _evaluate(member: Member, *, data: Callable[[int], SupervisedData]) -> Mapping[str, Value]:
    held_out = data(member.seed)
    model = member.model.eval()
    with torch.no_grad():
        logits = model(held_out.x_test)
        response = _response(model, held_out.x_test[:RESPONSE_IMAGES])
    model.train()
    return {
        "validation_loss": float(cross_entropy(logits, held_out.y_test)),
        "validation_accuracy": 100 * float((logits.argmax(-1) == held_out.y_test).float().mean()),
        "response": response,
    }


def _response(model: nn.Module, images: Tensor) -> np.ndarray:
    """What the second layer makes of one value: its output where the middle pixel is set to t standard deviations.

    Mean over images and channels, for every t of ``RESPONSE_AT``; the other pixels are as they are.
    """
    layer = [module for module in model.modules() if isinstance(module, PerWorker)][1]
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        model(images)
    finally:
        handle.remove()
    (z,) = seen  # (N, C, H, W)
    n, _, h, w = z.shape
    t = torch.tensor(RESPONSE_AT, dtype=z.dtype, device=z.device)
    moved = z.repeat(len(t), 1, 1, 1, 1)  # (T, N, C, H, W)
    moved[..., h // 2, w // 2] = t[:, None, None] * z.std((0, 2, 3))
    out = layer(moved.flatten(0, 1)).unflatten(0, (len(t), n))
    values: np.ndarray = out[..., h // 2, w // 2].mean((1, 2)).cpu().numpy()
    return values
