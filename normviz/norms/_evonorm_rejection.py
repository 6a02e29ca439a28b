r"""Judging a candidate layer: training on every anchor, and the two rejection tests of the EvoNorm search.

An *anchor* is a callable ``anchor(norm) -> nn.Module`` that builds a fresh classifier, where ``norm(channels)``
returns one layer. All candidates share the initialisation draw and the batches (common random numbers), and torch's
global random state is the same after a test as before it.

Every test exists twice: as a function that returns its report, and as a private generator that also yields a
:class:`Progress` after each training step, so that a caller can show, pause or drop a candidate at any step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normviz.norms._evonorm_graph import Graph
from normviz.norms._evonorm_layer import layer_factory
from normviz.validation import check_integer, check_real

__all__ = [
    "Anchor",
    "Progress",
    "RejectionReport",
    "SearchData",
    "checked_anchors",
    "checked_data",
    "evaluate_norm",
    "finish",
    "quality_reject",
    "quality_steps",
    "stability_reject",
    "stability_steps",
    "train_on_anchors",
]

NormFactory: TypeAlias = Callable[[int], nn.Module]
Anchor: TypeAlias = Callable[[NormFactory], nn.Module]
T = TypeVar("T")

VALIDATION_CHUNK = 512
MOMENTUM = 0.9


class SearchData(NamedTuple):
    """Classification data of a search.

    Attributes:
        x: training inputs, first axis samples.
        y: training labels (int64), one per sample.
        x_val: validation inputs.
        y_val: validation labels.
        batch_size: samples per training step, drawn uniformly with replacement.

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967, the layer
        search.
    """

    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor
    batch_size: int = 64


class Progress(NamedTuple):
    """One step taken while a candidate is examined.

    Attributes:
        stage: "quality", "stability" or "evaluation".
        anchor: index of the anchor in use.
        step: training steps done on this anchor (from 1), or index of the gradient norm (from 0).
        value: training loss, or gradient norm in the stability test.
    """

    stage: str
    anchor: int
    step: int
    value: float


class RejectionReport(NamedTuple):
    """Outcome of a rejection test.

    Attributes:
        rejected: the verdict.
        reason: None, "constant", "nan", "quality" or "stability".
        scores: validation accuracies reached so far, the failing one included.
        norms: gradient norms n_0, n_1, ... of the stability test.
        steps: training steps over all anchors (one that broke included), or ascent steps taken.

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967, the rejection
        tests.
    """

    rejected: bool
    reason: str | None
    scores: tuple[float, ...]
    norms: tuple[float, ...]
    steps: int


CONSTANT = RejectionReport(True, "constant", (), (), 0)


class RandomStream:
    """Torch's random state as a private stream: swapped in for a ``with`` block, continued at the next one."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._cuda = [device] if device.type == "cuda" else []
        self._states: list[Tensor] | None = None

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Use this stream inside the block, leave the global state as it was."""
        with torch.random.fork_rng(devices=self._cuda):
            if self._states is None:
                torch.default_generator.manual_seed(self._seed)
                for device in self._cuda:
                    with torch.cuda.device(device):
                        torch.cuda.manual_seed(self._seed)
            else:
                torch.set_rng_state(self._states[0])
                for device, state in zip(self._cuda, self._states[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
            try:
                yield
            finally:
                self._states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in self._cuda)]


def finish(generator: Generator[Any, None, T]) -> T:
    """Run a generator to its end and give what it returns."""
    while True:
        try:
            next(generator)
        except StopIteration as stop:
            result: T = stop.value
            return result


def _fresh(
    anchor: Anchor, norm: NormFactory, seed: int, device: torch.device
) -> tuple[nn.Module, RandomStream]:
    stream = RandomStream(seed, device)
    with stream.swapped_in():
        model = anchor(norm).to(device)
    return model, stream


def _train(
    model: nn.Module, data: SearchData, steps: int, lr: float, seed: int, stream: RandomStream
) -> Iterator[float]:
    """SGD with momentum on cross entropy; yields every loss and ends after one that is not finite."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM)
    draw = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        index = torch.randint(len(data.x), (data.batch_size,), generator=draw).to(data.x.device)
        with stream.swapped_in(), torch.enable_grad():
            loss = F.cross_entropy(model(data.x[index]), data.y[index])
            value = loss.item()
            finite = math.isfinite(value)
            if finite:
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        yield value
        if not finite:
            return


