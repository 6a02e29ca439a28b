"""The one training loop: arms x seeds on the same batches, interleaved, with probes and divergence.

All arms of a seed see the same batches and start from the same random numbers; members advance together, one step
each in turn, so that all curves grow together. A member whose loss is not finite, or whose update raises a
FloatingPointError (a weight is not finite), stops with an event; the others go on. On the CPU members run one after
another (``vmap`` gains nothing there), on CUDA those of an arm run together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normviz.frame import Frame, Value
from normviz.probes.probe import Probe
from normviz.training.interleave import Diverged, interleave
from normviz.training.members import Arm, Batch, Member, Stack, build_member

__all__ = ["Batches", "BeforeStep", "Evaluate", "evaluation_loss", "train"]

Batches = Callable[[int, int], Batch]
"""Maps (seed, step) to a batch on the run's device: a pure function, so that every arm sees the same one."""

Evaluate = Callable[[Member], Mapping[str, Value]]
"""Measures a member between two steps, e.g. on validation data; must leave its state untouched."""

BeforeStep = Callable[[Member, int], Mapping[str, Value]]
"""Acts on a member before its step, e.g. when the task changes; what it returns joins the step's frame."""


def train(
    arms: Sequence[Arm],
    seeds: Sequence[int],
    *,
    batches: Batches,
    steps: int,
    device: torch.device,
    probes: Sequence[Probe] = (),
    evaluate: Evaluate | None = None,
    eval_every: int = 25,
    before_step: BeforeStep | None = None,
    together: bool | None = None,
    on_end: Callable[[list[Member]], object] | None = None,
) -> Iterator[Frame]:
    """Train every arm with every seed and yield a frame per member and step.

    The value ``loss`` of a frame with step ``s`` is the training loss after ``s`` updates. A diverged member's last
    frame has an infinite loss and an event ``"diverged at step s: …"``.

    Args:
        arms: variants, with different names.
        seeds: seeds, each giving one member per arm.
        batches: training batches.
        steps: updates per member.
        device: where the members live.
        probes: measurements, each at its own cadence.
        evaluate: measurement between steps, at step 0, every ``eval_every`` steps, and after the last step.
        eval_every: steps between two evaluations.
        before_step: called for each member before each of its steps, after an evaluation that falls on the same step.
        together: run the members of an arm in one ``vmap``; default: on CUDA only.
        on_end: called with all members after the last step, e.g. to measure the trained networks.

    Raises:
        ValueError: no arms, two arms of one name, or no seeds.
    """
    if not arms or len({arm.name for arm in arms}) < len(arms):
        raise ValueError("arms must be one or more arms with different names.")
    if not seeds:
        raise ValueError("seeds must hold at least one seed.")
    stacked = device.type == "cuda" if together is None else together
    groups: list[list[Member]] = []
    for arm in arms:
        groups.append([build_member(arm, seed, device) for seed in seeds])
        yield from (Frame(0, arm.name, seed) for seed in seeds)
    course = _Course(batches, probes, before_step)
    trainees: list[_Trainee] = []
    for group in groups:
        shared = _Together(Stack(group), course) if stacked else None
        trainees += [_Trainee(member, course, shared) for member in group]
    order = [trainees[i * len(seeds) + j] for j in range(len(seeds)) for i in range(len(arms))]
    yield from interleave(
        order,
        until=steps,
        evaluate=None if evaluate is None else lambda trainee, _: evaluate(trainee.member),  # type: ignore[attr-defined]
        eval_every=eval_every,
        evaluate_all_first=stacked,
    )
    if on_end is not None:
        on_end([trainee.member for trainee in order])


@contextmanager
def _own_draws(seed: int, step: int) -> Iterator[None]:
    """A layer (dropout) draws the same on the CPU in every arm of a seed; the global state is left as it was."""
    source = torch.default_generator
    before = source.get_state()
    source.manual_seed(seed * 1_000_003 + step)
    try:
        yield
    finally:
        source.set_state(before)


