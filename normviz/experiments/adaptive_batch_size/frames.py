"""What runs on the page *Adaptive batch size*: every arm on the same samples, side by side along the samples seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import torch

from normviz.adaptive import coordinatewise_norm_test, inner_product_test, norm_test, orthogonality_test
from normviz.experiments.adaptive_batch_size import toy
from normviz.experiments.adaptive_batch_size.gradient_fan import ARROWS, fan_of
from normviz.experiments.adaptive_batch_size.knobs import ARM_NAMES, Knobs
from normviz.experiments.adaptive_batch_size.learners import Learner, rate_exponent
from normviz.experiments.adaptive_batch_size.problems import problem_of
from normviz.frame import Frame, Value
from normviz.training import Trainee, interleave, resolve_device

__all__ = ["frames"]

EVERY_SAMPLE = 100.0
"""Where an arm that never had the largest batch is said to have had it, in percent of the samples."""


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train every arm and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    kinds = knobs.kinds()
    yield from (Frame(0, ARM_NAMES[kinds[0]], seed) for seed in knobs.seed_range())
    learners = [
        Learner(kind, problem_of(knobs.task, seed, knobs.samples, where, knobs.data_name()), knobs, seed)
        for seed in knobs.seed_range()
        for kind in kinds
    ]
    by_member = {(learner.arm, learner.seed): learner for learner in learners}
    for frame in interleave(
        learners,
        until=knobs.samples,
        evaluate=_measured,
        eval_every=knobs.eval_every(),
        stride=_seen,
        progress=knobs.progress(),
    ):
        if frame.values:
            yield frame
        yield from by_member[frame.arm, frame.seed].passed()


def _seen(trainee: Trainee) -> int:
    assert isinstance(trainee, Learner)
    return trainee.seen


def _measured(trainee: Trainee, at: int) -> Mapping[str, Value] | None:
    """Loss, accuracy and steps of an arm; of the main arm also its gradients one by one.

    At the beginning and at the end, where all arms are, they are shown at once, else at the next marks.
    """
    assert isinstance(trainee, Learner)
    learner, knobs = trainee, trainee.knobs
    values: dict[str, Value] = {"steps": float(learner.steps), **_losses(learner)}
    if learner.kind == knobs.main_kind():
        values |= _gradients(learner, at)
    learner.measured = values
    if 0 < at < knobs.samples:
        return None
    ends = _at_the_end(learner) if at else {}
    return {**values, "batch": float(learner.batch_size), **ends}


@torch.no_grad()
def _losses(learner: Learner) -> dict[str, Value]:
    problem, model = learner.problem, learner.model
    if learner.knobs.task == "toy":
        point = learner.point()
        return {"gap": toy.gap(point), "point": point}
    loss = float(problem.loss_fn(model(problem.x), problem.y))
    outputs = model(problem.x_test)
    values: dict[str, Value] = {
        "loss": loss,
        "test_loss": float(problem.loss_fn(outputs, problem.y_test)),
        "accuracy": 100 * float(problem.right(outputs).double().mean()),
    }
    if problem.least is not None:
        values["gap"] = loss - problem.least
    if problem.truth is not None and learner.kind == learner.knobs.kinds()[0]:
        values["truth"] = problem.truth
    return values


def _gradients(learner: Learner, at: int) -> dict[str, Value]:
    """Of a batch that is drawn to be looked at: what the tests say of it, and for the first seed its arrows."""
    knobs = learner.knobs
    grads = learner.probe(at)
    norm = norm_test(grads, knobs.eta)
    if norm.grad_norm_sq == 0:
        return {}
    along, across = inner_product_test(grads, knobs.theta), orthogonality_test(grads, knobs.nu)
    parts = (knobs.theta**2 * along.suggestion, knobs.nu**2 * across.suggestion)
    whole = knobs.eta**2 * norm.suggestion
    coordinates = coordinatewise_norm_test(grads, knobs.eta)
    values: dict[str, Value] = {
        "share_along": parts[0] / whole,
        "share_across": parts[1] / whole,
        "split_error": abs(sum(parts) / whole - 1),
        "coordinates_over_norm": coordinates.suggestion / norm.suggestion,
    }
    if learner.seed == knobs.first_seed:
        values["fan"] = fan_of(grads.values()).cpu().numpy()
        values["fan_facts"] = np.array([learner.batch_size, norm.suggestion, norm.grad_norm_sq])
        if knobs.task == "toy":
            values["arrows"] = torch.cat(list(grads.values()))[:ARROWS, 0].cpu().numpy()
    return values


def _at_the_end(learner: Learner) -> dict[str, Value]:
    """What is known of the whole run of an arm whose batch grows."""
    if learner.controller is None:
        return {"exponent": rate_exponent(learner.squares)} if learner.squares else {}
    full = learner.full_at
    values: dict[str, Value] = {
        "full_at": EVERY_SAMPLE if full is None else EVERY_SAMPLE * full / learner.knobs.samples,
        "shrinks": float(sum(later < earlier for earlier, later in pairwise(learner.sizes))),
    }
    if learner.ratios:
        values["asks_for"] = float(np.median(learner.ratios))
    if learner.squares:
        values["exponent"] = rate_exponent(learner.squares)
    return values
