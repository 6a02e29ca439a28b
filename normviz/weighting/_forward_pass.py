"""Forward passes that leave no trace, and that can be repeated exactly.

A pass depends on parameters, buffers, the batch and the global random state (dropout masks). :class:`ForwardPass` keeps
the last three, so that per-sample losses, their directional derivatives and Hessian products can be taken at any
parameters, with the same masks, while the model and the random state stay as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from torch.func import functional_call, grad, jvp

__all__ = [
    "ForwardPass",
    "Named",
    "RandomState",
    "call_with",
    "check_labels",
    "copied_buffers",
    "forked_rng",
    "random_state",
]

Named = dict[str, Tensor]
RandomState = dict[torch.device, Tensor]
CPU = torch.device("cpu")


def random_state(model: nn.Module) -> RandomState:
    """States of the global generators of the CPU and of the devices that the model lives on."""
    state = {CPU: torch.get_rng_state()}
    for device in {tensor.device for tensor in model.parameters()} - {CPU}:
        module = torch.get_device_module(device)
        state[device] = module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)
    return state


def _set_random_state(state: RandomState) -> None:
    for device, value in state.items():
        if device == CPU:
            torch.set_rng_state(value)
        elif device.type == "mps":
            torch.get_device_module(device).set_rng_state(value)
        else:
            torch.get_device_module(device).set_rng_state(value, device)


@contextmanager
def forked_rng(model: nn.Module, start: RandomState | None = None) -> Iterator[None]:
    """Whatever is drawn inside starts from ``start`` (None: the present state) and is forgotten on leaving."""
    saved = random_state(model)
    try:
        if start is not None:
            _set_random_state(start)
        yield
    finally:
        _set_random_state(saved)


def copied_buffers(model: nn.Module) -> Named:
    """A copy of every buffer by name, for functional_call: updates go to the copy."""
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


@lru_cache(maxsize=1)
def prepare_forward_mode() -> None:
    """Use forward mode once: torch then loads its rules, with a warning about a function of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with dual_level():
            make_dual(torch.zeros(()), torch.zeros(()))  # type: ignore[no-untyped-call]


def call_with(model: nn.Module, state: Named, x: Any) -> Any:
    """``model(x)`` with these parameters and buffers in place of its own."""
    return functional_call(model, state, (x,)) if state else model(x)


@dataclass(frozen=True)
class ForwardPass:
    """A forward pass of ``model`` on one batch, repeatable at other parameters.

    Args:
        model: in the mode in which the pass ran.
        loss_fn: (logits, y) -> per-sample losses [n].
        batch: (x, y).
        buffers: the buffers before the pass.
        rng: the random state before the pass.
    """

    model: nn.Module
    loss_fn: Callable[[Any, Any], Tensor]
    batch: tuple[Any, Any]
    buffers: Named
    rng: RandomState

    @classmethod
    def from_here(
        cls, model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: tuple[Any, Any]
    ) -> ForwardPass:
        """The pass that would run now."""
        return cls(model, loss_fn, batch, copied_buffers(model), random_state(model))

    def losses(self, params: Mapping[str, Tensor]) -> Tensor:
        """Per-sample losses l(params) [n]; parameters that are not named stand as they are in the model."""
        x, y = self.batch
        # Cloned inside, so that an update of the statistics belongs to the derivative transform that is active.
        buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
        with forked_rng(self.model, self.rng):
            return self.loss_fn(call_with(self.model, {**params, **buffers}, x), y)

    def losses_and_gradient(self, params: Mapping[str, Tensor], weights: Tensor) -> tuple[Tensor, Named]:
        """Losses l(params) [n], detached, and the gradient of (1/n) sum_i weights_i l_i."""
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        losses = self.losses(leaves)
        grads = torch.autograd.grad(
            (weights * losses).mean(), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        return losses.detach(), dict(zip(leaves, grads, strict=True))

    def directional(self, params: Named, direction: Named) -> Tensor:
        """u_i = <grad l_i(params), direction> for every sample [n], by one forward-mode pass."""
        prepare_forward_mode()
        # Dual numbers without torch.func.jvp, within which dropout runs in Python, at the cost of two passes.
        with torch.no_grad(), dual_level():
            duals = {name: make_dual(p, direction[name]) for name, p in params.items()}  # type: ignore[no-untyped-call]
            losses, slopes = unpack_dual(self.losses(duals))  # type: ignore[no-untyped-call]
            return torch.zeros_like(losses) if slopes is None else slopes.detach()

    def hessian_product(self, params: Named, weights: Tensor, direction: Named) -> Named:
        """H direction, with H the Hessian of (1/n) sum_i weights_i l_i at ``params``."""

        def loss(p: Named) -> Tensor:
            return (weights * self.losses(p)).mean()

        prepare_forward_mode()
        product: Named = jvp(grad(loss), (params,), (direction,))[1]
        return {name: value.detach() for name, value in product.items()}


def check_labels(y: Tensor, num_classes: int, name: str = "y") -> None:
    """Raise ValueError unless ``y`` holds class numbers 0..num_classes-1."""
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"{name} must hold integer class labels, got dtype {y.dtype}.")
    if y.numel() == 0 or y.is_meta:
        return
    low, high = (int(v) for v in torch.stack(torch.aminmax(y)).tolist())
    if low < 0 or high >= num_classes:
        raise ValueError(f"{name} must hold labels in 0..{num_classes - 1}, got labels from {low} to {high}.")
