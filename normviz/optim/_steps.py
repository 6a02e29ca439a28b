"""What every optimizer's step does around its arithmetic: the closure, refusals, ``maximize``, a compiled step.

``torch.compile(optimizer.step)`` guards every number that the compiled part reads. With the learning rate as a number,
a schedule would compile the step anew at every value; with state that is made in the first step, the second step
would. So a compiled step begins with a part that runs as plain Python (:func:`step_groups`): it makes what state is
missing, and hands on copies of the groups whose learning rates are tensors. The arithmetic on matrices is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

__all__ = [
    "WIDE",
    "Group",
    "ascending",
    "evaluate",
    "learning_rate",
    "rate_tensor",
    "refuse_unusual",
    "run_eagerly",
    "step_groups",
]

Group = dict[str, Any]

T = TypeVar("T")

WIDE = (torch.float32, torch.float64)
"""Dtypes that are computed in as they are; half types are promoted."""


def evaluate(closure: Callable[[], float] | None) -> float | None:
    """Loss of ``closure`` with gradients enabled, as ``Optimizer.step(closure)`` needs it; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def refuse_unusual(optimizer: Optimizer) -> None:
    """Raise RuntimeError if a parameter or its gradient is complex or a gradient is not dense."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is None:
                continue
            if p.dtype in WIDE and p.grad.dtype in WIDE and p.grad.layout == torch.strided:
                continue
            owner = type(optimizer).__name__
            if p.is_complex() or p.grad.is_complex():
                raise RuntimeError(
                    f"{owner} does not support complex parameters, got {p.dtype} of shape {tuple(p.shape)}."
                )
            if p.grad.layout != torch.strided:
                raise RuntimeError(
                    f"{owner} does not support sparse gradients (parameter of shape {tuple(p.shape)})."
                )


@contextmanager
def ascending(groups: Iterable[Mapping[str, Any]]) -> Iterator[None]:
    """Within the context the gradients of groups with ``maximize`` are their negatives; afterwards they are back."""
    turned = [
        (p, p.grad)
        for group in groups
        if group.get("maximize")
        for p in group["params"]
        if p.grad is not None
    ]
    for p, gradient in turned:
        p.grad = gradient.neg()
    try:
        yield
    finally:
        for p, gradient in turned:
            p.grad = gradient


# ------------------------------------------------------------------------------------------- compiled steps


@torch.compiler.disable  # type: ignore[untyped-decorator,unused-ignore]
def run_eagerly(part: Callable[[], T]) -> T:
    """``part()``, which a compiler leaves as it is: it neither traces it nor guards what it reads."""
    return part()


def rate_tensor(rate: float) -> Tensor:
    """``rate`` as a float64 tensor of no axes on the CPU, which a compiled step takes as an input on any device."""
    return torch.tensor(float(rate), dtype=torch.float64)


def learning_rate(group: Mapping[str, Any]) -> float:
    """The group's learning rate as a number; in a compiled step the tensor that :func:`step_groups` made of it."""
    lr = group["lr"]
    return cast(float, lr) if torch.compiler.is_compiling() else float(lr)


def step_groups(optimizer: Optimizer, prepare: Callable[[Group], Group] | None = None) -> list[Group]:
    """The groups that a step works on, after the refusal of sparse and complex gradients.

    They are the optimizer's own; in a compiled step copies, with the learning rate as a tensor. Give them to a function
    as its argument: a compiler goes on only with one that is given tensors, or holders of some.

    Args:
        optimizer: whose groups.
        prepare: what a compiled step of a group needs to be done before, with the sign of the gradients that
            ``maximize`` asks for: usually its missing state is made. It returns what the copy has in place of the
            group's own entries. None: nothing.

    Raises:
        RuntimeError: a gradient is sparse or complex.
    """

    def copies() -> list[Group]:
        refuse_unusual(optimizer)
        with ascending(optimizer.param_groups):
            return [
                {
                    **group,
                    "params": list(group["params"]),
                    "lr": rate_tensor(group["lr"]),
                    **(prepare(group) if prepare else {}),
                }
                for group in optimizer.param_groups
            ]

    if torch.compiler.is_compiling():
        groups: list[Group] = run_eagerly(copies)
        return groups
    refuse_unusual(optimizer)
    return optimizer.param_groups