def _accuracy(model: nn.Module, data: SearchData, stream: RandomStream) -> float | None:
    """Accuracy on the whole validation set in evaluation mode; None if a logit is not finite."""
    model.eval()
    with stream.swapped_in(), torch.no_grad():
        chunks = torch.split(data.x_val, VALIDATION_CHUNK)
        logits = torch.cat([model(x) for x in chunks])  # (samples, classes)
    if not logits.isfinite().all():
        return None
    return int((logits.argmax(1) == data.y_val).sum()) / len(data.y_val)


def train_on_anchors(
    norm: NormFactory,
    anchors: Sequence[Anchor],
    data: SearchData,
    steps: int,
    seed: int,
    lr: float,
    *,
    threshold: float = -math.inf,
    stage: str = "evaluation",
) -> Generator[Progress, None, RejectionReport]:
    """Train every anchor from scratch with ``norm``, stopping at the first that breaks or misses ``threshold``."""
    scores: list[float] = []
    taken = 0
    for j, anchor in enumerate(anchors):
        model, stream = _fresh(anchor, norm, seed, data.x.device)
        for step, loss in enumerate(_train(model, data, steps, lr, seed, stream), 1):
            taken += 1
            yield Progress(stage, j, step, loss)
            if not math.isfinite(loss):
                return RejectionReport(True, "nan", tuple(scores), (), taken)
        accuracy = _accuracy(model, data, stream)
        if accuracy is None:
            return RejectionReport(True, "nan", tuple(scores), (), taken)
        scores.append(accuracy)
        if accuracy < threshold:
            return RejectionReport(True, "quality", tuple(scores), (), taken)
    return RejectionReport(False, None, tuple(scores), (), taken)


def quality_steps(
    graph: Graph,
    anchors: Sequence[Anchor],
    data: SearchData,
    steps: int,
    threshold: float,
    seed: int,
    lr: float,
    groups: int,
) -> Generator[Progress, None, RejectionReport]:
    """Generator behind :func:`quality_reject`."""
    if not graph.depends_on_input:
        return CONSTANT
    norm = layer_factory(graph, groups)
    return (
        yield from train_on_anchors(
            norm, anchors, data, steps, seed, lr, threshold=threshold, stage="quality"
        )
    )


def stability_steps(
    graph: Graph,
    anchor: Anchor,
    batch: tuple[Tensor, Tensor],
    steps: int,
    lr: float,
    max_norm: float,
    seed: int,
    groups: int,
) -> Generator[Progress, None, RejectionReport]:
    """Generator behind :func:`stability_reject`."""
    if not graph.depends_on_input:
        return CONSTANT
    x, y = batch
    model, stream = _fresh(anchor, layer_factory(graph, groups), seed, x.device)
    model.train()
    theta = [p for p in model.parameters() if p.requires_grad]
    norms: list[float] = []
    for i in range(steps + 1):
        with stream.swapped_in(), torch.enable_grad():
            loss = F.cross_entropy(model(x), y)
            gradients = torch.autograd.grad(loss, theta, create_graph=True, materialize_grads=True)
            n = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
            norms.append(n.item())
            unstable = not norms[-1] <= max_norm or norms[-1] == math.inf
            stop = unstable or norms[-1] == 0 or i == steps
            if not stop and n.requires_grad:
                ascent = torch.autograd.grad(n, theta, materialize_grads=True)
                with torch.no_grad():
                    for p, direction in zip(theta, ascent, strict=True):
                        p.add_(direction, alpha=lr)
        yield Progress("stability", 0, i, norms[-1])
        if stop:
            break
    return RejectionReport(unstable, "stability" if unstable else None, (), tuple(norms), len(norms) - 1)


def quality_reject(
    graph: Graph,
    anchors: Sequence[Anchor],
    data: SearchData,
    steps: int = 100,
    threshold: float = 0.2,
    seed: int = 0,
    *,
    lr: float = 0.05,
    groups: int = 8,
) -> RejectionReport:
    """Quality test: does the layer train every anchor above ``threshold`` in a few steps?

    Each anchor is trained from scratch with the layer in every norm slot (SGD, momentum 0.9, cross entropy), then
    scored on the whole validation set in evaluation mode. Anchors in order, stopping at the first failure.

    Args:
        graph: the candidate.
        anchors: one or more network builders.
        data: training and validation samples.
        steps: training steps per anchor; 100 (paper).
        threshold: least accuracy on EVERY anchor; 0.2 (paper: twice chance on CIFAR-10; scale it to the task).
        seed: of the initialisation and the batches.
        lr: learning rate; 0.05 (ours).
        groups: of ``*_whg`` nodes, lowered to a divisor of each width.

    Returns:
        RejectionReport with reason None, "constant" (x not reachable, nothing trained), "nan" (non-finite training
        loss or validation logits) or "quality".

    Raises:
        ValueError: no anchors, steps < 1, lr <= 0, groups < 1, negative seed, empty or inconsistent ``data``.
        Exception: whatever the anchor or the layer raises; :class:`EvolutionSearch` counts it as a rejection.
    """
    _check_test(steps, 1, lr, seed, groups)
    check_real("threshold", threshold)
    anchors, data = checked_anchors(anchors), checked_data(data)
    return finish(quality_steps(graph, anchors, data, steps, threshold, seed, lr, groups))


