"""What is trained on the page *Noisy labels*: every arm on the same noisy data, one step each in turn.

Digits: an MLP 64-128-10 on 1248 scikit-learn digits, 449 for testing; of MNIST-1D or MNIST, with as many inputs as
an example has values, 3900 and 1000. Text: an MLP 32-64-8 on principal components of
the trigrams of passages from Python's help texts. SGD, dropout in the hidden layer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from normviz.data import IndexSampler
from normviz.experiments.noisy_labels.knobs import WEIGHTING, Knobs, arm_name
from normviz.experiments.noisy_labels.learners import Batches, Learner, StormLearner, build_learner
from normviz.experiments.noisy_labels.omega_grid import grid_features
from normviz.experiments.noisy_labels.operations import operations_of_update
from normviz.experiments.noisy_labels.recorded import BINS, WEIGHT_RANGE
from normviz.experiments.noisy_labels.tasks import NoisyTask, build_task
from normviz.frame import Frame, Value
from normviz.training import Diverged, Trainee, interleave, resolve_device

__all__ = ["auc", "calibration_error", "frames"]

EVALUATIONS = 32
TIMED_EVERY = 5
"""Rounds of ``n_inner`` updates over which the time of an update is averaged."""
SHOWN = {"digits": 18, "text": 8}
"""Samples with the least weight whose looks are sent."""
POINTS = 120
"""Right and wrong samples, each, that are drawn on the map of the rescaler."""
LOSS_BINS = 10


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train every arm and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    kinds = knobs.kinds()
    yield from (Frame(0, arm_name(kinds[0], knobs), seed) for seed in knobs.seed_range())
    members: list[Member] = []
    for seed in knobs.seed_range():
        task = build_task(knobs, seed, where)
        batches = _batches(knobs, task, seed)
        members += [Member(kind, build_learner(kind, task, knobs, seed), seed, batches) for kind in kinds]
    yield from interleave(
        members,
        until=knobs.steps,
        evaluate=_evaluate,
        eval_every=max(10, knobs.steps // EVALUATIONS),
        evaluate_all_first=True,
    )


def _batches(knobs: Knobs, task: NoisyTask, seed: int) -> Callable[[int], Batches]:
    """The batches of a step: for the update, for STORM's validation, and from the trusted set."""
    n, trusted = len(task.y), len(task.y_trusted)
    size = min(knobs.batch_size, n)
    samplers = (
        IndexSampler(n, size, stream=0),
        IndexSampler(n, size, stream=1),
        IndexSampler(trusted, min(size, trusted), replacement=True, stream=2),
    )
    return lambda step: Batches(*(s.indices(seed, step).to(task.x.device) for s in samplers))


class Member:
    """One arm with one seed, as :func:`interleave` sees it.

    Args:
        kind: the arm's key in the knobs.
        learner: what takes the steps.
        seed: of its network, its wrong labels and its batches.
        batches: the batches of a step.
    """

    def __init__(self, kind: str, learner: Learner, seed: int, batches: Callable[[int], Batches]) -> None:
        self.kind, self.learner, self.seed, self.batches = kind, learner, seed, batches
        self.arm = arm_name(kind, learner.knobs)
        self._seconds = 0.0

    def step(self, at: int) -> dict[str, Value]:
        """One update: its loss, and now and then the milliseconds that an update takes."""
        batches = self.batches(at)
        with _masks_of(self, at):
            start = time.perf_counter()
            loss = self.learner.update(batches)
            self._seconds += time.perf_counter() - start
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss}")
        values: dict[str, Value] = {"loss": loss}
        every = TIMED_EVERY * self.learner.knobs.n_inner  # whole rounds: most updates of a round only wait
        if (at + 1) % every == 0:
            values["step_ms"] = 1e3 * self._seconds / every
            self._seconds = 0.0
        return values


@contextmanager
def _masks_of(member: Member, step: int) -> Iterator[None]:
    """Dropout masks that depend on seed and step alone; the global random state is the same afterwards."""
    device = member.learner.task.x.device
    seed = member.seed * 1_000_003 + step
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a millisecond
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
        yield


