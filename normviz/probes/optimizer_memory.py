"""Memory that an optimizer's state takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor
from torch.optim.optimizer import Optimizer

__all__ = ["optimizer_state_bytes"]


def optimizer_state_bytes(optimizer: Optimizer, params: Iterable[Tensor] | None = None) -> int:
    """Bytes of memory that the optimizer's state holds.

    Counted are the storages behind all state tensors, each once: a view of a large tensor costs what it keeps alive.

    Args:
        optimizer: any ``torch.optim.Optimizer``; state appears with its first step.
        params: only the state of these parameters (default: of all).
    """
    chosen = list(optimizer.state) if params is None else [p for p in params if p in optimizer.state]
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for p in chosen
        for tensor in _tensors_in(optimizer.state[p])
    }
    return sum(storages.values())


def _tensors_in(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return (
        [tensor for part in value for tensor in _tensors_in(part)] if isinstance(value, list | tuple) else []
    )
