"""A trained network meets corrupted digits, batch by batch, without labels: one method beside the other.

All methods of a seed start from the same source network and see the same batches in the same order. What is measured of
a method never enters it: labels serve to judge its predictions only.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normviz.adaptive import CoreLoss, EntropyLoss, OnlineAdapter, class_correlation, tta
from normviz.experiments.shifting_statistics.knobs import Knobs
from normviz.experiments.shifting_statistics.layer_statistics import MixtureErrors
from normviz.experiments.shifting_statistics.recorded import ALPHAS, BUCKETS, CLASSES, RECENT, SHOWN
from normviz.experiments.shifting_statistics.source_network import Stream, corrupted_stream, train_source
from normviz.frame import Frame, Value
from normviz.norms import AlphaBatchNorm2d, calibrate_batchnorm, set_alpha
from normviz.training import Trainee, interleave

__all__ = ["Adapting", "build_method", "meet_stream"]


def build_method(kind: str, source: nn.Module, knobs: Knobs, batches: list[Tensor]) -> Any:
    """The method of an arm: an object that maps a batch to logits and keeps its network as ``model``.

    Args:
        kind: key of the arm in the knobs.
        source: the trained network, which stays as it is.
        knobs: alpha, the adaptation rate, Core's normalisation.
        batches: the unlabelled stream, for AdaBN, which reads all of it first.
    """
    adam = partial(torch.optim.Adam, lr=knobs.adapt_rate)
    core = CoreLoss(normalize=knobs.core_normalize)
    if kind == "entropy":
        return OnlineAdapter(source, EntropyLoss(), adam, knobs.alpha)
    if kind == "core":
        return OnlineAdapter(source, core, adam, knobs.alpha)
    if kind == "tbn_core":
        return OnlineAdapter(source, core, adam, 0.0)
    if kind == "tent":
        return tta.tent(source, knobs.adapt_rate)
    if kind == "adabn":
        return tta.adabn(source, batches)
    if kind == "alpha":
        return tta.alpha_bn(source, knobs.alpha)
    if kind == "tbn_ema":
        return tta.tbn_ema(source)
    return tta.tbn(source) if kind == "tbn" else tta.source(source)


def meet_stream(knobs: Knobs, device: torch.device) -> Iterator[Frame]:
    """Train each seed's source network, then let every method meet the stream."""
    streams = {
        seed: corrupted_stream(
            knobs.pictures(), seed, knobs.corruption, knobs.severity, knobs.order, knobs.images, device
        )
        for seed in knobs.seed_range()
    }
    if knobs.first_seed in streams:  # the digits stand there while the source network is trained
        shown = _looks(streams[knobs.first_seed], slice(0, SHOWN))
        yield Frame(0, knobs.arm_name(knobs.kinds()[0]), knobs.first_seed, shown)
    members: list[Trainee] = []
    for seed, stream in streams.items():
        source = train_source(knobs.pictures(), seed, knobs.source_epochs, device)
        members += [Adapting(kind, knobs, seed, source, stream) for kind in knobs.kinds()]
    yield from interleave(
        members,
        until=knobs.images,
        evaluate=_evaluate,
        eval_every=max(knobs.batch_size, knobs.images // BUCKETS),
        stride=_stride,
        evaluate_all_first=True,
        progress=knobs.progress(),
    )


def _stride(trainee: Trainee) -> int:
    assert isinstance(trainee, Adapting)
    return trainee.last_batch


def _evaluate(trainee: Trainee, at: int) -> dict[str, Value] | None:  # noqa: ARG001
    assert isinstance(trainee, Adapting)
    return trainee.measured()


class Adapting:
    """One method of one seed on its way through the stream.

    Args:
        kind: key of the arm in the knobs.
        knobs: the setting.
        seed: of the source network and the stream.
        source: the trained network.
        stream: what it meets.
    """

    def __init__(self, kind: str, knobs: Knobs, seed: int, source: nn.Module, stream: Stream) -> None:
        self.kind, self.knobs, self.seed, self.stream = kind, knobs, seed, stream
        self.arm = knobs.arm_name(kind)
        self.batches = list(torch.split(stream.x, knobs.batch_size))
        self.method = build_method(kind, source, knobs, self.batches)
        self.done = 0
        self.last_batch = knobs.batch_size
        self.logits = torch.zeros(len(stream.y), CLASSES, device=stream.y.device)
        self._start = _affine(self.method.model)
        self._sweep = _Sweep(source, stream, self.batches) if kind == "alpha" else None
        self._errors: MixtureErrors | None = None
        if kind == "alpha":
            mixed = calibrate_batchnorm(copy.deepcopy(source), knobs.alpha)
            self._errors = MixtureErrors(mixed, AlphaBatchNorm2d, self.batches)
            self._buffers = _running(self.method.model)

    def step(self, at: int) -> dict[str, Value]:
        """Predict the batch that begins at this image; what the method learns from it helps later ones."""
        batch = self.batches[at // self.knobs.batch_size]
        self.last_batch = len(batch)
        self.logits[at : at + len(batch)] = self.method(batch)
        self.done = at + len(batch)
        if self._sweep is not None:
            self._sweep.see(at // self.knobs.batch_size)
        hits = self._hits(0)
        return {"accuracy": 100 * hits, "recent": 100 * self._hits(RECENT)}

    def _hits(self, newest: int) -> float:
        """Share of right answers among the newest images (0: all so far)."""
        low = max(self.done - newest, 0) if newest else 0
        right = self.logits[low : self.done].argmax(1) == self.stream.y[low : self.done]
        return float(right.float().mean())

    def measured(self) -> dict[str, Value]:
        """Predicted classes, class correlation and the rest, over the newest predictions."""
        values: dict[str, Value] = self._pictures()
        if not self.done:
            return values
        low = max(self.done - RECENT, 0)
        newest, truth = self.logits[low : self.done], self.stream.y[low : self.done]
        predicted = newest.argmax(1)
        shares = _shares(predicted)
        values["predicted"] = shares
        values["true"] = _shares(truth)
        values["largest_class"] = 100 * float(shares.max())
        correlation = class_correlation(newest.double())
        rows = correlation / (correlation.sum(1, keepdim=True) + 1e-8)
        values["correlation"] = rows.cpu().numpy()
        values["core_loss"] = float(CoreLoss()(newest))
        values["entropy"] = float(EntropyLoss()(newest))
        values["drift"] = float(_distance(_affine(self.method.model), self._start))
        if self._sweep is not None:
            values["by_alpha"] = self._sweep.accuracies()
        if self._errors is not None:
            batches = -(-self.done // self.knobs.batch_size)
            values["mixture"] = self._errors.so_far(batches).astype(np.float32)
            moved = _distance(_running(self.method.model), self._buffers)
            values["buffers_moved"] = float(moved)
        return values

    def _pictures(self) -> dict[str, Value]:
        """The newest digits of the first seed as they look, and what the method says of them."""
        if self.seed != self.knobs.first_seed:
            return {}
        shown = slice(max(self.done - SHOWN, 0), self.done) if self.done else slice(0, SHOWN)
        values = _looks(self.stream, shown)
        if self.done:
            values["shown_predicted"] = self.logits[shown].argmax(1).float().cpu().numpy()
        return values


def _looks(stream: Stream, shown: slice) -> dict[str, Value]:
    """Some digits of a stream: labels, clean, and as they come."""
    return {
        "shown_labels": stream.y[shown].float().cpu().numpy(),
        "shown_pixels": stream.pixels[shown].astype(np.float32),
        "shown_clean": stream.clean[shown].astype(np.float32),
    }


class _Sweep:
    """alpha-BN at every value of :data:`ALPHAS`, over the stream so far."""

    def __init__(self, source: nn.Module, stream: Stream, batches: list[Tensor]) -> None:
        self.model = calibrate_batchnorm(copy.deepcopy(source), 1.0)
        self.stream, self.batches = stream, batches
        self.right = np.zeros(len(ALPHAS))
        self.seen = 0

    @torch.no_grad()
    def see(self, number: int) -> None:
        """Predict batch ``number``, the next one."""
        x = self.batches[number]
        y = self.stream.y[self.seen : self.seen + len(x)]
        for i, alpha in enumerate(ALPHAS):
            set_alpha(self.model, alpha)
            self.right[i] += int((self.model(x).argmax(1) == y).sum())
        self.seen += len(x)

    def accuracies(self) -> np.ndarray:
        """Accuracy (%) so far, one for each alpha."""
        return (100 * self.right / max(self.seen, 1)).astype(np.float32)


def _shares(classes: Tensor) -> np.ndarray:
    """Share of each class, (10,)."""
    counts = torch.bincount(classes, minlength=CLASSES).double().cpu().numpy()
    return np.asarray(counts / counts.sum(), dtype=np.float32)


def _affine(model: nn.Module) -> Tensor:
    """All gains and biases of norms as one vector, a copy."""
    parts = [p.detach().flatten() for name, p in model.named_parameters() if ".norm." in name]
    return torch.cat(parts).clone()


def _running(model: nn.Module) -> Tensor:
    """All running statistics as one vector, a copy."""
    return torch.cat([b.flatten().double() for name, b in model.named_buffers() if "running" in name]).clone()


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square of the difference."""
    return (a - b).square().mean().sqrt()