def _evaluate(trainee: Trainee, step: int) -> dict[str, Value]:
    """Accuracy and calibration on clean test data, what was memorised, and the weights of all training samples."""
    assert isinstance(trainee, Member)
    member, learner, task = trainee, trainee.learner, trainee.learner.task
    model = learner.model.eval()
    with torch.no_grad():
        test, train = model(task.x_test).softmax(1), model(task.x)
    model.train()
    predicted = train.argmax(1)
    hits = test.argmax(1) == task.y_test
    values: dict[str, Value] = {}
    if not step:
        with _masks_of(member, step):
            values["operations"] = operations_of_update(member.kind, learner, member.seed, member.batches)
    else:  # an untrained network's accuracy would only stretch the axis
        values["accuracy"] = float(hits.float().mean())
        values["calibration_error"] = calibration_error(test.amax(1), hits)
    wrong = task.flipped
    if bool(wrong.any()):
        values["memorised"] = float((predicted == task.y)[wrong].float().mean())
        values["seen_through"] = float((predicted == task.true)[wrong].float().mean())
    if member.kind in WEIGHTING:
        with _masks_of(member, step):
            weights = learner.sample_weights()
            assert weights is not None
            values |= _weight_values(weights, task, learner.all_losses())
            if member.seed == learner.knobs.first_seed:
                values |= _least_weight(weights, task, predicted, SHOWN[learner.knobs.task])
                if member.kind == "storm" and isinstance(learner, StormLearner):
                    values |= _omega_map(learner)
    return values


def _weight_values(weights: Tensor, task: NoisyTask, losses: Tensor) -> dict[str, Value]:
    """Mean weights of rightly and wrongly labelled samples, by class and by loss, their AUC and histograms."""
    w, wrong = weights.double(), task.flipped
    values: dict[str, Value] = {"weight/right": float(w[~wrong].mean())}
    groups = [w[~wrong]]
    if bool(wrong.any()):
        values["weight/wrong"] = float(w[wrong].mean())
        values["weight_gap"] = float(w[~wrong].mean() - w[wrong].mean())
        values["auc"] = auc(w, ~wrong)
        groups.insert(0, w[wrong])
    low, high = WEIGHT_RANGE
    edges = [torch.histc(g.clamp(low, high - 1e-9), BINS, low, high) / max(len(g), 1) for g in groups]
    values["weight_histogram"] = (torch.stack(edges) * BINS / (high - low)).cpu().numpy()
    squashed = -torch.expm1(-losses.double())
    bins = (squashed * LOSS_BINS).long().clamp(0, LOSS_BINS - 1)
    values["weight_by_loss"] = _means(w, bins, LOSS_BINS)
    values["weight_by_class"] = _means(w, task.true, task.num_classes)
    return values


def _means(values: Tensor, group: Tensor, count: int) -> np.ndarray:
    """Mean of each group, NaN for an empty one."""
    total = torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, group, values)
    size = torch.bincount(group, minlength=count)
    mean: np.ndarray = (total / size).float().cpu().numpy()
    return mean


def _least_weight(weights: Tensor, task: NoisyTask, predicted: Tensor, count: int) -> dict[str, Value]:
    """The samples with the least weight: their looks, and weight, given label, true label, prediction."""
    lowest = weights.argsort(stable=True)[:count]
    facts = torch.stack([weights, task.y, task.true, predicted], dim=1)[lowest]
    return {"least_looks": task.looks[lowest.cpu().numpy()], "least_facts": facts.float().cpu().numpy()}


def _omega_map(learner: StormLearner) -> dict[str, Value]:
    """The rescaler on imaginary samples, relative to its mean over the training samples, and some real samples."""
    task = learner.task
    rescaler = learner.storm.rescaler
    features = learner.seen
    with torch.no_grad():
        imagined = torch.from_numpy(grid_features(task.num_classes, float(features[:, 5].median())))
        scores = rescaler.raw(imagined.to(features.device)) / rescaler.raw(features).mean()  # type: ignore[operator]
    points = []
    for group in (~task.flipped, task.flipped):
        some = group.nonzero().flatten()[:POINTS]
        facts = [features[some, 0], features[some, 2], task.flipped[some].float()]
        points.append(torch.stack(facts, dim=1))
    return {"omega_map": scores.cpu().numpy(), "omega_points": torch.cat(points).cpu().numpy()}


def auc(score: Tensor, positive: Tensor) -> float:
    """Probability that a positive has a higher score than a negative, ties count half; NaN if one side is empty."""
    n1, n0 = int(positive.sum()), int((~positive).sum())
    if not n1 or not n0:
        return math.nan
    _, rank_of, count = torch.unique(score, return_inverse=True, return_counts=True)
    ends = count.cumsum(0).double()
    middle = ends - (count - 1) / 2  # the mean rank of equal scores, from 1
    return float((middle[rank_of[positive]].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def calibration_error(confidence: Tensor, hits: Tensor, bins: int = 10) -> float:
    """Expected calibration error: mean over ``bins`` equal bins of |share of hits - mean confidence|, by size."""
    at = (confidence * bins).long().clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=at.device)
    gaps.index_add_(0, at, hits.double() - confidence.double())
    return float(gaps.abs().sum() / len(hits))