@dataclass(frozen=True)
class _Course:
    """What every step of every member has in common."""

    batches: Batches
    probes: Sequence[Probe]
    before_step: BeforeStep | None

    def due(self, step: int) -> list[Probe]:
        return [probe for probe in self.probes if step % probe.every == 0]

    def before(self, member: Member, step: int) -> dict[str, Value]:
        return {} if self.before_step is None or member.diverged else dict(self.before_step(member, step))

    def batch(self, member: Member, step: int) -> Batch:
        return (member.arm.batches or self.batches)(member.seed, step)


class _Trainee:
    """A member as :func:`interleave` sees it."""

    def __init__(self, member: Member, course: _Course, together: _Together | None) -> None:
        self.member, self._course, self._together = member, course, together
        self.arm, self.seed = member.arm.name, member.seed

    def step(self, at: int) -> dict[str, Value]:
        if self._together is not None:
            loss, values = self._together.forward(self.member, at)
        else:
            loss, values = self._forward(at)
        return self._finish(at, loss, values)

    def _forward(self, at: int) -> tuple[float, dict[str, Value]]:
        member, course = self.member, self._course
        values = course.before(member, at)
        batch = course.batch(member, at)
        with ExitStack() as watching:
            for probe in course.due(at):
                watching.enter_context(probe.forward(member.model, values))
            watching.enter_context(_own_draws(member.seed, at))
            loss = member.arm.loss(member.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), values

    def _finish(self, at: int, loss: float, values: dict[str, Value]) -> dict[str, Value]:
        member = self.member
        try:
            if not math.isfinite(loss):
                raise FloatingPointError(f"the training loss is {loss}")
            for probe in self._course.due(at):
                values.update(probe.gradients(member.model))
            member.update()
        except FloatingPointError as error:
            member.diverged = True
            raise Diverged(str(error)) from error
        values["loss"] = loss
        return values


class _Together:
    """The forward and backward passes of an arm's members in one ``vmap``, made when the first of them steps."""

    def __init__(self, stack: Stack, course: _Course) -> None:
        self._stack, self._course = stack, course
        self._at = -1
        self._made: dict[int, tuple[float, dict[str, Value]]] = {}

    def forward(self, member: Member, at: int) -> tuple[float, dict[str, Value]]:
        if at != self._at:
            self._at, self._made = at, self._pass(at)
        return self._made[id(member)]

    def _pass(self, at: int) -> dict[int, tuple[float, dict[str, Value]]]:
        members, course = self._stack.members, self._course
        watched = [course.before(member, at) for member in members]
        batches = [course.batch(member, at) for member in members]
        if due := course.due(at):
            for member, batch, values in zip(members, batches, watched, strict=True):
                _watch_apart(member, batch, due, values)
        losses: list[float] = self._stack.losses_and_gradients(batches).tolist()
        return {
            id(member): (loss, values) for member, loss, values in zip(members, losses, watched, strict=True)
        }


def _watch_apart(member: Member, batch: Batch, due: Sequence[Probe], values: dict[str, Value]) -> None:
    """Forward probes cannot look into ``vmap``: repeat the forward pass of one member for them, leaving its state."""
    with ExitStack() as watching, torch.no_grad():
        for probe in due:
            watching.enter_context(probe.forward(member.model, values))
        member.call_with_cloned_state(batch)


def evaluation_loss(member: Member, batches: Sequence[Batch], *, training_mode: bool = False) -> float:
    """Mean loss over batches without a gradient, in eval mode or, with batch statistics, in training mode.

    The network's mode and buffers are the same afterwards.
    """
    model: nn.Module = member.model
    was_training = model.training
    model.train(training_mode)
    try:
        with torch.no_grad():
            losses: list[Tensor] = [
                member.call_with_cloned_state(batch) if training_mode else member.arm.loss(model, batch)
                for batch in batches
            ]
        return float(torch.stack(losses).mean())
    finally:
        model.train(was_training)
