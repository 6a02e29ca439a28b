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

import torch
from torch import Tensor, nn

from normviz.frame import Frame, Value
from normviz.probes.probe import Probe
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
    stacks = [Stack(group) for group in groups] if stacked else []
    members = [member for by_seed in zip(*groups, strict=True) for member in by_seed]
    for step in range(steps + 1):
        if all(member.diverged for member in members):
            break
        due = step % eval_every == 0 or step == steps
        # Evaluation and step of each member in turn: the first loss does not wait for all evaluations.
        for member in members:
            if evaluate is not None and due and not member.diverged:
                yield Frame(step, member.arm.name, member.seed, evaluate(member))
            if not stacked and step < steps and not member.diverged:
                yield _single_step(member, step, batches, probes, before_step)
        if step < steps:
            for stack in stacks:
                yield from _stacked_step(stack, step, batches, probes, before_step)
    if on_end is not None:
        on_end(members)


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


def _batch(member: Member, step: int, batches: Batches) -> Batch:
    return (member.arm.batches or batches)(member.seed, step)


def _before(before_step: BeforeStep | None, member: Member, step: int) -> dict[str, Value]:
    return {} if before_step is None or member.diverged else dict(before_step(member, step))


def _single_step(
    member: Member, step: int, batches: Batches, probes: Sequence[Probe], before_step: BeforeStep | None
) -> Frame:
    due = [probe for probe in probes if step % probe.every == 0]
    values = _before(before_step, member, step)
    batch = _batch(member, step, batches)
    with ExitStack() as watching:
        for probe in due:
            watching.enter_context(probe.forward(member.model, values))
        watching.enter_context(_own_draws(member.seed, step))
        loss = member.arm.loss(member.model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    return _finish_step(member, step, float(loss.detach()), due, values)


def _stacked_step(
    stack: Stack, step: int, batches: Batches, probes: Sequence[Probe], before_step: BeforeStep | None
) -> Iterator[Frame]:
    due = [probe for probe in probes if step % probe.every == 0]
    watched = [_before(before_step, member, step) for member in stack.members]
    member_batches = [_batch(member, step, batches) for member in stack.members]
    if due:
        for member, batch, values in zip(stack.members, member_batches, watched, strict=True):
            _watch_apart(member, batch, due, values)
    losses: list[float] = stack.losses_and_gradients(member_batches).tolist()
    for member, loss, values in zip(stack.members, losses, watched, strict=True):
        if not member.diverged:
            yield _finish_step(member, step, loss, due, values)


def _watch_apart(member: Member, batch: Batch, due: Sequence[Probe], values: dict[str, Value]) -> None:
    """Forward probes cannot look into ``vmap``: repeat the forward pass of one member for them, leaving its state."""
    with ExitStack() as watching, torch.no_grad():
        for probe in due:
            watching.enter_context(probe.forward(member.model, values))
        member.call_with_cloned_state(batch)


def _finish_step(
    member: Member, step: int, loss: float, due: Sequence[Probe], values: dict[str, Value]
) -> Frame:
    if not math.isfinite(loss):
        return _diverged(member, step, f"the training loss is {loss}")
    for probe in due:
        values.update(probe.gradients(member.model))
    try:
        member.update()
    except FloatingPointError as error:
        return _diverged(member, step, str(error))
    values["loss"] = loss
    return Frame(step, member.arm.name, member.seed, values)


def _diverged(member: Member, step: int, why: str) -> Frame:
    member.diverged = True
    return Frame.diverged(step, member.arm.name, member.seed, why)


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
