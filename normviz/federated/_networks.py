"""What the files of this package share about networks: their prunable weights, batch norms, modes and gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

__all__ = [
    "batch_norms",
    "chunks",
    "derived_seed",
    "kept_modes",
    "loss_gradients",
    "prunable_weights",
    "seeded",
    "sees_one_value",
]


def derived_seed(*key: int) -> int:
    """A seed for torch that is a function of non-negative integers alone, and differs between keys."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def chunks(x: Tensor, sizes: int | list[int]) -> tuple[Tensor, ...]:
    """``x`` in parts along the first axis: of one size, the last one smaller, or of the sizes given."""
    parts: tuple[Tensor, ...] = x.split(sizes)  # type: ignore[no-untyped-call]
    return parts


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random state set to ``seed`` on the CPU and the device, and as before afterwards."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(seed)
        yield


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of convolutions and linear layers by parameter name; a shared one once, under its first name."""
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        weight = module._parameters.get("weight") if isinstance(module, (nn.Linear, _ConvNd)) else None
        if weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            found[f"{name}.weight" if name else "weight"] = weight
    return found


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms that keep running statistics, by module name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Train and eval modes of all modules are as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class _OneValueError(Exception):
    """A batch norm would have to take the variance of one value."""


def _refuse_one_value(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    del norm
    if inputs[0].numel() == inputs[0].shape[1]:
        raise _OneValueError


@torch.no_grad()
def sees_one_value(model: nn.Module, x: Tensor) -> bool:
    """Whether some batch norm gets one value per channel from the batch ``x``, and so cannot be trained on it.

    Only a batch of one sample can be such; the network is asked in eval mode, which moves nothing.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)] if len(x) == 1 else []
    if not norms:
        return False
    handles = [norm.register_forward_pre_hook(_refuse_one_value) for norm in norms]
    try:
        with kept_modes(model):
            model.eval()
            model(x)
    except _OneValueError:
        return True
    finally:
        for handle in handles:
            handle.remove()
    return False


def loss_gradients(
    model: nn.Module, weights: Mapping[str, Tensor], x: Tensor, y: Tensor, names: Iterable[str]
) -> dict[str, Tensor]:
    """Gradients of the cross-entropy at ``weights``, put in the place of the model's own; in train mode.

    The buffers that the forward moves are copies; ``.grad`` and modes stay as they are.

    Args:
        model: the plain network.
        weights: values for some of its parameters, by name.
        x: (B, ...), inputs.
        y: (B,), classes.
        names: of the weights whose gradients are wanted.
    """
    leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    wanted = list(names)
    with kept_modes(model), torch.enable_grad():
        model.train()
        loss = F.cross_entropy(functional_call(model, {**leaves, **buffers}, (x,)), y)
        grads = torch.autograd.grad(loss, [leaves[name] for name in wanted], materialize_grads=True)
    return dict(zip(wanted, grads, strict=True))