def stability_reject(
    graph: Graph,
    anchor: Anchor,
    batch: tuple[Tensor, Tensor],
    steps: int = 100,
    lr: float = 0.1,
    max_norm: float = 1e8,
    seed: int = 0,
    *,
    groups: int = 8,
) -> RejectionReport:
    r"""Stability test: can the weights be pushed to where the gradient explodes?

    With n_i = \|\|d loss / d theta\|\|_2 over all parameters, ``theta <- theta + lr * d n_i / d theta``: raw gradient
    ascent on the weights in training mode, i = 0 ... steps. Quality looks at the average case, this at the worst.

    Args:
        graph: the candidate.
        anchor: network builder, freshly initialised.
        batch: (inputs, labels), the same at every step.
        steps: ascent steps; 100 (paper).
        lr: of the ascent; 0.1 (ours).
        max_norm: largest gradient norm allowed; 1e8 (as remembered from the paper).
        seed: of the initialisation.
        groups: of ``*_whg`` nodes, lowered to a divisor of each width.

    Returns:
        RejectionReport with reason None, "constant" or "stability" (the last of ``norms`` is not finite or exceeds
        ``max_norm``). A gradient norm of exactly 0 ends the ascent without rejection.

    Raises:
        ValueError: steps < 0, lr <= 0, max_norm <= 0, groups < 1, negative seed.
        Exception: whatever the anchor or the layer raises; :class:`EvolutionSearch` counts it as a rejection.
    """
    _check_test(steps, 0, lr, seed, groups)
    check_real("max_norm", max_norm, 0, low_open=True)
    return finish(stability_steps(graph, anchor, batch, steps, lr, max_norm, seed, groups))


def evaluate_norm(
    norm: NormFactory,
    anchors: Sequence[Anchor],
    data: SearchData,
    steps: int = 100,
    seed: int = 0,
    *,
    lr: float = 0.05,
) -> RejectionReport:
    """Score any norm factory as the search scores its candidates: same initialisation, batches and optimizer.

    Args:
        norm: ``norm(channels) -> nn.Module``: a found :class:`Candidate`, a published layer, BatchNorm with ReLU, ...
        anchors: one or more network builders.
        data: training and validation samples.
        steps: training steps per anchor; 100.
        seed: of the initialisation and the batches.
        lr: learning rate; 0.05.

    Returns:
        RejectionReport whose ``scores`` are the accuracies, one per anchor; rejected as "nan" if training broke.

    Raises:
        ValueError: as in :func:`quality_reject`.
    """
    _check_test(steps, 1, lr, seed, 1)
    return finish(train_on_anchors(norm, checked_anchors(anchors), checked_data(data), steps, seed, lr))


def _check_test(steps: int, least: int, lr: float, seed: int, groups: int) -> None:
    check_integer("steps", steps, least)
    check_real("lr", lr, 0, low_open=True)
    check_integer("seed", seed, 0)
    check_integer("groups", groups, 1)


def checked_anchors(anchors: Sequence[Anchor]) -> tuple[Anchor, ...]:
    """The anchors as a tuple, at least one and all callable."""
    builders = tuple(anchors)
    if not builders:
        raise ValueError("anchors must hold at least 1 network builder, got none.")
    for j, anchor in enumerate(builders):
        if not callable(anchor):
            raise ValueError(f"anchors[{j}] must be callable as anchor(norm) -> nn.Module, got {anchor!r}.")
    return builders


def checked_data(data: SearchData) -> SearchData:
    """``data`` if both splits hold at least one sample and one label per sample."""
    data = SearchData(*data)
    for split, x, y in [("x", data.x, data.y), ("x_val", data.x_val, data.y_val)]:
        if len(x) < 1 or y.shape != x.shape[:1]:
            raise ValueError(
                f"data.{split} must hold at least 1 sample with one label each, "
                f"got shapes {tuple(x.shape)} and {tuple(y.shape)}."
            )
    check_integer("data.batch_size", data.batch_size, 1)
    return data
