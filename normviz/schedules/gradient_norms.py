"""Record the norm of the whole gradient at every step: what refined schedules are computed from.

Defazio, Cutkosky, Mehta, Mishchenko, arXiv 2310.07831 (2023): l2 norms for SGD (Algorithm 1), l1 norms for Adam and
other coordinate-wise methods (Algorithm 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from normviz.validation import check_choice

__all__ = ["GradientNormRecorder"]

_PIECE = 2**17
"""Entries of a piece."""


def _root_of_squares(values: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(_together(torch._foreach_norm(values)))
    return norm


def _absolute_sum(values: list[Tensor]) -> Tensor:
    # A norm of order 1 adds a CPU's entries one by one: four times slower, and rounding grows with their number.
    return _together([part.abs().sum() for entries in values for part in _parts(entries)]).sum()


def _parts(entries: Tensor) -> Sequence[Tensor]:
    """Pieces whose absolute values stay in a CPU's cache until they are summed; elsewhere the whole."""
    if entries.device.type != "cpu":
        return (entries,)
    return torch.split(entries.flatten(), _PIECE)


def _together(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.to(parts[0].device) for part in parts])


_NORMS: dict[str, Callable[[list[Tensor]], Tensor]] = {"l2": _root_of_squares, "l1": _absolute_sum}


class GradientNormRecorder:
    """The norm of the gradient over all parameters together, one number per step.

    Call :meth:`record` after ``backward()`` and BEFORE clipping, with the gradient of the step alone: clipped or
    averaged norms give another schedule.

    Args:
        params: parameters, also an iterator. Those without a gradient are skipped.
        norm_type: "l2" (default), the root of the sum of squares, or "l1", the sum of absolute values.

    Raises:
        ValueError: no parameters; unknown ``norm_type``.

    Half-type gradients are summed in float32. Norms stay on their device until :attr:`norms` is read, so recording does
    not wait for an accelerator.

    Example:
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> recorder = GradientNormRecorder([p])
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> recorder.record()
        >>> recorder.norms
        [5.0]

    Reference: Defazio et al., arXiv 2310.07831, Algorithms 1 and 2.
    """

    def __init__(self, params: Iterable[Tensor], norm_type: str = "l2") -> None:
        self.norm_type = check_choice("norm_type", norm_type, _NORMS)
        self._params = list(params)
        if not self._params:
            raise ValueError("params must hold at least one parameter, got none.")
        self._known: list[float] = []
        self._pending: list[Tensor] = []

    @torch.no_grad()
    def record(self) -> None:
        """Append the norm of the present gradients.

        Raises:
            RuntimeError: no parameter has a gradient.
        """
        values = [_values(p.grad) for p in self._params if p.grad is not None]
        if not values:
            raise RuntimeError("no parameter has a gradient: record() comes after backward().")
        self._pending.append(_NORMS[self.norm_type](values))

    @property
    def norms(self) -> list[float]:
        """The norms so far, in order; a new list."""
        self._known += [float(norm) for norm in self._pending]
        self._pending.clear()
        return list(self._known)

    def state_dict(self) -> dict[str, Any]:
        """The norms and their type, as plain values."""
        return {"norms": self.norms, "norm_type": self.norm_type}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`, with its norms and its type.

        Raises:
            ValueError: unknown ``norm_type`` in it.
        """
        self.norm_type = check_choice("norm_type", state_dict["norm_type"], _NORMS)
        self._known = [float(norm) for norm in state_dict["norms"]]
        self._pending = []


def _values(grad: Tensor) -> Tensor:
    """The entries of a gradient that count: a sparse one's stored values; half types in float32."""
    dense = grad.coalesce().values() if grad.layout == torch.sparse_coo else grad
    return dense.float() if dense.dtype in (torch.float16, torch.bfloat16) else dense
