"""Arms and members: what is compared, and the networks that are trained side by side.

An *arm* is a variant (a norm, an optimizer, …); a *member* is one arm with one seed. All arms of a seed start from
the same random numbers, so that networks that differ only in layers without random initialisation start equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from normviz.training.seeding import seeded

__all__ = ["Arm", "Batch", "Loss", "Member", "Stack", "build_member"]

Batch = tuple[Tensor, ...]
Call = Callable[..., Any]
Loss = Callable[[Call, Batch], Tensor]
"""Maps a network, given as a callable, and a batch to a scalar loss."""


@dataclass(frozen=True)
class Arm:
    """A variant under comparison.

    Args:
        name: shown to the reader; one colour on all charts.
        model: builds the network on the CPU from the global random state.
        optimizer: builds the optimizer over the network's parameters.
        loss: the training loss.
        schedule: builds a learning-rate schedule over the optimizer, stepped after each update.
        batches: overrides the run's batches for this arm, e.g. for another batch size.
        prepare: called with the finished member before its first step: attaches hooks to its optimizer, or gives it an
            optimizer and a schedule that need the network itself.
    """

    name: str
    model: Callable[[], nn.Module]
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    loss: Loss
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    batches: Callable[[int, int], Batch] | None = None
    prepare: Callable[[Member], object] | None = None


@dataclass(eq=False)
class Member:
    """One arm with one seed: its network, optimizer, schedule, and whether it has diverged."""

    arm: Arm
    seed: int
    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler | None
    diverged: bool = field(default=False)

    def update(self) -> None:
        """One optimizer step from the gradients in place, one schedule step; gradients are dropped."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scheduler is not None:
            self.scheduler.step()

    def call_with_cloned_state(self, batch: Batch) -> Tensor:
        """The loss in the network's present mode with all buffers cloned first, so that no statistic is updated."""
        state = {name: b.clone() for name, b in self.model.named_buffers()}

        def call(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.model, state, args, kwargs)

        return self.arm.loss(call, batch)


def build_member(arm: Arm, seed: int, device: torch.device) -> Member:
    """Build a member on a device; the global random state is left as it was."""
    with seeded(seed):
        model = arm.model()
    return _assemble(arm, seed, model.to(device).train())


def _assemble(arm: Arm, seed: int, model: nn.Module) -> Member:
    optimizer = arm.optimizer(model.parameters())
    member = Member(arm, seed, model, optimizer, arm.schedule(optimizer) if arm.schedule else None)
    if arm.prepare is not None:
        arm.prepare(member)
    return member


class Stack:
    """The members of one arm trained together: one stacked tensor per parameter, each member's parameter a view of it.

    The gradients of all members come from one ``vmap``; each member's own, unchanged optimizer then steps its views.
    Buffers are stacked alike, and layers that update them in place update each member's.

    Args:
        members: members of the same arm on the same device.

    Raises:
        ValueError: no members, or members of several arms.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        if not members or any(m.arm is not members[0].arm for m in members):
            raise ValueError("members must be one or more members of the same arm.")
        self.members = list(members)
        self._template = members[0].model
        models = [m.model for m in members]
        self._params = {
            name: torch.stack([m.get_parameter(name).detach() for m in models])
            for name, _ in self._template.named_parameters()
        }
        self._buffers = {
            name: torch.stack([m.get_buffer(name) for m in models])
            for name, _ in self._template.named_buffers()
        }
        for i, model in enumerate(models):
            for name, stacked in self._params.items():
                model.get_parameter(name).data = stacked[i]
            for name, stacked in self._buffers.items():
                owner, _, leaf = name.rpartition(".")
                model.get_submodule(owner)._buffers[leaf] = stacked[i]
        loss = members[0].arm.loss

        def member_loss(params: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch) -> Tensor:
            def call(*args: Any, **kwargs: Any) -> Any:
                return functional_call(self._template, (params, buffers), args, kwargs)

            return loss(call, batch)

        self._grad_and_loss = vmap(grad_and_value(member_loss), randomness="different")

    def losses_and_gradients(self, batches: Sequence[Batch]) -> Tensor:
        """Set the gradients of every member for its batch; returns the losses, one per member."""
        stacked = tuple(torch.stack(parts) for parts in zip(*batches, strict=True))
        grads, losses = self._grad_and_loss(self._params, self._buffers, stacked)
        for i, member in enumerate(self.members):
            for name, grad in grads.items():
                member.model.get_parameter(name).grad = grad[i]
        detached: Tensor = losses.detach()
        return detached
